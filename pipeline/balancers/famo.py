"""FAMO, fast adaptive multitask optimisation (Liu et al. 2023, arXiv 2306.03792, Algorithm 1), without gradients.

With z = softmax(w) the step follows sum z_t log L_t over sum z_t / L_t; w then follows the change of the log losses on
the same batch, measured by a second forward pass after the update; with `period`, only where there are new weights. The
losses' minima are taken as 0. A factor of a loss does not change its logarithm's fall: `preference` is refused.
"""

import torch

from pipeline import balancers
from pipeline.options.types import NonNegative, Positive


class Balancer(balancers.Learned):
    looks_again = True
    prefers = None
    state = (*balancers.Learned.state, "before")
    axes = balancers.Learned.axes | {"before": (0,)}

    def __init__(self, tasks, *, lr: Positive | None = 0.025, decay: NonNegative = 1e-3, **common):
        super().__init__(tasks, 0.0, lr, decay, **common)
        self.before = torch.ones(len(tasks), device=self.device)

    def weights(self, losses, gramian):
        self.before.copy_(losses.clamp_min(balancers.TINY))
        share = self.learned.softmax(0) / self.before
        return share / share.sum()

    def look_again(self, losses):
        z = self.learned.softmax(0)
        fall = (self.before / losses.clamp_min(balancers.TINY)).log()
        self.learn(z * (fall - (z * fall).sum()))
