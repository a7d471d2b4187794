"""The tasks, one file each. A task's file has everything that is the task's own; nothing else names a task.

At its top stand plain facts, literal constants that are read without importing the file, and so without torch:

    TARGET     the kind of array that is its target: a key of what a data set's reader gives. A kind has one task
    BEHIND     the target's axes behind (H, W), as stored; () where it is left out
    FLAT       True: a number an image, else one a pixel
    READS      kinds of other tasks' targets that its loss reads as well, where the data set has them
    UNCUT      True: under `crop_masks: false` its valid pixels are the whole image's, not those of the cut
    METRICS    {key: `Metric` without its task}, in the order of the tables; `pipeline.tasks.metrics` says what each is
    COLOUR     of its line in a figure

Its class `Task` is a `pipeline.tasks.base.Task`, which says what the methods are; `load` imports it by the task's name,
so that a run imports the files of its own tasks alone. `classes`,
`regression`, `counts` and `tally` are what several tasks share, `from_raw` what readers make targets by.

Sources: KD4MTL (Li & Bilen 2020, arXiv 2007.06889), Table 2 and the released code; section and quirk numbers are those
of our specification of it. B C H W = images, channels, height, width. Targets are as `pipeline.data.split` forms them:
of classes (B, H, W) or (B,) int64, -1 where there is none, others (B, C, H, W) float32. Predictions are (B, C, H, W),
of a number an image (B, C), in float32 or wider, after the task's activation.
"""

import functools
import importlib
from typing import NamedTuple

from pipeline.options import declared


class Facts(NamedTuple):
    """What a task's file states; see above."""
    name: str
    target: str
    metrics: dict
    colour: str
    behind: tuple = ()
    flat: bool = False
    reads: tuple = ()
    uncut: bool = False


@functools.cache
def names():
    """The tasks there are: the files of this folder that state a TARGET."""
    return tuple(file for file in declared.names(__name__) if "TARGET" in declared.constants(f"{__name__}.{file}"))


@functools.cache
def facts(task):
    """The `Facts` of a task; ValueError where there is no such task."""
    if task not in names():
        raise ValueError(f"A task is one of {', '.join(names())}. Found {task!r}.")
    stated = declared.constants(f"{__name__}.{task}")
    return Facts(task, **{key: stated[key.upper()] for key in Facts._fields if key.upper() in stated})


def of_kinds(kinds):
    """{kind: `Facts` of the task whose target it is}, in the order of `kinds`, without those that no task has."""
    known = {}
    for own in map(facts, names()):
        if own.target in known:
            raise ValueError(f"{own.target!r} is the target of {known[own.target].name} and of {own.name}; "
                             "let a reader give one of them another kind.")
        known[own.target] = own
    return {kind: known[kind] for kind in kinds if kind in known}


@functools.cache
def load(task):
    """The task itself, a `pipeline.tasks.base.Task`, from its own file."""
    return importlib.import_module(f"{__name__}.{facts(task).name}").Task(facts(task))


def heads(tasks, classes):
    """{task: `models.network.Head`}, as networks take them. classes: {task: names of its classes}."""
    return {task: load(task).head(classes) for task in tasks}


def losses(predictions, targets, normal_mask="own"):
    """A loss a task (4.1): T scalars, in the order of `predictions`; 0, with gradient 0, without a valid pixel.

    Of several processes each gets its images' part: the parts add up to the loss of the batch. normal_mask: "own" or
    "depth", whose valid pixels the loss of normals is averaged over (quirk Q4).
    """
    return [load(task).loss(p, targets, normal_mask) for task, p in predictions.items()]


def matches(predictions, taught, targets, temperature=1.0):
    """How far predictions are from teachers', a scalar a task: prediction distillation, a mean over all pixels, or
    over the images of a task's own domain."""
    return [load(task).match(p, taught[task], targets, temperature) for task, p in predictions.items()]


def valid(task, targets):
    """Where a task has a target, (B, H, W) bool, or where augmentation says it has; of a number an image (B,)."""
    return load(task).mask(targets)
