"""Depth in metres, or on Cityscapes inverse depth in stored units; 0 where it is not known."""

import numpy as np

from pipeline.tasks.regression import Regression

TARGET = "depth"
UNCUT = True
METRICS = {
    "abs_err": {"title": "Abs Err", "unit": "m or 1/65535", "better": -1, "digits": 4},
    "rel_err": {"title": "Rel Err", "unit": "", "better": -1, "digits": 4},
}
COLOUR = "#c8553d"

FAR_M, MOST_M, MOST_INVERSE = 100, 400, 10        # medians: of what may be metres, what is, and what is inverse depth


class Task(Regression):
    """Predictions and targets (B, 1, H, W)."""

    def check(self, given, manifest):
        """Metres, or inverse depth of less than 1; 0 where there is none."""
        known = np.concatenate([np.asarray(one, np.float64)[one != 0] for one in given])
        if not len(known):
            raise ValueError(f"it is 0, which stands for none, in all of {len(given)} images")
        if known.min() < 0:
            raise ValueError(f"it goes down to {known.min():.4g}; write 0 where there is none")
        middle, most, inverse = np.median(known), known.max(), manifest["inverse_depth"]
        if middle > (MOST_INVERSE if inverse else MOST_M):
            raise ValueError(f"its median is {middle:.4g}, expected " + (
                "inverse depth: it looks like stored disparities; divide p by 65535" if inverse else
                "metres: it looks like millimetres; divide by 1000"))
        if inverse and middle > 1:
            yield f"its median is {middle:.4g}, but `INVERSE_DEPTH` says that it is inverse; it may be metres"
        if not inverse and most <= 1:
            yield f"it is {most:.4g} at most, expected metres; it may be scaled to 0..1, kilometres or inverse depth"
        if not inverse and middle > FAR_M:
            yield f"its median is {middle:.4g}, expected metres; it may be millimetres or centimetres"

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
