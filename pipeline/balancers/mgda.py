"""MGDA: the point of smallest norm in the convex hull of the tasks' gradients on the shared parameters.

Desideri 2012; for networks Sener & Koltun 2018 (arXiv 1810.04650), Algorithm 2. Weights sum to 1. `normalise` divides
the gradients by their norms (l2), losses (loss) or both (loss+) for the solution, not for the update, as there.
`compat: released` is the solver of the released codes: it stops at a change of 1e-5, and no pair of tasks gets less
than 0.001. (Theirs may never end for want of a counter; here it ends after 250 steps.)
"""

from typing import Literal

import numpy as np
import torch

import kernels.dispatch
from pipeline import balancers

NORMALISE = {"none": lambda losses, norms: torch.ones_like(norms), "l2": lambda losses, norms: norms,
             "loss": lambda losses, norms: losses.to(norms), "loss+": lambda losses, norms: losses * norms}


class Balancer(balancers.Balancer):
    needs = "gramian"

    def __init__(self, tasks, *, normalise: Literal["none", "l2", "loss", "loss+"] = "none",
                 compat: Literal["exact", "released"] = "exact", **common):
        super().__init__(tasks, **common)
        self.normalise, self.compat = NORMALISE[normalise], compat

    def weights(self, losses, gramian):
        factors = self.normalise(losses, norms_of(gramian)).clamp_min(balancers.TINY)
        gramian = gramian / factors[..., None] / factors[..., None, :]
        weights = released(gramian) if self.compat == "released" else smallest_norm(gramian)
        self.residual = residual(gramian, weights)
        return weights


def norms_of(gramian):
    """(..., T) norms of the gradients."""
    return gramian.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()


def smallest_norm(gramian):
    """(T, T) -> (T,); for two tasks in closed form, with any dimensions (..., 2, 2) before -> (..., 2)."""
    if gramian.ndim == 2:
        return kernels.dispatch.min_norm(gramian)[0]
    first, between, second = gramian[..., 0, 0], gramian[..., 0, 1], gramian[..., 1, 1]
    share = ((second - between) / (first + second - 2 * between)).clamp(0, 1)
    share = torch.where(between >= first, 1.0, torch.where(between >= second, 0.0, share))
    return torch.stack([share, 1 - share], -1)


def residual(gramian, weights):
    """(...,) by how much a gradient lies nearer than the combination, over its norm and the smallest; 0 is exact."""
    products = (gramian @ weights[..., None])[..., 0]
    norms = norms_of(gramian)
    short = (weights * products).sum(-1, keepdim=True) - products
    return (short / (norms * norms.amin(-1, keepdim=True)).clamp_min(1e-300)).amax(-1).clamp_min(0)


def released(gramian):
    """The released codes' projected search (isl-org MultiObjectiveOptimization and its copies), on the host."""
    m = gramian.cpu().numpy()
    tasks = len(m)
    if tasks == 1 or not np.isfinite(m).all():
        return torch.full((tasks,), 1.0 if tasks == 1 else torch.nan, dtype=torch.float64, device=gramian.device)
    pairs = [(*line(m[i, i], m[i, j], m[j, j]), i, j) for i in range(tasks) for j in range(i + 1, tasks)]
    _, share, i, j = min(pairs, key=lambda pair: pair[0])
    now = np.zeros(tasks)
    now[i], now[j] = share, 1 - share
    for _ in range(250 if tasks > 2 else 0):
        down = -m @ now
        down -= down.mean()
        bounds = np.concatenate([-now[down < 0] / down[down < 0], (1 - now[down > 0]) / down[down > 0]])
        there = onto_simplex(now + down * min(bounds[bounds > 1e-7], default=1.0))
        share = line(now @ m @ now, now @ m @ there, there @ m @ there)[1]
        following = share * now + (1 - share) * there
        if abs(following - now).sum() < 1e-5:
            break
        now = following
    return torch.from_numpy(now).to(gramian.device)


def line(first, between, second):
    """(squared norm, share of the first) of the released codes' nearest point between two."""
    if between >= first:
        return first, 0.999
    if between >= second:
        return second, 0.001
    share = (second - between) / (first + second - 2 * between)
    return second + share * (between - second), share


def onto_simplex(y):
    y = y - y.max()                # the nearest point stays, and a 1 is still seen beside numbers of 1e18
    falling = np.sort(y)[::-1]
    shifts = (falling.cumsum() - 1) / np.arange(1, len(y) + 1)
    return np.maximum(y - shifts[falling > shifts][-1], 0)
