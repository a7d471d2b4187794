"""Semantic segmentation: a class a pixel, -1 void."""

import numpy as np
import torch

from pipeline.tasks import counts
from pipeline.tasks.classes import Classes

TARGET = "label"
UNCUT = True
METRICS = {
    "miou_pct": {"title": "mIoU", "unit": "%", "better": +1},
    "pix_acc_pct": {"title": "Pix Acc", "unit": "%", "better": +1},
}
COLOUR = "#1b6ca8"


class Task(Classes):
    """Predictions (B, C, H, W), targets (B, H, W)."""

    def energy(self, transferred, direct):
        """The KL divergence of the transferred distribution over the number of classes."""
        return (self.apart(transferred, direct) / transferred.shape[1]).double().mean((1, 2))

    def measure(self, prediction, targets, channels, official_batch):
        """Histogram (K+2, K) over label and prediction; its rows: void, the K classes, labels beyond them."""
        row = targets["label"].clamp(-1, channels) + 1
        image = torch.arange(len(row), device=row.device)[:, None, None]
        # max, not argmax: the same index, five times faster on a CPU over a dimension that is not the last
        cell = (image * (channels + 2) + row) * channels + prediction.max(dim=1).indices
        images = counts.count(cell, len(row) * (channels + 2) * channels).view(len(row), -1)
        return images, images[:0, 0]

    def summarise(self, images, pooled, channels, official_batch):
        histograms = images.view(-1, channels + 2, channels)
        if beyond := int(histograms[:, -1].sum()):
            raise ValueError(f"Labels should be -1 ... {channels - 1}. Found {beyond} pixels above.")
        confusion = histograms[:, 1:-1]  # (N, label, prediction), void left out
        hits, labelled = confusion.diagonal(dim1=1, dim2=2).double(), confusion.sum((1, 2))
        # an image's union; official: a prediction on void enlarges its class; in both a class predicted but absent has
        # IoU 0 (Q3). `masked` is XTasC-Net's loggers' (its 4.4 and addendum) and MTAN's of July 2020
        official, masked = (
            # NOTE: an image without a labelled pixel is left out; the released accuracies are undefined there
            100 * torch.stack([torch.where(labelled > 0, iou, counts.NAN), hits.sum(1) / labelled], dim=1)
            for iou in ((hits / (confusion.sum(2) + of.sum(1) - hits)).nanmean(1) for of in (histograms, confusion)))
        official = counts.means([counts.means(batch.tolist()) for batch in official.split(official_batch)])
        # dataset: one matrix; a class in neither the labels nor, on labelled pixels, the predictions is left out
        total, hits = confusion.sum(0), hits.sum(0)
        iou = (hits / (total.sum(0) + total.sum(1) - hits)).nanmean()
        return official, counts.means(masked.tolist()), [100 * iou.item(), 100 * (hits.sum() / total.sum()).item()]

    def paint(self, figure, panel, stored, classes):
        names = classes["semantic"]
        panel.imshow(np.where(stored < 0, np.nan, stored.astype(float)), cmap="tab20", vmin=0, vmax=len(names))
        panel.set_title(", ".join(names[c] for c in np.unique(stored[stored >= 0])), fontsize=6)
