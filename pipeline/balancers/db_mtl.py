"""DB-MTL, dual balancing (Lin et al. 2023, arXiv 2308.12029, Algorithm 1): log losses, and gradients of one length.

Each task's gradient of log L is averaged over the steps k with the factor beta / k^sigma for what was there, and scaled
to the largest of the averages' norms, times its `preference`. A head's own gradient is that of log L too. Holds a copy
of the shared parameters a task.
"""

from typing import Literal

import torch

from pipeline import balancers
from pipeline.balancers.mgda import norms_of
from pipeline.options.types import Fraction, NonNegative

KNOWN_AS = ("dbmtl",)          # in released codes


class Balancer(balancers.Balancer):
    needs = "gramian"
    prefers = True
    state = (*balancers.Balancer.state, "averages", "step")
    axes = balancers.Balancer.axes | {"averages": (0,)}

    def __init__(self, tasks, *, beta: Fraction = 0.9, sigma: NonNegative = 0.5, period: Literal[1] = 1, **common):
        super().__init__(tasks, **common)
        self.beta, self.sigma, self.averages, self.step = beta, sigma, [None] * len(tasks), 0

    def prepare(self, gradients, losses, maps=None):
        self.step += 1
        old = self.beta / self.step**self.sigma
        self.factors = 1 / losses.clamp_min(balancers.TINY)
        before = [rows or [None] * len(task) for task, rows in zip(gradients, self.averages, strict=True)]
        self.averages = [[average(g, factor, held, old) for g, held in zip(task, rows, strict=True)]
                         for task, rows, factor in zip(gradients, before, self.factors, strict=True)]
        return [[x if x is None else x.clone() for x in task] for task in self.averages]

    def weights(self, losses, gramian):
        norms = norms_of(gramian)
        return self.preference * torch.where(norms > 0, norms.max() / torch.where(norms > 0, norms, 1), 0)

    def head_weights(self, weights):
        return self.factors * super().head_weights(weights)


def average(gradient, factor, held, old):
    """(1 - old) factor gradient + old held; None if neither is there."""
    if gradient is None:
        return held if held is None else old * held
    new = (1 - old) * factor * gradient
    return new if held is None else new.add_(held, alpha=old)
