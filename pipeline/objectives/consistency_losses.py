"""Losses between depths and between a transferred prediction and the direct one (XTasC-Net, Nakano, Chen & Demachi
2021, arXiv 2111.14122, and its released code).

Predictions are those of `pipeline.tasks`; masks are (B, H, W) bool. Where several processes share a batch, each gets
its images' part: `batch_share` is their share of it, and counts of pixels are of the whole batch.
"""

import torch
import torch.nn.functional as F

from pipeline.runtime import distributed

C1, C2 = 0.01**2, 0.03**2           # of SSIM
WINDOW = 3

DIFFERENCE = {                      # of depths, by their absolute difference
    "l1": lambda e: e,
    "mse": torch.square,
    "log_l1": torch.log1p,
    "smooth_l1": lambda e: torch.where(e < 1, 0.5 * e.square(), e - 0.5),
}


def by_image(values, mask, batch_share):
    """values (B, H, W) -> the mean over images of the mean over an image's masked pixels, 0 where it has none."""
    return batch_share * (torch.where(mask, values, 0).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)).mean()


def depth(kind, prediction, target, mask, batch_share):
    """prediction, target (B, 1, H, W): `by_image` of DIFFERENCE[kind]."""
    return by_image(DIFFERENCE[kind]((prediction - target).abs()[:, 0]), mask, batch_share)


def ssim(prediction, target, mask, batch_share):
    """(1 - SSIM) / 2 in windows of 3x3 inside the image, invalid pixels 0 on both sides; summed over an image's windows
    and divided by its valid pixels, mean over images."""
    x, y = (torch.where(mask[:, None], values, 0) for values in (prediction, target))
    mean_x, mean_y, xx, yy, xy = F.avg_pool2d(torch.cat([x, y, x * x, y * y, x * y], 1), WINDOW, 1).unbind(1)
    variances, covariance = (xx - mean_x.square()) + (yy - mean_y.square()), xy - mean_x * mean_y
    similarity = (2 * mean_x * mean_y + C1) * (2 * covariance + C2) / (
        (mean_x.square() + mean_y.square() + C1) * (variances + C2))
    apart = ((1 - similarity) / 2).clamp(0, 1)
    return batch_share * (apart.sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)).mean()


def over_pixels(values, mask, counted):
    """values (B, H, W) -> their masked sum over the number of `counted` pixels of the whole batch."""
    return torch.where(mask, values, 0).sum() / distributed.total(counted.sum()).clamp(min=1)


def cross(prediction, direct, smoothing):
    """Cross-entropy (B, H, W) of log-probabilities (B, C, H, W) with the class that `direct` gives most to, which has
    1 - smoothing, every other class smoothing / (C - 1)."""
    chosen = direct.max(dim=1).indices
    loss = F.nll_loss(prediction, chosen, reduction="none")
    if not smoothing:
        return loss
    least = smoothing / (prediction.shape[1] - 1)
    return (1 - smoothing - least) * loss - least * prediction.sum(1)
