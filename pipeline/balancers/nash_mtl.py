"""Nash-MTL (Navon et al. 2022, arXiv 2202.01017, Eq. 3): the Nash bargaining solution, weights a > 0 with M a = 1 / a.

FairGrad's equation at exponent 1. The released solvers linearise it and, unbounded, silently keep the weights of the
step before; here it is solved exactly. With a `preference` p it is the weighted solution M a = p / a, of the largest
sum p_t log(g_t' d). The update's norm is sqrt(sum p), p = 1 else; `clip: 1.0` is the original code's bound on it.
`period` is its update_weights_every; the steps between keep the clipped weights, their own norm is not bounded.
"""

from pipeline import balancers
from pipeline.balancers.fairgrad import fair
from pipeline.options.types import Positive

KNOWN_AS = ("nash", "nashmtl")          # in released codes


class Balancer(balancers.Balancer):
    needs = "gramian"
    prefers = True

    def __init__(self, tasks, *, clip: Positive | None = None, **common):
        super().__init__(tasks, **common)
        self.clip = clip

    def weights(self, losses, gramian):
        weights, self.residual = fair(gramian, 1.0, self.preference)
        if self.clip is None:
            return weights
        norm = (weights @ gramian @ weights).clamp_min(0).sqrt()
        return weights * (self.clip / norm.clamp_min(self.clip))
