"""The variants that `pipeline.bench.step` compares, and the small project in the working folder that they train on."""

import contextlib
import os
import sys
import time
from dataclasses import dataclass

import torch

from pipeline import features, objectives, prepare, rows
from pipeline.bench import recipe
from pipeline.config import params, reading
from pipeline.data.split import Split
from pipeline.loop import compiled, epoch
from pipeline.loop.record import Record, Sums
from pipeline.loop.state import balancer_of
from pipeline.runtime import documents, files, weights
from pipeline.runtime.row import read
from pipeline.teachers import networks


@dataclass(frozen=True)
class Variant:
    """One way to train a step. way: plain (the released recipe) or ours; method: a row of rooms."""
    way: str = "ours"
    method: str = "ours"
    precision: str = "float32"
    channels_last: bool = True
    compile: str = "off"               # of ours, COMPILE; of the plain recipe, on stands for torch.compile as it is


VARIANTS = {
    "plain": Variant("plain", channels_last=False),
    "cached, contiguous float32": Variant(channels_last=False),
    "cached, channels-last float32": Variant(),
    "cached, channels-last bfloat16": Variant(precision="bfloat16"),
    "uniform, channels-last float32": Variant(method="uniform"),
    "uniform, channels-last bfloat16": Variant(method="uniform", precision="bfloat16"),
    "plain compiled": Variant("plain", compile="on"),
    "cached bfloat16, COMPILE=on": Variant(precision="bfloat16", compile="on"),
    "cached bfloat16, COMPILE=graphs": Variant(precision="bfloat16", compile="graphs")}
PLAIN, SAME, LAST, HALF, UNIFORM, UNIFORM_HALF, COMPILED, ON, GRAPHS = VARIANTS
EAGER = [name for name, variant in VARIANTS.items() if variant.compile == "off"]


# -- a project in the working folder

def make_project(models, batch, size, width, where):
    """params.yaml, prepared scenes and the same as float64 files, drawn teachers and their features."""
    tree = reading.read(files.PROJECT / params.TOP)
    paper, ours = tree["protocols"]["paper"], tree["methods"]["ours"]
    tree |= {"protocol": "paper", "data": "scenes", "seeds": [0]}
    for group, rows_of in (("teacher", ["semantic", "depth", "normal"]), ("baseline", ["uniform"]),
                           ("student", ["ours"]), ("wide", []), ("ablation", [])):
        tree[group] = {"models": models, "rows": rows_of}
    tree |= {"tables": dict.fromkeys(tree["tables"], []), "printed": {}, "paper": str(files.PROJECT / tree["paper"])}
    paper["data"] = {"height": size[0], "width": size[1], "train": max(2 * batch, 16), "test": 1}
    for section in paper["train"].values():
        section |= {"batch": batch, "width": width, "precision": "float32"}
    tree["features"] |= {"dtype": "float16", "teacher": "last"}
    ours |= {"balancer": "uniform", "options": {}, "taps": ["mid", "last"], "adaptor": "linear",
             "teacher_bn": "running", "towards": "own", "loss": "l2", "adaptor_init": "xavier", "switches": {}}
    ours.pop("augment", None)
    tree["switches"]["normal_mask"] = "depth"          # as released, so that losses can be compared
    params.TOP.write_text(reading.text(tree))
    rows.main("rooms")
    prepare.main("rooms")
    split = Split("out/rooms/data", "train", where)
    recipe.write_raw(split)
    for model in models:
        row = read("train", "rooms", "student", f"{model}-ours-s0")
        for i, task in enumerate(row["tasks"]):
            torch.manual_seed(i + 1)
            teacher = networks.network(row, [task], split.classes, where).train()
            for part in teacher.modules():
                if isinstance(part, torch.nn.BatchNorm2d):
                    part.momentum = 1.0
            with torch.no_grad():
                teacher.features(split.batch(list(range(8)))[0])
            documents.write_run(networks.weights_file(row, task).parent, {
                "weights.pt": weights.pack({"last": weights.copy_of(teacher)})}, {})
            features.main("rooms", "teacher", model, task, "0")


# -- the variants: `data`, then `compute` up to the gradients, then `step`

def make(name, model, batch, where):
    variant = VARIANTS[name]
    row = read("train", "rooms", "baseline" if variant.method == "uniform" else "student",
               f"{model}-{variant.method}-s0")
    row["train"]["precision"] = variant.precision
    if variant.way == "plain":
        return recipe.Recipe(row, where, variant.compile == "on")
    return Ours(row, where, torch.channels_last if variant.channels_last else torch.contiguous_format, variant.compile,
                batch)


class Ours:
    """The step of `pipeline.loop.epoch`, which takes this for its run."""
    deterministic = True

    def __init__(self, row, where, layout, compile, batch):
        self.where, self.layout, self.tasks, self.lr = where, layout, row["tasks"], row["train"]["lr"]
        self.precision, self.record, self.sums = row["train"]["precision"], Record(self.tasks), Sums(sys.maxsize)
        self.split = Split("out/rooms/data", "train", where)
        torch.manual_seed(row["seed"])
        self.model = networks.network(row, self.tasks, self.split.classes, where).to(memory_format=layout).train()
        self.objective = objectives.load(row["method"]["objective"], row, self.model, self.split, where)
        if self.objective.terms:
            _, self.distance = self.objective.parts
            self.adaptors = self.distance.adaptors
        self.balancer = balancer_of(row, where)
        self.optimiser = torch.optim.Adam(self.model.parameters(), self.lr, fused=True)
        with environment(COMPILE=compile):
            self.trunk, said = compiled.trunk_of(self.model, self.batch(list(range(batch))).image, self.precision)
        if compile != "off" and not said.startswith("compiled"):
            raise RuntimeError(said)

    def data(self, index):
        image, _ = self.split.batch(index)
        return [source.batch(index, image, self.distance.taps) for source in self.distance.sources.values()]

    def batch(self, index):
        image, targets = self.split.batch(index)
        return epoch.Batch(index, None, image.contiguous(memory_format=self.layout), targets, 1.0)

    def compute(self, index):
        """Gradients, then (task losses, {"distance": scalar} or {})."""
        self.optimiser.zero_grad(set_to_none=True)
        step = epoch.forward(self.model, self.batch(index), self.precision, self.lr, trunk=self.trunk)
        found, _, _ = epoch.gradients(self.model, self.objective, self.balancer, step)
        return found.losses, found.terms

    def step(self, index):
        self.sums.add(len(self.record.steps), *epoch.train_step(self, self.batch(index), self.lr, 0.0, self.record))


@contextlib.contextmanager
def environment(**values):
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def seconds(call, way):
    torch.use_deterministic_algorithms(way.deterministic)
    wait = torch.cuda.synchronize if way.where.type == "cuda" else lambda: None
    wait()
    begun = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - begun
