"""Depth in metres, or on Cityscapes inverse depth in stored units; 0 where it is not known."""

from pipeline.tasks.regression import Regression

TARGET = "depth"
UNCUT = True
METRICS = {
    "abs_err": {"title": "Abs Err", "unit": "m or 1/65535", "better": -1, "digits": 4},
    "rel_err": {"title": "Rel Err", "unit": "", "better": -1, "digits": 4},
}
COLOUR = "#c8553d"


class Task(Regression):
    """Predictions and targets (B, 1, H, W)."""

    def zoom(self, target, scale, how):
        """What is nearer looks larger: depth is divided by the scale, inverse depth multiplied."""
        if not how["zoom_depth"]:
            return target
        s = scale[:, None, None, None].to(target)
        return target * s if how["inverse_depth"] else target / s

    def errors(self, prediction, target):
        """|d - d*| and |d - d*| / d*."""
        error = (prediction - target).abs()[:, 0]
        return error, error / target[:, 0]
