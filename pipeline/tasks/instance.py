"""Instances as Aligned-MTL (arXiv:2305.19000) learns them: of a pixel the offset from the centre of its instance, in
pixels of the image at its full size, rows and then columns; `from_raw.VOID` where there is no instance."""

import numpy as np
import torch

from pipeline.tasks import base, from_raw
from pipeline.tasks.regression import Regression

TARGET = "offset"
BEHIND = (2,)
UNCUT = True
METRICS = {"instance_px": {"title": "Inst Err", "unit": "px", "better": -1}}
COLOUR = "#2f8f6b"
MOST_ZERO = 0.2          # share of pixels that may lie in the middle of their instances


class Task(Regression):
    """Predictions and targets (B, 2, H, W)."""

    void = from_raw.VOID

    def check(self, given, manifest):
        """Both components are offsets or both void; in a whole image 0 is rare, the pixel in an instance's middle."""
        values = np.stack([np.asarray(one, np.float64) for one in given])
        void = values == from_raw.VOID
        if (void[..., 0] != void[..., 1]).any():
            raise ValueError(f"of {int((void[..., 0] != void[..., 1]).sum())} pixels one component is void "
                             f"({from_raw.VOID:g}) and the other is not")
        if void.all():
            yield f"none of {len(given)} images has an instance"
        elif (zero := np.mean((values == 0).all(-1))) > MOST_ZERO:
            raise ValueError(f"{zero:.0%} of the offsets are 0: 0 seems to stand for no instance; write "
                             f"{from_raw.VOID:g} there")

    def valid(self, target):
        return target[:, 0] != from_raw.VOID

    def kept(self, target, changed):
        return torch.where(self.valid(target)[:, None], changed, target)

    def zoom(self, target, scale, how):
        return self.kept(target, target * scale[:, None, None, None].to(target))

    def mirror(self, target, mirrored):
        """The sign of the columns turns."""
        signs = torch.stack([torch.ones_like(mirrored), 1 - 2 * mirrored], 1)
        return self.kept(target, target * signs[..., None, None].to(target))

    def turn(self, target, angle):
        x, y = base.turned(target[:, 1], target[:, 0], angle)
        return self.kept(target, torch.stack([y, x], 1))

    def errors(self, prediction, target):
        """Mean over both components; of whole pixels, cut towards 0 first, as released."""
        return [(prediction.trunc() - target.trunc()).abs().mean(1)]

    def paint(self, figure, panel, stored, classes):
        """The direction from the centre as hue, the distance as saturation; a cross at each centre."""
        from matplotlib.colors import hsv_to_rgb

        valid = stored[..., 0] != from_raw.VOID
        y, x = np.moveaxis(np.where(valid[..., None], stored.astype(float), 0), -1, 0)
        far = np.hypot(y, x)
        shown = np.stack([(np.arctan2(y, x) / (2 * np.pi)) % 1, far / max(far.max(), 1), np.ones_like(far)], -1)
        panel.imshow(np.where(valid[..., None], hsv_to_rgb(shown), 0.25))
        if len(steps := np.diff(x, axis=1)[valid[:, 1:] & valid[:, :-1]]):
            rows, columns = np.nonzero(valid)
            unit = np.median(steps)         # what a stored pixel is of one of the full size
            centres = np.unique(np.rint([rows - y[valid] / unit, columns - x[valid] / unit]), axis=1)
            panel.plot(centres[1], centres[0], "k+", markersize=4)
