"""Task transfer network: a U-Net that makes one task's output of another's prediction.

XTasC-Net (Nakano, Chen & Demachi 2021, arXiv:2111.14122), with the sizes and first weights of its released code:
1,885,568 parameters from 7 classes to depth, 1,882,496 back. It is trained with the network whose predictions it
reads and dropped at inference.
"""

import torch
import torch.nn.functional as F
from torch import nn

from models.network import conv_bn_relu, initialise, resize, scaled

CHANNELS = (64, 128, 256)       # at width 1


def double(c_in, c_out, batch_norm):
    """(B, c_in, H, W) -> (B, c_out, H, W): two 3x3 convolutions with bias, each with its batch norm if any and ReLU."""
    layers = [*conv_bn_relu(c_in, c_out), *conv_bn_relu(c_out, c_out)]
    return nn.Sequential(*(part for part in layers if batch_norm or not isinstance(part, nn.BatchNorm2d)))


class TransferNet(nn.Module):
    """`wide` doubles the channels. Each skip is what a level hands down, after its pooling; none is the input."""

    def __init__(self, c_in, c_out, width=1.0, batch_norm=False, wide=False):
        super().__init__()
        f = [scaled(c * (2 if wide else 1), width) for c in CHANNELS]
        down, up = zip([c_in, *f], f, strict=False), [(f[2], f[1]), (2 * f[1], f[0]), (2 * f[0], f[0])]
        self.encoder = nn.ModuleList(double(*pair, batch_norm) for pair in down)
        self.decoder = nn.ModuleList(double(*pair, batch_norm) for pair in up)
        self.head = nn.Conv2d(f[0], c_out, 1, bias=False)
        initialise(self)

    def forward(self, x):
        """x (B, c_in, H, W), log-probabilities if of classes, H and W at least 8 -> (B, c_out, H, W) before any
        activation.
        """
        sizes, skips = [], []
        for level in self.encoder:
            sizes.append(x.shape[2:])
            x = F.max_pool2d(level(x), 2)
            skips.append(x)
        skips.pop()         # the lowest goes up as it is
        for step in self.decoder:
            x = step(resize(x, sizes.pop()))
            if skips:
                x = torch.cat([x, skips.pop()], 1)
        return self.head(x)
