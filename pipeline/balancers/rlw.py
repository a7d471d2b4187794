"""RLW, random loss weighting (Lin et al. 2022, arXiv 2111.10603): softmax of standard normals, drawn every step."""

import torch

from pipeline import balancers


class Balancer(balancers.Balancer):
    def weights(self, losses, gramian):
        return torch.randn(len(losses), generator=self.generator).softmax(0).to(losses.device, non_blocking=True)
