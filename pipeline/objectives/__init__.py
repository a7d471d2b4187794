"""Objectives turn predictions, targets and features into one loss per task. One file each, a class `Objective` made by
`Objective(row, model, split, device)` and derived from the one here, which has no losses and states what each has to
offer. The training loop hands it one `Step` and is given one `Losses`; nobody sets its attributes.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Step:
    """One training step as an objective sees it. Of a batch that several processes share, it is this one's images."""
    index: list                 # positions of the images in their split, B of them
    image: torch.Tensor         # (B, 3, H, W)
    predictions: dict           # {task: (B, C_t, H, W), or (B, C_t) of a classification}
    features: dict              # {task: {tap: (B, C, h, w) or (B, C)}}
    targets: dict               # {kind: (B, ...)}, as `data.Split.batch` gives them
    lr: float                   # the network's learning rate
    progress: float = 0.0       # share of the training that is done, from 0 to 1
    batch_share: float = 1.0    # share of the whole batch that these images are
    labelled: tuple | None = None      # positions of the tasks with a label in the whole batch; None: all of them


@dataclass(frozen=True)
class Losses:
    """What an objective says of one step. Of a shared batch, each number is this process's part of the whole."""
    losses: list                                    # T scalars in the order of the tasks, which the balancer weighs
    again: Callable = lambda predictions: []        # other predictions of the same images -> their T task losses
    terms: dict = field(default_factory=dict)       # {name: scalar}, added to the balanced sum as they are
    logged: dict = field(default_factory=dict)      # {name: scalar without gradient}, columns of curve.csv as terms are
    there: tuple | None = None                      # positions of the losses that say something; None: all of them


class Objective:
    terms = ()                  # names of its terms

    def __call__(self, step):
        """`Step` -> `Losses`."""
        raise NotImplementedError

    def prefetch(self, index):
        """The positions of the next step's images: what has to be read for them may be read meanwhile."""

    def update(self, step):
        """The step of its own optimiser, if it has one, by the gradients that are there by then; they are cleared."""

    def extra_parameters(self):
        """Parameters of its own that its task losses reach, which are heads to a balancer; not those of terms alone."""
        return []

    def buffers(self):
        """Tensors that computing its task losses changes; a balancer's second look leaves them as they were."""
        return []

    def eval_metrics(self):
        """What measures the network by the objective's own metrics, once over the test images."""
        return EvalMetrics()

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass

    def describe(self):
        """A few words for the run's header."""
        raise NotImplementedError


class EvalMetrics:
    """Metrics of an objective's own over the test images; here there are none."""

    def update(self, predictions):
        """A chunk of this process's test images."""

    def results(self):
        """{name: number}, over the images of all processes."""
        return {}


class Composed(Objective):
    """An objective that has its task losses and its metrics from a first part, and terms from others."""

    def __init__(self, task_losses, *others):
        self.parts = [task_losses, *others]
        self.terms = tuple(name for part in self.parts for name in part.terms)

    def __call__(self, step):
        first, *others = (part(step) for part in self.parts)
        terms, logged = dict(first.terms), {}
        for other in others:
            terms |= other.terms
            logged |= other.logged
        return Losses(first.losses, first.again, terms, logged | first.logged, first.there)

    def prefetch(self, index):
        for part in self.parts:
            part.prefetch(index)

    def update(self, step):
        for part in self.parts:
            part.update(step)

    def extra_parameters(self):
        return [parameter for part in self.parts for parameter in part.extra_parameters()]

    def buffers(self):
        return [buffer for part in self.parts for buffer in part.buffers()]

    def eval_metrics(self):
        return self.parts[0].eval_metrics()

    def state_dict(self):
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state):
        for part, own in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(own)

    def describe(self):
        return " + ".join(part.describe() for part in self.parts)


def load(name, *arguments):
    return importlib.import_module(f"pipeline.objectives.{name}").Objective(*arguments)
