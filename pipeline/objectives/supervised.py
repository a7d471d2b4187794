"""The task losses alone: single-task networks, and every multi-task baseline."""

import functools

from pipeline import objectives, tasks


class Objective(objectives.Objective):
    def __init__(self, row, model, split, device):
        self.normal_mask = row["switches"]["normal_mask"]

    def __call__(self, step):
        return objectives.Losses(self.losses(step.predictions, step.targets),
                                 functools.partial(self.losses, targets=step.targets), there=step.labelled)

    def losses(self, predictions, targets):
        """A loss a task on the labels, T scalars in the order of `predictions`."""
        return tasks.losses(predictions, targets, self.normal_mask)

    def describe(self):
        return "task losses"
