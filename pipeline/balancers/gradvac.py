"""GradVac, gradient vaccine (Wang et al. 2021, arXiv 2010.05874, Algorithm 1): cosines rise to their running mean.

For each task i and every other j in a random order: if the cosine of the altered g_i and g_j is below the target, as
much of g_j is added as makes it the target; the target follows by a moving average whether that happened or not
(the released Aligned-MTL code only moves it when it fires, so that it can only fall). Whole model, sum of the results.
"""

import torch

from pipeline import balancers
from pipeline.balancers.mgda import norms_of
from pipeline.balancers.pcgrad import orders
from pipeline.options.types import Fraction


class Balancer(balancers.Balancer):
    needs = "gramian"
    state = (*balancers.Balancer.state, "target")
    axes = balancers.Balancer.axes | {"target": (0, 1)}

    def __init__(self, tasks, *, beta: Fraction = 0.01, **common):
        super().__init__(tasks, **common)
        self.beta = beta
        self.target = torch.zeros(len(tasks), len(tasks), dtype=torch.float64, device=self.device)

    def weights(self, losses, gramian):
        tasks, norms = len(gramian), norms_of(gramian)
        rows = torch.arange(tasks, device=gramian.device)
        vaccinated = torch.eye(tasks, dtype=gramian.dtype, device=gramian.device)
        for other in orders(tasks, self.generator).to(gramian.device, non_blocking=True).T:
            products = vaccinated @ gramian
            length = (vaccinated * products).sum(-1).clamp_min(0).sqrt()
            there = (length > 0) & (norms[other] > 0)
            cosine = torch.where(there, products[rows, other] / torch.where(there, length * norms[other], 1), 0)
            cosine = cosine.clamp(-1, 1)
            target = self.target[rows, other]
            sine, wanted = (1 - cosine**2).sqrt(), (1 - target**2).sqrt().clamp_min(1e-8)
            added = length * (target * sine - cosine * wanted) / (torch.where(there, norms[other], 1) * wanted)
            vaccinated[rows, other] += torch.where(there & (cosine < target), added, 0)
            self.target[rows, other] = (1 - self.beta) * target + self.beta * cosine
        return vaccinated.sum(0)
