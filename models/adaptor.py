"""Adaptor: the map from a student's features into a teacher's space, one per task and tap.

KD4MTL (Li & Bilen 2020, arXiv:2007.06889), section 3: a 1x1 convolution without bias, trained with the
student and dropped at inference. Its ablation adds a non-linear map and none at all.

The last linear map is kept apart from what precedes it (`weight` and `prepare`), because the fused feature
distance applies that map itself and never stores its result.
"""

import torch
import torch.nn.functional as F
from torch import nn

KINDS = ("linear", "nonlinear", "none")


def mix(x, weight):
    """x (B, C, H, W) or (B, C), weight (D, C) -> (B, D, H, W) or (B, D): one map for every pixel."""
    return F.linear(x, weight) if x.dim() == 2 else F.conv2d(x, weight[:, :, None, None])


class Adaptor(nn.Module):
    """`weight` is the last linear map, (D, C) or (D, 2C) or None; its input is what `prepare` returns.

    linear       x -> W x
    nonlinear    x -> W relu(V x), V (2C, C): the paper names no width; 2C is that of the authors' follow-up
    none         x -> x

    `init` is "xavier" (normal; the released SegNet script) or "torch" (U(+-1/sqrt(C)), torch's default, which the
    released MTAN script keeps).
    """

    def __init__(self, kind, student_channels, teacher_channels, init="xavier"):
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"Adaptor kind should be one of {', '.join(KINDS)}. Found `kind = {kind}`.")
        if kind == "none" and student_channels != teacher_channels:
            raise ValueError(
                "Without an adaptor student and teacher should have as many channels. "
                f"Found {student_channels} and {teacher_channels}."
            )
        width = student_channels
        self.hidden = self.weight = None
        if kind == "nonlinear":
            width = 2 * student_channels
            self.hidden = drawn(init, width, student_channels)
        if kind != "none":
            self.weight = drawn(init, teacher_channels, width)

    def prepare(self, x):
        """Everything before the last linear map: (B, C, H, W) -> the same, or (B, 2C, H, W) if non-linear."""
        return x if self.hidden is None else F.relu(mix(x, self.hidden.to(x.dtype)))

    def forward(self, x):
        """x (B, C, H, W) or (B, C) -> (B, D, H, W) or (B, D)."""
        x = self.prepare(x)
        return x if self.weight is None else mix(x, self.weight.to(x.dtype))


def drawn(init, rows, columns):
    """Matrix (rows, columns) with these first weights."""
    weight = torch.empty(rows, columns)
    return nn.Parameter(nn.init.xavier_normal_(weight) if init == "xavier" else
                        nn.init.uniform_(weight, -columns**-0.5, columns**-0.5))
