"""What an epoch's steps add up to: of losses a line of curve.csv, of weights and Gramians one of balance.csv; and the
step at which something was not finite. A step without a label of a task counts in none of that task's means.

A line of balance.csv has means over the steps, all from the T x T numbers of a step (Aligned-MTL, arXiv 2305.19000,
section 3.2; gradients as they come, before balancing; DB-MTL's are its averages, GradDrop's what its masks leave,
AdaMT-Net's norms the mean absolute gradients of its decoders, which have no angle):

    weight_<task>                  what the task's gradient was multiplied by
    norm_<task>                    its gradient's norm
    cosine_<a>_<b>                 of two tasks' gradients
    similarity_<a>_<b>             of their magnitudes, 2 n_a n_b / (n_a^2 + n_b^2)
    conflict                       share of pairs with a negative cosine
    condition                      largest over smallest singular value (of those that count)
    update                         norm of the weighted sum
    residual                       how far the method's own problem was from solved, where it solves one

Methods that need no Gramian leave their weights alone.
"""

import collections
import itertools
import math

import torch

from pipeline.runtime import distributed

COUNTS = 3e-9              # singular values count above this share of T times the largest, squared


class Sums:
    """The numbers of an epoch's steps, added up on the device, which the host waits for at the end alone."""

    def __init__(self, steps):
        self.steps, self.total, self.nonfinite, self.missed = steps, 0, None, collections.Counter()

    def add(self, step, columns, weights, missing=()):
        """columns: {name: scalar} to be averaged; weights: {name: scalar} that have to be finite too; missing: names
        of columns that this step says nothing of."""
        self.missed.update(missing)
        self.last_missing = missing
        self.columns, self.names = list(columns), [*columns, *weights]
        self.last = torch.stack([x.detach().double() for x in (*columns.values(), *weights.values())])
        first = torch.where(self.last.isfinite(), self.steps, step)
        self.nonfinite = first if self.nonfinite is None else torch.minimum(self.nonfinite, first)
        self.total = self.total + self.last

    def means(self, before=None):
        """{column: mean over its steps}, of whole batches where several processes share them; of a column without any
        that of the epoch `before`, 0 in the first."""
        steps = [self.steps - self.missed[name] for name in self.columns]
        totals = distributed.total(self.total)[:len(self.columns)].tolist()
        return {name: total / count if count else (before or {}).get(name, 0.0)
                for name, total, count in zip(self.columns, totals, steps, strict=True)}

    def first_nonfinite_step(self):
        """(the first step, from 0, at which a number was not finite; its name). The number of steps where all were."""
        steps = distributed.least(self.nonfinite).tolist()
        return min(zip(steps, self.names, strict=True), key=lambda pair: pair[0])


class Record:
    """The steps of one epoch; nothing waits for the device before `line`."""

    def __init__(self, tasks):
        self.tasks, self.steps, self.there = tasks, [], []

    def add(self, weights, gramian, residual, there=None):
        """there: positions of the tasks that took part in the step; None: all of them."""
        self.steps.append((weights.double(), gramian, residual))
        self.there.append([there is None or i in there for i in range(len(self.tasks))])

    def line(self):
        """{column: mean over the epoch}, without what no step says anything of; the next epoch starts empty."""
        weights, gramians, residuals = zip(*self.steps, strict=True)
        weights, known = torch.stack(weights), [i for i, g in enumerate(gramians) if g is not None]
        there = torch.tensor(self.there, device=weights.device)
        mean = torch.Tensor.mean if all(map(all, self.there)) else torch.Tensor.nanmean
        columns = {f"weight_{task}": torch.where(there[:, i], weights[:, i], torch.nan)
                   for i, task in enumerate(self.tasks)}
        if known:
            columns |= statistics(self.tasks, weights[known], torch.stack([gramians[i] for i in known]), there[known])
        if found := [r for r in residuals if r is not None]:
            columns["residual"] = torch.stack(found)
        self.steps, self.there = [], []
        means = torch.stack([mean(values.double()) for values in columns.values()]).tolist()
        return {name: value for name, value in zip(columns, means, strict=True) if not math.isnan(value)}

    def broken(self, step):
        """The numbers of one step, as plain lists."""
        weights, gramian, _ = self.steps[step]
        return {"tasks": list(self.tasks), "weights": weights.tolist(),
                "gramian": None if gramian is None else gramian.tolist()}


def statistics(tasks, weights, gramians, there):
    """weights (S, T), gramians (S, T, T) float64, there (S, T) bool -> {column: (S,)}, NaN of tasks not there."""
    square = torch.where(there, gramians.diagonal(dim1=1, dim2=2).clamp_min(0), torch.nan)
    norms = square.sqrt()
    pairs = list(itertools.combinations(range(len(tasks)), 2))
    columns = {f"norm_{task}": norms[:, i] for i, task in enumerate(tasks)}
    cosines = [gramians[:, i, j] / (norms[:, i] * norms[:, j]).clamp_min(1e-300) for i, j in pairs]
    alike = [2 * norms[:, i] * norms[:, j] / (square[:, i] + square[:, j]).clamp_min(1e-300) for i, j in pairs]
    for name, values in (("cosine", cosines), ("similarity", alike)):
        columns |= {f"{name}_{tasks[i]}_{tasks[j]}": v for (i, j), v in zip(pairs, values, strict=True)}
    if pairs:
        stacked = torch.stack(cosines)
        columns["conflict"] = torch.where(stacked.isnan(), torch.nan, stacked.lt(0).double()).nanmean(0)
    values = torch.linalg.eigvalsh(gramians)
    counted = torch.where(values > COUNTS * len(tasks) * values[:, -1:], values, torch.inf)
    columns["condition"] = (values[:, -1] / counted.amin(1)).sqrt()
    columns["update"] = torch.einsum("si,sij,sj->s", weights, gramians, weights).clamp_min(0).sqrt()
    return columns
