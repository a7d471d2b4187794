"""The metric table, as the tasks' files state it, and Delta_MTL; no torch, so that tables need none."""

from math import nan
from statistics import fmean
from typing import NamedTuple

from pipeline import tasks

PROTOCOLS = ("official", "masked", "dataset")      # the definitions that metrics are reported under; see `tally`


class Metric(NamedTuple):
    task: str
    title: str  # as in the paper's tables
    unit: str
    better: int  # +1 higher is better, -1 lower
    digits: int = 2  # printed behind the point of a value below 5; from there on two are
    # `evaluate` alone measures it, not training after every epoch: it has no column in curve.csv, and a number only
    # under the rules whose epoch's weights are kept, `last` and `train_loss`
    costly: bool = False


def of(names):
    """{key: `Metric`} of these tasks, in their order and in that of their files. A key is of one task."""
    found = {}
    for task in names:
        for key, stated in tasks.facts(task).metrics.items():
            if key in found:
                raise ValueError(f"{found[key].task} and {task} both have a metric {key!r}; rename one of them.")
            found[key] = Metric(task, **stated)
    return found


METRICS = of(tasks.names())


def first(task):
    """The key of the task's first metric that training looks at: the one that is shown where there is room for one."""
    return next(key for key, metric in of([task]).items() if not metric.costly)


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
    for key in metrics if names is None else names:
        if key in metrics and key in single:
            m, s = metrics[key], single[key]
            gains.setdefault(METRICS[key].task, []).append(METRICS[key].better * (m - s) / s if s else nan)
    if not gains:
        raise ValueError("`metrics` and `single` have no metric in common.")
    return 100 * fmean(fmean(task) for task in gains.values())
