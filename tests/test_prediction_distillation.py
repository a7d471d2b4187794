"""BAM: what is matched, how the teachers' share fades, and that it composes with feature distillation and balancers."""

import csv

import pytest
import torch
import torch.nn.functional as F
from conftest import folder_of, method, run

from pipeline import balancers, tasks, train
from pipeline.balancers import famo
from pipeline.loop import epoch
from pipeline.objectives import supervised
from pipeline.tasks.metrics import train_loss


def student(**changes):
    """Train a student `bam` with these keys changed; (curve, row)."""
    method("bam", **changes)
    run(train, "rooms", "student", "segnet", "bam", "0")
    with open(folder_of("rooms", "segnet", "bam", 0) / "curve.csv") as file:
        return [{key: float(value) for key, value in line.items()} for line in csv.DictReader(file)]


def test_matches_are_zero_for_the_teacher_itself_and_what_the_literature_says_else():
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(2, 13, 4, 5, generator=generator, dtype=torch.float64) for _ in range(2)]
    normals = [F.normalize(torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64), dim=1) for _ in range(2)]
    depths = [torch.rand(2, 1, 4, 5, generator=generator, dtype=torch.float64) for _ in range(2)]
    ours, theirs = ({"semantic": x.log_softmax(1), "depth": d, "normal": n}
                    for x, d, n in zip(logits, depths, normals, strict=True))
    assert torch.stack(tasks.matches(theirs, theirs, {}, 2.0)).abs().max() < 1e-12
    semantic, depth, normal = tasks.matches(ours, theirs, {}, 2.0)
    kl = F.kl_div((logits[0] / 2).log_softmax(1), (logits[1] / 2).softmax(1), reduction="none").sum(1).mean()
    assert semantic == pytest.approx(4 * kl) and depth == pytest.approx((depths[0] - depths[1]).abs().mean())
    assert normal == pytest.approx(1 - F.cosine_similarity(normals[0], normals[1]).mean())


def test_the_teachers_share_fades_from_all_to_none(copy, monkeypatch):
    seen = {"labels": [], "matches": [], "balanced": []}

    def watched(name, original, at=lambda result: result):
        def call(*arguments, **named):
            result = original(*arguments, **named)
            seen[name].append([x.item() for x in at(result)])
            return result
        return call

    def balanced(*arguments):
        seen["balanced"].append([x.item() for x in arguments[2]])
        return backward(*arguments)
    backward = balancers.backward
    monkeypatch.setattr(balancers, "backward", balanced)
    monkeypatch.setattr(supervised.Objective, "losses", watched("labels", supervised.Objective.losses))
    monkeypatch.setattr(tasks, "matches", watched("matches", tasks.matches))
    curve = student()
    for step in range(4):
        for label, match, mixed in zip(*(seen[name][step] for name in ("labels", "matches", "balanced")), strict=True):
            assert mixed == pytest.approx(step / 4 * label + (1 - step / 4) * match, rel=1e-6)
    assert curve[0]["label_depth"] == pytest.approx((seen["labels"][0][1] + seen["labels"][1][1]) / 2)
    assert "distance" not in curve[0]


def test_it_composes_with_feature_distillation_and_balancers(copy):
    curve = student(taps="[mid, last]", adaptor="linear", balancer="aligned_mtl", anneal="none")
    for line in curve:
        assert {"distance_depth", "match_depth", "label_depth", "loss_depth"} <= set(line)
        for task in ("semantic", "depth", "normal"):
            half = (line[f"label_{task}"] + line[f"match_{task}"]) / 2
            assert line[f"loss_{task}"] == pytest.approx(half, rel=1e-5)


def test_a_second_look_sees_the_same_mixture(copy, monkeypatch):
    """FAMO measures a batch's losses again after the update; with the network as it was they are what they were."""
    seen, outputs, backward = {"before": [], "after": []}, epoch.outputs, balancers.backward
    states, look_again = [], famo.Balancer.look_again

    def before(*arguments):
        seen["before"] += [x.item() for x in arguments[2]]
        return backward(*arguments)

    def as_before(model, *arguments):
        """The network's outputs, in a second look with the weights that it had in the first."""
        if torch.is_grad_enabled():
            states.append({key: value.clone() for key, value in model.state_dict().items()})
        else:
            model.load_state_dict(states[-1])
        return outputs(model, *arguments)

    def after(balancer, losses):
        seen["after"] += losses.tolist()
        look_again(balancer, losses)
    monkeypatch.setattr(epoch, "outputs", as_before)
    monkeypatch.setattr(balancers, "backward", before)
    monkeypatch.setattr(famo.Balancer, "look_again", after)
    student(balancer="famo")
    assert len(seen["before"]) == len(seen["after"]) == 3 * 4
    assert seen["after"] == pytest.approx(seen["before"], rel=1e-5)


def test_the_epoch_is_selected_by_the_labels():
    line = {"loss_depth": 1.0, "label_depth": 3.0, "loss_normal": 5.0}
    assert train_loss(line, ["depth", "normal"]) == 4.0
