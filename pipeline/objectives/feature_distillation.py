"""KD4MTL (Li & Bilen 2020, arXiv 2007.06889): the student's features, adapted, follow each single-task teacher's.

    loss = sum_t w_t L_t  +  sum_t lambda_t sum_tap D(A_t,tap f_t,tap, g_t,tap)        paper Eq. 3 and 4

Adaptors A are 1x1 convolutions, one a task and tap, trained by an Adam of their own with L2 in the gradient (released
code: at a constant rate; its follow-up: on half a cosine); they and the teachers are dropped after training. Where an
image is labelled for one task only (Table 1), a task's distance is over its own images.

`towards: last` is the follow-up's: every tap leads to the teacher's last feature, adapted first and then brought to its
size (Universal Representations, arXiv 2204.02744); `loss` chooses its distances.
"""

import math

import torch
import torch.nn.functional as F

from kernels import feature_distance
from models.adaptor import Adaptor
from pipeline import objectives
from pipeline.objectives import feature_losses, supervised
from pipeline.runtime import distributed
from pipeline.runtime.errors import UserError
from pipeline.runtime.prefetch import positions
from pipeline.teachers import sources, store


class Objective(objectives.Composed):
    def __init__(self, row, model, split, device):
        distance = Distance(row, model, split, device)
        super().__init__(supervised.Objective(row, model, split, device), distance)


class Distance(objectives.Objective):
    """The term of Eq. 4, with the adaptors and their optimiser; no task losses."""
    terms = ("distance",)

    def __init__(self, row, model, split, device):
        method = row["method"]
        self.taps, self.training, self.loss = method["taps"], row["adaptor"], method["loss"]
        self.domains = split.domains
        self.goals = {tap: tap if method["towards"] == "own" else "last" for tap in self.taps}
        self.wanted = sorted(set(self.goals.values()))             # the teachers' taps
        self.weights = torch.tensor([method["lambda"][task] for task in row["tasks"]], device=device)
        channels = model.tap_channels                # a teacher is the student's architecture with one head
        self.adaptors = torch.nn.ModuleDict({
            f"{task}_{tap}": Adaptor(method["adaptor"], channels[tap], channels[goal], method["adaptor_init"])
            for task in row["tasks"] for tap, goal in self.goals.items()
        }).to(device)
        if self.loss == "cka" and distributed.size() > 1:
            raise UserError("`loss: cka` is of a whole batch, which several processes would share; set NPROC=1")
        batch_statistics = method["teacher_bn"] == "batch"
        live = batch_statistics or not row["cacheable"]
        self.sources = {task: sources.Live(row, task, split.classes, device, batch_statistics)
                        if live else store.open_for(row, task, split, device) for task in row["tasks"]}
        # `none` has no parameters, and Adam refuses an empty list
        parameters = list(self.adaptors.parameters())
        self.optimiser = torch.optim.Adam(parameters, self.training["lr"], weight_decay=self.training["l2"],
                                          fused=True) if parameters else None

    def __call__(self, step):
        rows = {task: rows_of(self.domains.get(task), step.index, step.image.device) for task in self.sources}
        teacher_outputs = [source.batch(self.own(task, step.index), of_rows(step.image, rows[task]), self.wanted)
                           for task, source in self.sources.items()]
        total, distances = 0.0, 0.0
        for tap, goal in self.goals.items():
            adaptors = [self.adaptors[f"{task}_{tap}"] for task in self.sources]
            maps = [of_rows(step.features[task][tap], rows[task]) for task in self.sources]
            if tap != goal:
                size = step.features[next(iter(self.sources))][goal].shape[2:]
                maps = [F.interpolate(adaptor(x), size, mode="bilinear") for adaptor, x in
                        zip(adaptors, maps, strict=True)]
            one, each = self.distance(maps, [None] * len(maps) if tap != goal else adaptors,
                                      *zip(*(outputs[goal] for outputs in teacher_outputs), strict=True))
            total, distances = total + one, distances + each
        names = [f"distance_{task}" for task in self.sources]
        return objectives.Losses([], terms={"distance": step.batch_share * total}, logged=dict(
            zip(names, step.batch_share * self.weights * distances, strict=True)))

    def distance(self, maps, adaptors, teachers, energies):
        """One tap's sum over tasks of lambda D, differentiable, and every task's D (T,)."""
        if self.loss != "l2":
            each = torch.stack([feature_losses.distance(self.loss, x if adaptor is None else adaptor(x), teacher)
                                for x, adaptor, teacher in zip(maps, adaptors, teachers, strict=True)])
            return (self.weights * each).sum(), each.detach()
        prepared = [x if adaptor is None else adaptor.prepare(x) for x, adaptor in zip(maps, adaptors, strict=True)]
        weights = [None if adaptor is None else adaptor.weight for adaptor in adaptors]
        if all(x is prepared[0] for x in prepared):         # one map that all tasks share
            prepared = prepared[0]
        return feature_distance(prepared, weights, teachers, energies, self.weights)

    def own(self, task, index):
        """The images of a batch that are labelled for a task."""
        return [image for image in index if image in self.domains[task]] if self.domains else index

    def prefetch(self, index):
        for task, source in self.sources.items():
            source.prefetch(self.own(task, index), self.wanted)

    def update(self, step):
        if self.optimiser:
            if self.training["schedule"] == "cosine":
                self.optimiser.param_groups[0]["lr"] = self.training["lr"] * (1 + math.cos(math.pi * step.progress)) / 2
            distributed.total_gradients(self.adaptors.parameters())
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)

    def state_dict(self):
        return {"adaptors": self.adaptors.state_dict(),
                "optimiser": self.optimiser.state_dict() if self.optimiser else {}}

    def load_state_dict(self, state):
        self.adaptors.load_state_dict(state["adaptors"])
        if self.optimiser:
            self.optimiser.load_state_dict(state["optimiser"])

    def describe(self):
        of_task = "; ".join(f"{task}: {source.describe()}" for task, source in self.sources.items())
        return f"feature distances ({of_task})"


def rows_of(domain, index, device):
    """Positions in the batch of a task's own images, (b,) on the device without waiting for it; None: all of them.

    domain: the images of the split that are labelled for the task, None where every image is.
    """
    return None if domain is None else positions([i for i, image in enumerate(index) if image in domain], device)


def of_rows(x, rows):
    return x if rows is None else x[rows]
