"""The reference operations against KD4MTL's formula, autograd's own check, and awkward inputs."""

import pytest
import torch

from kernels import feature_distance, normalise, pack, unpack

SHAPES = ["B1-C2-D2-H1-W2", "B2-C8-D8-H3-W5", "B3-C7-D16-H1-W1"]


def official(student, teacher):
    """KD4MTL section 3.2 as printed: normalise both, squared distance, sum over channels, mean over the rest."""
    def n(x):
        return x / (x.square().sum(1, keepdim=True) + 1e-6).sqrt()
    return (n(student) - n(teacher)).square().sum(1).mean()


def sizes(case):
    return [int(part[1:]) for part in case.split("-")]


@pytest.fixture(params=SHAPES)
def maps(request):
    """Student map, adaptor and a post-ReLU teacher map with one dead pixel, in float64."""
    b, c, d, h, w = sizes(request.param)
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(b, c, h, w, generator=generator, dtype=torch.float64)
    weight = torch.randn(d, c, generator=generator, dtype=torch.float64)
    teacher = torch.randn(b, d, h, w, generator=generator, dtype=torch.float64).relu()
    teacher[0, :, 0, 0] = 0
    return student, weight, teacher


def test_oracle_distance():
    """method/kd4mtl.md section 10.4: two pixels, the second one's teacher dead."""
    student = torch.tensor([[[[3.0, 4.0]], [[0.0, 1.0]]]], dtype=torch.float64)
    teacher = torch.tensor([[[[4.0, 0.0]], [[3.0, 0.0]]]], dtype=torch.float64)
    unit, energy = normalise(teacher)
    distance = feature_distance(student, None, unit, energy).item()
    assert round(distance, 4) == 0.7000
    assert official(student, teacher).item() == pytest.approx(distance, rel=1e-12)


def test_distance_and_gradients_equal_the_printed_formula(maps):
    student, weight, teacher = (x.requires_grad_(i < 2) for i, x in enumerate(maps))
    ours = feature_distance(student, weight, *normalise(teacher))
    theirs = official(torch.einsum("dc,bchw->bdhw", weight, student), teacher)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    gradients = [torch.autograd.grad(x, (student, weight)) for x in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-13)


def test_distance_gradcheck(maps):
    student, weight, teacher = maps
    unit, energy = normalise(teacher)
    assert torch.autograd.gradcheck(lambda s, a: feature_distance(s, a, unit, energy),
                                    (student.requires_grad_(), weight.requires_grad_()))


def test_distance_ignores_layout(maps):
    student, weight, teacher = maps
    unit, energy = normalise(teacher)
    strided = student.to(memory_format=torch.channels_last)
    assert feature_distance(strided, weight, unit, energy).item() == pytest.approx(
        feature_distance(student, weight, unit, energy).item(), rel=1e-13)


def test_distance_on_vectors():
    generator = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(5, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    distance = feature_distance(student, None, *normalise(teacher))
    assert distance.item() == pytest.approx(official(student, teacher).item())


# relative error of distance and of its gradient that the storage type may cause (method of performance.md section 7)
STORED = {torch.float32: (1e-6, 1e-6), torch.float16: (1e-4, 1e-3), torch.uint8: (5e-3, 2e-2)}


@pytest.mark.parametrize("dtype", STORED, ids=str)
def test_storage_types_stay_within_their_bounds(dtype):
    generator = torch.Generator().manual_seed(2)
    student = torch.randn(2, 16, 8, 9, generator=generator).requires_grad_()
    weight, teacher = torch.randn(16, 16, generator=generator), torch.randn(2, 16, 8, 9, generator=generator).relu()
    unit, energy = normalise(teacher)
    exact = feature_distance(student, weight, unit, energy)
    stored = feature_distance(student, weight, pack(unit, dtype), energy)
    loss, gradient = STORED[dtype]
    assert stored.item() == pytest.approx(exact.item(), rel=loss)
    g, h = (torch.autograd.grad(x, student)[0] for x in (exact, stored))
    assert ((g - h).norm() / g.norm()).item() < gradient


def test_dead_pixels_stay_zero_in_every_type():
    unit, energy = normalise(torch.zeros(1, 4, 2, 2))
    assert energy.item() == 0
    for dtype in STORED:
        assert not unpack(pack(unit, dtype)).any()


def test_uint8_refuses_negative_features():
    with pytest.raises(ValueError, match="must not be negative, found -0.8.*float16"):
        pack(torch.tensor([[[0.6, -0.8]]]), torch.uint8)


def test_shapes_that_do_not_fit_are_named():
    unit, energy = normalise(torch.ones(2, 4, 3, 3))
    with pytest.raises(ValueError, match=r"\(5, 3\) does not map 3 student channels to 4"):
        feature_distance(torch.ones(2, 3, 3, 3), torch.ones(5, 3), unit, energy)
    with pytest.raises(ValueError, match=r"\(2, 8, 4\) and teacher features \(2, 9, 4\)"):
        feature_distance(torch.ones(2, 4, 2, 4), None, unit, energy)
