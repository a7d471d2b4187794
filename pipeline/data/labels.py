"""Which tasks have a label in a batch. A task that has none takes no part in that step's balancing."""

import math

import torch

from pipeline import tasks
from pipeline.data import augment
from pipeline.runtime import distributed
from pipeline.runtime.errors import UserError

PIXELS = 2**22             # of a chunk that is counted at once


class Labels:
    """Labelled pixels of every training image, counted once, so that no step waits for the device to know."""

    def __init__(self, split, row):
        self.tasks, self.mask = [tasks.load(task) for task in row["tasks"]], row["switches"]["normal_mask"]
        self.counts, pixels = counted(split, self.tasks, self.mask), math.prod(split.size)
        for task, images in zip(row["tasks"], (self.counts > 0).sum(0).tolist(), strict=True):
            if not images:
                raise UserError(f"none of the {len(split)} training images of {row['data']['folder']} has a label of "
                                f"{task}; leave {task} out of `teacher.rows`, the list of tasks, or prepare data that "
                                "has it")
        kept = {"none": pixels, "rotate": 0, "crop": 0}        # pixels of an image that are surely in its cut
        if split.stride == 1:                                  # of a thinned target any may be missed
            kept["crop"] = math.prod(int(side // max(augment.SCALES)) for side in split.size)
        self.cut = pixels - kept[row["train"]["augment"]]
        self.everywhere = bool((self.counts > self.cut).all())

    def of(self, batch, targets):
        """Positions of the tasks with a label in a batch, None for all of them.

        batch: positions of its images in the split, those of all processes; targets: this process's, after
        augmentation, looked at only where a cut may have taken a task's last label.
        """
        if self.everywhere:
            return None
        most = self.counts[batch].amax(0).tolist()
        there = tuple(i for i, (task, count) in enumerate(zip(self.tasks, most, strict=True))
                      if count > self.cut or count and self.seen(task, targets))
        return None if len(there) == len(self.tasks) else there

    def seen(self, task, targets):
        return bool(distributed.total(task.labelled(targets, self.mask).sum()))


def counted(split, names, mask):
    """(N, T) on the host: labelled pixels of each image, or 1 of a number an image."""
    size = max(1, PIXELS // math.prod(split.size))
    counts = []
    for begin in range(0, len(split), size):
        index = list(range(begin, min(begin + size, len(split))))
        targets = split.batch(index)[1]
        counts.append(torch.stack([task.labelled(targets, mask).view(len(index), -1).sum(1) for task in names], 1))
    return torch.cat(counts).cpu()
