"""SI, scale-invariant sum of log losses (Nash-MTL, Navon et al. 2022, arXiv 2202.01017, section 6): weight 1 / L.

`offset: 1.0` is the released Aligned-MTL code's log(1 + L), which is not invariant to the losses' scale.
`preference` multiplies the logarithms.
"""

from pipeline import balancers
from pipeline.options.types import NonNegative

KNOWN_AS = ("scaleinvls",)          # in released codes


class Balancer(balancers.Balancer):
    prefers = True

    def __init__(self, tasks, *, offset: NonNegative = 0.0, **common):
        super().__init__(tasks, **common)
        self.offset = offset

    def weights(self, losses, gramian):
        return self.preference / (self.offset + losses).clamp_min(balancers.TINY)
