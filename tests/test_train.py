"""The loop: same bits twice, after kill -9 anywhere, and sentences for what cannot go on."""

import pathlib
import random
import shutil
import signal

import pytest
import torch
from conftest import change, command, folder_of, heads, row_of, run

import models
from pipeline import evaluate, features, rows, train
from pipeline.data.split import Split
from pipeline.loop import checkpoint, epoch
from pipeline.loop.curve import read
from pipeline.loop.schedule import learning_rate
from pipeline.runtime import documents, files
from pipeline.runtime.errors import UserError
from pipeline.teachers import store

# Runs a stage and kills itself (SIGKILL, nothing is cleaned up) when the named call comes the n-th time.
KILL = """
import importlib, os, signal, sys
owner, name, n, module, *words = sys.argv[1:]
holder = importlib.import_module(owner.split(':')[0])
for part in owner.split(':')[1:]:
    holder = getattr(holder, part)
called, original = 0, getattr(holder, name)
def killing(*a, **k):
    global called
    called += 1
    if called == int(n):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*a, **k)
setattr(holder, name, killing)
importlib.import_module(module).main(*words)
"""
TEACHER = ("pipeline.train", "rooms", "teacher", "segnet", "semantic", "0")
FEATURES = ("pipeline.features", "rooms", "teacher", "segnet", "semantic", "0")
STUDENT = ("pipeline.train", "rooms", "student", "segnet", "ours", "0")
RANDOM = random.Random(20261120)
# Two epochs of two steps: a teacher steps Adam 4 times, a student 8 (network and adaptors); a stage's files are renamed
# into place one by one; the smoke set's features are one batch, its writes progress, manifest and tracked manifest.
KILLS = {
    "teacher-step": (TEACHER, "torch.optim:Adam", "step", RANDOM.randint(1, 4)),
    "teacher-file": (TEACHER, "os", "replace", RANDOM.randint(1, 6)),
    "features-write": (FEATURES, "pipeline.runtime.files", "write", RANDOM.randint(1, 3)),
    "student-step": (STUDENT, "torch.optim:Adam", "step", RANDOM.randint(1, 8)),
    "student-backward": (STUDENT, "pipeline.balancers", "backward", RANDOM.randint(3, 4)),
    "student-file": (STUDENT, "os", "replace", RANDOM.randint(2, 6)),
}


def results(stage):
    """Bits of what a stage leaves, timings apart."""
    if stage is FEATURES:
        paths = [*store.BULK.rglob("*.npy"), *pathlib.Path("out/rooms/features").rglob("semantic.json")]
    else:
        folder = folder_of(stage[1], *stage[3:])
        paths = [folder / name for name in ("weights.pt", "curve.csv", "run.yaml")]
    return {str(path): path.read_bytes() for path in paths}


@pytest.mark.parametrize("where", KILLS)
def test_killed_run_ends_with_the_same_bits(copy, where, capsys):
    stage, owner, name, n = KILLS[where]
    expected = results(stage)
    if stage is FEATURES:
        shutil.rmtree(store.BULK)
    else:
        shutil.rmtree(folder_of(stage[1], *stage[3:]))
    killed = command(owner, name, str(n), *stage, code=KILL, cwd=copy)
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    again = command(*stage, cwd=copy)
    assert again.returncode == 0, again.stderr
    found = results(stage)
    if stage is FEATURES:      # the other tasks' features went with the folder
        expected = {key: value for key, value in expected.items() if key in found}
        assert len(found) == 3
    assert found == expected
    assert not list(files.WORK.glob("*segnet-*"))


def test_run_goes_on_from_its_last_epoch(copy):
    shutil.rmtree(folder_of(STUDENT[1], *STUDENT[3:]))
    killed = command("pipeline.balancers", "backward", "4", *STUDENT, code=KILL, cwd=copy)
    assert killed.returncode == -signal.SIGKILL
    assert "going on from epoch 1" in command(*STUDENT, cwd=copy).stdout


def test_changed_row_never_goes_on_from_another_rows_state(copy):
    shutil.rmtree(folder_of(STUDENT[1], *STUDENT[3:]))
    command("pipeline.balancers", "backward", "4", *STUDENT, code=KILL, cwd=copy)
    change(("normal: 2.0", "normal: 3.0"))
    rows.main("rooms")
    assert "going on" not in command(*STUDENT, cwd=copy).stdout
    change(("normal: 3.0", "normal: 2.0"))
    rows.main("rooms")
    assert "going on from epoch 1" in command(*STUDENT, cwd=copy).stdout


def test_damaged_state_is_named_and_the_one_before_used(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    kept = checkpoint.Checkpoint("r", "f")
    for number in (1, 2):
        kept.save({"epoch": number})
    assert kept.load() == {"epoch": 2}
    path = kept.folder / "last.state"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert kept.load() == {"epoch": 1}
    assert "last.state is damaged" in capsys.readouterr().err


def test_same_seed_same_bits_other_seed_other_bits(copy):
    before = results(TEACHER)
    run(train, *TEACHER[1:])
    assert results(TEACHER) == before
    change(("seeds: [0]", "seeds: [0, 1]"))
    run(train, "rooms", "teacher", "segnet", "semantic", "1")
    assert list(results((*TEACHER[:5], "1")).values())[0] != list(before.values())[0]


@pytest.mark.parametrize("batches", [10, 37])
def test_onecycle_equals_torch(batches):
    training = {"lr": 0.01, "schedule": "onecycle", "epochs": 7}
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.01, total_steps=7 * batches)
    for step in range(7 * batches):
        ours = learning_rate(training, step // batches, step % batches, batches)
        assert ours == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-9)
        optimiser.step()
        theirs.step()


def test_step_schedule_is_the_papers():
    """method/kd4mtl.md section 10.8, intended: 1e-4 for epochs 0..99, 5e-5 for 100..199."""
    training = {"lr": 1e-4, "schedule": "step", "step_every": 100, "step_factor": 0.5, "step_from": None}
    rates = [learning_rate(training, number, 0, 397) for number in range(200)]
    assert rates == [1e-4] * 100 + [5e-5] * 100


def test_steps_begin_with_an_epoch():
    """method/aligned_mtl.md section 2.1: times 0.7 after epochs 42, 45, ..., 57 of 60; finally 1.176e-5."""
    training = {"lr": 1e-4, "schedule": "step", "step_every": 3, "step_factor": 0.7, "step_from": 40}
    rates, expected, rate = [learning_rate(training, number, 0, 371) for number in range(60)], [], 1e-4
    for finished in range(60):
        rate *= 0.7 if finished >= 40 and finished % 3 == 0 else 1
        expected.append(rate)
    assert rates == pytest.approx(expected, rel=1e-12) and rates[41:43] == [1e-4, 1e-4 * 0.7]
    assert rates[-1] == pytest.approx(1.176e-5, rel=1e-3)
    at_once = [learning_rate(training | {"step_from": begin}, 42, 0, 371) for begin in (42, 43)]
    assert at_once == [1e-4 * 0.7, 1e-4]


def test_students_and_baselines_start_from_the_same_weights(copy):
    """Paired seeds: methods of one seed differ only by what they do."""
    from pipeline.teachers import networks
    weights = []
    for stage, name in (("baseline", "uniform"), ("student", "ours")):
        row = row_of("rooms", stage, "segnet", name, "0")
        torch.manual_seed(row["seed"])
        weights.append(networks.network(row, row["tasks"], {"semantic": range(13)}, torch.device("cpu")).state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_students_weights_hold_no_adaptor(copy):
    states = [torch.load(folder_of("rooms", "segnet", name) / "weights.pt", weights_only=True)
              for name in ("uniform", "ours")]
    assert states[0]["last"].keys() == states[1]["last"].keys()


def test_exploding_run_stops_with_a_sentence(copy):
    change(("lr: 1.0e-3", "lr: 1.0e+30"))
    with pytest.raises(UserError, match=r"segnet-uniform-s0: loss_\w+ is not finite at epoch 1, step 2|not finite"):
        run(train, "rooms", "baseline", "segnet", "uniform", "0")


@pytest.mark.parametrize("adaptor, taps", [("nonlinear", "[mid, last]"), ("none", "[last]"), ("linear", "[mid]")])
def test_every_kind_of_adaptor_trains(copy, adaptor, taps):
    change(("adaptor: linear", f"adaptor: {adaptor}"), ("[mid, last]", taps))
    run(train, "rooms", "student", "segnet", "ours", "0")
    curve, _ = read(folder_of("rooms", "segnet", "ours", 0), "")
    assert 0 < curve[-1]["distance_semantic"] < 4 * len(taps.split(","))


def test_fused_training_follows_the_reference(copy, monkeypatch):
    """Six steps in float64, where the curves part by 1e-15, 1e-11, 1e-6; Adam multiplies a difference by 1e5 an epoch.

    In float32 they would part by 5e-7 in the first epoch and by 5e-3 in the second, as two orders of summation do.
    """
    change(("{epochs: 2,", "{epochs: 3,"))
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    curves = []
    torch.set_default_dtype(torch.float64)
    try:
        for kernels in ("fused", "reference"):
            monkeypatch.setenv("KERNELS", kernels)
            run(train, "rooms", "student", "segnet", "ours", "0")
            curves.append(read(folder_of("rooms", "segnet", "ours", 0), "")[0])
    finally:
        torch.set_default_dtype(torch.float32)
    names = [name for name in curves[0][0] if name.startswith(("loss_", "distance"))]
    assert len(names) == 7 and len(curves[0]) == 3
    fused, plain = (torch.tensor([[line[name] for name in names] for line in curve], dtype=torch.float64)
                    for curve in curves)
    assert plain[-1, names.index("distance")] < plain[0, names.index("distance")]
    assert not torch.equal(fused, plain)
    for number, bound in enumerate((1e-13, 1e-9, 1e-3)):
        torch.testing.assert_close(fused[number], plain[number], rtol=bound, atol=0)


def test_teachers_in_batch_mode_run_live(copy, capsys):
    change(("teacher_bn: running", "teacher_bn: batch"))
    run(train, "rooms", "student", "segnet", "ours", "0")
    assert "live, batch norm in train mode" in capsys.readouterr().out


def test_missing_or_damaged_inputs_are_named(copy):
    weights = folder_of("rooms", "segnet", "semantic") / "weights.pt"
    good = weights.read_bytes()
    weights.write_bytes(good[:1000])
    with pytest.raises(UserError, match=r"weights.pt is damaged .*semantic-s0; dvc repro -s teacher@segnet-semantic-0"):
        run(features, "rooms", "teacher", "segnet", "semantic", "0")
    weights.unlink()
    with pytest.raises(UserError, match="weights.pt is not there; run `dvc repro teacher@segnet-semantic-0`"):
        run(features, "rooms", "teacher", "segnet", "semantic", "0")
    pathlib.Path("out/rooms/data/train/depth.npy").write_bytes(b"x")
    with pytest.raises(UserError, match="depth.npy is damaged.*rm -rf out/rooms/data; dvc repro -s prepare"):
        Split("out/rooms/data", "train", torch.device("cpu"))
    pathlib.Path("out/rooms/data/manifest.json").unlink()
    with pytest.raises(UserError, match="run `dvc repro prepare`"):
        Split("out/rooms/data", "train", torch.device("cpu"))


def test_weights_and_curve_of_two_runs_are_told_apart(copy):
    theirs, ours = (folder_of("rooms", "segnet", name) for name in ("uniform", "ours"))
    shutil.copy(theirs / "weights.pt", ours)
    with pytest.raises(UserError, match="student/segnet-ours-s0/weights.pt is damaged or belongs elsewhere"):
        run(evaluate, "rooms", "student", "segnet", "ours", "0")
    parts = {"weights.pt": theirs / "weights.pt", "curve.csv": ours / "curve.csv"}           # and with their checksums
    documents.write_run(ours, {name: path.read_bytes() for name, path in parts.items()},
                        documents.read(ours / "cost.json", str))
    with pytest.raises(UserError, match="not of one run"):
        run(evaluate, "rooms", "student", "segnet", "ours", "0")


@pytest.mark.parametrize("adaptor", ["linear", "nonlinear", "none"])
def test_bfloat16_follows_float32(copy, adaptor):
    """Half the digits in the convolutions, losses and measurement in float32: the curves part by a few per cent."""
    change(("adaptor: linear", f"adaptor: {adaptor}"), ("    towards: last ", "    towards: own "),
           ("width: 0.125", "width: 0.125, precision: none"))
    ends, before = {}, "none"
    for precision in ("float32", "bfloat16"):
        change((f"precision: {before}", f"precision: {precision}"))
        before = precision
        run(train, "rooms", "student", "segnet", "ours", "0")
        assert row_of("rooms", "student", "segnet", "ours", "0")["train"]["precision"] == precision
        curve, _ = read(folder_of("rooms", "segnet", "ours", 0), "")
        ends[precision] = curve
    for exact, coarse in zip(*ends.values(), strict=True):
        for key in ("loss_semantic", "loss_depth", "loss_normal", "distance"):
            assert coarse[key] == pytest.approx(exact[key], rel=0.07)
    assert ends["float32"] != ends["bfloat16"]


def test_predictions_are_float32_under_autocast():
    model = models.load("segnet", heads({"depth": 1, "normal": 3}), width=0.125)
    predictions, features = epoch.outputs(model, torch.rand(1, 3, 32, 64), "bfloat16")
    assert features["depth"]["last"].dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 for p in predictions.values())
    torch.testing.assert_close(predictions["normal"].norm(dim=1), torch.ones(1, 32, 64))
