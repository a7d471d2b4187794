"""Each behaviour of the released code behind its switch does what its sentence says, and nothing else changes."""

import torch

from models.adaptor import Adaptor
from pipeline import data, objectives, train
from pipeline.config import params
from pipeline.loop import checkpoint
from pipeline.teachers import networks, sources

CPU = torch.device("cpu")
STEP = {"lr": 1e-4, "schedule": "step", "step_every": 100, "step_factor": 0.5, "epochs": 200}


def row_of(name):
    return params.load().resolve("quirks", "student", "segnet", name, "0")


def test_a_row_differs_from_the_clean_one_in_its_own_switch_only(folder):
    clean = row_of("ours")
    expected = {"quirk-normal-mask": ("switches", "normal_mask", "depth"), "quirk-schedule": (
        "switches", "step_first", True), "quirk-drop-last": ("switches", "drop_last", False), "quirk-teacher": (
        "features", "teacher", "last_batch"), "quirk-teacher-bn": ("method", "teacher_bn", "batch"), "quirk-adaptor": (
        "method", "adaptor_init", "torch")}
    assert set(expected) == set(params.load().suites.quirks.students) - {"ours"}
    for name, (section, key, value) in expected.items():
        row = row_of(name)
        assert row[section][key] == value != clean[section][key]
        row[section][key] = clean[section][key]
        row["method"]["title"], row["name"] = clean["method"]["title"], "ours"
        row["cacheable"] = True
        assert row == clean, name


def test_the_scheduler_stepped_first_is_an_epoch_early():
    """Quirk Q2: halved at 99, and a quarter for the last epoch, 199."""
    def rates(early):
        return [train.learning_rate(STEP, epoch, 0, 10, early) for epoch in (98, 99, 100, 198, 199)]
    assert rates(False) == [1e-4, 1e-4, 5e-5, 5e-5, 5e-5]
    assert rates(True) == [1e-4, 5e-5, 5e-5, 5e-5, 2.5e-5]


def test_adaptors_as_torch_draws_them():
    torch.manual_seed(0)
    weight = Adaptor("linear", 64, 64, "torch").weight
    default = torch.nn.Conv2d(64, 64, 1, bias=False).weight
    assert abs(weight.std() / default.std() - 1) < 0.05 and weight.abs().max() <= 64**-0.5
    assert abs(Adaptor("linear", 64, 64).weight.std() * 8 - 1) < 0.05           # xavier, normal


def test_a_teacher_keeps_its_epoch_of_the_lowest_last_batch(folder, monkeypatch):
    """Quirk Q6. Told which loss the last batch of an epoch has, the epoch of the lowest one is kept."""
    from pipeline import prepare
    prepare.main("rooms")
    text = open("params.yaml").read()
    head, tail = text.split("  smoke:\n")
    open("params.yaml", "w").write(head + "  smoke:\n" + tail.replace("epochs: 2", "epochs: 3", 1))
    seen, original = [], train.gradients

    def told(*arguments, **named):
        losses, *rest = original(*arguments, **named)
        epoch, step = divmod(len(seen), 2)
        # the mean falls with the epochs, the last batch's loss is lowest in the second
        losses = [loss * 0 + ((9.0, 5.0), (7.0, 1.0), (2.0, 3.0))[epoch][step] for loss in losses]
        seen.append({key: value.clone() for key, value in arguments[0].state_dict().items()})
        return losses, *rest
    monkeypatch.setattr(train, "gradients", told)
    train.main("rooms", "teacher", "segnet", "depth", "0")
    states = checkpoint.read_weights(params.folder("rooms", "segnet", "depth", 0) / "weights.pt", "")
    name = "encoder.0.first.0.0.weight"
    assert set(states) == {"last", "train_loss", "last_batch"}
    assert torch.equal(states["train_loss"][name], states["last"][name])
    assert torch.equal(states["last_batch"][name], seen[4][name])               # before the third epoch's first step


def test_another_epoch_of_the_teachers_runs_live_in_eval_mode(copy):
    text = open("params.yaml").read()
    open("params.yaml", "w").write(text.replace("students: [ours]", "students: [ours, quirk-teacher]", 1))
    row = params.load().resolve("rooms", "student", "segnet", "quirk-teacher", "0")
    split = data.Split("rooms", "train", CPU)
    model = networks.network(row, row["tasks"], split.classes, CPU)
    objective = objectives.load("feature_distillation", row, model, split, CPU)
    for task, source in objective.sources.items():
        state = checkpoint.read_weights(networks.weights_file(row, task), "")["last_batch"]
        assert isinstance(source, sources.Live) and not source.network.training
        assert all(torch.equal(value, state[key]) for key, value in source.network.state_dict().items())
