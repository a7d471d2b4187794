"""SegNet: a VGG-16 shaped encoder and its mirror image, joined by pooling indices; one head per task.

Badrinarayanan, Kendall & Cipolla 2017 (arXiv:1511.00561) in the multi-task form of MTAN (Liu, Johns &
Davison 2019, arXiv:1803.10704) that KD4MTL (Li & Bilen 2020, arXiv:2007.06889) trains. Sizes, initialisation
and final activations follow their released code; 25,055,185 parameters with the three NYUv2 tasks.

Both taps are after a ReLU and shared by all tasks: "mid" is the output of the fifth max-pool, "last" that of
the last decoder block. A network for one task has that task's head only.

NOTE: the released object also holds six scalars ("logsigma") that nothing reads; they are left out here. Its
single-task runs build all three heads and multiply two losses by zero; here those heads do not exist.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from models.network import Network, conv_bn_relu, initialise, scaled

CHANNELS = {  # output channels of the five encoder levels at width 1
    "standard": (64, 128, 256, 512, 512),
    "wide": (64, 128, 256, 512, 1024),
    "deep": (64, 128, 256, 512, 512),  # every convolution is followed by a second one
}
CONVOLUTIONS = (2, 2, 3, 3, 3)  # per encoder level; the decoder step that undoes a level has as many

# What the check of params.yaml reads: name, least side of an image, whether tasks have one label an image, taps.
TITLE, SMALLEST, FLAT, TAPS = "SegNet", 32, False, ("mid", "last")


def unpool(x, indices, size, compare=None):
    """Inverse of a 2x2 max-pool: each value goes back to where it was the maximum, all else is zero.

    x (B, C, h, w), indices (B, C, h, w) positions in the flattened plane `size` = (H, W) that was pooled, as
    `F.max_pool2d` returns them -> (B, C, H, W), bit for bit `F.max_unpool2d`, which deterministic mode refuses.
    H is 2h or 2h + 1: an odd side's last row or column was in no window and stays zero. Windows do not overlap,
    so no position is written twice. Channels-last stays channels-last.

    `compare` compares the index with every position instead of scattering; None does so on CUDA, where a
    scatter in deterministic mode sorts its indices first. On a CPU the scatter is at least 5 times faster.
    """
    if compare is None:
        compare = x.is_cuda
    (h, w), (H, W) = x.shape[-2:], size
    channels_last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    if channels_last:
        x, indices = x.permute(0, 2, 3, 1), indices.permute(0, 2, 3, 1)
    row = 1 if channels_last else 2  # the dimension of H
    if compare:
        rows, columns = (torch.arange(2 * n, device=x.device) for n in (h, w))
        position = (rows[:, None] * W + columns).view(h, 2, w, 2, *[1] * (2 - row))
        here = indices.unsqueeze(row + 1).unsqueeze(row + 3) == position
        y = torch.where(here, x.unsqueeze(row + 1).unsqueeze(row + 3), 0.0)
        y = y.flatten(row + 2, row + 3).flatten(row, row + 1)
        y = F.pad(y, (0, 0) * (2 - row) + (0, W - 2 * w, 0, H - 2 * h))
    else:
        values, target = x.flatten(row, row + 1), indices.flatten(row, row + 1)
        shape = list(values.shape)
        shape[row] = H * W
        y = values.new_zeros(shape).scatter_(row, target, values).unflatten(row, (H, W))
    return y.permute(0, 3, 1, 2) if channels_last else y


class Block(nn.Module):
    """One encoder level or decoder step: `first` changes the channel count, `rest` keeps it."""

    def __init__(self, c_in, c_out, convolutions, repeat):
        super().__init__()
        layers = [conv_bn_relu(c_in if i == 0 else c_out, c_out) for i in range(convolutions * repeat)]
        self.first = nn.Sequential(*layers[:repeat])
        self.rest = nn.Sequential(*layers[repeat:])

    def forward(self, x):
        return self.rest(self.first(x))


class Model(Network):
    """Trunk shared by all tasks and one head per task; `models/__init__.py` states what each method returns.

    `type` is "standard", "wide" (1024 channels at the bottleneck) or "deep" (twice the convolutions).
    """

    smallest = SMALLEST  # five poolings leave one pixel of such a side

    def __init__(self, tasks, width=1.0, *, type: Literal["standard", "wide", "deep"] = "standard"):
        super().__init__(tasks, width)
        if type not in CHANNELS:
            raise ValueError(f"SegNet type should be one of {', '.join(CHANNELS)}. Found `type = {type}`.")
        repeat = 2 if type == "deep" else 1
        self.channels = [scaled(c, width) for c in CHANNELS[type]]
        # (in, out) of each encoder level; a decoder step goes from the level it undoes to the one above
        self.down = list(zip([3, *self.channels], self.channels, strict=False))
        self.up = list(zip(self.channels, [self.channels[0], *self.channels], strict=False))[::-1]
        self.encoder = nn.ModuleList(
            Block(*pair, n, repeat) for pair, n in zip(self.down, CONVOLUTIONS, strict=True)
        )
        self.decoder = nn.ModuleList(
            Block(*pair, n, repeat) for pair, n in zip(self.up, CONVOLUTIONS[::-1], strict=True)
        )
        c = self.channels[0]
        self.heads = nn.ModuleDict({
            task: nn.Sequential(nn.Conv2d(c, c, 3, padding=1), nn.Conv2d(c, head.channels, 1))
            for task, head in tasks.items()})
        initialise(self)

    def features(self, x):
        """x (B, 3, H, W) -> task -> {"mid": (B, C_mid, H/32, W/32), "last": (B, C_last, H, W)}, shared."""
        self.check(x)
        indices = []
        for level in self.encoder:
            x = level(x)
            size = x.shape[-2:]
            x, index = F.max_pool2d(x, 2, return_indices=True)
            indices.append((index, size))
        mid = x
        for step in self.decoder:
            x = step(unpool(x, *indices.pop()))
        return {task: {"mid": mid, "last": x} for task in self.heads}

    def shared_parameters(self):
        return [*self.encoder.parameters(), *self.decoder.parameters()]

    def last_shared(self):
        """Weight (C_last, C_last, 3, 3), without bias, of the last decoder convolution."""
        return [self.decoder[-1].rest[-1][0].weight]

    @property
    def tap_channels(self):
        return {"mid": self.channels[-1], "last": self.channels[0]}
