"""MGDA-UB (Sener & Koltun 2018, arXiv 1810.04650, section 3.3): MGDA on the gradients of the last shared features.

KD4MTL's row "MGDA". MTAN's tasks have features of their own, so their gradients are orthogonal; `compat: released`
also multiplies those of different tasks as if they were one map, as KD4MTL's code does.
"""

import kernels.dispatch
from pipeline.balancers import mgda

KNOWN_AS = ("mgdaub",)          # in released codes


class Balancer(mgda.Balancer):
    needs = "features"

    def gramian_of(self, gradients):
        if self.compat == "released":
            gradients = [[x for x in task if x is not None] for task in gradients]
        return kernels.dispatch.gramian(gradients)
