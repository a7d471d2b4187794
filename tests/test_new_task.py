"""A new dense task is a file of its own, what its data set's reader gives, and a row: a toy one goes all the way, from
its target to the table, in a copy of the project to which two files are added."""

import ast
import json
import re

import numpy as np
import pytest
import torch
from checklists import added, blocks, counted, files, steps, told, touched, words
from conftest import change, command, folder_of, shipped, smoke

from pipeline import tasks
from pipeline.loop.curve import read
from pipeline.tasks import base
from pipeline.tasks.metrics import Metric

SHADE = '''"""How bright a pixel is, of a grey image; 0 where it is not known."""

import torch

from pipeline.tasks import base, counts

TARGET = "shade"
UNCUT = True
METRICS = {
    "shade_err": {"title": "Shade Err", "unit": "", "better": -1, "digits": 3},
    "shade_worst": {"title": "Shade Worst", "unit": "", "better": -1, "costly": True},
}
COLOUR = "#555555"


class Task(base.Task):
    """Predictions and targets (B, 1, H, W)."""

    def check(self, given, manifest):
        """Whether it is brightness: refused where it cannot be; what a `yield` says is a warning."""
        if (most := max(shade.max() for shade in given)) > 2:
            raise ValueError(f"it is {most:.4g} at most, expected 0..1: it looks like 0..255; divide by 255")

    def loss(self, prediction, targets, normal_mask):
        return base.masked_mean(self.apart(prediction, targets["shade"]), self.mask(targets))

    def apart(self, prediction, other):
        return (prediction - other).abs()[:, 0]

    def measure(self, prediction, targets, channels, official_batch):
        """Columns: valid pixels, sum of errors."""
        valid = self.valid(targets["shade"])
        error = counts.fixed(self.apart(prediction, targets["shade"]).double())
        images = counts.image_sums(valid, torch.where(valid, error, 0))
        return images, images[:0, 0]

    def summarise(self, images, pooled, channels, official_batch):
        batches = [counts.totals(batch.tolist()) for batch in images.split(official_batch)]
        sums = (*batches, counts.totals(batches))
        means = [[total / pixels / counts.FIXED if pixels else counts.NAN] for pixels, total in sums]
        return counts.means(means[:-1]), means[-1]

    def measure_costly(self, prediction, targets, channels, official_batch):
        """Column: the largest error."""
        error = counts.fixed(self.apart(prediction, targets["shade"]).double())
        return error.amax((1, 2))[:, None], error[:0, 0, 0]

    def summarise_costly(self, images, pooled, channels, official_batch):
        worst = [images.max().item() / counts.FIXED]
        return worst, worst
'''

READER = '''"""Rendered rooms with their brightness."""

import numpy as np

from pipeline.data import scenes
from pipeline.data.scenes import Options as Options
from pipeline.data.scenes import classes as classes

TASKS = ("semantic", "shade")


def ids(split, count, options):
    return scenes.ids(split, count, options)


KINDS = {**scenes.KINDS, "shade": np.float16}


def read(split, name, size, options):
    sample = scenes.read(split, name, size, options)
    return sample | {"shade": sample["image"].mean(-1) + 0.1}
'''

ROWS = [          # edits of params.yaml, a row each
    ("data: scenes ", "data: shaded "), ("  rows: [semantic, depth, normal]", "  rows: [semantic, shade]"),
    ("datasets:\n", "datasets:\n  shaded: {seed: 0, noise: 0.03, holes: 0.08}\n"),
    ("rows: [uniform]", "rows: [uniform, agreeing]"),
    ("lambda: {semantic: 1.0, depth: 1.0, normal: 2.0}\n    teacher",
     "lambda: {semantic: 0.1, shade: 0.1}\n    teacher"),
    ("\nmethods:\n", "\nmethods:\n  agreeing: {title: A, objective: consistency, balancer: uncertainty, consistency: "
                     "{lambda: {semantic: 0.1, shade: 0.1}}}\n"),
    ("width: 0.125", "width: 0.125, augment: crop"), ("crop_masks: true ", "crop_masks: false ")]
RUN = '''
import sys

from pipeline import evaluate, features, figures, prepare, rows, table, tasks, train

rows.main("rooms")
prepare.main("rooms")
for task in ("semantic", "shade"):                          # it looked at what it stores
    del sys.modules[f"pipeline.tasks.{task}"]
tasks.load.cache_clear()
for group, name in (("teacher", "semantic"), ("teacher", "shade"), ("baseline", "uniform"), ("baseline", "agreeing"),
                    ("student", "ours")):
    train.main("rooms", group, "segnet", name, "0")
    if group == "teacher":
        features.main("rooms", "teacher", "segnet", name, "0")
    evaluate.main("rooms", group, "segnet", name, "0")
print("imported:", *(task for task in ("depth", "normal", "semantic", "shade")
                     if f"pipeline.tasks.{task}" in sys.modules))
table.main("rooms", "table2")
figures.main("rooms")
prepare.montage("rooms")
'''


def test_a_file_a_reader_and_a_row_are_all_it_takes(checkout):
    """One test, since the run behind it is tens of seconds."""
    (checkout / "params.yaml").write_text(smoke(shipped("rooms")))
    change(*ROWS)
    before = files(checkout)
    (checkout / "pipeline/tasks/shade.py").write_text(SHADE)
    (checkout / "pipeline/data/shaded.py").write_text(READER)
    done = command(code=RUN, cwd=checkout, PYTHONPATH=str(checkout))
    assert done.returncode == 0, done.stdout + done.stderr

    # -- the files touched
    assert touched(before, files(checkout)) == {"pipeline/tasks/shade.py", "pipeline/data/shaded.py"}

    # -- it trains under every objective, and tasks that no run has are not imported
    assert "imported: semantic shade\n" in done.stdout
    columns = {"shade": (), "uniform": (), "agreeing": ("transfer_semantic_shade", "energy_shade_semantic"),
               "ours": ("distance_shade",)}
    for name, more in columns.items():
        curve, _ = read(folder_of("rooms", "segnet", name), "")
        assert len(curve) == 2 and curve[1]["loss_shade"] < curve[0]["loss_shade"]
        assert all(line[column] > 0 for line in curve for column in ("official.shade_err", *more))
        assert not [column for column in curve[0] if "shade_worst" in column]

    # -- a costly metric is `evaluate`'s alone
    kept = json.loads((checkout / "out/rooms/metrics/baseline/segnet-uniform-s0.json").read_text())
    for rule, protocols in kept["rules"].items():
        for values in (protocols["official"], protocols["dataset"]):
            assert ("shade_worst" in values) == (rule in ("last", "train_loss"))
            assert values["shade_err"] <= values.get("shade_worst", 1e9)

    # -- it stands in the table, with its digits, and is drawn
    header, _, *lines = [line.split("|")[1:-1] for line in (checkout / "out/tables/table2.md").read_text().split(
        "## ")[1].splitlines() if line.startswith("|")]
    titles = [cell.strip() for cell in header]
    assert titles[2:-1] == ["mIoU", "Pix Acc", "Shade Err", "Shade Worst", "Delta_MTL"] and len(lines) == 4
    for line in lines:
        error, worst = (line[titles.index(title)].strip() for title in ("Shade Err", "Shade Worst"))
        assert len(error.split(".")[1]) == 3 and len(worst.split(".")[1]) == 2
    for file in ("out/rooms/montage.png", "out/figures/rooms-segnet-ours-s0.png"):
        assert (checkout / file).read_bytes()[:4] == b"\x89PNG"


def methods(code):
    """{name: its code} of the functions and methods of a module."""
    return {node.name: ast.unparse(node) for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef)}


def test_a_task():
    """Its block has the facts and the methods that a task needs, and measures what it says; tests/test_new_task.py
    takes the same task, with a costly metric more, as far as the table."""
    first = steps("task")[0]
    block, = blocks(first)
    counted("task", block, "", "")
    assert added("task") == ["pipeline/tasks/<name>.py"]
    assert "`tests/test_new_task.py` is this checklist as a test" in words(steps("task")[-1])

    # -- facts and methods: those that must be there, under their names, and those that may
    space = {}
    exec(compile(block, "the page's task", "exec"), space)
    stated = {name: value for name, value in space.items() if name.isupper()}
    assert {"TARGET", "METRICS", "COLOUR"} <= stated.keys() <= {field.upper() for field in tasks.Facts._fields}
    own = {name for name, value in vars(space["Task"]).items() if callable(value)}
    assert own == base.Task.__abstractmethods__ and len(own) == 5 and "These five methods must be there" in first
    offered = told(first, r"The others have a default in `pipeline/tasks/base.py`: (.*?)\. ")
    assert all(hasattr(base.Task, name) for name in re.findall(r"`(\w+)`", offered))
    page, whole = methods(block), methods(SHADE)
    assert page.keys() <= whole.keys()
    assert all(page[name] == whole[name] for name in ("check", "loss", "apart", "measure"))
    kept = {}
    exec(SHADE, kept)
    assert all(kept[name] == space[name] for name in ("TARGET", "COLOUR"))
    assert all(kept["METRICS"][key] == value for key, value in space["METRICS"].items())

    # -- loss and metrics, of five images in batches of two, the third batch without a valid pixel
    task = space["Task"](tasks.Facts("shade", **{name.lower(): value for name, value in stated.items()}))
    metric, = (Metric(task="shade", **value) for value in space["METRICS"].values())
    assert metric.better == -1 and task.channels({}) == 1
    draw = torch.Generator().manual_seed(0)
    target = torch.rand(5, 1, 4, 6, generator=draw) + 0.1
    assert task.check([shade.numpy() for shade in target[:, 0]], {}) is None
    with pytest.raises(ValueError, match="it is 2[0-9.]+ at most.*divide by 255"):
        task.check([255 * shade.numpy() for shade in target[:, 0]], {})
    target[torch.rand(target.shape, generator=draw) < 0.3] = 0
    target[4] = 0
    prediction = torch.rand(5, 1, 4, 6, generator=draw, requires_grad=True)
    valid, error = target != 0, (prediction - target).abs()
    loss = task.loss(prediction, {"shade": target}, "own")
    assert torch.allclose(loss, error[valid].mean())
    loss.backward()
    assert (prediction.grad[~valid] == 0).all() and (prediction.grad[valid] != 0).all()
    images, pooled = task.measure(prediction.detach(), {"shade": target}, 1, 2)
    official, dataset = task.summarise(images, pooled, 1, 2)
    means = [error[first:first + 2][valid[first:first + 2]].mean().item() for first in (0, 2)]
    assert official == pytest.approx([np.mean(means)], rel=1e-5)
    assert dataset == pytest.approx([error[valid].mean().item()], rel=1e-5)
