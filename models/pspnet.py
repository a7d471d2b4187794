"""PSPNet: a ResNet-50 that ends at an eighth of the image, shared by all tasks, and a pyramid-pooling decoder per task.

Zhao et al. 2017 (arXiv:1612.01105) in the multi-task form of Aligned-MTL (Senushkin et al. 2023, arXiv:2305.19000),
with the sizes and first weights of its released code. The encoder has 23,508,032 parameters in 159 tensors, a decoder
23,073,792 and 513 for each channel of its prediction: as many again for each task.

Both taps are non-negative and shared by all tasks: "mid" is the third stage's output, "last" the fourth's, and both
have an eighth of the image's sides. A task's decoder is its head, so that what balances gradients of the last shared
features sees every task on one map. Predictions are made at an eighth; with `target_stride` 1 each is repeated over 8x8
pixels.

NOTE: weights trained on ImageNet expect "imagenet"; the released code has "bgr" on Cityscapes and "none" on NYUv2.
"""

from typing import Literal

import torch
from torch import nn

from models.network import Network, scaled
from models.resnet import Encoder, Normalise, imagenet

ENCODER, STRIDE, DECODER, BINS = 50, 8, 512, (1, 2, 3, 6)       # DECODER: channels at width 1

# What the check of params.yaml reads: name, least side of an image, whether tasks have one label an image, taps.
TITLE, SMALLEST, FLAT, TAPS = "PSPNet", 32, False, ("mid", "last")
SIDES, TARGET_STRIDES = 8, (1, 8)       # what divides an image's sides; how many pixels a side may have one target
FROM_DATA = ("target_stride",)          # an option that follows from the images


def means(n, bins, device):
    """(bins, n): row i averages positions floor(i n / bins) to ceil((i + 1) n / bins), as torch's adaptive pooling.

    As a product its gradient is deterministic on a GPU, which that pooling's is not.
    """
    at, i = torch.arange(n, device=device), torch.arange(bins, device=device)[:, None]
    inside = (at >= i * n // bins) & (at < ((i + 1) * n + bins - 1) // bins)
    return inside / inside.sum(1, keepdim=True)


def between(bins, n, device):
    """(n, bins): row i reads `bins` values at the i-th of n positions, linearly, corners not aligned."""
    at = ((torch.arange(n, device=device) + 0.5) * bins / n - 0.5).clamp(0, bins - 1)
    return (1 - (at[:, None] - torch.arange(bins, device=device)).abs()).clamp_min(0)


def along(x, rows, columns):
    """x (B, C, H, W), rows (h, H), columns (w, W) -> (B, C, h, w): a linear map of the rows and one of the columns."""
    whole = torch.kron(rows, columns).to(x.dtype).expand(len(x), -1, -1)
    last = whole @ x.flatten(2).transpose(1, 2)         # channels last all the way, so nothing is copied
    return last.transpose(1, 2).unflatten(2, (len(rows), len(columns)))


def conv_bn_relu(c_in, c_out, side):
    """(B, c_in, H, W) -> (B, c_out, H, W), non-negative: convolution without bias, batch norm, ReLU."""
    return nn.Sequential(nn.Conv2d(c_in, c_out, side, padding=side // 2, bias=False), nn.BatchNorm2d(c_out),
                         nn.ReLU(inplace=True))


class Decoder(nn.Module):
    """(B, c_in, H, W) -> (B, c_out, repeat * H, repeat * W): one task's, of a map and what grids of BINS see of it."""

    def __init__(self, c_in, c, c_out, repeat):
        super().__init__()
        self.repeat = repeat
        self.pooled = nn.ModuleList(conv_bn_relu(c_in, c, 1) for _ in BINS)
        self.joined = conv_bn_relu(c_in + len(BINS) * c, c, 3)
        self.out = nn.Conv2d(c, c_out, 1)

    def forward(self, x):
        (h, w), where = x.shape[2:], x.device
        seen = [x]
        for part, n in zip(self.pooled, BINS, strict=True):
            grid = part(along(x, means(h, n, where), means(w, n, where)))
            seen.append(along(grid, between(n, h, where), between(n, w, where)))
        return repeated(self.out(self.joined(torch.cat(seen, 1))), self.repeat)


def repeated(x, times):
    """(B, C, H, W) -> (B, C, times * H, times * W): the nearest value of each pixel; its gradient is a plain sum."""
    b, c, h, w = x.shape
    return x[:, :, :, None, :, None].expand(b, c, h, times, w, times).reshape(b, c, times * h, times * w)


class Model(Network):
    """Shared encoder and a decoder per task; `models/__init__.py` states what each method returns.

    `pretrained` starts the encoder with the weights trained on ImageNet. `normalise` is "imagenet" (images less
    ImageNet's mean, by its deviation), "bgr" (blue first, less the mean of red, green and blue) or "none".
    `target_stride` is 1, for predictions of every pixel, or 8, for one of each 8x8.
    """

    smallest, sides = SMALLEST, SIDES

    def __init__(self, tasks, width=1.0, *, target_stride=1, pretrained: bool = False,
                 normalise: Literal["imagenet", "bgr", "none"] = "imagenet"):
        super().__init__(tasks, width)
        if target_stride not in TARGET_STRIDES:
            raise ValueError(f"PSPNet target_stride should be 1 or 8. Found `target_stride = {target_stride}`.")
        self.normalise, self.encoder = Normalise(normalise), Encoder(ENCODER, width, STRIDE)
        c, repeat = scaled(DECODER, width), STRIDE // target_stride
        self.heads = nn.ModuleDict({
            task: Decoder(self.encoder.channels[-1], c, head.channels, repeat) for task, head in tasks.items()})
        if pretrained:
            self.encoder.load_state_dict(imagenet(ENCODER, width))

    def features(self, x):
        """x (B, 3, H, W) -> task -> {"mid": (B, C_mid, H/8, W/8), "last": (B, C_last, H/8, W/8)}, shared."""
        self.check(x)
        *_, mid, last = self.encoder(self.normalise(x))
        return {task: {"mid": mid, "last": last} for task in self.heads}

    def shared_parameters(self):
        return list(self.encoder.parameters())

    def last_shared(self):
        """All of the fourth stage, 14,964,736 parameters (GradNorm, as released)."""
        return list(self.encoder.layer4.parameters())

    @property
    def tap_channels(self):
        return {"mid": self.encoder.channels[-2], "last": self.encoder.channels[-1]}
