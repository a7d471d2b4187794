"""FairGrad (Ban & Ji 2024, arXiv 2402.15638, Eq. 9): weights a > 0 with M a = (p / a)^(1/exponent), elementwise.

p is the `preference`, a factor of each task's utility. That is where the gradient of a' M a / 2 - sum psi_t(a_t),
psi_t' = (p_t / a)^(1/exponent), vanishes: a convex problem, solved by Newton's method with a line search. exponent 1 is
proportional fairness (Nash-MTL), infinity would be max-min.
"""

import functools

import torch

from pipeline import balancers
from pipeline.balancers.mgda import norms_of
from pipeline.options.types import Positive

STEPS, RIDGE = 60, 1e-12   # of Newton's method; on the cosines, so that opposed gradients have finite weights


class Balancer(balancers.Balancer):
    needs = "gramian"
    prefers = True

    def __init__(self, tasks, *, exponent: Positive = 2.0, **common):
        super().__init__(tasks, **common)
        self.exponent = float(exponent)

    def weights(self, losses, gramian):
        weights, self.residual = fair(gramian, self.exponent, self.preference)
        return weights


@functools.cache
def shares(device):
    """Of Newton's step, that the line search tries; copied to a device once."""
    return torch.tensor([1.0, 0.5, 0.2, 0.05, 0.01], device=device)


def fair(gramian, exponent, preference):
    """(..., T, T), (T,) -> weights (..., T), 0 for a zero gradient; residual (...,): largest |(a/p)^(1/e) (M a) - 1|.

    Variables are scaled by what a task alone would get, d = (p n^(-2e))^(1 / (1 + e)), n the norms, so that scales do
    not matter: with a = d b, s = d n and the cosines C, row t reads sum_u s_t C_tu s_u b_u = s_t^2 b_t^(-1/e).
    """
    tasks, power, norms = gramian.shape[-1], 1 / exponent, norms_of(gramian)
    there = norms > 0
    unit = torch.where(there, norms, 1)
    scale = preference.to(unit) ** (1 / (1 + exponent)) * unit ** (-2 * exponent / (1 + exponent))
    eye = torch.eye(tasks, dtype=gramian.dtype, device=gramian.device)
    cosines = gramian / unit[..., None] / unit[..., None, :]
    cosines = torch.where(there[..., None] & there[..., None, :], cosines, eye) + RIDGE * eye
    s = unit * scale / (unit * scale).amax(-1, keepdim=True)
    a, c, factors = cosines * s[..., None] * s[..., None, :], s * s, shares(s.device).to(s)[:, None]
    # equal shares, of the size that solves the sum of the rows
    b = (c.sum(-1, keepdim=True) / a.sum((-2, -1))[..., None]) ** (exponent / (1 + exponent)) * torch.ones_like(norms)
    before = torch.inf
    for _ in range(STEPS):
        slope = (a @ b[..., None])[..., 0] - c * b**-power
        curvature = a + torch.diag_embed(c * power * b ** (-power - 1))
        step = -torch.linalg.solve_ex(curvature, slope[..., None])[0][..., 0]
        relative = step / b
        longest = (-0.9 / relative.amin(-1)).where(relative.amin(-1) < -0.9, 1)      # b stays positive
        tries = b[..., None, :] + factors * (longest[..., None] * step)[..., None, :]
        psi = tries.log() if power == 1 else tries ** (1 - power) / (1 - power)
        merit = (tries * (tries @ a)).sum(-1) / 2 - (c[..., None, :] * psi).sum(-1)
        best = torch.where(relative.abs().amax(-1) < 0.1, 0, merit.argmin(-1))       # there Newton's own step is best
        b = tries.gather(-2, best[..., None, None].expand(*best.shape, 1, tasks))[..., 0, :]
        if b.device.type == "cpu":                         # elsewhere that would wait for the device
            change = relative.abs().amax(-1)
            if not ((change > 1e-8) & ((change > 1e-2) | (change < before / 2))).any():      # solved, or rounding
                break
            before = change
    off = ((a @ b[..., None])[..., 0] * b**power / c - 1).abs()
    return torch.where(there, scale * b, 0), torch.where(there, off, 0).amax(-1)
