"""What the families share: the interface that `models/__init__.py` states, over one head a task on the tap "last",
and the layers that more than one of them has.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn


def as_it_is(x):
    return x


class Head(NamedTuple):
    """What a network has to know of a task."""

    channels: int
    activation: Callable = as_it_is  # (B, C, H, W) or (B, C) of the head -> the prediction


def scaled(channels, width):
    """Channel count under the width multiplier: a multiple of 8, at least 8, and exact at width 1."""
    return max(8, round(channels * width / 8) * 8)


def initialise(module):
    """Xavier-normal weights, zero biases (KD4MTL released code); torch starts batch norm at 1 and 0."""
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_normal_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def conv_bn_relu(c_in, c_out):
    """(B, c_in, H, W) -> (B, c_out, H, W), non-negative: 3x3 convolution with bias, batch norm, ReLU."""
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True))


def resize(x, size):
    """(B, C, h, w) -> (B, C, *size), bilinear, corners on corners."""
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


class Network(nn.Module):
    """A family adds `heads` (a module a task), `features`, `shared_parameters`, `last_shared` and `tap_channels`;
    `smallest` is the least H and W that its layers take, and `sides` divides both.
    """

    smallest: int
    sides = 1
    single_process = ""     # why a training of it cannot be shared by several processes, as a clause

    def __init__(self, tasks, width):
        super().__init__()
        if not width > 0:
            raise ValueError(f"Parameter `width` should be positive. Found `width = {width}`.")
        if not tasks:
            raise ValueError(f"Tasks should be one or more. Found {dict(tasks)}.")
        self.activations = {task: head.activation for task, head in tasks.items()}

    def check(self, x):
        """Refuse what is too small for the layers, and what is no colour image."""
        if x.dim() != 4 or x.shape[1] != 3 or min(x.shape[2:]) < self.smallest or any(
                side % self.sides for side in x.shape[2:]):
            whole = f" and multiples of {self.sides}" if self.sides > 1 else ""
            raise ValueError(f"Input should be (B, 3, H, W) with H and W at least {self.smallest}{whole}. "
                             f"Found {tuple(x.shape)}.")

    def forward(self, x):
        """x (B, 3, H, W) -> predictions as `predict` gives them, features as `features` does."""
        features = self.features(x)
        return self.predict(features), features

    def predict(self, features):
        """What `features` gives -> predictions task -> (B, C_t, H, W) or (B, C_t), in float32 or better."""
        raw = {t: head(features[t]["last"]) for t, head in self.heads.items()}
        # under autocast heads give bfloat16, whose unit vectors are off by half a degree
        wide = {t: x.to(torch.promote_types(x.dtype, torch.float32)) for t, x in raw.items()}
        return {t: self.activations[t](x) for t, x in wide.items()}

    def head_parameters(self, task):
        return list(self.heads[task].parameters())

    def attention_parameters(self, task):
        return []

    def task_parameters(self, task):
        return [*self.attention_parameters(task), *self.head_parameters(task)]

    def first_own(self, task):
        """Weight of the first layer that is the task's own, which its modules hold first."""
        return self.task_parameters(task)[0]
