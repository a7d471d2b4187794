"""GradDrop, gradient sign dropout (Chen et al. 2020, arXiv 2010.06808, Algorithm 1), on the last shared features.

Per feature element, with G_t the task's gradient times the feature's sign, summed over the batch: the purity
p = (1 + sum G_t / sum |G_t|) / 2 is the chance that the positive signs stay, by one draw u for all tasks; what does not
stay is multiplied by `leak`. Where tasks have features of their own (MTAN) nothing conflicts and everything stays.
With a `preference` G_t are the gradients times it. The Gramian of what stays is for balance.csv alone.
"""

import torch

from pipeline import balancers
from pipeline.options.types import Fraction
from pipeline.runtime import distributed


class Balancer(balancers.Balancer):
    needs = "features"

    def __init__(self, tasks, *, leak: Fraction = 0.0, **common):
        super().__init__(tasks, **common)
        self.leak = leak

    def prepare(self, gradients, losses, maps):
        """maps: tensors (B, ...); gradients: per task a list over maps -> the same, masked."""
        masked = [list(task) for task in gradients]
        for k, features in enumerate(maps):
            there = [t for t, task in enumerate(gradients) if task[k] is not None]
            if len(there) < 2:
                continue
            signed = distributed.total(torch.stack([
                self.preference[t] * (gradients[t][k] * features.detach().sign()).sum(0) for t in there]))
            purity = (1 + signed.sum(0) / signed.abs().sum(0).clamp_min(1e-30)) / 2
            drawn = torch.rand(purity.shape, generator=self.generator).to(purity.device, non_blocking=True)
            kept = torch.where(purity > drawn, signed > 0, signed < 0)
            for row, t in enumerate(there):
                masked[t][k] = gradients[t][k] * (self.leak + (1 - self.leak) * kept[row]).to(gradients[t][k])
        return masked

    def weights(self, losses, gramian):
        return torch.ones_like(losses)
