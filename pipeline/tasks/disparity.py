"""Disparity of a stereo pair in units of 10.66 pixels, as `from_raw.disparity` has it; 0 where it is not known."""

from pipeline.tasks.regression import Regression

TARGET = "disparity"
UNCUT = True
METRICS = {"disparity_mse": {"title": "Disp MSE", "unit": "(10.66 px)^2", "better": -1, "digits": 4}}
COLOUR = "#7a5195"


class Task(Regression):
    """Predictions and targets (B, 1, H, W)."""

    def zoom(self, target, scale, how):
        """It grows as the image does."""
        return target * scale[:, None, None, None].to(target) if how["zoom_depth"] else target

    def errors(self, prediction, target):
        return [(prediction - target).square()[:, 0]]
