"""The two-task problem: its landscape, its optima, and that the methods move as they should in a few steps."""

import pytest
import torch

from pipeline import toy


def test_landscape_at_points_worked_out_by_hand():
    """At (0, -10): both gates of the bowls open, those of the valleys shut; bowls (49 + 0.4) / 10 - 20."""
    first, second = toy.losses(torch.tensor([0.0, -10.0], dtype=torch.float64))
    gate = torch.tensor(5.0, dtype=torch.float64).tanh().item()
    assert first.item() == second.item() == pytest.approx(gate * (49.4 / 10 - 20))
    # at (3, 0.5) the second valley is next to its bottom: h2 = |0 + tanh(-0.5) + 2|
    _, second = toy.losses(torch.tensor([3.0, 0.5], dtype=torch.float64))
    t = torch.tensor(0.5, dtype=torch.float64)
    assert second.item() == pytest.approx(((t / 2).tanh() * ((2 - t.tanh()).log() + 6)).item())


def test_closed_gates_pass_the_gradient_at_their_edge():
    theta = torch.zeros(2, requires_grad=True)
    gradient, = torch.autograd.grad(toy.losses(theta)[0], theta)
    assert gradient[1] != 0


@pytest.mark.parametrize("preference, total", [(0.1, -18.2262), (0.3, -15.8753), (0.5, -15.0916), (0.7, -15.8753),
                                               (0.9, -18.2262)])
def test_optima(preference, total):
    assert toy.optimum(preference) == pytest.approx(total, abs=1e-4)


def test_gap_is_zero_at_the_optimum_and_positive_elsewhere():
    ends = torch.tensor([[[x, y]] for x, y in ((-5.6, -8.40712), (-2.8, -8.368555), (0, -8.35511), (2.8, -8.368555),
                                               (5.6, -8.40712))], dtype=torch.float64)
    assert toy.gaps(ends).abs().max() < 1e-3
    assert (toy.gaps(ends + 1) > 0.05).all()


@pytest.fixture
def threads():
    """The toy takes one thread; what comes after keeps its own."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_methods_descend_together_and_apart(threads):
    """Every method in one batch moves as it does alone, and lowers what it is after."""
    together = toy.descend(60)
    for name in ("Uniform", "Aligned-MTL", "Nash-MTL"):
        alone = toy.descend(60, (name,))[name]
        torch.testing.assert_close(together[name], alone, rtol=1e-5, atol=1e-5)
    assert sorted(name for group in toy.GROUPS for name in group) == sorted(toy.METHODS)
    before, after = (toy.gaps(together["Uniform"][i]) for i in (0, -1))
    assert (after <= before + 1e-3).all() and (after < before).double().mean() > 0.9
    ends = torch.stack([points[-1] for points in together.values()])
    assert ends.isfinite().all() and all((a - b).abs().max() > 1e-4 for i, a in enumerate(ends) for b in ends[:i])


def test_agreement_knows_the_optimum_the_valley_and_what_lies_between():
    assert toy.agrees(0.01, 0) and not toy.agrees(0.2, 0)
    assert toy.agrees(15, 19) and not toy.agrees(3, 19)
    assert toy.agrees(5, 5.3) and not toy.agrees(1, 5.3)


def test_only_end_points_that_are_known_are_compared():
    known = [[0.0, None, 5.0, 19.0, 0.0]] * 5
    found = [[0.0, 7.0, 5.0, 15.0, 0.0]] * 4 + [[0.0, float("nan"), 5.0, float("nan"), 1.0]]
    apart, points = toy.compared({"MGDA": found, "Uniform": found}, {"MGDA": known})
    assert points == 20 and len(apart) == 2 and apart[1] == "MGDA, a = 0.9, start (9.0, -1.0): gap 1, expected 0"


@pytest.mark.slow
def test_every_end_point(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    toy.main()
    assert "| at | " in capsys.readouterr().out and (toy.OUT / "toy.png").stat().st_size > 50_000
