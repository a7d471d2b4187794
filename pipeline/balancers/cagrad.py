"""CAGrad, conflict-averse gradient descent (Liu et al. 2021, arXiv 2110.14048, Algorithm 1).

The update nearest to improving the worst task within a ball of radius c |g0| around the mean gradient g0:
g0 + c |g0| g_w / |g_w|, w on the simplex minimising <g_w, g0> + c |g0| |g_w|. For a given |g_w| = s that w is the
smallest-norm point of the gradients g_t + s / (c |g0|) g0, and s is the root of a falling function, bracketed: exact,
blind to the gradients' scale. `rescale` divides the update by 1 (none), 1 + c^2 or 1 + c.
"""

from typing import Literal

import torch

from pipeline import balancers
from pipeline.balancers.mgda import norms_of, smallest_norm
from pipeline.options.types import BelowOne

STEPS = 40                 # of the bracketing, at most
FLOOR = 1e-4               # least s / (c |g0|), of the smallest norm: below, the hull holds zero and any will do
RESCALE = {"none": lambda c: 1.0, "square": lambda c: 1 + c * c, "linear": lambda c: 1 + c}


class Balancer(balancers.Balancer):
    needs = "gramian"

    def __init__(self, tasks, *, c: BelowOne = 0.4, rescale: Literal["none", "square", "linear"] = "square", **common):
        super().__init__(tasks, **common)
        self.c, self.rescale = c, RESCALE[rescale](c)

    def weights(self, losses, gramian):
        weights = averse(gramian, self.c)
        self.residual = residual(gramian, weights)
        return weights / self.rescale


def residual(gramian, weights):
    """(...,) duality gap of w, in units of the update's norm and the largest gradient's; 0 is exact.

    (M weights)_t is the slope of the convex problem in w_t, whose value, homogeneous in w, is their mean by w.
    """
    extra, slopes = weights - 1 / gramian.shape[-1], (gramian @ weights[..., None])[..., 0]
    total, update = extra.sum(-1), (weights * slopes).sum(-1).clamp_min(0).sqrt()
    value = (extra * slopes).sum(-1) / torch.where(total > 0, total, 1)
    gap = (value - slopes.amin(-1)) / (update * norms_of(gramian).amax(-1)).clamp_min(1e-300)
    return torch.where(total > 0, gap, 0).clamp_min(0)


def averse(gramian, c):
    """(..., T, T) -> (..., T); 1 / T where c or the mean gradient is zero."""
    tasks, trace = gramian.shape[-1], gramian.diagonal(dim1=-2, dim2=-1).sum(-1)
    m = gramian / torch.where(trace > 0, trace, 1)[..., None, None]
    to_mean = m.mean(-1)
    mean = to_mean.mean(-1)                                # |g0|^2
    still = ~(c * c * mean > 1e-28)
    radius = c * torch.where(still, 1, mean).sqrt()
    norms = norms_of(m)

    def at(tau):
        """The w of s = tau radius."""
        return smallest_norm(m + tau[..., None, None] * (to_mean[..., None] + to_mean[..., None, :])
                             + (tau * tau * mean)[..., None, None])

    def product(x, y):
        return (x * (m @ y[..., None])[..., 0]).sum(-1)

    low, high = FLOOR * norms.amin(-1) / radius, norms.amax(-1) / radius
    low = torch.maximum(low, 1e-18 * high)
    w_low, w_high = at(low), at(high)
    for step in range(STEPS):
        # on one face of the simplex w is linear in tau, so that |g_w| = s between the ends is a quadratic equation
        across, wide = w_high - w_low, high - low
        at_low = product(w_low, w_low) - (radius * low) ** 2
        half = product(w_low, across) - radius**2 * low * wide
        both = product(across, across) - (radius * wide) ** 2
        root = (half * half - both * at_low).clamp_min(0).sqrt()
        share = torch.where(half > 0, -(half + root) / both, at_low / (root - half)).nan_to_num(0.5).clamp(0, 1)
        tau = low + share * wide
        tau = torch.where(at_low > 0, tau, low) if step % 3 < 2 else (low * high).sqrt()
        w = at(tau)
        length = product(w, w).clamp_min(0).sqrt()
        above = length > radius * tau
        done = (length - radius * tau).abs() <= 1e-12 * length
        if m.device.type == "cpu" and not (~done & (wide > 1e-15 * high) & ~still).any():
            break
        low, high = torch.where(above, tau, low), torch.where(above, high, tau)
        w_low, w_high = torch.where(above[..., None], w, w_low), torch.where(above[..., None], w_high, w)
    weights = 1 / tasks + w / tau[..., None]
    return torch.where(still[..., None], 1 / tasks, weights)
