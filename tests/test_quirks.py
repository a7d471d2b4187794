"""Each behaviour of the released code behind its switch does what its sentence says, and nothing else changes."""

import dataclasses

import torch
from conftest import change, folder_of, row_of, run

from models.adaptor import Adaptor
from pipeline import objectives, train
from pipeline.config import params
from pipeline.data.split import Split
from pipeline.loop import epoch
from pipeline.loop.schedule import learning_rate
from pipeline.runtime import weights
from pipeline.teachers import networks, sources

CPU = torch.device("cpu")
STEP = {"lr": 1e-4, "schedule": "step", "step_every": 100, "step_factor": 0.5, "step_from": None, "epochs": 200}


def quirk(name):
    row = row_of("quirks", "student", "segnet", name)
    for one in (row, *row["teachers"].values()):               # of the code, which no option changes
        del one["code"]
    return row


def test_a_row_differs_from_the_clean_one_in_its_own_switch_only(folder):
    clean = quirk("ours")
    expected = {"quirk-normal-mask": ("switches", "normal_mask", "depth"), "quirk-schedule": (
        "switches", "step_first", True), "quirk-drop-last": ("switches", "drop_last", False), "quirk-teacher": (
        "features", "teacher", "last_batch"), "quirk-teacher-bn": ("method", "teacher_bn", "batch"), "quirk-adaptor": (
        "method", "adaptor_init", "torch")}
    assert set(expected) == set(params.load("quirks").student.rows) - {"ours"}
    for name, (section, key, value) in expected.items():
        row = quirk(name)
        assert row[section][key] == value != clean[section][key]
        row[section][key] = clean[section][key]
        row["name"], row["folder"] = "ours", clean["folder"]
        row["cacheable"] = True
        assert row == clean, name


def test_the_scheduler_stepped_first_is_an_epoch_early():
    """Quirk Q2: halved at 99, and a quarter for the last epoch, 199."""
    def rates(early):
        return [learning_rate(STEP, number, 0, 10, early) for number in (98, 99, 100, 198, 199)]
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
    run(prepare, "rooms")
    change(("{epochs: 2,", "{epochs: 3,"))
    seen, original = [], epoch.gradients

    def told(*arguments, **named):
        found, *rest = original(*arguments, **named)
        number, step = divmod(len(seen), 2)
        # the mean falls with the epochs, the last batch's loss is lowest in the second
        losses = [loss * 0 + ((9.0, 5.0), (7.0, 1.0), (2.0, 3.0))[number][step] for loss in found.losses]
        seen.append({key: value.clone() for key, value in arguments[0].state_dict().items()})
        return dataclasses.replace(found, losses=losses), *rest
    monkeypatch.setattr(epoch, "gradients", told)
    run(train, "rooms", "teacher", "segnet", "depth", "0")
    states = weights.read(folder_of("rooms", "segnet", "depth", 0) / "weights.pt", "")
    name = "encoder.0.first.0.0.weight"
    assert set(states) == {"last", "train_loss", "last_batch"}
    assert torch.equal(states["train_loss"][name], states["last"][name])
    assert torch.equal(states["last_batch"][name], seen[4][name])               # before the third epoch's first step


def test_another_epoch_of_the_teachers_runs_live_in_eval_mode(copy):
    change(("rows: [ours]", "rows: [ours, quirk-teacher]"),
           ("\nmethods:\n", "\nmethods:\n  quirk-teacher: {like: ours, teacher: last_batch}\n"))
    row = row_of("rooms", "student", "segnet", "quirk-teacher", "0")
    split = Split("out/rooms/data", "train", CPU)
    model = networks.network(row, row["tasks"], split.classes, CPU)
    objective = objectives.load("feature_distillation", row, model, split, CPU)
    _, distance = objective.parts
    for task, source in distance.sources.items():
        state = weights.read(networks.weights_file(row, task), "")["last_batch"]
        assert isinstance(source, sources.Live) and not source.network.training
        assert all(torch.equal(value, state[key]) for key, value in source.network.state_dict().items())
