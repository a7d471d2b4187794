"""PCGrad, gradient surgery (Yu et al. 2020, arXiv 2001.06782, Algorithm 1); KD4MTL's row "GS".

From each gradient what conflicts with another one is projected away, one after the other in a random order drawn for
each task and step; the results are summed. Everything lies in the gradients' span: on the Gramian, as coefficients.
`epsilon` is added to the squared norm that is divided by; the released codes' 1e-5 lets the update slide along the
Pareto front, where the projected gradients cancel.
"""

import torch

from pipeline import balancers
from pipeline.options.types import NonNegative

KNOWN_AS = ("gs",)          # in released codes


class Balancer(balancers.Balancer):
    needs = "gramian"

    def __init__(self, tasks, *, epsilon: NonNegative = 0.0, **common):
        super().__init__(tasks, **common)
        self.epsilon = epsilon

    def weights(self, losses, gramian):
        drawn = orders(gramian.shape[-1], self.generator).to(gramian.device, non_blocking=True)
        return projected(gramian, drawn, self.epsilon)


def orders(tasks, generator):
    """(T, T - 1): for each task the others, shuffled."""
    rows = [[j for j in torch.randperm(tasks, generator=generator).tolist() if j != i] for i in range(tasks)]
    return torch.tensor(rows, dtype=torch.long).view(tasks, tasks - 1)


def projected(gramian, orders, epsilon: NonNegative = 0.0):
    """(..., T, T), (T, T - 1) -> (..., T). All tasks take their next projection at once; each uses originals only."""
    tasks = gramian.shape[-1]
    square = gramian.diagonal(dim1=-2, dim2=-1) + epsilon
    coefficients = torch.eye(tasks, dtype=gramian.dtype, device=gramian.device).expand(gramian.shape).clone()
    for other in orders.T:
        along = (coefficients * gramian[..., other, :]).sum(-1)
        length = square[..., other]
        away = torch.where(along < 0, along / torch.where(length > 0, length, 1), 0)
        coefficients[..., torch.arange(tasks, device=gramian.device), other] -= away
    return coefficients.sum(-2)
