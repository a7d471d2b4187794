"""KD4MTL and cross-task consistency at once: the groups of `consistency` are balanced, the distances to the teachers'
features are added as `feature_distillation` has them."""

from pipeline import objectives
from pipeline.objectives import consistency, feature_distillation


class Objective(objectives.Composed):
    def __init__(self, row, model, split, device):
        distance = feature_distillation.Distance(row, model, split, device)      # draws its first weights first
        super().__init__(consistency.Objective(row, model, split, device), distance)
