"""Two domains through one network (KD4MTL's Table 1): whose image is whose, from a batch's order to the table."""

import json
import pathlib
import re
import shutil

import conftest
import pytest
import torch
import torch.nn.functional as F
from conftest import change, enter, folder_of, lay, run, run_all

from kernels.packing import normalise
from pipeline import data, figures, objectives, plan, prepare, table, train
from pipeline import tasks as judged
from pipeline.data.split import Split
from pipeline.loop.curve import read
from pipeline.loop.order import check_enough, epoch_of
from pipeline.runtime import distributed
from pipeline.runtime.errors import UserError
from pipeline.tasks.tally import Tally
from pipeline.teachers import networks as taught

TASKS = ("digits", "characters")
CPU = torch.device("cpu")
ROWS = (("baseline", "uniform"), ("student", "bam-domains"), ("student", "ours-domains"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which the suite domains has run at smoke size, but for its table."""
    place = tmp_path_factory.mktemp("domains")
    lay(place)
    with pytest.MonkeyPatch.context() as patches:
        enter(place, patches)
        change(("rows: [uniform, uncert, mgda, gradnorm]", "rows: [uniform]"), suite="domains")
        run_all("domains", "lenet", TASKS, ROWS)
    torch.use_deterministic_algorithms(False)
    return place


@pytest.fixture
def domains(finished, tmp_path, monkeypatch):
    """A copy of it as the working folder."""
    shutil.copytree(finished, tmp_path / "domains")
    enter(tmp_path / "domains", monkeypatch)


def row_of(group="student", name="ours-domains"):
    return conftest.row_of("domains", group, "lenet", name)


# -- batches

def test_half_of_a_batch_is_of_each_domain_and_the_smaller_begins_again(domains):
    split, row = Split("out/domains/data", "train", CPU), row_of()
    digits, characters = (split.domains[task] for task in TASKS)
    assert (list(digits), list(characters)) == (list(range(12)), list(range(12, 20)))
    batches = epoch_of(split, row, 0)
    assert [[sum(i in digits for i in batch), len(batch)] for batch in batches] == [[4, 8]] * 3
    own = [[i for batch in batches for i in batch if i in places] for places in (digits, characters)]
    assert sorted(own[0]) == list(digits)                         # the larger once
    assert sorted(own[1][:8]) == list(characters) and own[1][8:] == own[1][:4]
    assert epoch_of(split, row, 0) == batches != epoch_of(split, row, 1)
    assert epoch_of(split, row | {"seed": 1}, 0) != batches
    assert epoch_of(split, row_of("baseline", "uniform"), 0) == batches


def test_a_teacher_sees_its_own_domain_only(domains):
    split = Split("out/domains/data", "train", CPU)
    for task, steps in zip(TASKS, (3, 2), strict=True):
        batches = epoch_of(split, row_of("teacher", task), 0)
        assert sorted(sum(batches, [])) == list(split.domains[task])
        assert [len(batch) for batch in batches] == [4] * steps


def test_images_are_normalised_by_their_own_domain(domains):
    split, manifest = Split("out/domains/data", "train", CPU), data.load_manifest("out/domains/data")
    index = [13, 2, 19]
    image, targets = split.batch(index)
    for place, task, x in zip(index, ("characters", "digits", "characters"), image, strict=True):
        mean, deviation = (torch.tensor(numbers)[:, None, None] for numbers in manifest["moments"][task])
        raw = split.arrays["image"][place].permute(2, 0, 1).float() / 255
        torch.testing.assert_close(x * deviation + mean, raw)
    assert (targets["digits"] >= 0).tolist() == [False, True, False]
    assert (targets["characters"] >= 0).tolist() == [True, False, True] and targets["digits"].shape == (3,)


def test_several_processes_are_refused(domains, monkeypatch):
    split, test, row = *(Split("out/domains/data", name, CPU) for name in ("train", "test")), row_of()
    monkeypatch.setattr(distributed, "size", lambda: 2)
    with pytest.raises(UserError, match="NPROC is 2, but batches of digits and characters are not shared; set NPROC=1"):
        check_enough(epoch_of(split, row, 0), split, test, row, taught.network(row, TASKS, split.classes, CPU))


# -- losses and metrics

def drawn(images=7, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    predictions = {task: torch.randn(images, classes, generator=generator).log_softmax(1) for task in TASKS}
    label = torch.randint(classes, (images,), generator=generator)
    mine = torch.arange(images) % 2 == 0
    return predictions, {"digits": label.where(mine, -1), "characters": label.where(~mine, -1)}


def test_an_image_without_a_label_adds_nothing_to_a_loss():
    predictions, targets = drawn()
    predictions = {task: p.requires_grad_() for task, p in predictions.items()}
    found = judged.losses(predictions, targets)
    for task, loss in zip(TASKS, found, strict=True):
        mine = targets[task] >= 0
        assert loss.item() == pytest.approx(F.nll_loss(predictions[task][mine], targets[task][mine]).item(), rel=1e-6)
        gradient, = torch.autograd.grad(loss, predictions[task])
        assert not gradient[~mine].any() and gradient[mine].any(1).all()
    nobody = {task: torch.full((7,), -1) for task in TASKS}
    assert [loss.item() for loss in judged.losses(predictions, nobody)] == [0, 0]


def test_a_match_is_over_the_images_of_the_tasks_own_domain():
    (ours, targets), (theirs, _) = drawn(seed=0), drawn(seed=1)
    for task, match in zip(TASKS, judged.matches(ours, theirs, targets, 2.0), strict=True):
        mine = targets[task] >= 0
        p, q = ((x[task][mine] / 2).log_softmax(1) for x in (ours, theirs))
        divergence = F.kl_div(p, q, log_target=True, reduction="batchmean")
        assert match.item() == pytest.approx(4 * divergence.item(), rel=1e-5)


def test_accuracy_is_of_the_labelled_images():
    predictions, targets = drawn(40)
    classes = {task: list("abcd") for task in TASKS}

    def measured(index, batch=1):
        tally = Tally(TASKS, classes, "cpu", batch)
        tally.update(*({key: x[index] for key, x in part.items()} for part in (predictions, targets)))
        return tally.results()
    found = measured(range(40))
    assert found["official"] == found["dataset"] and list(found["official"]) == ["digits_acc_pct", "characters_acc_pct"]
    for task in TASKS:
        mine = targets[task] >= 0
        right = (predictions[task].argmax(1) == targets[task])[mine]
        assert found["official"][f"{task}_acc_pct"] == pytest.approx(100 * right.float().mean().item())
        own = measured(mine.nonzero()[:, 0])["official"]
        assert own[f"{task}_acc_pct"] == found["official"][f"{task}_acc_pct"]
        assert all(value != value for key, value in own.items() if not key.startswith(task))       # nothing to judge
    assert measured(range(40), 7)["official"] == found["official"]
    predictions["digits"][3, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="digits prediction is not finite"):
        measured(range(40))


# -- distillation

@pytest.mark.parametrize("kernels", ["fused", "reference"])
def test_a_distance_is_over_the_tasks_own_images(domains, monkeypatch, kernels):
    monkeypatch.setenv("KERNELS", kernels)
    split, row = Split("out/domains/data", "train", CPU), row_of()
    torch.manual_seed(0)
    model = taught.network(row, TASKS, split.classes, CPU)
    objective = objectives.load("feature_distillation", row, model, split, CPU)
    index = epoch_of(split, row, 0)[0]
    image, targets = split.batch(index)
    objective.prefetch(index)
    predictions, maps = model(image)
    found = objective(objectives.Step(index, image, predictions, maps, targets, lr=1e-3))
    (_, distances), terms = objective.parts, found.terms
    total = 0.0
    for task in TASKS:
        mine = [k for k, i in enumerate(index) if i in split.domains[task]]
        with torch.no_grad():
            teacher = taught.load(row, task, split.classes, CPU)
            goal = normalise(teacher.features(image[mine])[task]["last"])[0]
        adapted = normalise(maps[task]["last"][mine] @ distances.adaptors[f"{task}_last"].weight.T)[0]
        distance = (adapted - goal).square().sum(-1).mean()
        assert found.logged[f"distance_{task}"].item() == pytest.approx(4.0 * distance.item(), rel=2e-3)      # float16
        total = total + 4.0 * distance
    assert terms["distance"].item() == pytest.approx(total.item(), rel=2e-3)
    shared = model.connected.weight
    ours, theirs = (torch.autograd.grad(x, shared, retain_graph=True)[0] for x in (terms["distance"], total))
    assert (ours - theirs).norm() < 5e-3 * theirs.norm()


def test_cached_features_are_those_of_live_teachers(domains, monkeypatch):
    curves = {"cached": read(folder_of("domains", "lenet", "ours-domains", 0), "")[0]}
    monkeypatch.setenv("FEATURES", "live")
    run(train, "domains", "student", "lenet", "ours-domains", "0")
    curves["live"] = read(folder_of("domains", "lenet", "ours-domains", 0), "")[0]
    for one, other in zip(*curves.values(), strict=True):
        for key in ("distance_digits", "distance_characters", "loss_digits", "loss_characters"):
            assert one[key] == pytest.approx(other[key], rel=1e-2) and one[key] > 0


# -- the suite

def test_from_the_images_to_the_table(domains, capsys):
    results = {file.stem: json.loads(file.read_text()) for file in pathlib.Path("out/domains/metrics").rglob("*.json")}
    assert len(results) == 5
    assert list(results["lenet-digits-s0"]["rules"]["median20"]["official"]) == ["digits_acc_pct"]
    run(table, "domains", "table1")
    text = pathlib.Path("out/tables/table1.md").read_text()
    assert "drawn digits and characters" in text and "Not run" not in text and "88.84" not in text
    assert re.search(r"\| Method +\|  +\| Digits +\| Characters +\| Avg +\| Delta_MTL +\| n", text)
    cells = {(c["method"], c["metric"]): c["mean"] for c in json.loads(pathlib.Path(
        "out/tables/table1.json").read_text())["cells"] if (c["rule"], c["protocol"]) == ("median20", "official")}
    for _, name in ROWS:
        own = results[f"lenet-{name}-s0"]["rules"]["median20"]["official"]
        assert cells[name, "average_pct"] == pytest.approx(sum(own.values()) / 2)
        assert (name, "miou_pct") not in cells
    for old, new, shown in (("data: glyphs ", "data: svhn_omniglot ", True),
                            ("digits: svhn ", "digits: mnist ", False)):
        change((old, new), suite="domains")
        run(table, "domains", "table1")
        text = pathlib.Path("out/tables/table1.md").read_text()
        assert ("88.84" in text and "79.09" in text and "| paper" in text) == shown
    capsys.readouterr()
    run(figures, "domains")
    assert "out/figures/domains-lenet-ours-domains-s0.svg" in capsys.readouterr().out


def test_what_the_students_leave(domains):
    for name, terms in (("ours-domains", "distance"), ("bam-domains", "match")):
        curve, cost = read(folder_of("domains", "lenet", name, 0), "")
        assert len(curve) == 2 and cost["steps"] == 6
        for line in curve:
            assert all(line[f"{terms}_{task}"] > 0 and 0 <= line[f"official.{task}_acc_pct"] <= 100 for task in TASKS)
    assert prepare.montage("domains") is None and pathlib.Path("out/domains/montage.png").exists()


def test_the_plan_knows_the_steps_of_a_pair(domains):
    timed = plan.records()
    for group, name in (*(("teacher", task) for task in TASKS), *ROWS):
        cost = json.loads((folder_of("domains", "lenet", name, 0) / "cost.json").read_text())
        seconds, scaled = plan.seconds_of(row_of(group, name), timed)
        assert seconds == pytest.approx(cost["seconds_per_step"] * cost["steps"]) and not scaled, name
