"""The task table: a row a task holds its loss, its head width and its metrics under both protocols.

Sources: KD4MTL (Li & Bilen 2020, arXiv 2007.06889), Table 2 and the released code; section and quirk numbers
are those of our specification of it. B C H W = images, classes, height, width. Targets holds those of

    label   (B, H, W)    int64    class 0 ... C-1; -1 void
    depth   (B, 1, H, W) float32  metres (Cityscapes: inverse depth in stored units); 0 invalid
    normal  (B, 3, H, W) float32  about unit length; (0, 0, 0) invalid
    digits, characters (B,) int64 class; -1 where the image has no such label

that its data set has, and predictions any of semantic (B, C, H, W) log-probabilities, depth (B, 1, H, W), normal
(B, 3, H, W) of unit length, digits and characters (B, C) log-probabilities, in float32 or wider.

Protocols: `official` (4.2, the paper's tables) is a number per batch, then the plain mean over batches;
`dataset` (4.3, everyone since) pools all valid pixels. A `Tally` keeps integers only (4.5): `dataset` depends
on neither batch size nor image order in any bit, `official` not on the chunks in which the images arrive.

Accuracies of Table 1 are the same under both.

Cost of `Tally.update`, all tasks, C = 13, on 2 shared Xeon cores, 8 images: 96x128 60 ms, 288x384 0.5 s.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import torch
import torch.nn.functional as F

from pipeline.config.metrics import METRICS
from pipeline.runtime import distributed

FIXED = 2**24  # fixed point: units of 2^-24 metre, ratio or degree; a pixel is rounded by half a unit at most
BOUND = 2**17  # a pixel's error counts as this at most; 0.5 / d* at Cityscapes' least d* = 1/65535 is < 2^16
PIXELS = 2**21  # largest image (1024 x 2048): its sum is at most BOUND * FIXED * PIXELS = 2^62, inside int64
BIN = 2**16  # width of a bin of the pooled angle histogram, in units: 2^-8 = 0.0039 degrees
BINS = 180 * FIXED // BIN + 1  # 180 degrees itself has a bin
NO_ANGLE = BINS * BIN  # stands for the angle of an invalid pixel: sorts last, falls behind the last bin
LIMITS = tuple(int(degrees * FIXED) for degrees in (11.25, 22.5, 30.0))
NAN = float("nan")


@dataclass(frozen=True)
class Task:
    """`measure` leaves images (B, n) int64, a row an image, and pooled (m,) int64, added up over chunks."""

    name: str
    target: str
    channels: Callable  # ({task: names of its classes}) -> width of the head
    loss: Callable  # (prediction, targets, normal_mask) -> scalar
    match: Callable  # (prediction, a teacher's prediction, temperature) -> (B, H, W) or (B,), 0 where they agree
    measure: Callable  # (prediction, targets, classes, official_batch) -> images, pooled; on the device
    summarise: Callable  # (images, pooled, classes, official_batch) -> official, dataset; as `metrics`

    @property
    def metrics(self):
        return tuple(key for key, metric in METRICS.items() if metric.task == self.name)


def _task(name):
    if name not in TASKS:
        raise ValueError(f"A task is one of {', '.join(TASKS)}. Found {name!r}.")
    return TASKS[name]


def _valid(target):  # (B, C, H, W) -> (B, H, W) bool: M_d of section 4.1 for depth, M_n for normals
    # NOTE: the released code asks that a normal's components do not *sum* to exactly 0, which also drops true
    # normals such as (a, -a, 0); we ask that they are not *all* 0
    return (target != 0).any(dim=1)


def valid(name, targets):
    """Where a task has a target, (B, H, W) bool, or where augmentation says it has; of a classification (B,)."""
    kind = _task(name).target
    if f"{kind}_mask" in targets:
        mask = targets[f"{kind}_mask"]
        return mask[:, 0] if mask.dim() == 4 else mask
    return _valid(targets[kind]) if targets[kind].is_floating_point() else targets[kind] != -1


def losses(predictions, targets, normal_mask="own"):
    """A loss a task (4.1): T scalars, in the order of `predictions`; 0, with gradient 0, without a valid pixel.

    Of several processes each gets its images' part: the parts add up to the loss of the batch.

    normal_mask: "own" averages the normal loss over valid normals; "depth" over valid depth, as the released
    SegNet and multi-task MTAN do (quirk Q4): a pixel with depth but no normal then counts as cosine 0.
    """
    if normal_mask not in ("own", "depth"):
        raise ValueError(f"`normal_mask` is 'own' or 'depth'. Found {normal_mask!r}.")
    return [_task(task).loss(p, targets, normal_mask) for task, p in predictions.items()]


def _masked_mean(values, mask):  # (B, H, W), (B, H, W) -> scalar; the clamp makes 0/0 of an empty mask 0
    return torch.where(mask, values, 0).sum() / distributed.total(mask.sum()).clamp(min=1)


def _class_loss(target):
    def loss(prediction, targets, normal_mask):
        # reduction "none": the others add floats atomically on CUDA, and two runs would differ in the last bits
        nll = F.nll_loss(prediction, targets[target], ignore_index=-1, reduction="none")
        return _masked_mean(nll, targets[target] != -1)
    return loss


def _depth_loss(prediction, targets, normal_mask):
    return _masked_mean((prediction - targets["depth"]).abs()[:, 0], valid("depth", targets))


def _normal_loss(prediction, targets, normal_mask):
    mask = _valid(targets["normal" if normal_mask == "own" else "depth"])
    return _masked_mean(1 - (prediction * targets["normal"]).sum(dim=1), mask)


def matches(predictions, taught, targets, temperature=1.0):
    """How far predictions are from teachers', a scalar a task: prediction distillation, a mean over all pixels, or
    over the images of a task's own domain.

    Classes: KL divergence at the temperature, times its square (Hinton et al. 2015); depth: absolute difference;
    normals: 1 - cosine. KD4MTL names none for the last two (BAM, its section 4).
    """
    maps = {task: _task(task).match(p, taught[task], temperature) for task, p in predictions.items()}
    return [_masked_mean(x, targets[task] != -1 if x.dim() == 1 else torch.ones_like(x, dtype=torch.bool))
            for task, x in maps.items()]


def _class_match(prediction, taught, temperature):
    p, q = ((x / temperature).log_softmax(dim=1) for x in (prediction, taught))
    return temperature**2 * (q.exp() * (q - p)).sum(dim=1)


def _depth_match(prediction, taught, temperature):
    return (prediction - taught).abs()[:, 0]


def _normal_match(prediction, taught, temperature):
    return 1 - (prediction * taught).sum(dim=1)


def _count(index, bins):  # values 0 ... bins-1 -> (bins,) int64; torch.bincount makes the host wait for CUDA
    counts = torch.zeros(bins, dtype=torch.int64, device=index.device)
    return counts.scatter_add_(0, index.flatten(), counts.new_ones(()).expand(index.numel()))


def _fixed(values):  # float64 >= 0 -> int64 units; NaN passes as 0 here, and results() refuses it
    return (values.nan_to_num(nan=0.0, posinf=BOUND).clamp(max=BOUND) * FIXED).round().long()


def _image_sums(*maps):  # n x (B, H, W) -> (B, n) int64
    return torch.stack([m.sum(dim=(1, 2)) for m in maps], dim=1)


def _measure_semantic(prediction, targets, classes, official_batch):
    """Histogram (K+2, K) over label and prediction; its rows: void, the K classes, labels beyond them."""
    row = targets["label"].clamp(-1, classes) + 1
    image = torch.arange(len(row), device=row.device)[:, None, None]
    # max, not argmax: the same index, five times faster on a CPU over a dimension that is not the last
    cell = (image * (classes + 2) + row) * classes + prediction.max(dim=1).indices
    images = _count(cell, len(row) * (classes + 2) * classes).view(len(row), -1)
    return images, images[:0, 0]


def _measure_class(task):
    """Columns: labelled, right."""
    def measure(prediction, targets, classes, official_batch):
        label = targets[task]
        images = torch.stack([label >= 0, prediction.max(dim=1).indices == label], dim=1).long()
        return images, images[:0, 0]
    return measure


def _measure_depth(prediction, targets, classes, official_batch):
    """Columns: valid pixels, sum of |d - d*|, sum of |d - d*| / d*."""
    target, valid = targets["depth"][:, 0].double(), _valid(targets["depth"])
    error = (prediction[:, 0].double() - target).abs()
    images = _image_sums(valid, *(torch.where(valid, _fixed(e), 0) for e in (error, error / target)))
    return images, images[:0, 0]


def _measure_normal(prediction, targets, classes, official_batch):
    """Columns: valid pixels, sum of angles, pixels strictly below each limit, and, in the first image of each
    official batch (0 in the others), the sum of the batch's two middle angles. Pooled: histogram of angles.

    angle = acos(clip(<n, n*>, -1, 1)), the target as stored; in float64, since in float32 the cosine of every
    angle below 0.014 degrees is 1. The product is spelt out: a reduction's order could change its last bit.
    """
    p, t, valid = prediction.double(), targets["normal"].double(), _valid(targets["normal"])
    cosine = p[:, 0] * t[:, 0] + p[:, 1] * t[:, 1] + p[:, 2] * t[:, 2]
    angle = torch.where(valid, _fixed(cosine.clamp(-1, 1).acos().rad2deg()), NO_ANGLE)
    sums = _image_sums(valid, torch.where(valid, angle, 0), *(angle < limit for limit in LIMITS))
    missing = -len(angle) % official_batch  # the last official batch may be short
    ordered = F.pad(angle.flatten(1), (0, 0, 0, missing), value=NO_ANGLE)
    ordered = ordered.view(-1, official_batch * angle[0].numel()).sort(dim=1).values
    count = F.pad(sums[:, 0], (0, missing)).view(-1, official_batch).sum(dim=1, keepdim=True)
    middle = ordered.gather(1, (count - 1).clamp(min=0) // 2) + ordered.gather(1, count // 2)
    middle = F.pad(middle, (0, official_batch - 1)).view(-1, 1)[: len(angle)]
    return torch.cat([sums, middle], dim=1), _count(angle // BIN, BINS + 1)[:BINS]


def _means(rows):  # a batch without a valid pixel is NaN and left out; fmean is exact: order does not matter
    columns = [[value for value in column if value == value] for column in zip(*rows, strict=True)]
    return [fmean(column) if column else NAN for column in columns]


def _totals(rows):  # Python integers: the total of a whole data set may exceed int64
    return [sum(column) for column in zip(*rows, strict=True)]


def _summarise_semantic(images, pooled, classes, official_batch):
    histograms = images.view(-1, classes + 2, classes)
    if beyond := int(histograms[:, -1].sum()):
        raise ValueError(f"Labels should be -1 ... {classes - 1}. Found {beyond} pixels above.")
    confusion = histograms[:, 1:-1]  # (N, label, prediction), void left out
    hits, labelled = confusion.diagonal(dim1=1, dim2=2).double(), confusion.sum((1, 2))
    # official union: a prediction on void enlarges its class, a class predicted but absent has IoU 0 (Q3)
    iou = (hits / (confusion.sum(2) + histograms.sum(1) - hits)).nanmean(1)
    # NOTE: an image without a labelled pixel is left out of both; the released accuracy is undefined there
    numbers = 100 * torch.stack([torch.where(labelled > 0, iou, NAN), hits.sum(1) / labelled], dim=1)
    official = _means([_means(batch.tolist()) for batch in numbers.split(official_batch)])
    # dataset: one matrix; a class in neither the labels nor, on labelled pixels, the predictions is left out
    total, hits = confusion.sum(0), hits.sum(0)
    iou = (hits / (total.sum(0) + total.sum(1) - hits)).nanmean()
    return official, [100 * iou.item(), 100 * (hits.sum() / total.sum()).item()]


def _summarise_class(images, pooled, classes, official_batch):
    labelled, right = images.sum(0).tolist()
    accuracy = [100 * right / labelled if labelled else NAN]
    return accuracy, accuracy


def _summarise_depth(images, pooled, classes, official_batch):
    def numbers(pixels, absolute, relative):
        return [absolute / pixels / FIXED, relative / pixels / FIXED] if pixels else [NAN] * 2

    batches = [_totals(batch.tolist()) for batch in images.split(official_batch)]
    return _means([numbers(*sums) for sums in batches]), numbers(*_totals(batches))


def _summarise_normal(images, pooled, classes, official_batch):
    def numbers(pixels, angles, *below, median):
        return [angles / pixels / FIXED, median, *(100 * b / pixels for b in below)] if pixels else [NAN] * 5

    batches = [_totals(batch.tolist()) for batch in images.split(official_batch)]
    official = _means([numbers(*sums, median=middle / 2 / FIXED) for *sums, middle in batches])
    return official, numbers(*_totals(batches)[:-1], median=_pooled_median(pooled))


def _pooled_median(histogram):
    """Degrees. The bins of the two middle angles are exact, so the error is below a bin's width, 0.0039."""
    upto = histogram.cumsum(0)
    pixels = int(upto[-1])

    def angle(rank):  # a bin's angles are taken as spread evenly over it
        b = int(torch.searchsorted(upto, rank, right=True))
        inside = int(histogram[b])
        return (b + (rank - int(upto[b]) + inside + 0.5) / inside) * BIN / FIXED

    return (angle((pixels - 1) // 2) + angle(pixels // 2)) / 2 if pixels else NAN


ROWS = (
    Task("semantic", "label", lambda c: len(c["semantic"]), _class_loss("label"), _class_match, _measure_semantic,
         _summarise_semantic),
    Task("depth", "depth", lambda c: 1, _depth_loss, _depth_match, _measure_depth, _summarise_depth),
    Task("normal", "normal", lambda c: 3, _normal_loss, _normal_match, _measure_normal, _summarise_normal),
    Task("digits", "digits", lambda c: len(c["digits"]), _class_loss("digits"), _class_match,
         _measure_class("digits"), _summarise_class),
    Task("characters", "characters", lambda c: len(c["characters"]), _class_loss("characters"), _class_match,
         _measure_class("characters"), _summarise_class),
)
TASKS = {task.name: task for task in ROWS}


class Tally:
    """One evaluation pass: `update` with chunks of images in id order, then `results`.

    classes: {task: names of its classes}.
    official_batch: images in a batch of the official protocol (the paper: NYUv2 2, Cityscapes 8); every chunk
    but the last holds a multiple of it. A metric without a valid pixel in the whole pass is NaN.
    first, of: this process measures the images from `first` on, of so many; counts are added up over processes.
    """

    def __init__(self, tasks, classes, device, official_batch, first=0, of=None):
        if official_batch < 1:
            raise ValueError(f"`official_batch` should be at least 1. Found {official_batch}.")
        self.tasks, self.classes, self.official_batch = [_task(t) for t in tasks], classes, official_batch
        self.first, self.of = first, of
        self.images = [[] for _ in self.tasks]
        self.pooled = [torch.zeros((), dtype=torch.int64, device=device) for _ in self.tasks]
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
            assert prediction.shape == (images, task.channels(self.classes), *size), prediction.shape
            rows, pooled = task.measure(prediction, targets, task.channels(self.classes), self.official_batch)
            self.images[i].append(rows)
            self.pooled[i] = self.pooled[i] + pooled
            # pixels with NaN or inf, which survive the sum over channels: cheaper than a test per channel
            self.faults[i] += torch.stack([(~x.sum(dim=1).isfinite()).sum() for x in (
                prediction, target if target.dim() > 1 else target[:, None])])

    def placed(self, rows):
        """Rows (b, n) of this process's images among zeros for the others'."""
        return F.pad(rows, (0, 0, self.first, 0 if self.of is None else self.of - self.first - len(rows)))

    def results(self):
        """{"official": {metric: float}, "dataset": {metric: float}}, with one copy to the host."""
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
        out = {"official": {}, "dataset": {}}
        for i, task in enumerate(self.tasks):
            images, pooled = host[i], host[i + len(self.tasks)]
            numbers = task.summarise(images, pooled, task.channels(self.classes), self.official_batch)
            for metrics, values in zip(out.values(), numbers, strict=True):
                metrics.update(zip(task.metrics, values, strict=True))
        return out
