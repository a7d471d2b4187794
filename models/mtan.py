"""MTAN: SegNet and, per task, a branch that masks the shared features at every level.

Liu, Johns & Davison 2019 (arXiv:1803.10704), section 3, with the sizes of the code released with KD4MTL
(arXiv:2007.06889). 44,229,073 parameters with the three NYUv2 tasks; 38,185,805 for semantics alone.

Each task has taps of its own: "mid" is its branch's output at the bottleneck, "last" at the decoder's end. A
network for one task has one branch. The blocks between two masks are shared by all tasks, so in one training
step their batch norm sees as many batches as there are tasks, one after the other (as released).

NOTE: the released object also holds three scalars ("logsigma") that nothing reads; they are left out here.
"""

import torch
import torch.nn.functional as F
from torch import nn

from models import segnet
from models.network import conv_bn_relu, initialise, resize

# What the check of params.yaml reads: name, least side of an image, whether tasks have one label an image, taps.
TITLE, SMALLEST, FLAT, TAPS = "MTAN", 32, False, ("mid", "last")


class Gate(nn.Sequential):
    """Attention module A(c_in -> c -> c): (B, c_in, H, W) -> mask (B, c, H, W) in [0, 1]."""

    def __init__(self, c_in, c):
        super().__init__(
            nn.Conv2d(c_in, c, 1), nn.BatchNorm2d(c), nn.ReLU(inplace=True),
            nn.Conv2d(c, c, 1), nn.BatchNorm2d(c), nn.Sigmoid(),
        )  # fmt: skip


class Branch(nn.Module):
    """The gates of one task. `down`, `up`: (in, out) channels of encoder levels and decoder steps."""

    def __init__(self, down, up):
        super().__init__()
        # below the first level a gate also sees the branch itself, which has as many channels as the level
        self.encoder = nn.ModuleList(Gate(c if i == 0 else 2 * c, c) for i, (_, c) in enumerate(down))
        self.decoder = nn.ModuleList(Gate(c_in + c, c) for c_in, c in up)


class Model(segnet.Model):
    """Standard SegNet with one branch per task; `models/__init__.py` states what each method returns."""

    def __init__(self, tasks, width=1.0):
        super().__init__(tasks, width)
        f = self.channels
        self.branches = nn.ModuleDict({task: Branch(self.down, self.up) for task in tasks})
        # between two masks: to the next level's channels on the way down, to the step's own on the way up
        self.between_down = nn.ModuleList(map(conv_bn_relu, f, [*f[1:], f[-1]]))
        self.between_up = nn.ModuleList(conv_bn_relu(*pair) for pair in self.up)
        for added in (self.branches, self.between_down, self.between_up):
            initialise(added)

    def features(self, x):
        """x (B, 3, H, W) -> task -> {"mid": (B, C_mid, H/32, W/32), "last": (B, C_last, H, W)}, its own."""
        self.check(x)
        indices, state = [], {}  # state: task -> what its branch hands from level to level
        for i, level in enumerate(self.encoder):
            before = level.first(x)
            after = level.rest(before)
            for task, branch in self.branches.items():
                seen = torch.cat([before, state[task]], 1) if i else before
                masked = branch.encoder[i](seen) * after
                state[task] = F.max_pool2d(self.between_down[i](masked), 2)
            x, index = F.max_pool2d(after, 2, return_indices=True)
            indices.append((index, after.shape[-2:]))
        mid = dict(state)
        for j, step in enumerate(self.decoder):
            before = segnet.unpool(x, *indices.pop())
            x = step(before)
            for task, branch in self.branches.items():
                # twice the size, and the one more of an odd side
                up = self.between_up[j](resize(state[task], before.shape[-2:]))
                seen = torch.cat([before, up], 1)
                state[task] = branch.decoder[j](seen) * x
        return {task: {"mid": mid[task], "last": state[task]} for task in self.branches}

    def shared_parameters(self):
        between = [*self.between_down.parameters(), *self.between_up.parameters()]
        return [*super().shared_parameters(), *between]

    def attention_parameters(self, task):
        return list(self.branches[task].parameters())
