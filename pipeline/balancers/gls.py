"""GLS, geometric loss strategy (MultiNet++, Chennupati et al. 2019, arXiv 1904.08492): the losses' geometric mean.

`preference` weighs the mean: prod L_t^(p_t / sum p).
"""

from pipeline import balancers


class Balancer(balancers.Balancer):
    prefers = True

    def weights(self, losses, gramian):
        logs, shares = losses.clamp_min(balancers.TINY).log(), self.preference / self.preference.sum()
        return ((shares * logs).sum() - logs).exp() * shares
