"""ConFIG, conflict-free inverse gradients (Liu, Chu & Thuerey 2024, arXiv 2408.11104, Eq. 2 and 3).

The direction with the same cosine to every gradient, x = pinv(U) 1 with U the unit gradients, times the sum of the
gradients' projections on it. Of the Gramian alone, with the cosines C: x = sum (C^-1 1)_t u_t. `preference` takes the
place of the 1: the cosines are in proportion to it. Where no direction has them, as with two opposed gradients, the
update is zero.
"""

import torch

from pipeline import balancers
from pipeline.balancers.mgda import norms_of

TOLERANCE = 1e-9           # of the pseudo-inverse, relative to the largest eigenvalue of the cosines


class Balancer(balancers.Balancer):
    needs = "gramian"
    prefers = True

    def weights(self, losses, gramian):
        norms = norms_of(gramian)
        there = norms > 0
        unit = torch.where(there, norms, 1)
        cosines = gramian / unit[..., None] / unit[..., None, :]
        values, vectors = torch.linalg.eigh(cosines.nan_to_num())          # it raises on what is not finite
        inverse = torch.where(values > TOLERANCE * values[..., -1:], 1 / values, 0)
        wanted = torch.where(there, self.preference.to(values), 0)
        y = (vectors * inverse[..., None, :] @ (vectors.mT @ wanted[..., None]))[..., 0]
        along = (cosines @ y[..., None])[..., 0]
        length = (y * along).sum(-1, keepdim=True)
        # the part of `wanted` that some direction can have; of one that has none, rounding leaves a little
        reached = along.norm(dim=-1, keepdim=True) > TOLERANCE * wanted.norm(dim=-1, keepdim=True)
        factor = torch.where(reached, (norms * along).sum(-1, keepdim=True) / length, 0)
        return factor * y / unit
