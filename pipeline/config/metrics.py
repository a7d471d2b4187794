"""The metric table (KD4MTL, Tables 1 to 3, in their order) and Delta_MTL; no torch, so that tables need none."""

from math import nan
from statistics import fmean
from typing import NamedTuple


class Metric(NamedTuple):
    task: str
    title: str  # as in the paper's tables
    unit: str
    better: int  # +1 higher is better, -1 lower


METRICS = {
    "miou_pct": Metric("semantic", "mIoU", "%", +1),
    "pix_acc_pct": Metric("semantic", "Pix Acc", "%", +1),
    "abs_err": Metric("depth", "Abs Err", "m or 1/65535", -1),
    "rel_err": Metric("depth", "Rel Err", "", -1),
    "angle_mean_deg": Metric("normal", "Mean", "deg", -1),
    "angle_median_deg": Metric("normal", "Median", "deg", -1),
    "within_11_25_pct": Metric("normal", "<11.25", "%", +1),
    "within_22_5_pct": Metric("normal", "<22.5", "%", +1),
    "within_30_pct": Metric("normal", "<30", "%", +1),
    "digits_acc_pct": Metric("digits", "Digits", "%", +1),
    "characters_acc_pct": Metric("characters", "Characters", "%", +1),
}


def train_loss(line, tasks):
    """Mean over tasks of the loss on the labels, in a row of curve.csv: what KD4MTL selects an epoch by (quirk Q5)."""
    return fmean(line[f"label_{task}" if f"label_{task}" in line else f"loss_{task}"] for task in tasks)


def delta_m(metrics, single, names=None):
    """Delta_MTL (section 7) in percent, positive where better than the single-task networks:
    mean over tasks of the mean over their metrics of better * (m - s) / s; NaN where an s is 0.

    metrics, single: {metric: float} of one protocol; what is not in both is left out. names: only these.
    """
    if unknown := [key for key in names or () if key not in METRICS]:
        raise ValueError(f"A metric is one of {', '.join(METRICS)}. Found {', '.join(unknown)}.")
    gains = {}
    for key in METRICS if names is None else names:
        if key in metrics and key in single:
            m, s = metrics[key], single[key]
            gains.setdefault(METRICS[key].task, []).append(METRICS[key].better * (m - s) / s if s else nan)
    if not gains:
        raise ValueError("`metrics` and `single` have no metric in common.")
    return 100 * fmean(fmean(task) for task in gains.values())
