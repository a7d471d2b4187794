"""AdaMT-Net: an encoder with dense links, and per task a decoder that weighs its features by a tensor it learns.

Jha et al. 2020 (CVPR workshops), in the form released with XTasC-Net (Nakano, Chen & Demachi 2021, arXiv:2111.14122):
sizes, torch's own first weights, dropout of whole channels. As released ("per_sample") it has 49,136,064 parameters
with the two Cityscapes tasks (7 classes) for batches of 8 images of 128x256, 31,457,280 of them in those tensors.

"mid" is the bottleneck, shared by all tasks, without activation and at 1/16 of the image; "last" a task's decoder's
output, its own, after its dropout.

NOTE: `attention: shared` is our deviation, and the default: one tensor a stage for every image, 3,932,160 numbers
above. The released one has another for each position in the batch, which means nothing: images are shuffled, and at
test time the first rows serve whatever comes.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from models.network import Network, conv_bn_relu, resize, scaled

ENCODER, BOTTLENECK, DECODER = (64, 128, 256, 512), 1024, (256, 128, 64, 32)    # channels at width 1
DROPOUT = 0.5
ATTENTION = ("shared", "per_sample")

# What the check of params.yaml reads: name, least side of an image, whether tasks have one label an image, taps.
TITLE, SMALLEST, FLAT, TAPS = "AdaMT-Net", 32, False, ("mid", "last")
FROM_DATA = ("size", "batch")       # options that follow from the images and the batch


def conv_bn_sigmoid(c_in, c_out):
    """(B, c_in, H, W) -> (B, c_out, H, W) in [0, 1]: 3x3 convolution with bias, batch norm, sigmoid."""
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.Sigmoid())


class Decoder(nn.Module):
    """Decoder of one task. `steps`: (in, out) channels of its stages, an output counts twice (features, attended);
    `attention`: a tensor (rows, out, h, w) for each, image i taking row i modulo their number.
    """

    def __init__(self, steps, rows, sizes):
        super().__init__()
        self.first = nn.ModuleList(conv_bn_sigmoid(c_in, c) for c_in, c in steps)
        self.second = nn.ModuleList(conv_bn_sigmoid(c, c) for _, c in steps)
        self.attention = nn.ParameterList(
            torch.rand(rows, c, *size) for (_, c), size in zip(steps, sizes, strict=True)
        )

    def forward(self, x, skips):
        """x (B, 1024, H/16, W/16), skips from the highest to the lowest level -> (B, 64, H, W)."""
        for first, second, weight, skip in zip(self.first, self.second, self.attention, skips[::-1], strict=True):
            l1 = first(torch.cat([resize(x, skip.shape[2:]), skip], 1))
            l2 = second(l1)
            if len(weight) > 1:
                weight = weight[torch.arange(len(x), device=x.device) % len(weight)]
            x = F.dropout2d(torch.cat([l2, weight.to(l1.dtype) * l1 * l2], 1), DROPOUT, self.training)
        return x


class Model(Network):
    """Shared encoder, a decoder and a 1x1 head per task; `models/__init__.py` states what each method returns.

    `size` (H, W) is that of the images it is made for, `batch` how many it trains on at once, which only
    `attention` "per_sample" depends on.
    """

    smallest = SMALLEST
    single_process = ("the channels that AdaMT-Net drops at random, and its maps for each place in a batch, are one "
                      "process's")

    def __init__(self, tasks, width=1.0, *, size, batch=1, attention: Literal["shared", "per_sample"] = "shared"):
        super().__init__(tasks, width)
        if attention not in ATTENTION:
            raise ValueError(f"AdaMT-Net attention should be one of {', '.join(ATTENTION)}. "
                             f"Found `attention = {attention}`.")
        if batch < 1:
            raise ValueError(f"AdaMT-Net batch should be 1 or more. Found `batch = {batch}`.")
        self.size = tuple(size)
        f, own = ([scaled(c, width) for c in channels] for channels in (ENCODER, DECODER))
        seen = [3, *(sum(f[:i]) for i in range(1, 5))]          # a level sees all those before it
        self.encoder = nn.ModuleList(
            nn.Sequential(conv_bn_relu(c_in, c_out), conv_bn_relu(c_out, c_out))
            for c_in, c_out in zip(seen, f, strict=False)
        )
        self.bottleneck = nn.Conv2d(seen[-1], scaled(BOTTLENECK, width), 1)
        below = [self.bottleneck.out_channels, *(2 * c for c in own)]
        steps = [(c_in + skip, c) for c_in, skip, c in zip(below, f[::-1], own, strict=False)]
        sizes = [[side // 2**level for side in self.size] for level in (3, 2, 1, 0)]
        rows = batch if attention == "per_sample" else 1
        self.decoders = nn.ModuleDict({task: Decoder(steps, rows, sizes) for task in tasks})
        self.heads = nn.ModuleDict({
            task: nn.Conv2d(below[-1], head.channels, 1, bias=False) for task, head in tasks.items()})

    def check(self, x):
        """Refuse also images of another size than the attention's."""
        super().check(x)
        if tuple(x.shape[2:]) != self.size:
            raise ValueError(f"This AdaMT-Net is for images of {self.size}. Found {tuple(x.shape[2:])}.")

    def features(self, x):
        """x (B, 3, H, W) -> task -> {"mid": (B, C_mid, H/16, W/16), shared, "last": (B, C_last, H, W), its own}."""
        self.check(x)
        skips, links = [], []       # links: earlier levels at this one's size, without dropout
        for level in self.encoder:
            skips.append(level(x))
            pooled, *links = (F.max_pool2d(link, 2) for link in (skips[-1], *links))
            # dropping whole channels commutes with pooling them
            x = torch.cat([F.dropout2d(pooled, DROPOUT, self.training), *links], 1)
            links = [pooled, *links]
        mid = self.bottleneck(x)
        return {task: {"mid": mid, "last": decoder(mid, skips)} for task, decoder in self.decoders.items()}

    def shared_parameters(self):
        return [*self.encoder.parameters(), *self.bottleneck.parameters()]

    def attention_parameters(self, task):
        return list(self.decoders[task].parameters())

    def last_shared(self):
        """Weight (C_mid, C, 1, 1), without bias, of the bottleneck's convolution."""
        return [self.bottleneck.weight]

    @property
    def tap_channels(self):
        return {"mid": self.bottleneck.out_channels, "last": next(iter(self.heads.values())).in_channels}
