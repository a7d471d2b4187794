"""Disparity of a stereo pair as Aligned-MTL (arXiv:2305.19000) trains on it: the stored 16-bit number / `PER`, 0 where
it is not known. A stored number p is of a disparity of (p - 1) / 256 pixels, in Cityscapes of an image 2048 wide."""

from pipeline.tasks.regression import Regression

TARGET = "disparity"
UNCUT = True
METRICS = {"disparity_mse": {"title": "Disp MSE", "unit": "(10.66 px)^2", "better": -1, "digits": 4}}
COLOUR = "#7a5195"
PER = 2729.0680031169923


class Task(Regression):
    """Predictions and targets (B, 1, H, W)."""

    def zoom(self, target, scale, how):
        """It grows as the image does."""
        return target * scale[:, None, None, None].to(target) if how["zoom_depth"] else target

    def errors(self, prediction, target):
        return [(prediction - target).square()[:, 0]]
