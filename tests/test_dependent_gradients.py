"""Balancers on gradients that depend on each other exactly, or all but: rounding decides nothing."""

import pytest
import torch
from test_solvers import rows, weights


@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e9, 1e15])
def test_the_released_search_takes_gradients_of_any_size(scale):
    j = scale * rows(3, width=50)
    found = weights("mgda", j @ j.T, compat="released")
    assert found.sum().item() == pytest.approx(1) and (found >= 0).all()
    assert (found @ j).norm() <= j.norm(dim=1).min() * 1.01


OPPOSED = torch.tensor([[3, 1], [-1, -1 / 3]], dtype=torch.float64)


@pytest.mark.parametrize("turn", [0.0, 1e-15, 1e-12])
@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e9])
def test_no_direction_helps_both_of_two_opposed_gradients(scale, turn):
    """ConFIG's, which asks for the same cosine to both: [[3, 1], [-1, -1/3]] gave [0.333, -1.0] by rounding alone."""
    j = scale * (OPPOSED + torch.tensor([[0, 0], [turn, 0]], dtype=torch.float64))
    assert (weights("config", j @ j.T) @ j).norm() <= 1e-9 * scale
