"""UPGrad (Quinton & Rey 2024, arXiv 2406.16232, section 3): the mean of the gradients projected onto the dual cone.

The projection of g_i is g_i + sum_j x_j g_j, x >= 0 of smallest norm: a non-negative least squares problem on the
Gramian, by the active set that solves MGDA. `preference` weighs the projections (the mean here). On the host.
"""

import numpy as np
import torch

from kernels.reference import SOLVED, nonnegative
from pipeline import balancers


class Balancer(balancers.Balancer):
    needs = "gramian"
    prefers = True

    def weights(self, losses, gramian):
        preference = (self.preference / len(self.tasks)).double().cpu().numpy()
        weights, residual = unconflicting(gramian.cpu().numpy(), preference)
        self.residual = residual.to(gramian.device)
        return torch.from_numpy(weights).to(gramian.device)


def unconflicting(gramian, preference):
    """(T, T), (T,) float64 arrays -> weights (T,), NaN if not solved; residual: the worst cosine below zero."""
    tasks, norms = len(gramian), np.sqrt(gramian.diagonal())
    unit = np.where(norms > 0, norms, 1)
    cosines, weights, worst = gramian / unit / unit[:, None], np.zeros(tasks), 0.0
    np.fill_diagonal(cosines, 1)
    for i in range(tasks):
        x, state = nonnegative(cosines, -cosines[i] * (norms[i] > 0))
        if state != SOLVED:
            x[:] = np.nan
        x[i] += norms[i] > 0
        worst = max(worst, -(cosines @ x).min(initial=0, where=norms > 0))
        weights += preference[i] * norms[i] * x / unit
    return np.where(norms > 0, weights, preference), torch.tensor(worst, dtype=torch.float64)
