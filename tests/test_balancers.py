"""Balancers: what lands in every `.grad`, and a whole training by way of the Gramian."""

import csv
import itertools
import pickle
import re

import pytest
import torch
from conftest import change, folder_of, run

import models
from kernels import reference
from models.network import Head
from pipeline import balancers, train
from pipeline.loop.curve import read
from pipeline.loop.schedule import learning_rate
from pipeline.objectives import feature_distillation
from pipeline.options import declared

TASKS = ["one", "two", "three"]


class Toy(torch.nn.Module):
    """Two shared layers and a head a task; the second task's loss does not reach the second layer's bias."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = torch.nn.Linear(5, 7), torch.nn.Linear(7, 4)
        self.heads = torch.nn.ModuleDict({task: torch.nn.Linear(4, 2) for task in TASKS})

    def losses(self, x):
        hidden = self.first(x).tanh()
        full, bare = self.second(hidden), hidden @ self.second.weight.T
        self.features = {task: {"last": bare if task == "two" else full} for task in TASKS}
        return [factor * self.heads[task](self.features[task]["last"]).square().mean()
                for factor, task in zip((1.0, 5.0, 0.3), TASKS, strict=True)]

    def shared_parameters(self):
        return [*self.first.parameters(), *self.second.parameters()]

    def head_parameters(self, task):
        return list(self.heads[task].parameters())

    task_parameters = head_parameters

    def last_shared(self):
        return [self.second.weight]

    def first_own(self, task):
        return self.heads[task].weight


METHODS = declared.names("pipeline.balancers")


def train_toy(name, steps, balancer=None, model=None, start=0, there=None, **options):
    """(model, balancer) after some steps of SGD on fresh batches, as the loop does them; labels of `there` alone."""
    model = model or Toy()
    balancer = balancer or balancers.load(name, TASKS, **options)
    optimiser = torch.optim.SGD(model.parameters(), 0.02)
    for k in range(start, start + steps):
        if k % 20 == 0:
            balancer.start_epoch([[1 / (e + 1), 2.0, 1 + e / 2] for e in range(k // 20)])
        x = torch.randn(6, 5, generator=torch.Generator().manual_seed(k))
        losses = model.losses(x)
        optimiser.zero_grad(set_to_none=True)
        weights, gramian = balancers.backward(balancer, model, losses, {}, model.features, there=there)
        assert weights.shape == (3,) and weights.isfinite().all() and (gramian is None) == (balancer.needs == "losses")
        assert all(p.grad is not None for p in model.parameters()) or there
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if balancer.looks_again:
            balancers.look_again(balancer, list(model.buffers()), lambda model=model, x=x: model.losses(x), there)
    return model, balancer


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_no_two_methods_take_the_same_path():
    ends = {name: flat(train_toy(name, 200)[0]) for name in METHODS}
    assert all(end.isfinite().all() for end in ends.values())
    alike = [(a, b) for a, b in itertools.combinations(METHODS, 2) if (ends[a] - ends[b]).abs().max() < 1e-4]
    assert not alike


@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_method_ends_with_the_same_bits(name):
    whole, _ = train_toy(name, 60)
    model, first = train_toy(name, 30)
    second = balancers.load(name, TASKS, seed=99)
    second.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
    resumed, _ = train_toy(name, 30, second, model, start=30)
    assert torch.equal(flat(whole), flat(resumed))


# -- options that every method has

def one_step(name, **options):
    model = Toy()
    losses = model.losses(torch.randn(6, 5, generator=torch.Generator().manual_seed(1)))
    weights, _ = balancers.backward(balancers.load(name, TASKS, **options), model, losses, {}, model.features)
    return model, weights.double()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("policy", ["own", "weighted"])
def test_heads_follow_their_policy(name, policy):
    model, weights = one_step(name, heads=policy)
    sizes = [sum(p.numel() for p in model.head_parameters(task)) for task in TASKS]
    own = own_gradients(heads)
    if name == "db_mtl":                    # of log losses
        losses = torch.stack(Toy().losses(torch.randn(6, 5, generator=torch.Generator().manual_seed(1)))).detach()
        own = own / losses[:, None]
    expected = own.sum(0) if policy == "own" else (weights.repeat_interleave(torch.tensor(sizes)) * own.sum(0))
    torch.testing.assert_close(grad(heads(model)), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("db_mtl", "graddrop")])
def test_shared_gradient_is_the_weighted_sum(name):
    model, weights = one_step(name)
    torch.testing.assert_close(grad(shared(model)), weights @ own_gradients(shared), rtol=2e-4, atol=2e-5)


def test_maps_of_different_tasks_are_orthogonal_unless_the_released_code_is_asked_for():
    """MTAN: each task has features of its own. Here the second task's map is not the others'."""
    seen = {}
    for compat in ("exact", "released"):
        balancer = balancers.load("mgda_ub", TASKS, compat=compat)
        model = Toy()
        losses = model.losses(torch.randn(6, 5, generator=torch.Generator().manual_seed(1)))
        _, seen[compat] = balancers.backward(balancer, model, losses, {}, model.features)
    assert seen["exact"][0, 1] == seen["exact"][1, 2] == 0 != seen["exact"][0, 2]
    assert seen["released"][0, 1] != 0 and torch.equal(seen["released"].diagonal(), seen["exact"].diagonal())


def test_preference_multiplies_the_losses_before_the_method_sees_them():
    j, p = own_gradients(shared), torch.tensor([1.0, 3.0, 0.5], dtype=torch.float64)
    _, weights = one_step("mgda", preference={"two": 3.0, "three": 0.5})
    exact, _ = reference.min_norm((p[:, None] * j) @ (p[:, None] * j).T)
    torch.testing.assert_close(weights, p * exact, rtol=1e-4, atol=1e-6)
    assert one_step("uniform", preference={"two": 3.0})[1].tolist() == [1, 3, 1]


@pytest.mark.parametrize("name", [name for name in METHODS if name != "famo"])
def test_preference_turns_the_update(name):
    plain, turned = (grad(shared(one_step(name, preference=p)[0])) for p in (None, {"two": 4.0, "three": 0.3}))
    assert torch.cosine_similarity(plain, turned, dim=0) < 0.9999


def test_log_losses_reach_the_heads_and_preference_the_lengths():
    model, weights = one_step("db_mtl", preference={"two": 4.0})
    losses = torch.stack(Toy().losses(torch.randn(6, 5, generator=torch.Generator().manual_seed(1)))).detach().double()
    sizes = torch.tensor([sum(p.numel() for p in model.head_parameters(task)) for task in TASKS])
    torch.testing.assert_close(grad(heads(model)), (1 / losses).repeat_interleave(sizes) * own_gradients(heads).sum(0),
                               rtol=1e-4, atol=1e-6)
    j = own_gradients(shared) / losses[:, None]             # the first step: averages have the factor 1 - beta
    unit = 0.1 * j.norm(dim=1).max() * j / j.norm(dim=1, keepdim=True)
    torch.testing.assert_close(grad(shared(model)), torch.tensor([1.0, 4.0, 1.0]).double() @ unit, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", ["sum", "mean"])
def test_weights_that_are_all_zero_stay_zero(scale):
    balancer = balancers.load("config", TASKS, scale=scale)
    assert balancer.applied(torch.ones(3), torch.zeros(3, 3, dtype=torch.float64)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("scale, total", [("sum", 3), ("mean", 1)])
def test_weights_add_up(scale, total):
    for name in ("uniform", "nash_mtl", "mgda", "aligned_mtl", "dwa"):
        assert one_step(name, scale=scale)[1].abs().sum().item() == pytest.approx(total)


def test_period_keeps_the_weights_between():
    counted = balancers.load("mgda", TASKS, period=3)
    seen = []
    for k in range(7):
        model = Toy()
        losses = model.losses(torch.randn(6, 5, generator=torch.Generator().manual_seed(k)))
        weights, gramian = balancers.backward(counted, model, losses, {}, {})
        seen.append((weights.tolist(), gramian is not None))
    assert [new for _, new in seen] == [True, False, False, True, False, False, True]
    assert seen[0][0] == seen[1][0] == seen[2][0] != seen[3][0]


def test_steps_between_keep_the_clipped_weights():
    model, balancer = Toy(), balancers.load("nash_mtl", TASKS, period=2, clip=1e-3)
    first, second = (balancers.backward(balancer, model, model.losses(torch.ones(6, 5)), {}, {}) for _ in range(2))
    assert second[1] is None and torch.equal(first[0], second[0])
    assert (first[0] @ first[1] @ first[0]).sqrt().item() == pytest.approx(1e-3)


def test_mtan_attention_is_its_tasks_or_shared():
    model = models.load("mtan", {"semantic": Head(3), "depth": Head(1)}, width=0.0625)
    names = ["semantic", "depth"]
    own, shared_too = (balancers.parts(balancers.load("mgda", names, attention=kind), model, []) for kind in (
        "own", "shared"))
    branches = sum(p.numel() for task in names for p in model.attention_parameters(task))
    counts = [[sum(p.numel() for p in part) for part in parts] for parts in (own, shared_too)]
    assert branches > 0 and counts[1][0] - counts[0][0] == counts[0][1] - counts[1][1] == branches
    assert sum(counts[0]) == sum(counts[1]) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name, options, words", [
    ("mgda", {"heads": "both"}, "`mgda.heads` is 'both'"), ("mgda", {"period": 0}, "`mgda.period` is 0"),
    ("mgda", {"preference": {"four": 1.0}}, "one, two, three"), ("mgda", {"preference": {"one": 0.0}}, "than 0"),
    ("cagrad", {"c": 1.5}, "`cagrad.c` is 1.5"), ("aligned_mtl", {"mode": "max"}, "'min', 'median' or 'rmse'"),
    ("fairgrad", {"exponent": 0}, "`fairgrad.exponent` is 0"), ("dwa", {"window": 0}, "`dwa.window` is 0"),
    ("uncertainty", {"lr": -1.0}, "`uncertainty.lr` is -1.0"), ("gradvac", {"beta": 2}, "`gradvac.beta` is 2"),
    ("graddrop", {"leak": 1.1}, "`graddrop.leak` is 1.1"), ("imtl", {"part": "X"}, "'G', 'L' or 'hybrid'"),
    ("stch", {"mu": 0}, "`stch.mu` is 0"), ("gradnorm", {"alpha": -1}, "`gradnorm.alpha` is -1"),
    ("si", {"offset": -1}, "`si.offset` is -1"), ("db_mtl", {"beta": 2}, "`db_mtl.beta` is 2"),
    ("nash_mtl", {"clip": 0}, "`nash_mtl.clip` is 0"), ("db_mtl", {"period": 2}, "`db_mtl.period` is 2"),
    ("famo", {"preference": {"one": 2.0}}, "famo undoes"), ("si", {"ofset": 1.0}, "did you mean `offset`")])
def test_options_out_of_range_are_sentences(name, options, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        balancers.load(name, TASKS, **options)


def test_second_look_leaves_batch_norm_alone():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    before = [b.clone() for b in model.buffers()]
    balancer = balancers.load("famo", ["one"])
    balancers.look_again(balancer, list(model.buffers()), lambda: [model(torch.randn(5, 3)).square().mean()])
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))


def test_second_look_is_at_the_batch_that_the_weights_are_of():
    balancer = balancers.load("famo", TASKS, period=3)
    looks = []
    for k in range(7):
        model = Toy()
        losses = model.losses(torch.randn(6, 5, generator=torch.Generator().manual_seed(k)))
        balancers.backward(balancer, model, losses, {}, model.features)
        balancers.look_again(balancer, list(model.buffers()), lambda k=k, losses=losses: looks.append(k) or losses)
    assert looks == [0, 3, 6]


def test_second_look_measures_no_distance(copy, monkeypatch):
    change(("feature_distillation\n    balancer: uniform", "feature_distillation\n    balancer: famo"))
    calls, distance = [], feature_distillation.feature_distance
    monkeypatch.setattr(feature_distillation, "feature_distance", lambda *a: calls.append(0) or distance(*a))
    run(train, "rooms", "student", "segnet", "ours", "0")
    assert len(calls) == 2 * read(folder_of("rooms", "segnet", "ours", 0), "")[1]["steps"]      # a tap each


# -- what lands in .grad

def step(name, with_terms=False):
    """(model, weights applied) after one `backward`."""
    model = Toy()
    losses = model.losses(torch.randn(6, 5, generator=torch.Generator().manual_seed(1)))
    terms = {"distance": model.second.weight.square().sum()} if with_terms else {}
    weights, _ = balancers.backward(balancers.load(name, TASKS), model, losses, terms, model.features)
    return model, weights


def own_gradients(part):
    """(T, P) float64: each task's gradient on `part`, by autograd alone."""
    rows = []
    for t in range(len(TASKS)):
        model = Toy()
        model.losses(torch.randn(6, 5, generator=torch.Generator().manual_seed(1)))[t].backward()
        rows.append(torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
                               for p in part(model)]).double())
    return torch.stack(rows)


def shared(model):
    return model.shared_parameters()


def heads(model):
    return list(model.heads.parameters())


def grad(parameters):
    return torch.cat([p.grad.flatten() for p in parameters]).double()


@pytest.mark.parametrize("with_terms", [False, True])
def test_uniform_is_the_sum_of_all_losses_and_terms(with_terms):
    model, weights = step("uniform", with_terms)
    assert weights.tolist() == [1, 1, 1]
    extra = torch.cat([2 * p.detach().flatten() if p is model.second.weight else torch.zeros(p.numel())
                       for p in shared(model)]).double() if with_terms else 0
    torch.testing.assert_close(grad(shared(model)), own_gradients(shared).sum(0) + extra, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(grad(heads(model)), own_gradients(heads).sum(0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kernels", ["fused", "reference"])
@pytest.mark.parametrize("with_terms", [False, True])
def test_mgda_combines_shared_gradients_and_leaves_heads_and_terms_alone(with_terms, kernels, monkeypatch):
    monkeypatch.setenv("KERNELS", kernels)
    model, weights = step("mgda", with_terms)
    j = own_gradients(shared)
    exact, _ = reference.min_norm(j @ j.T)
    torch.testing.assert_close(weights.double(), exact, rtol=1e-4, atol=1e-6)
    extra = torch.cat([2 * p.detach().flatten() if p is model.second.weight else torch.zeros(p.numel())
                       for p in shared(model)]).double() if with_terms else 0
    torch.testing.assert_close(grad(shared(model)), exact @ j + extra, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(grad(heads(model)), own_gradients(heads).sum(0), rtol=1e-5, atol=1e-7)


def test_mgda_descends_for_every_task():
    model, weights = step("mgda")
    direction = grad(shared(model))
    assert (own_gradients(shared) @ direction >= (1 - 1e-4) * direction.square().sum()).all()
    assert (weights > 0).sum() > 1


def test_backward_passes_are_counted():
    uniform, mgda = (balancers.load(name, TASKS) for name in ("uniform", "mgda"))
    assert [balancers.passes(b, terms) for b in (uniform, mgda) for terms in ((), ("distance",))] == [1, 1, 3, 4]


def test_rows_train_through_the_gramian(copy):
    """MGDA on the labels, and MGDA and distillation together."""
    change(("feature_distillation\n    balancer: uniform", "feature_distillation\n    balancer: mgda"))
    for stage, name, passes in (("wide", "mgda-full", 3), ("student", "ours", 4)):
        run(train, "rooms", stage, "segnet", name, "0")
        folder = folder_of("rooms", "segnet", name, 0)
        _, cost = read(folder, "")
        assert cost["backward_passes"] == passes
        for line in csv.DictReader(open(folder / "balance.csv", newline="")):
            weights = [float(line[f"weight_{task}"]) for task in ("semantic", "depth", "normal")]
            assert sum(weights) == pytest.approx(1, abs=1e-6) and min(weights) >= 0
        assert weights != [pytest.approx(1 / 3)] * 3


def test_learned_weights_are_told_the_rate_of_every_step(copy, monkeypatch):
    change(("schedule: constant", "schedule: onecycle"))
    told = []
    monkeypatch.setattr(balancers.Learned, "set_lr", lambda self, lr: told.append(lr))
    run(train, "rooms", "wide", "segnet", "famo", "0")
    plan = {"lr": 1e-3, "schedule": "onecycle", "epochs": 2}
    assert told == [learning_rate(plan, k // 2, k % 2, 2) for k in range(4)] and len(set(told)) > 2
