"""AdaMT-Net's adaptive loss-specific weights (Jha et al. 2020, CVPR workshops), as XTasC-Net's authors carry them.

w_t = g_t / sum g, with g_t the mean absolute gradient of L_t on the first convolution of task t's own decoder; each
decoder and the shared part follow w_t L_t. The diagonal of the Gramian is g_t^2. Their code scales the depth decoder by
the weight of semantics and counts the first task's shared gradient twice; neither is offered.
"""

import torch

from pipeline import balancers


class Balancer(balancers.Balancer):
    needs = "layer"

    def layers(self, model):
        return [[model.first_own(task)] for task in self.tasks]

    def gramian_of(self, gradients):
        return torch.stack([found.double().abs().mean().square() for (found,) in gradients]).diag()

    def weights(self, losses, gramian):
        sizes = gramian.diagonal().sqrt().to(losses)
        return torch.where(sizes.sum() > 0, sizes / sizes.sum(), 1 / len(sizes))
