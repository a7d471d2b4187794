"""Integers that measure: fixed point, so that a sum over images has the same bits in any order, and what is made of it.

A pixel is rounded by half a unit at most; an image's sum is at most BOUND * FIXED * PIXELS = 2^62, inside int64.
"""

from statistics import fmean

import torch

FIXED = 2**24  # units of 2^-24 metre, ratio or degree
BOUND = 2**17  # a pixel's error counts as this at most; 0.5 / d* at Cityscapes' least d* = 1/65535 is < 2^16
PIXELS = 2**21  # of the largest image, 1024 x 2048
NAN = float("nan")


def fixed(values):
    """values float64 >= 0 -> int64 units; NaN passes as 0 here, and `Tally.results` refuses it."""
    return (values.nan_to_num(nan=0.0, posinf=BOUND).clamp(max=BOUND) * FIXED).round().long()


def count(index, bins):
    """index, values 0 ... bins-1 -> how many of each, (bins,) int64; torch.bincount makes the host wait for CUDA."""
    counts = torch.zeros(bins, dtype=torch.int64, device=index.device)
    return counts.scatter_add_(0, index.flatten(), counts.new_ones(()).expand(index.numel()))


def image_sums(*maps):
    """n maps (B, H, W) -> their sums (B, n) int64, a row an image."""
    return torch.stack([m.sum(dim=(1, 2)) for m in maps], dim=1)


def means(rows, weights=None):
    """Mean of each column of lists of floats, or the mean weighted by a number a row; a NaN, of a batch without a
    valid pixel, is left out."""
    # fmean is exact: the order does not matter
    weights = [1] * len(rows) if weights is None else weights
    columns = [[(value, weight) for value, weight in zip(column, weights, strict=True) if value == value]
               for column in zip(*rows, strict=True)]
    return [fmean(*zip(*column, strict=True)) if column else NAN for column in columns]


def totals(rows):
    """Sum of each column of lists of integers, in Python's: the total of a whole data set may exceed int64."""
    return [sum(column) for column in zip(*rows, strict=True)]
