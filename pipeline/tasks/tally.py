"""One pass over test images: every task's metrics under each protocol, from integers.

Protocols: `official` (4.2, KD4MTL's tables) is a number per batch, then the plain mean over batches; `masked`
(XTasC-Net's) leaves void pixels out of an image's unions and weighs batches by their images; `dataset` (4.3, everyone
since) pools all valid pixels. A `Tally` keeps integers only (4.5): `dataset` depends
on neither batch size nor image order in any bit, `official` not on the chunks in which the images arrive.

Cost of `Tally.update`, semantics, depth and normals, C = 13, on 2 shared Xeon cores, 8 images: 96x128 60 ms,
288x384 0.5 s.
"""

import math

import torch
import torch.nn.functional as F

from pipeline import tasks
from pipeline.runtime import distributed
from pipeline.tasks.counts import PIXELS
from pipeline.tasks.metrics import PROTOCOLS


class Tally:
    """One evaluation pass: `update` with chunks of images in id order, then `results`.

    classes: {task: names of its classes}.
    official_batch: images in a batch of the official protocol (the paper: NYUv2 2, Cityscapes 8); every chunk
    but the last holds a multiple of it. A metric without a valid pixel in the whole pass is NaN.
    first, of: this process measures the images from `first` on, of so many; counts are added up over processes.
    costly: metrics that are too costly for every epoch are measured too.
    """

    def __init__(self, names, classes, device, official_batch, first=0, of=None, costly=False):
        if official_batch < 1:
            raise ValueError(f"`official_batch` should be at least 1. Found {official_batch}.")
        self.tasks, self.official_batch = [tasks.load(name) for name in names], official_batch
        self.channels = {task.name: task.channels(classes) for task in self.tasks}
        self.first, self.of = first, of
        self.parts = [(task, *part) for task in self.tasks for part in task.measured(costly)]
        self.images = [[] for _ in self.parts]
        self.pooled = [torch.zeros((), dtype=torch.int64, device=device) for _ in self.parts]
        self.faults = torch.zeros(len(self.tasks), 2, dtype=torch.int64, device=device)
        self.closed = False

    @torch.no_grad()
    def update(self, predictions, targets):
        """Queues work on the device and returns; nothing in here waits for it (quirk Q10)."""
        images, _, *size = next(iter(predictions.values())).shape
        if self.closed:
            raise ValueError(f"All chunks but the last should be a multiple of {self.official_batch} images.")
        self.closed = images % self.official_batch != 0
        assert math.prod(size) <= PIXELS, size
        for i, task in enumerate(self.tasks):
            prediction, target = predictions[task.name], targets[task.target]
            assert prediction.shape == (images, self.channels[task.name], *size), prediction.shape
            # pixels with NaN or inf, which survive the sum over channels: cheaper than a test per channel
            self.faults[i] += torch.stack([(~x.sum(dim=1).isfinite()).sum() for x in (
                prediction, target if target.dim() > 1 else target[:, None])])
        for i, (task, _, measure, _) in enumerate(self.parts):
            rows, pooled = measure(predictions[task.name], targets, self.channels[task.name], self.official_batch)
            self.images[i].append(rows)
            self.pooled[i] = self.pooled[i] + pooled

    def placed(self, rows):
        """Rows (b, n) of this process's images among zeros for the others'."""
        return F.pad(rows, (0, 0, self.first, 0 if self.of is None else self.of - self.first - len(rows)))

    def results(self):
        """{"official": {metric: float}, "masked": those that differ from the official, "dataset": {metric: float}},
        with one copy to the host."""
        if not all(self.images):
            raise ValueError("No image was measured.")
        pieces = [self.faults, *(self.placed(torch.cat(rows)) for rows in self.images), *self.pooled]
        pieces = distributed.totals(pieces)
        host = torch.cat([piece.flatten() for piece in pieces]).cpu().split([p.numel() for p in pieces])
        faults, *host = [flat.view(piece.shape) for flat, piece in zip(host, pieces, strict=True)]
        for task, pair in zip(self.tasks, faults.tolist(), strict=True):
            for what, pixels in zip(("prediction", "target"), pair, strict=True):
                if pixels:
                    raise FloatingPointError(f"The {task.name} {what} is not finite at {pixels} pixels.")
        out = {protocol: {} for protocol in PROTOCOLS}
        for i, (task, keys, _, summarise) in enumerate(self.parts):
            images, pooled = host[i], host[i + len(self.parts)]
            official, *masked, dataset = summarise(images, pooled, self.channels[task.name], self.official_batch)
            for protocol, numbers in (("official", [official]), ("masked", masked), ("dataset", [dataset])):
                for values in numbers:
                    out[protocol].update(zip(keys, values, strict=True))
        return out
