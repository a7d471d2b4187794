"""LeNet for classification: two 5x5 convolutions and a fully connected layer shared by all tasks, a linear head each.

LeCun et al. 1998, in the multi-task form of KD4MTL's Table 1 (Li & Bilen 2020, arXiv:2007.06889). The paper does not
give its sizes; these are ours: 32 and 64 channels, each pooled by 2 after its ReLU, 512 features. 1,711,137 parameters
with 10 digits and 1623 characters. 530 ms for 512 images and their gradients, one thread of a busy 2-core Xeon,
2026-11-21, by
`OMP_NUM_THREADS=1 python -m timeit -s "import models, torch; from models.network import Head
m = models.load('lenet', {'digits': Head(10), 'characters': Head(1623)})
x = torch.rand(512, 3, 32, 32)" "m(x)[0]['characters'].log_softmax(1).sum().backward()"`

The one tap, "last", is the 512 features after their ReLU. Sides of 32 leave the convolutions as a 5x5 grid; other sizes
are averaged to that, so that a network does not know its images' size.
"""

import torch
import torch.nn.functional as F
from torch import nn

from models.network import Network, initialise, scaled

CHANNELS, FEATURES = (32, 64), 512      # at width 1
KERNEL, GRID = 5, 5

# What the check of params.yaml reads: name, least side of an image, whether tasks have one label an image, taps.
TITLE, SMALLEST, FLAT, TAPS = "LeNet", 28, True, ("last",)


def fifths(n, device):
    """(GRID, n): row i averages the i-th of GRID equal parts of n positions, cut ones by their share.

    As a product its gradient is deterministic on a GPU, which torch's adaptive pooling is not.
    """
    ends = torch.arange(GRID + 1, device=device, dtype=torch.float64)[:, None] * (n / GRID)
    at = torch.arange(n, device=device)
    return (torch.minimum(ends[1:], at + 1) - torch.maximum(ends[:-1], at)).clamp_min(0) * (GRID / n)


class Model(Network):
    """Shared trunk and one linear head per task; `models/__init__.py` states what each method returns."""

    smallest = SMALLEST       # such a side leaves the convolutions with 4 positions

    def __init__(self, tasks, width=1.0):
        super().__init__(tasks, width)
        first, second, features = (scaled(c, width) for c in (*CHANNELS, FEATURES))
        self.convolutions = nn.ModuleList([nn.Conv2d(3, first, KERNEL), nn.Conv2d(first, second, KERNEL)])
        self.connected = nn.Linear(second * GRID**2, features)
        self.heads = nn.ModuleDict({task: nn.Linear(features, head.channels) for task, head in tasks.items()})
        initialise(self)

    def features(self, x):
        """x (B, 3, H, W) -> task -> {"last": (B, C_last)}, the same tensor for every task."""
        self.check(x)
        for convolution in self.convolutions:
            x = F.max_pool2d(F.relu(convolution(x)), 2)
        h, w = x.shape[2:]
        if (h, w) != (GRID, GRID):
            x = fifths(h, x.device).to(x.dtype) @ x @ fifths(w, x.device).to(x.dtype).T
        last = F.relu(self.connected(x.flatten(1)))
        return {task: {"last": last} for task in self.heads}

    def shared_parameters(self):
        return [*self.convolutions.parameters(), *self.connected.parameters()]

    def last_shared(self):
        """Weight (C_last, C * 25), without bias, of the fully connected layer."""
        return [self.connected.weight]

    @property
    def tap_channels(self):
        return {"last": self.connected.out_features}
