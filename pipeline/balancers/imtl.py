"""IMTL, impartial multi-task learning (Liu et al. 2021, ICLR): the update has equal projections on all unit gradients.

`part: G` (Algorithm 1, the tables' row): weights M^-1 n, n the norms, scaled to sum 1; they may be negative. `part: L`:
losses e^s L - s with s learned. `part: hybrid`: G on the gradients of L's losses, heads follow L's. A zero gradient has
weight 0 in G. With a `preference` p the projections are in proportion to it in G, and so are the weighted losses in L.
"""

from typing import Literal

import torch

from pipeline import balancers
from pipeline.balancers.mgda import norms_of
from pipeline.options.types import Positive

RIDGE = 1e-10              # on cosines, above a Gramian's error: where the hull holds zero, the weights that make zero

KNOWN_AS = ("imtl_g",)          # in released codes


class Balancer(balancers.Learned):
    prefers = True
    state = (*balancers.Learned.state, "factors")
    axes = balancers.Learned.axes | {"factors": (0,)}

    def __init__(self, tasks, *, part: Literal["G", "L", "hybrid"] = "G", lr: Positive | None = None, **common):
        self.part, self.needs = part, "losses" if part == "L" else "gramian"
        super().__init__(tasks, 0.0, lr, **common)
        self.factors = torch.ones_like(self.learned)

    def weights(self, losses, gramian):
        if self.part == "G":
            return self.impartial(gramian)
        factors = self.learned.exp()
        self.learn(factors * losses - 1)
        factors = self.preference * factors
        if self.part == "L":
            return factors
        self.factors = factors
        return factors * self.impartial(gramian * factors * factors[:, None])

    def impartial(self, gramian):
        """(..., T, T) -> (..., T)."""
        norms = norms_of(gramian)
        there = norms > 0
        unit = torch.where(there, norms, 1)
        cosines = gramian / unit[..., None] / unit[..., None, :]
        eye = torch.eye(gramian.shape[-1], dtype=gramian.dtype, device=gramian.device)
        cosines = torch.where((there[..., None] & there[..., None, :]), cosines, eye) + RIDGE * eye
        least = torch.where(there, norms, torch.inf).amin(-1, keepdim=True)
        wanted = self.preference.to(norms).expand_as(norms)
        weights = torch.where(there, torch.linalg.solve_ex(cosines, wanted[..., None])[0][..., 0] * (least / unit), 0)
        total = weights.sum(-1, keepdim=True)
        weights = torch.where(total == 0, 1 / gramian.shape[-1], weights / total)
        projections = (gramian @ weights[..., None])[..., 0] / unit / wanted
        spread = (torch.where(there, projections, -torch.inf).amax(-1)
                  - torch.where(there, projections, torch.inf).amin(-1)) / least[..., 0]
        self.residual = torch.where(there.any(-1), spread, 0)
        return weights

    def head_weights(self, weights):
        if self.part == "hybrid" and self.heads == "own":
            return self.factors.to(weights)
        return super().head_weights(weights)
