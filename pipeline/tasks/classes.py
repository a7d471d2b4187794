"""What classifications share, of pixels and of whole images: log-probabilities, cross-entropy, KL divergence."""

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.tasks import base, counts
from pipeline.tasks.labels import likeness

ENOUGH = 64          # images in which every class of pixels should occur; of a label an image it takes five a class


class Classes(base.Task):
    """Targets are (B, H, W) or (B,) int64, -1 void; predictions (B, C, H, W) or (B, C) log-probabilities."""

    def channels(self, classes):
        if len(classes[self.name]) < 2:
            raise ValueError(f"Classes of {self.name} should be 2 or more. Found {classes[self.name]}.")
        return len(classes[self.name])

    void = -1

    @staticmethod
    def activate(x):
        return F.log_softmax(x, dim=1)

    def check(self, given, manifest):
        """Labels are whole numbers, -1 or a class; a class that never occurs may be a sign of another numbering."""
        names, found = manifest["classes"][self.name], set()
        for one in given:
            found |= set(np.unique(one).tolist())
        beyond = [value for value in found if value not in range(-1, len(names))]
        if beyond:
            raise ValueError(f"labels are {min(found):g}..{max(found):g}, expected whole numbers 0..{len(names) - 1}, "
                             f"or -1 for none: {likeness(found, len(names))}")
        lacking = [c for c in range(len(names)) if c not in found]
        if lacking and len(given) >= max(ENOUGH, 5 * len(names) * self.facts.flat):
            shown = ", ".join(f"{c} ({names[c]})" for c in lacking[:3]) + ", ..." * (len(lacking) > 3)
            yield (f"{len(lacking)} of {len(names)} classes never occur in {len(given)} images: {shown}"
                   + ("; where labels begin at 1 or 0 is void, write label - 1" if 0 in lacking else ""))

    def valid(self, target):
        return target != self.void

    def loss(self, prediction, targets, normal_mask):
        # reduction "none": the others add floats atomically on CUDA, and two runs would differ in the last bits
        nll = F.nll_loss(prediction, targets[self.target], ignore_index=-1, reduction="none")
        return base.masked_mean(nll, self.valid(targets[self.target]))

    def apart(self, prediction, other):
        """KL divergence of `prediction` from `other`."""
        return (other.exp() * (other - prediction)).sum(1)

    def divergence(self, prediction, taught, temperature):
        """KL divergence at the temperature, times its square (Hinton et al. 2015): (B, H, W) or (B,)."""
        p, q = ((x / temperature).log_softmax(dim=1) for x in (prediction, taught))
        return temperature**2 * (q.exp() * (q - p)).sum(dim=1)

    def match(self, prediction, taught, targets, temperature):
        apart = self.divergence(prediction, taught, temperature)
        return base.masked_mean(apart, torch.ones_like(apart, dtype=torch.bool))


class OneLabel(Classes):
    """A class an image, of which only a part of the images may have one. Accuracies (KD4MTL, Table 1) are the same
    under every protocol."""

    def match(self, prediction, taught, targets, temperature):
        """A mean over the images of the task's own domain."""
        return base.masked_mean(self.divergence(prediction, taught, temperature), self.valid(targets[self.target]))

    def measure(self, prediction, targets, channels, official_batch):
        """Columns: labelled, right."""
        label = targets[self.target]
        images = torch.stack([label >= 0, prediction.max(dim=1).indices == label], dim=1).long()
        return images, images[:0, 0]

    def summarise(self, images, pooled, channels, official_batch):
        labelled, right = images.sum(0).tolist()
        accuracy = [100 * right / labelled if labelled else counts.NAN]
        return accuracy, accuracy

    def told(self, stored, classes):
        """The name of a stored class, "" where the image has none."""
        return classes[self.name][stored] if stored >= 0 else ""
