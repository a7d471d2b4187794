"""Disparity of a stereo pair in units of 10.66 pixels, as `from_raw.disparity` has it; 0 where it is not known."""

import numpy as np

from pipeline.tasks import from_raw
from pipeline.tasks.regression import Regression

TARGET = "disparity"
UNCUT = True
METRICS = {"disparity_mse": {"title": "Disp MSE", "unit": "(10.66 px)^2", "better": -1, "digits": 4}}
COLOUR = "#7a5195"


class Task(Regression):
    """Predictions and targets (B, 1, H, W)."""

    def check(self, given, manifest):
        """At least 0, and at most what a 16-bit number can be."""
        values = np.stack([np.asarray(one, np.float64) for one in given])
        if values.min() < 0:
            raise ValueError(f"it goes down to {values.min():.4g}; write 0 where there is none")
        if values.max() > 65535 / from_raw.PER:
            raise ValueError(f"it goes up to {values.max():.4g}: it looks like stored numbers; divide p by "
                             f"{from_raw.PER:.2f}")
        if not values.any():
            yield f"it is 0, which stands for none, in all of {len(given)} images"

    def zoom(self, target, scale, how):
        """It grows as the image does."""
        return target * scale[:, None, None, None].to(target) if how["zoom_depth"] else target

    def errors(self, prediction, target):
        return [(prediction - target).square()[:, 0]]
