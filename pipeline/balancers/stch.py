"""STCH, smooth Tchebycheff scalarisation (Lin et al. 2024, arXiv 2402.19078, with log losses as its released code).

T mu log sum_t exp(log(L_t / nadir_t) / mu): the worst task leads, softly. The nadir is the mean loss of the epoch after
`warmup` epochs of the sum of log losses; until it is known the sum of log losses is what is trained.
`preference` multiplies L / nadir, and in the warm-up the logarithms.
"""

import torch

from pipeline import balancers
from pipeline.options.types import Natural, Positive


class Balancer(balancers.Balancer):
    prefers = True
    state = (*balancers.Balancer.state, "nadir")
    axes = balancers.Balancer.axes | {"nadir": (0,)}

    def __init__(self, tasks, *, mu: Positive = 1.0, warmup: Natural = 4, **common):
        super().__init__(tasks, **common)
        self.mu, self.warmup, self.nadir = mu, warmup, None

    def start_epoch(self, history):
        if self.nadir is None and len(history) > self.warmup:
            nadir = torch.tensor(history[self.warmup], device=self.device)
            self.nadir = torch.where(nadir > 0, nadir, 1)

    def weights(self, losses, gramian):
        losses = losses.clamp_min(balancers.TINY)
        if self.nadir is None:
            return self.preference / losses
        return len(losses) * torch.softmax((self.preference * losses / self.nadir).log() / self.mu, 0) / losses
