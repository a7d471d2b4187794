"""Uncertainty weighting (Kendall, Gal & Cipolla 2018, arXiv 1705.07115, Eq. 7): sum of L / (c e^s) + s / 2, s learned.

c = 2 is the paper's form for regression, which KD4MTL and MTAN use for every task, from s = -0.5 and in the network's
own Adam, so at its rate. The released Aligned-MTL code: `coefficient: 1.0, init: 0.0`. All settle at the weight
1 / (2 L). XTasC-Net's term is L / (2 e^s) + s: `regulariser: 1.0, init: 0.0`, which settles at 1 / L. `preference`
multiplies a task's whole term.
"""

from pipeline import balancers
from pipeline.options.types import Finite, Positive

KNOWN_AS = ("uw", "uncert")          # in released codes


class Balancer(balancers.Learned):
    prefers = True
    joins = True

    def __init__(self, tasks, *, coefficient: Positive = 2.0, init: Finite = -0.5, regulariser: Positive = 0.5,
                 lr: Positive | None = None, **common):
        super().__init__(tasks, init, lr, **common)
        self.coefficient, self.regulariser = coefficient, regulariser

    def weights(self, losses, gramian):
        weights = (-self.learned).exp() / self.coefficient
        self.learn(self.regulariser - weights * losses)
        return self.preference * weights
