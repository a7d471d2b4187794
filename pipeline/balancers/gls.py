"""GLS, geometric loss strategy (MultiNet++, Chennupati et al. 2019, arXiv 1904.08492): the losses' geometric mean."""

from pipeline import balancers


class Balancer(balancers.Balancer):
    def weights(self, losses, gramian):
        logs = losses.clamp_min(balancers.TINY).log()
        return (logs.mean() - logs).exp() / len(losses)
