"""KD4MTL (Li & Bilen 2020, arXiv 2007.06889): the student's features, adapted, follow each single-task teacher's.

    loss = sum_t w_t L_t  +  sum_t lambda_t sum_tap D(A_t,tap f_t,tap, g_t,tap)        paper Eq. 3 and 4

Adaptors A are 1x1 convolutions, one a task and tap, trained by an Adam of their own at a constant rate with L2 in the
gradient (released code); they and the teachers are dropped after training.
"""

import torch

from kernels import feature_distance
from models.adaptor import Adaptor
from pipeline import distributed, sources, store
from pipeline.objectives import supervised
from pipeline.problem import Problem


class Objective(supervised.Objective):
    terms = ("distance",)

    def __init__(self, run, model, split, device):
        super().__init__(run, model, split, device)
        method, training = run["method"], run["adaptor"]
        self.taps = method["taps"]
        self.weights = torch.tensor([method["lambda"][task] for task in run["tasks"]], device=device)
        channels = model.tap_channels                # a teacher is the student's architecture with one head
        self.adaptors = torch.nn.ModuleDict({
            f"{task}_{tap}": Adaptor(method["adaptor"], channels[tap], channels[tap])
            for task in run["tasks"] for tap in self.taps
        }).to(device)
        batch_statistics = method["teacher_bn"] == "batch"
        self.sources = {task: sources.Live(run, task, split.classes, device, batch_statistics)
                        if batch_statistics or not self.taps else store.open_for(run, task, split, device)
                        for task in run["tasks"]}
        augment = run["train"]["augment"]
        if augment != "none" and any(isinstance(x, sources.Cached) for x in self.sources.values()):
            raise Problem(f"`augment` is {augment!r}, but cached features are those of whole images; set "
                          f"FEATURES=live or `methods.{run['name']}.teacher_bn: batch`, or `augment: none`")
        # `none` has no parameters, and Adam refuses an empty list
        parameters = list(self.adaptors.parameters())
        self.optimiser = torch.optim.Adam(parameters, training["lr"],
                                          weight_decay=training["l2"], fused=True) if parameters else None

    def __call__(self, index, image, predictions, features, targets):
        losses = self.losses(predictions, targets)
        taught = [source.batch(index, image, self.taps) for source in self.sources.values()]
        total, distances = 0.0, 0.0
        for tap in self.taps:
            adaptors = [self.adaptors[f"{task}_{tap}"] for task in self.sources]
            maps = [features[task][tap] for task in self.sources]
            prepared = [adaptor.prepare(x) for adaptor, x in zip(adaptors, maps, strict=True)]
            if all(x is maps[0] for x in prepared):         # one map that all tasks share
                prepared = maps[0]
            teachers, energies = zip(*(features[tap] for features in taught), strict=True)
            one, each = feature_distance(prepared, [adaptor.weight for adaptor in adaptors], teachers, energies,
                                         self.weights)
            total, distances = total + one, distances + each
        names = [f"distance_{task}" for task in self.sources]
        return losses, {"distance": total}, dict(zip(names, self.weights * distances, strict=True))

    def expect(self, index):
        for source in self.sources.values():
            source.expect(index, self.taps)

    def step(self):
        if self.optimiser:
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
        return "task losses + feature distances; " + "; ".join(
            f"{task}: {source.describe()}" for task, source in self.sources.items())

