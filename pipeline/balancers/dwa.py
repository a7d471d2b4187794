"""DWA, dynamic weight average (Liu, Johns & Davison 2019, arXiv 1803.10704, Eq. 7): T softmax(r / temperature).

r is the ratio of a task's mean training losses in the last two epochs; weights are 1 in the first two. `window: 25` is
the released Aligned-MTL code's: ratio of the means of the last 25 steps and the 25 before, on a list that starts with
ones, in force from the 27th step (there the sum is divided by T: `scale: mean`). KD4MTL's SegNet script has
`temperature: 1.0`.
"""

import torch

from pipeline import balancers
from pipeline.options.types import Count, Positive


class Balancer(balancers.Balancer):
    state = (*balancers.Balancer.state, "ratio", "seen", "count")
    axes = balancers.Balancer.axes | {"ratio": (0,), "seen": (1,)}

    def __init__(self, tasks, *, temperature: Positive = 2.0, window: Count | None = None, **common):
        super().__init__(tasks, **common)
        self.temperature, self.window, self.count = temperature, window, 0
        self.ratio = torch.ones(len(tasks), device=self.device)
        self.seen = torch.ones(2 * (window or 0), len(tasks), device=self.device)

    def start_epoch(self, history):
        if self.window is None and len(history) >= 2:
            before, last = torch.tensor(history[-2:])
            self.ratio.copy_(torch.where(before > 0, last / before, 1))

    def weights(self, losses, gramian):
        if self.window is not None:
            self.seen.copy_(torch.cat([self.seen[1:], losses[None]]))
            self.count += 1
            if self.count > self.window + 1:
                before, last = self.seen.split(self.window)
                self.ratio.copy_(last.mean(0) / before.mean(0))
        return len(losses) * torch.softmax(self.ratio / self.temperature, 0)
