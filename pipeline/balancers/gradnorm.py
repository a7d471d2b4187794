"""GradNorm (Chen et al. 2018, arXiv 1711.02257, Algorithm 1): gradients of the last shared layer get equal norms.

With N_t = w_t |grad_W L_t|, W the weight of the last shared convolution, and r_t the relative inverse training rate, w
follows the gradient of sum |N_t - mean(N) r_t^alpha|, the target held constant, and is scaled to sum T. The network's
loss uses the w before that step; `preference` multiplies it, so that the norms settle in proportion. A task whose loss
has been zero so far trains at the mean rate. The released Aligned-MTL code swaps two tasks' weights and counts
gradients twice; neither is offered.
"""

import torch

from pipeline import balancers
from pipeline.options.types import NonNegative, Positive

LEAST = 1e-3               # of a weight: below zero its loss would be climbed


class Balancer(balancers.Learned):
    needs = "layer"
    prefers = True
    state = (*balancers.Learned.state, "first")
    axes = balancers.Learned.axes | {"first": (0,)}

    def __init__(self, tasks, *, alpha: NonNegative = 1.5, lr: Positive | None = 0.025, **common):
        super().__init__(tasks, 1.0, lr, **common)
        self.alpha, self.first = alpha, torch.zeros_like(self.learned)

    def weights(self, losses, gramian):
        weights = self.learned.clone()
        self.first = torch.where(self.first > balancers.TINY, self.first, losses)
        plain = gramian.diagonal().clamp_min(0).sqrt()
        norms = weights * plain
        begun = self.first > balancers.TINY
        rate = torch.where(begun, losses / self.first, 0)
        mean = rate.sum() / begun.sum().clamp_min(1)
        target = norms.mean() * torch.where(begun & (mean > 0), rate / mean, 1) ** self.alpha
        self.learn(torch.sign(norms - target) * plain)
        self.learned.clamp_min_(LEAST).mul_(len(losses) / self.learned.clamp_min(LEAST).sum())
        return self.preference * weights
