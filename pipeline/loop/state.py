"""A training in memory: what its row makes of it, and everything that a later start of it goes on from."""

from dataclasses import dataclass, field

import torch

import kernels.dispatch
from pipeline import balancers, data, objectives
from pipeline.data.labels import Labels
from pipeline.data.split import Split
from pipeline.loop import checkpoint, compiled, order
from pipeline.loop.schedule import learning_rate
from pipeline.runtime import device, distributed
from pipeline.runtime.errors import UserError
from pipeline.teachers import networks


@dataclass
class Results:
    """What a training has given so far, as plain values and tensors on the host."""
    curve: list = field(default_factory=list)       # of each finished epoch, its line of curve.csv
    balance: list = field(default_factory=list)     # likewise of balance.csv
    best: dict | None = None                        # {"epoch", "weights"} with the lowest training loss
    by_batch: dict | None = None                    # {"loss", "weights"} with the lowest loss of an epoch's last batch
    seconds: float = 0.0                            # spent in training steps
    memory: float = 0.0                             # peak in megabytes

    def state_dict(self):
        return dict(vars(self))

    def load_state_dict(self, state):
        vars(self).update(state)


class Generators:
    """torch's own random generators, which dropout draws from."""

    def __init__(self, where):
        self.device = where

    def state_dict(self):
        return {"states": device.draws(self.device)}

    def load_state_dict(self, state):
        device.draw_on(self.device, state["states"])


class Run:
    """One training of a row: its data, networks, objective, balancer and optimiser, and its `results` so far.

    `resumable` names everything that changes while it trains, and only there; `save` and `resume` go over it.
    """

    def __init__(self, row, title):
        self.row, self.title, self.tasks, self.training = row, title, row["tasks"], row["train"]
        self.epochs, self.precision = self.training["epochs"], self.training["precision"]
        self.device = device.pick()
        data.hold_to(row)
        self.train, self.test = (Split(row["data"]["folder"], name, self.device, self.tasks)
                                 for name in ("train", "test"))
        batches = order.epoch_of(self.train, row, 0)
        self.steps, self.images = len(batches), sum(map(len, batches))

        # the same seed gives every method of a row the same first weights
        torch.manual_seed(row["seed"])
        self.model = networks.network(row, self.tasks, self.train.classes, self.device, begin=True)
        networks.begin_from_parent(self.model, row)
        order.check_enough(batches, self.train, self.test, row, self.model)
        self.labels = Labels(self.train, row)
        self.objective = objectives.load(row["method"]["objective"], row, self.model, self.train, self.device)
        self.balancer = balancer_of(row, self.device)
        torch.manual_seed(row["seed"])              # what training draws does not depend on what was built
        self.optimiser = torch.optim.Adam(self.model.parameters(), self.training["lr"], (0.9, self.training["beta2"]),
                                          fused=True)
        self.trunk, self.way = compiled.trunk_of(self.model, self.train.batch(distributed.share(batches[0]))[0],
                                                 self.precision)
        self.results = Results()
        self.resumable = {"model": self.model, "optimiser": self.optimiser, "objective": self.objective,
                          "balancer": self.balancer, "generators": Generators(self.device), "results": self.results}
        self.checkpoint = checkpoint.Checkpoint(title, checkpoint.fingerprint(
            row, data.fingerprint(data.load_manifest(row["data"]["folder"])), self.device.type, self.way,
            kernels.dispatch.choose(self.device), networks.digests(row)))

    def lr(self, epoch, step):
        """The network's learning rate at a step; both count from 0."""
        return learning_rate(self.training, epoch, step, self.steps, self.row["switches"]["step_first"])

    def parameters(self):
        """How many numbers the network has."""
        return sum(p.numel() for p in self.model.parameters())

    def describe(self):
        begun = "" if (kept := self.row["architecture"].get("pretrained")) is None else (
            " from ImageNet's weights" if kept else " from random weights")
        return (f"{self.title}: {self.parameters():,} parameters{begun}, {device.describe(self.device)}, {self.way}, "
                f"kernels {kernels.dispatch.describe(self.device)}; {self.images} images an epoch; "
                f"{self.objective.describe()}")

    def save(self):
        self.checkpoint.save({name: part.state_dict() for name, part in self.resumable.items()})

    def resume(self):
        """Go on from the last finished epoch, if there is one."""
        state = self.checkpoint.load()
        if state:
            for name, part in self.resumable.items():
                part.load_state_dict(state[name])
            print(f"{self.title}: going on from epoch {len(self.results.curve)}")


def balancer_of(row, where):
    """The balancer of a row's method; `UserError` for options that it does not have or take."""
    method = row["method"]
    try:
        return balancers.load(method["balancer"], row["tasks"], seed=row["seed"], device=where,
                              model_lr=row["train"]["lr"], model_beta2=row["train"]["beta2"], **method["options"])
    except (TypeError, ValueError) as mistake:
        raise UserError(f"`methods.{row['name']}.options`: {mistake}; `make params` checks all of them") from None
