"""Balancers on gradients that depend on each other exactly, or all but: rounding decides nothing."""

import pytest
import torch
from test_solvers import DRAWN, GRAMIAN, rows, weights

from kernels import dispatch
from kernels.cpu import gramian as cpu_gramian
from kernels.native import gramian as native_gramian
from kernels.reference import GRAMIAN_ERROR
from pipeline import balancers
from pipeline.balancers import config, imtl
from pipeline.loop import record
from pipeline.options import declared

gpu = pytest.importorskip("kernels.gpu.gramian", reason="there is no Triton for this platform", exc_type=ImportError)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"      # without one, Triton's interpreter
METHODS = [name for name in GRAMIAN if name not in DRAWN]


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

# -- through every path of the Gramian

PATHS = {"chunked": cpu_gramian, "native": native_gramian, "triton": gpu}
NAMES = ["chunked", pytest.param("native", marks=pytest.mark.native), "triton"]
NUMBERS = [10, 1000, 100_003]
DEPENDENT = {          # from one or two drawn gradients
    "two equal": lambda g, h: [g, g], "scaled": lambda g, h: [g, 3 * g], "opposed": lambda g, h: [g, -g / 3],
    "one the sum of two": lambda g, h: [g, h, g + h], "all but equal": lambda g, h: [g, g + 1e-6 * h],
    "eight of two": lambda g, h: [g, h, g + h, g - h, 2 * g, -h, 3 * g + h, g - 2 * h],
    "eight equal": lambda g, h: [g] * 8}


@pytest.mark.parametrize("path", NAMES)
@pytest.mark.parametrize("kind", DEPENDENT)
def test_every_path_leads_to_the_update_of_the_exact_gramian(path, kind):
    """A float32 Gramian gave [g, 3 g] an update 0.595 long by Aligned-MTL, where 3995.6 is right."""
    for count in NUMBERS[:2] if path == "triton" else NUMBERS:              # the interpreter is slow
        draw = torch.Generator().manual_seed(count)
        g, h = (torch.randn(count, generator=draw) for _ in range(2))
        tasks = [x.to(torch.float32) for x in DEPENDENT[kind](g, h)]
        j = torch.stack(tasks).double()
        device = DEVICE if path == "triton" else "cpu"
        found, exact = PATHS[path].gramian([[x.to(device)] for x in tasks]).cpu(), j @ j.T
        for name in METHODS:
            updates = [weights(name, gramian) @ j for gramian in (found, exact)]
            off = (updates[0] - updates[1]).norm() / j.norm(dim=1).max()
            # between opposed gradients FairGrad's weights are those of a ridge of 1e-12, which rounding moves
            assert off <= (2e-4 if name == "fairgrad" else 1e-6), f"{name}, {count} numbers: off by {off:.1e}"


def test_aligned_components_of_two_gradients_of_one_direction():
    g = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0))
    gramian = dispatch.gramian([[g], [3 * g]])
    update = (weights("aligned_mtl", gramian)[:, None] * torch.stack([g, 3 * g]).double()).sum(0)
    # one component of singular value |g| sqrt(10), which is kept as it is: (1 + 3) / sqrt(10) of sqrt(10) |g|
    assert update.norm().item() == pytest.approx(4 * g.double().norm().item(), rel=1e-6)


def test_what_counts_as_rank_stands_above_the_error_of_the_gramian():
    """By a factor of 100, so that rounding never adds a component, and below what float32 gradients can tell apart."""
    cut = [declared.options("pipeline.balancers.aligned_mtl", "Balancer", balancers.FROM_LOOP)().rank_tolerance,
           config.TOLERANCE, record.COUNTS]
    assert all(100 * GRAMIAN_ERROR <= value <= 1e-8 for value in cut)
    assert 10 * GRAMIAN_ERROR <= imtl.RIDGE <= 1e-9
