"""What a task is: the methods that the rest of the pipeline calls, each with what most tasks do."""

import abc
import math

import numpy as np
import torch

from models.network import Head, as_it_is
from pipeline.runtime import distributed
from pipeline.tasks import metrics


def masked_mean(values, mask):
    """values, mask (B, H, W) or (B,) -> scalar, a process's part of the mean over the whole batch; 0 of nothing."""
    return torch.where(mask, values, 0).sum() / distributed.total(mask.sum()).clamp(min=1)


def turned(x, y, angle):
    """Vectors (B, H, W) to the right and down, turned clockwise, as they are looked at, by `angle` (B,)."""
    sine, cosine = (part[:, None, None].to(x) for part in (angle.sin(), angle.cos()))
    return x * cosine - y * sine, x * sine + y * cosine


class Task(abc.ABC):
    """A task with the facts of its file. Where nothing else is said, targets and predictions are (B, C, H, W).

    `measure` and `summarise` are of the metrics that training looks at after every epoch. A task that has metrics with
    `costly`, which `evaluate` alone looks at, has `measure_costly` and `summarise_costly` for them, of the same form.
    """

    def __init__(self, facts):
        self.name, self.target, self.facts = facts.name, facts.target, facts

    # -- the network's side

    def channels(self, classes):
        """Width of the head. classes: {task: names of its classes}."""
        return math.prod(self.facts.behind)

    activate = staticmethod(as_it_is)        # what the head gives, (B, C, H, W) or (B, C), -> the prediction

    def head(self, classes):
        return Head(self.channels(classes), self.activate)

    # -- what enters

    @abc.abstractmethod
    def check(self, given, manifest):
        """Whether targets are what they say, by their values. Raises ValueError for what cannot be right, and yields
        what may not be, if anything: each says what it looks like, with the figure.

        given: arrays of some images as their reader gives them, (H, W, *BEHIND) or numbers, finite; those of all
        images once they are stored. manifest: the prepared data's, with `classes` and `inverse_depth`.
        """

    # -- losses

    def valid(self, target):
        """target (B, C, H, W) -> where it is one, (B, H, W) bool: M_d and M_n of section 4.1. Zeros stand for none."""
        # NOTE: the released code asks that a normal's components do not *sum* to exactly 0, which also drops true
        # normals such as (a, -a, 0); we ask that they are not *all* 0
        return (target != 0).any(dim=1)

    def mask(self, targets):
        """Where the task has a target, (B, H, W) or (B,) bool, or where augmentation says it has."""
        kept = targets.get(f"{self.target}_mask")
        if kept is None:
            return self.valid(targets[self.target])
        return kept[:, 0] if kept.dim() == 4 else kept

    def labelled(self, targets, normal_mask):
        """Where `loss` has something to learn from, (B, H, W) or (B,) bool."""
        return self.mask(targets)

    @abc.abstractmethod
    def loss(self, prediction, targets, normal_mask):
        """The loss on the labels, a scalar. targets: {kind: target}, of the task's own kind and of what it READS."""

    @abc.abstractmethod
    def apart(self, prediction, other):
        """How far a prediction is from another, (B, H, W) or (B,), 0 where they agree."""

    def match(self, prediction, taught, targets, temperature):
        """How far a prediction is from a teacher's, a scalar: a mean over all pixels (KD4MTL names no such loss)."""
        apart = self.apart(prediction, taught)
        return masked_mean(apart, torch.ones_like(apart, dtype=torch.bool))

    def energy(self, transferred, direct):
        """Consistency energy: how far a transferred prediction is from the direct one, (B,), a mean over its pixels."""
        return self.apart(transferred, direct).double().mean((1, 2))

    # -- augmentation; the target is cut, turned and mirrored already, as an array

    void = 0                                 # of a target's every number where an image shows nothing

    def zoom(self, target, scale, how):
        """The target of an image enlarged by `scale` (B,). how: the row's switches, and `inverse_depth`, which says
        whether that is what the data set's depth is."""
        return target

    def mirror(self, target, mirrored):
        """The target of an image mirrored left to right where `mirrored` (B,) is 1, not 0."""
        return target

    def turn(self, target, angle):
        """The target of an image turned clockwise, as it is looked at, by `angle` (B,) in radians."""
        return target

    # -- metrics

    def keys(self, costly=False):
        """Keys of the metrics that `summarise`, or `summarise_costly`, gives, in their order."""
        return [key for key, metric in metrics.of([self.name]).items() if metric.costly == costly]

    def measured(self, costly):
        """[(keys, how images are measured, how that is summarised)]: of the costly metrics too, or without them."""
        found = [(self.keys(), self.measure, self.summarise)]
        if costly and (keys := self.keys(costly=True)):
            found.append((keys, self.measure_costly, self.summarise_costly))
        return found

    @abc.abstractmethod
    def measure(self, prediction, targets, channels, official_batch):
        """(B, n) int64, a row an image, and pooled (m,) int64, added up over chunks of images; on the device."""

    @abc.abstractmethod
    def summarise(self, images, pooled, channels, official_batch):
        """All rows and the sum of all pooled -> the metrics under the official and under the dataset protocol, two
        lists of floats, NaN without a valid pixel; between them a third, where the masked protocol differs from the
        official one."""

    # -- drawing; a task with a number an image has `told` instead, as `classes.OneLabel` has it

    def paint(self, figure, panel, stored, classes):
        """A stored target (H, W), or (H, W, *BEHIND), drawn on a panel of a matplotlib figure."""
        figure.colorbar(panel.imshow(np.where(stored == 0, np.nan, stored.astype(float)), cmap="viridis"), ax=panel)
