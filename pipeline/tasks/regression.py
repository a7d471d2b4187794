"""What regressions share: an L1 loss, and metrics that are means of errors over valid pixels."""

import abc

import torch

from pipeline.tasks import base, counts


class Regression(base.Task):
    """Predictions and targets (B, C, H, W)."""

    def loss(self, prediction, targets, normal_mask):
        return base.masked_mean(self.apart(prediction, targets[self.target]), self.mask(targets))

    def apart(self, prediction, other):
        return (prediction - other).abs().mean(1)

    @abc.abstractmethod
    def errors(self, prediction, target):
        """(B, C, H, W) float64 both -> an error (B, H, W) for each metric of the file; anything where there is no
        target."""

    def measure(self, prediction, targets, channels, official_batch):
        """Columns: valid pixels, sum of each error over them."""
        target = targets[self.target]
        valid, errors = self.valid(target), self.errors(prediction.double(), target.double())
        images = counts.image_sums(valid, *(torch.where(valid, counts.fixed(error), 0) for error in errors))
        return images, images[:0, 0]

    def summarise(self, images, pooled, channels, official_batch):
        batches = images.split(official_batch)
        sums = [counts.totals(batch.tolist()) for batch in batches]
        each = [means(*of) for of in sums]
        return counts.means(each), counts.means(each, list(map(len, batches))), means(*counts.totals(sums))


def means(pixels, *sums):
    """Sums over so many pixels, in fixed point, -> means."""
    return [total / pixels / counts.FIXED if pixels else counts.NAN for total in sums]
