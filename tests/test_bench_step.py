"""The benchmark of a step: every variant computes the same, is timed and measured, and nothing wrong is timed."""

import multiprocessing
import re

import pytest
import torch

from pipeline.bench import recipe, step
from pipeline.runtime import files
from pipeline.runtime.errors import UserError
from pipeline.teachers import sources

WORDS = ("segnet", "batch=2", "size=32x64", "width=0.125", "rounds=1")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setenv("DEVICE", "cpu")
    for name in ("FEATURES", "KERNELS"):
        monkeypatch.delenv(name, raising=False)


def test_every_variant_is_checked_timed_and_measured(capsys, monkeypatch):
    context = multiprocessing.get_context("forkserver")        # imports once for all: on a CPU that does no harm
    context.set_forkserver_preload(["pipeline.bench.step"])
    monkeypatch.setenv("PYTHONPATH", str(files.PROJECT))
    monkeypatch.setattr(step, "get_context", lambda _: context)
    with pytest.raises(SystemExit) as end:
        step.main(*WORDS)
    out = capsys.readouterr().out
    assert end.value.code == 0 and "check: passed" in out
    rows = re.findall(r"^  (.+?) +([\d.]+) +([\d.]+) +([\d.]+)x +([\d.]+) +(-?[\d.]+)% +-$", out, re.M)
    assert [row[0] for row in rows] == step.EAGER
    assert all(float(value) > 0 for row in rows for value in row[1:5])
    ratios = re.findall(r"^  (plain / cached|cached KD / uniform), .* ([\d.]+)x$", out, re.M)
    assert len(ratios) == 6 and all(float(value) > 0 for _, value in ratios)
    assert len(re.findall(r"[\d.]+% of its step$", out, re.M)) == 3


def test_no_speed_comes_from_wrong_features(capsys, monkeypatch):
    right = sources.Cached.batch

    def perturbed(*arguments):
        return {tap: (stored * 1.01, energy) for tap, (stored, energy) in right(*arguments).items()}
    monkeypatch.setattr(sources.Cached, "batch", perturbed)
    monkeypatch.setattr(step, "made", lambda names, *of: (
        dict.fromkeys(names, 1.0), {name: step.make(name, *of) for name in names}))
    with pytest.raises(SystemExit) as end:
        step.main(*WORDS)
    out, err = capsys.readouterr()
    assert end.value.code == 1 and "speed" not in out and "of its step" not in out
    assert "check: cached, contiguous float32: the " in out and " is off by " in err


def test_words():
    assert step.asked(()) == (["segnet", "mtan"], [2, 8], (288, 384), 1.0, 3, [])
    assert step.asked(("mtan", "batch=4", "batch=1", "size=96x128", "width=0.25", "rounds=5", "compiled")) == (
        ["mtan"], [4, 1], (96, 128), 0.25, 5, ["compiled"])


@pytest.mark.parametrize("word", ["resnet", "batch=", "batch=0", "size=288", "width=-1", "segnet=1", "rounds"])
def test_words_that_are_none(word):
    with pytest.raises(UserError, match=f"'{re.escape(word)}' is not understood"):
        step.asked((word,))


def test_training_metrics_of_the_recipe():
    """The worked numbers of KD4MTL's definitions: mIoU 0.316667, accuracy 0.690476, depth errors 0.70 and 0.21."""
    label = torch.tensor([[[0, 0, 1, -1], [0, 1, 1, -1]], [[2, 2, 2, 2], [-1, 2, 0, 0]]])
    chosen = torch.tensor([[[0, 1, 1, 1], [0, 1, 2, 0]], [[2, 2, 0, 2], [2, 2, 0, 1]]])
    depth, found = torch.zeros(2, 1, 2, 4), torch.zeros(2, 1, 2, 4)
    depth[0, 0, :, :2], found[0, 0, :, :2] = torch.tensor([[1, 2], [0, 4]]), torch.tensor([[1.5, 2], [3, 3]])
    depth[1, 0, 1, :2], found[1, 0, 1, :2] = torch.tensor([5, 10]), torch.tensor([4, 11])
    angles, normal, predicted = torch.tensor([10.0, 20, 40]).deg2rad(), torch.zeros(2, 3, 2, 4), torch.zeros(2, 3, 2, 4)
    normal[0, 2, 0, :3], predicted[0, 2, 0, :3], predicted[0, 0, 0, :3] = 1, angles.cos(), angles.sin()
    plain = object.__new__(recipe.Recipe)
    plain.where, plain.classes = torch.device("cpu"), {"semantic": ["a", "b", "c"]}
    metrics = plain.metrics({"semantic": torch.nn.functional.one_hot(chosen).permute(0, 3, 1, 2), "depth": found,
                             "normal": predicted}, {"label": label, "depth": depth, "normal": normal})
    assert metrics == pytest.approx([0.316667, 0.690476, 0.7, 0.21, 70 / 3, 20, 1 / 3, 2 / 3, 2 / 3], abs=1e-5)
