"""The stated bound of the Gramian's error, in every implementation, where the rounding of sums does not cancel."""

import math

import pytest
import torch

from kernels import reference
from kernels.cpu import gramian as cpu
from kernels.native import gramian as native

gpu = pytest.importorskip("kernels.gpu.gramian", reason="there is no Triton for this platform", exc_type=ImportError)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"      # without one, Triton's interpreter
GRAMIANS = {"reference": (reference.gramian, "cpu"), "cpu": (cpu.gramian, "cpu"),
            "native": (native.gramian, "cpu"), "triton": (gpu.gramian, DEVICE)}
NAMES = ["reference", "cpu", pytest.param("native", marks=pytest.mark.native), "triton"]
STRUCTURED = {"multiples": lambda g: (g, 3 * g), "opposed": lambda g: (g, -g), "equal": lambda g: (g, g.clone()),
              "constant": lambda g: (torch.full_like(g, 0.1), torch.full_like(g, 0.3)),
              "ones": lambda g: (torch.ones_like(g), torch.ones_like(g)),
              "positive": lambda g: (g.abs(), g.flip(0).abs())}


def exact(*gradients):
    """Products of float32 are exact in float64, and fsum rounds once."""
    return torch.tensor([[math.fsum((a.double() * b.double()).tolist()) for a in gradients] for b in gradients],
                        dtype=torch.float64)


@pytest.mark.parametrize("way", NAMES)
@pytest.mark.parametrize("kind", STRUCTURED)
def test_gramian_of_structured_gradients_keeps_the_bound(way, kind):
    """Float32 sums over 2^17 of these would be off by 5e-7."""
    compute, device = GRAMIANS[way]
    numbers = torch.randn(1_000_003, generator=torch.Generator().manual_seed(0))
    pair = STRUCTURED[kind](numbers)
    right = exact(*pair)
    norm = right.diagonal().sqrt()
    off = (compute([[g.to(device)] for g in pair]).cpu() - right).abs() / norm / norm[:, None]
    assert off.max() <= reference.GRAMIAN_ERROR


@pytest.mark.parametrize("way", NAMES)
def test_opposed_gradients_add_up_to_nothing(way):
    """|g + h|^2 of h = -g from the Gramian: what is left of the cancellation is the bound."""
    compute, device = GRAMIANS[way]
    g = torch.randn(300_007, generator=torch.Generator().manual_seed(1)).to(device)
    found = compute([[g], [-g]])
    assert abs(found.sum().item()) <= 4 * reference.GRAMIAN_ERROR * found[0, 0].item()


def test_the_bound_is_small():
    assert reference.GRAMIAN_ERROR < 1e-11
