"""KD4MTL and cross-task consistency at once: the groups of `consistency` are balanced, the distances to the teachers'
features are added as `feature_distillation` has them."""

from pipeline.objectives import consistency, feature_distillation


class Objective(consistency.Objective, feature_distillation.Objective):
    pass
