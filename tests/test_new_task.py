"""A new dense task is a file of its own, what its data set's reader gives, and a row: a toy one goes all the way, from
its target to the table, in a copy of the project to which two files are added."""

import json
import shutil

from conftest import ROOT, change, command, folder_of, shipped, smoke

from pipeline.loop.curve import read

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
        means = [[total / pixels / counts.FIXED] for pixels, total in (*batches, counts.totals(batches))]
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

from pipeline import evaluate, features, figures, prepare, rows, table, train

rows.main("rooms")
prepare.main("rooms")
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


def files(root):
    """{path: text} of the code under a root."""
    return {str(file.relative_to(root)): file.read_text() for name in ("pipeline", "models", "kernels")
            for file in (root / name).rglob("*") if file.is_file() and file.suffix != ".pyc"}


def test_a_file_a_reader_and_a_row_are_all_it_takes(tmp_path, monkeypatch):
    """One test, since the run behind it is tens of seconds."""
    for name in ("pipeline", "models", "kernels"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(smoke(shipped("rooms")))
    change(*ROWS)
    (tmp_path / "pipeline/tasks/shade.py").write_text(SHADE)
    (tmp_path / "pipeline/data/shaded.py").write_text(READER)
    done = command(code=RUN, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr

    # -- the files touched
    before, after = files(ROOT), files(tmp_path)
    touched = {name for name in before.keys() | after if before.get(name) != after.get(name)}
    assert touched == {"pipeline/tasks/shade.py", "pipeline/data/shaded.py"}

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
    kept = json.loads((tmp_path / "out/rooms/metrics/baseline/segnet-uniform-s0.json").read_text())
    for rule, protocols in kept["rules"].items():
        for values in protocols.values():
            assert ("shade_worst" in values) == (rule in ("last", "train_loss"))
            assert values["shade_err"] <= values.get("shade_worst", 1e9)

    # -- it stands in the table, with its digits, and is drawn
    header, _, *lines = [line.split("|")[1:-1] for line in (tmp_path / "out/tables/table2.md").read_text().split(
        "## ")[1].splitlines() if line.startswith("|")]
    titles = [cell.strip() for cell in header]
    assert titles[2:-1] == ["mIoU", "Pix Acc", "Shade Err", "Shade Worst", "Delta_MTL"] and len(lines) == 4
    for line in lines:
        error, worst = (line[titles.index(title)].strip() for title in ("Shade Err", "Shade Worst"))
        assert len(error.split(".")[1]) == 3 and len(worst.split(".")[1]) == 2
    for file in ("out/rooms/montage.png", "out/figures/rooms-segnet-ours-s0.png"):
        assert (tmp_path / file).read_bytes()[:4] == b"\x89PNG"
