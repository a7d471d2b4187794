"""Distances of the follow-up, and the objective that chooses them: what is zero, what is invariant, what is trained."""

import dataclasses
import math

import pytest
import torch
from conftest import change, folder_of, method, run

from kernels import feature_distance
from kernels.packing import normalise
from models.adaptor import Adaptor
from pipeline import train
from pipeline.loop.curve import read
from pipeline.objectives import feature_distillation, feature_losses
from pipeline.options import declared
from pipeline.runtime.errors import UserError

KINDS = ("l1", "cosine", "cka")


def maps(seed=0, channels=6):
    """A map (3, channels, 4, 5) and another one's unit features as they are stored."""
    generator = torch.Generator().manual_seed(seed)
    one, other = (torch.randn(3, channels, 4, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    return one, normalise(other)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_zero_for_equal_maps_and_positive_else(kind):
    one, other = maps()
    assert feature_losses.distance(kind, one, normalise(one)[0]).abs() < 1e-5      # normalise's epsilon, in cosine
    assert feature_losses.distance(kind, one, other) > 0.1
    flat = one.flatten(2).transpose(1, 2).reshape(-1, 6)                           # (B, D), as LeNet's
    assert feature_losses.distance(kind, flat, normalise(flat)[0]).abs() < 1e-5


def test_by_hand():
    one, other = maps()
    s = one.flatten(2).transpose(1, 2)
    s = s / s.norm(dim=-1, keepdim=True)
    cosine = torch.nn.functional.cosine_similarity(s, other, dim=-1).mean()
    apart = {"l1": (s - other).abs().sum(-1).mean(), "cosine": 1 - cosine}
    k, m = ((x := y.flatten(0, 1) - y.flatten(0, 1).mean(0)) @ x.T for y in (s, other))    # Kornblith's, by Gramians
    alignment = (k * m).sum() / (k.square().sum() * m.square().sum()).sqrt()
    for kind, expected in (apart | {"cka": 1 - alignment}).items():
        assert feature_losses.distance(kind, one, other).item() == pytest.approx(expected.item(), rel=1e-5)


def test_cosine_is_half_of_the_kernels_l2():
    one, other = maps()
    total, each = feature_distance([one], [None], [other], [normalise(one)[1] * 0 + 1], torch.tensor([3.0]).double())
    assert total == pytest.approx(3 * each[0])
    assert feature_losses.distance("cosine", one, other).item() == pytest.approx(each[0].item() / 2, abs=1e-5)


def test_cka_does_not_see_rotation_or_scale():
    one, other = maps()
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
    before = feature_losses.distance("cka", one, other)
    for changed in (5 * one, torch.einsum("dc,bchw->bdhw", turn, one)):
        torch.testing.assert_close(feature_losses.distance("cka", changed, other), before, rtol=1e-5, atol=1e-6)
    assert feature_losses.distance("cka", one, other @ turn.T).item() == pytest.approx(before.item(), rel=1e-5)
    assert (feature_losses.distance("cosine", one, other @ turn.T) - feature_losses.distance("cosine", one, other)
            ).abs() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_map_and_the_adaptor(kind):
    torch.manual_seed(0)
    one, other = maps()
    adaptor, one = Adaptor("linear", 6, 6).double(), one.requires_grad_()
    feature_losses.distance(kind, adaptor(one), other).backward()
    assert one.grad.isfinite().all() and one.grad.abs().sum() > 0 and adaptor.weight.grad.abs().sum() > 0
    dead = torch.zeros(1, 6, 2, 2, requires_grad=True)
    feature_losses.distance(kind, dead, torch.zeros(1, 4, 6)).backward()
    assert dead.grad.isfinite().all()


# -- in the objective

def student(name="ours-universal", **changes):
    """Train `name` with these keys changed; (curve, what the run says of itself is on stdout)."""
    method(name, **changes)
    run(train, "rooms", "student", "segnet", name, "0")
    return read(folder_of("rooms", "segnet", name, 0), "")[0]


@pytest.mark.parametrize("loss, most", [("l2", 4), ("l1", 16), ("cosine", 2), ("cka", 1)])
def test_the_follow_up_runs_with_live_teachers_and_augmentation(copy, monkeypatch, capsys, loss, most):
    goals, original = [], feature_distillation.F.interpolate

    def watched(x, size, **named):
        goals.append((x.shape[1], *size))
        return original(x, size, **named)
    monkeypatch.setattr(feature_distillation.F, "interpolate", watched)
    curve = student(loss=loss)
    assert "live, batch norm in train mode" in capsys.readouterr().out
    # each step brings three tasks' adapted mid maps, of the last feature's channels, to the last feature's size
    assert len(goals) == 3 * 4 and set(goals) == {(8, 32, 64)}
    for line in curve:
        each = [line[f"distance_{task}"] for task in ("semantic", "depth", "normal")]
        assert 0 < sum(each) < 2 * most * 4 and line["distance"] == pytest.approx(sum(each), rel=1e-4)
    assert loss == "cka" or curve[1]["distance"] < curve[0]["distance"]        # of 4 steps; cka wants more


@pytest.mark.parametrize("changes", [{"loss": "l1", "towards": "own"}, {"loss": "cka"}])
def test_bfloat16_runs_too(copy, changes):
    change(("width: 0.125", "width: 0.125, precision: bfloat16"))
    assert all(0 < line["distance"] < math.inf for line in student(**changes))


def test_cka_of_several_processes_is_refused(copy, monkeypatch):
    monkeypatch.setattr(feature_distillation.distributed, "size", lambda: 2)
    with pytest.raises(UserError, match="`loss: cka` is of a whole batch.*NPROC=1"):
        student(loss="cka")


def test_adaptors_lead_from_the_tap_to_the_last_feature(copy, monkeypatch):
    made, rates, update = [], [], feature_distillation.Distance.update

    def watched(distance, step):
        update(distance, step)
        made[:] = [distance, step]
        rates.append(distance.optimiser.param_groups[0]["lr"])
    monkeypatch.setattr(feature_distillation.Distance, "update", watched)
    student()
    shapes = {name: tuple(adaptor.weight.shape) for name, adaptor in made[0].adaptors.items()}
    assert shapes["depth_mid"] == (8, 64) and shapes["depth_last"] == (8, 8) and len(shapes) == 6
    # half a cosine over the training, which ends near nothing
    assert rates == pytest.approx([1e-2 * (1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)])
    update(made[0], dataclasses.replace(made[1], progress=0.999))
    assert 0 < made[0].optimiser.param_groups[0]["lr"] < 1e-7


def test_cosine_is_half_of_l2_in_training(copy, monkeypatch):
    """The first step's distances of the first tap, where both have the same weights."""
    seen, original = {}, feature_distillation.Distance.distance

    def watched(distance, *arguments):
        total, each = original(distance, *arguments)
        seen.setdefault(distance.loss, each)
        return total, each
    monkeypatch.setattr(feature_distillation.Distance, "distance", watched)
    for loss in ("l2", "cosine"):
        student(towards="own", loss=loss)
    torch.testing.assert_close(seen["l2"], 2 * seen["cosine"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("balancer", declared.names("pipeline.balancers"))
def test_distillation_goes_with_every_balancer(copy, balancer):
    curve = student("ours", balancer=balancer)
    assert curve[1]["distance"] < curve[0]["distance"]
