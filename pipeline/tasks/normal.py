"""Surface normals, unit vectors with x right, y down and z forward; (0, 0, 0) where there is none."""

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.tasks import base, counts

TARGET = "normal"
BEHIND = (3,)
READS = ("depth",)
METRICS = {
    "angle_mean_deg": {"title": "Mean", "unit": "deg", "better": -1},
    "angle_median_deg": {"title": "Median", "unit": "deg", "better": -1},
    "within_11_25_pct": {"title": "<11.25", "unit": "%", "better": +1},
    "within_22_5_pct": {"title": "<22.5", "unit": "%", "better": +1},
    "within_30_pct": {"title": "<30", "unit": "%", "better": +1},
}
COLOUR = "#3a7d44"

OFF, SHORT, SHARE = 0.2, 0.1, 0.1  # of lengths: of their mean, of one, and the share of those that may be off by that
FLOOR = 1e-12  # a predicted normal shorter than this has no direction
BIN = 2**16  # width of a bin of the pooled angle histogram, in units: 2^-8 = 0.0039 degrees
BINS = 180 * counts.FIXED // BIN + 1  # 180 degrees itself has a bin
NO_ANGLE = BINS * BIN  # stands for the angle of an invalid pixel: sorts last, falls behind the last bin
LIMITS = tuple(int(degrees * counts.FIXED) for degrees in (11.25, 22.5, 30.0))


def unit(x):
    """(B, C, H, W) divided by its L2 norm over channels, in float32 or better.

    NOTE: the released code has no guard and turns a zero vector into NaN. Here it stays zero and receives
    a zero gradient; a floor under the norm would send it 1e12 times the incoming one.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    square = x.square().sum(dim=1, keepdim=True)  # vector_norm over 3 channels takes 70 times as long (CPU)
    return x * square.masked_fill(square < FLOOR**2, torch.inf).rsqrt()


class Task(base.Task):
    """Predictions (B, 3, H, W) of unit length, targets of about that."""

    activate = staticmethod(unit)

    def check(self, given, manifest):
        """Unit vectors but for what resampling at edges shortens, with components of either sign; zeros where none."""
        known = np.concatenate([np.asarray(one, np.float64)[(one != 0).any(-1)] for one in given])
        if not len(known):
            raise ValueError(f"normals are 0, which stands for none, in all of {len(given)} images")
        length = np.linalg.norm(known, axis=1)
        told = f"normals are of length {length.mean():.2f} on average"
        if known.min() >= 0:
            coded, remedy = ("(n + 1) / 2", "2 n - 1") if known.max() <= 1.5 else ("255 (n + 1) / 2", "n / 127.5 - 1")
            raise ValueError(f"{told} and all >= 0: they look like {coded}; write {remedy}, and 0 where there is none")
        if abs(length.mean() - 1) > OFF:
            raise ValueError(f"{told}, expected 1: divide them by their length")
        if (off := np.mean(abs(length - 1) > SHORT)) > SHARE:
            yield f"{off:.0%} of the normals are longer or shorter than 1 by more than {SHORT:g}"

    def loss(self, prediction, targets, normal_mask):
        """normal_mask: "own" is the mean over valid normals; "depth" that over valid depth, as the released SegNet and
        multi-task MTAN have it (quirk Q4): a pixel with depth but no normal then counts as cosine 0."""
        if normal_mask not in ("own", "depth"):
            raise ValueError(f"`normal_mask` is 'own' or 'depth'. Found {normal_mask!r}.")
        mask = self.valid(targets["normal" if normal_mask == "own" else "depth"])
        return base.masked_mean(self.apart(prediction, targets["normal"]), mask)

    def labelled(self, targets, normal_mask):
        own = self.mask(targets)
        return own & self.valid(targets["depth"]) if normal_mask == "depth" else own

    def apart(self, prediction, other):
        return 1 - (prediction * other).sum(dim=1)

    def mirror(self, target, mirrored):
        """The sign of x turns."""
        x, same = 1 - 2 * mirrored, torch.ones_like(mirrored)
        return target * torch.stack([x, same, same], 1)[..., None, None].to(target)

    def turn(self, target, angle):
        x, y, z = target.unbind(1)
        return torch.stack([*base.turned(x, y, angle), z], 1)

    def measure(self, prediction, targets, channels, official_batch):
        """Columns: valid pixels, sum of angles, pixels strictly below each limit, and, in the first image of each
        official batch (0 in the others), the sum of the batch's two middle angles. Pooled: histogram of angles.

        angle = acos(clip(<n, n*>, -1, 1)), the target as stored; in float64, since in float32 the cosine of every
        angle below 0.014 degrees is 1. The product is spelt out: a reduction's order could change its last bit.
        """
        p, t, valid = prediction.double(), targets["normal"].double(), self.valid(targets["normal"])
        cosine = p[:, 0] * t[:, 0] + p[:, 1] * t[:, 1] + p[:, 2] * t[:, 2]
        angle = torch.where(valid, counts.fixed(cosine.clamp(-1, 1).acos().rad2deg()), NO_ANGLE)
        sums = counts.image_sums(valid, torch.where(valid, angle, 0), *(angle < limit for limit in LIMITS))
        missing = -len(angle) % official_batch  # the last official batch may be short
        ordered = F.pad(angle.flatten(1), (0, 0, 0, missing), value=NO_ANGLE)
        ordered = ordered.view(-1, official_batch * angle[0].numel()).sort(dim=1).values
        count = F.pad(sums[:, 0], (0, missing)).view(-1, official_batch).sum(dim=1, keepdim=True)
        middle = ordered.gather(1, (count - 1).clamp(min=0) // 2) + ordered.gather(1, count // 2)
        middle = F.pad(middle, (0, official_batch - 1)).view(-1, 1)[: len(angle)]
        return torch.cat([sums, middle], dim=1), counts.count(angle // BIN, BINS + 1)[:BINS]

    def summarise(self, images, pooled, channels, official_batch):
        batches = [counts.totals(batch.tolist()) for batch in images.split(official_batch)]
        official = counts.means([angles(*sums, median=middle / 2 / counts.FIXED) for *sums, middle in batches])
        return official, angles(*counts.totals(batches)[:-1], median=pooled_median(pooled))

    def paint(self, figure, panel, stored, classes):
        panel.imshow((stored.astype(float) + 1) / 2)


def angles(pixels, total, *below, median):
    """Sums over so many pixels, in fixed point, and their median -> the metrics."""
    return [total / pixels / counts.FIXED, median, *(100 * b / pixels for b in below)] if pixels else [counts.NAN] * 5


def pooled_median(histogram):
    """Degrees. The bins of the two middle angles are exact, so the error is below a bin's width, 0.0039."""
    upto = histogram.cumsum(0)
    pixels = int(upto[-1])

    def angle(rank):  # a bin's angles are taken as spread evenly over it
        b = int(torch.searchsorted(upto, rank, right=True))
        inside = int(histogram[b])
        return (b + (rank - int(upto[b]) + inside + 0.5) / inside) * BIN / counts.FIXED

    return (angle((pixels - 1) // 2) + angle(pixels // 2)) / 2 if pixels else counts.NAN
