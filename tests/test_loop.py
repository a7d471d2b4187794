"""The loop's small pieces: sums of an epoch's steps, and an objective that is made of several."""

import math

import pytest
import torch
from conftest import command

from pipeline import objectives
from pipeline.loop.record import Sums


def test_sums_name_the_first_step_that_is_not_finite():
    sums = Sums(4)
    for step, (loss, weight) in enumerate([(1.0, 1.0), (2.0, math.inf), (math.nan, 1.0), (3.0, 1.0)]):
        sums.add(step, {"loss_depth": torch.tensor(loss)}, {"weight_depth": torch.tensor(weight)})
    assert sums.first_nonfinite_step() == (1, "weight_depth")
    whole = Sums(2)
    for step, loss in enumerate((1.0, 4.0)):
        whole.add(step, {"loss_depth": torch.tensor(loss)}, {"weight_depth": torch.tensor(1.0)})
    assert whole.means() == {"loss_depth": 2.5} and whole.first_nonfinite_step()[0] == 2


class Part(objectives.Objective):
    def __init__(self, name, losses, terms):
        self.name, self.found, self.terms, self.updates = name, losses, terms, 0

    def __call__(self, step):
        return objectives.Losses(self.found, lambda predictions: [2 * x for x in self.found],
                                 dict.fromkeys(self.terms, torch.tensor(0.5)), {f"logged_{self.name}": torch.ones(())})

    def update(self, step):
        self.updates += step.lr

    def extra_parameters(self):
        return [self.name]

    def state_dict(self):
        return {"updates": self.updates}

    def load_state_dict(self, state):
        self.updates = state["updates"]

    def describe(self):
        return self.name


def composed():
    return objectives.Composed(Part("a", [torch.tensor(1.0)], ()), Part("b", [], ("distance",)))


def test_a_composed_objective_has_its_first_parts_losses_and_everyones_terms():
    both, step = composed(), objectives.Step([0], None, {}, {}, {}, lr=0.25)
    found = both(step)
    assert found.losses == [1] and found.again({}) == [2]
    assert both.terms == tuple(found.terms) == ("distance",) and list(found.logged) == ["logged_b", "logged_a"]
    assert both.extra_parameters() == ["a", "b"] and both.describe() == "a + b"


def test_a_composed_objective_goes_on_from_its_state():
    both, other = composed(), composed()
    both.update(objectives.Step([0], None, {}, {}, {}, lr=0.25))
    other.load_state_dict(both.state_dict())
    assert [part.updates for part in other.parts] == [0.25, 0.25]


def test_an_objective_without_metrics_of_its_own_adds_none():
    metrics = composed().eval_metrics()
    metrics.update({})
    assert metrics.results() == {}
    with pytest.raises(NotImplementedError):
        objectives.Objective()(None)


def test_a_stage_starts_without_the_compiler():
    """Importing it takes seconds, and torch.use_deterministic_algorithms does."""
    done = command(code="import sys, torch, pipeline.evaluate; from pipeline.runtime import device; device.pick(); "
                        "print(torch.are_deterministic_algorithms_enabled(), 'torch._inductor' in sys.modules)",
                   DEVICE="cpu")
    assert done.stdout == "True False\n", done.stderr
