"""Aligned-MTL (Senushkin et al. 2023, arXiv 2305.19000, Algorithm 1): the gradients' principal components, equalised.

With the Gramian M = V diag(lambda) V', the weights are B w, B = sigma V diag(lambda^-1/2) V', w the preference (1 a
task here, 1 / T in the paper). sigma is the smallest singular value, or their lower median, or their root mean square.
Components below `rank_tolerance` T lambda_max are left out; the released code's float32 epsilon, `1.19e-7`, cuts a
task off from a condition number of 1,700 on. Weights may be negative.
"""

from typing import Literal

import torch

from pipeline import balancers
from pipeline.options.types import BelowOne

KNOWN_AS = ("amtl",)          # in released codes


class Balancer(balancers.Balancer):
    needs = "gramian"
    prefers = True

    def __init__(self, tasks, *, mode: Literal["min", "median", "rmse"] = "min",
                 rank_tolerance: BelowOne = 3.0e-9, **common):
        super().__init__(tasks, **common)
        self.mode, self.rank_tolerance = mode, rank_tolerance

    def weights(self, losses, gramian):
        return aligned(gramian, self.preference.to(gramian), self.mode, self.rank_tolerance)


def aligned(gramian, preference, mode, tolerance):
    """(..., T, T), (T,) -> (..., T); the preference itself where every gradient is zero."""
    values, vectors = torch.linalg.eigh(gramian.nan_to_num())             # rising; it raises on what is not finite
    tasks, largest = values.shape[-1], values[..., -1:]
    kept = (values > tolerance * tasks * largest) & (largest > 0)
    if mode == "min":
        target = torch.where(kept, values, torch.inf).amin(-1, keepdim=True)
    elif mode == "median":
        rank = kept.sum(-1, keepdim=True).clamp_min(1)
        target = values.gather(-1, tasks - rank + (rank - 1) // 2)
    else:
        target = torch.where(kept, values, 0).sum(-1, keepdim=True) / kept.sum(-1, keepdim=True)
    root = torch.where(kept, (target / values.where(kept, 1)).sqrt(), 0)
    weights = ((vectors * root[..., None, :]) @ (vectors.mT @ preference)[..., None])[..., 0]
    return torch.where(kept.any(-1, keepdim=True), weights, preference)
