"""Balancers: what lands in every `.grad`, and a whole training by way of the Gramian."""

import csv

import pytest
import torch

from kernels import reference
from pipeline import balancers, evaluate, params, train
from pipeline.problem import Problem

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
        self.last = full
        return [factor * self.heads[task](bare if task == "two" else full).square().mean()
                for factor, task in zip((1.0, 5.0, 0.3), TASKS, strict=True)]

    def shared_parameters(self):
        return [*self.first.parameters(), *self.second.parameters()]

    def head_parameters(self, task):
        return list(self.heads[task].parameters())

    task_parameters = head_parameters

    def last_shared(self):
        return self.second.weight


def step(name, with_terms=False):
    """(model, weights applied) after one `backward`."""
    model = Toy()
    losses = model.losses(torch.randn(6, 5, generator=torch.Generator().manual_seed(1)))
    terms = {"distance": model.second.weight.square().sum()} if with_terms else {}
    features = {task: {"last": model.last} for task in TASKS}
    weights, _ = balancers.backward(balancers.load(name, TASKS), model, losses, terms, features)
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


def use(text, **values):
    for old, new in values.values():
        assert old in text
        text = text.replace(old, new)
    open("params.yaml", "w").write(text)


def test_rows_train_through_the_gramian(copy):
    """MGDA on the labels, and MGDA and distillation together."""
    use(open("params.yaml").read(), student=("objective: feature_distillation\n    balancer: uniform",
                 "objective: feature_distillation\n    balancer: mgda"))
    for stage, name, passes in (("wide", "mgda-full", 3), ("student", "ours", 4)):
        train.main(stage, "segnet", name, "0")
        folder = params.folder("segnet", name, 0)
        _, cost = evaluate.read(folder, "")
        assert cost["backward_passes"] == passes
        for line in csv.DictReader(open(folder / "balance.csv", newline="")):
            weights = [float(line[f"weight_{task}"]) for task in ("semantic", "depth", "normal")]
            assert sum(weights) == pytest.approx(1, abs=1e-6) and min(weights) >= 0
        assert weights != [pytest.approx(1 / 3)] * 3


def test_gradients_that_are_not_finite_stop_the_run_with_a_sentence(copy, monkeypatch):
    original = balancers.kernels.dispatch.gramian
    monkeypatch.setattr(balancers.kernels.dispatch, "gramian", lambda gradients: original(gradients) * torch.inf)
    with pytest.raises(Problem, match="segnet-mgda-full-s0: weight_semantic is not finite at epoch 1, step 1"):
        train.main("wide", "segnet", "mgda-full", "0")
