"""The methods that weigh losses without a Gramian, and GradNorm: printed values, derivatives, hostile input."""

import pytest
import torch

from pipeline import balancers
from pipeline.options import declared

METHODS = [name for name in declared.names("pipeline.balancers")
           if declared.attribute(f"pipeline.balancers.{name}", "Balancer", "needs") == "losses"]


def test_weights_of_losses_are_the_derivatives_of_the_printed_sums():
    losses = torch.tensor([0.5, 2.0, 4.0], requires_grad=True)
    tasks = ["a", "b", "c"]
    nadir = torch.tensor([1.0, 1.0, 8.0])
    stch = balancers.load("stch", tasks, mu=0.5, warmup=0)
    stch.start_epoch([nadir.tolist()])
    for balancer, total in ((balancers.load("si", tasks), losses.log().sum()),
                            (balancers.load("si", tasks, offset=1.0), losses.log1p().sum()),
                            (balancers.load("gls", tasks), losses.prod() ** (1 / 3)),
                            (balancers.load("stch", tasks), losses.log().sum()),
                            (stch, 3 * 0.5 * torch.logsumexp((losses / nadir).log() / 0.5, 0)),
                            (balancers.load("uncertainty", tasks), (losses / (2 * torch.tensor(-0.5).exp())).sum())):
        exact, = torch.autograd.grad(total, losses)
        torch.testing.assert_close(balancer.weights(losses.detach(), None), exact)


@pytest.mark.parametrize("name, options, peer", [
    ("uniform", {}, lambda s: s.Sum()), ("gls", {}, lambda s: s.GeometricMean()),
    ("uncertainty", {"init": 0.0, "lr": 0.1}, lambda s: s.UW(3)), ("famo", {}, lambda s: s.FAMO(3)),
    ("imtl", {"part": "L", "lr": 0.1}, lambda s: s.IMTLL(3)), ("dwa", {}, lambda s: s.DWA())])
def test_torchjd_agrees(name, options, peer):
    """Weights are the derivatives of TorchJD's scalars, over a run of falling losses in epochs of three steps."""
    peer = peer(pytest.importorskip("torchjd.scalarization"))
    ours, history = balancers.load(name, ["a", "b", "c"], **options), []
    learned = [torch.optim.Adam(peer.parameters(), 0.1)] if "lr" in options else []
    for epoch in range(4):
        ours.start_epoch(history)
        steps = [torch.tensor([2.0, 1.0, 3.0]) * torch.tensor([0.8, 0.95, 0.6]) ** (3 * epoch + k) for k in range(3)]
        for losses in steps:
            theirs = losses.clone().requires_grad_()
            peer(theirs).backward()
            torch.testing.assert_close(ours.weights(losses, None), theirs.grad, rtol=1e-5, atol=1e-6)
            for optimiser in learned:
                optimiser.step()
                optimiser.zero_grad()
            if ours.looks_again:
                ours.look_again(0.9 * losses.square())
                peer.update(0.9 * losses.square())
        history.append(torch.stack(steps).mean(0).tolist())
        if name == "dwa":
            peer.step()


def test_preferences_are_in_the_printed_sums():
    losses = torch.tensor([0.5, 2.0, 4.0], requires_grad=True)
    tasks, p = ["a", "b", "c"], torch.tensor([1.0, 3.0, 0.5])
    nadir = torch.tensor([1.0, 1.0, 8.0])
    prefer = {"preference": {"b": 3.0, "c": 0.5}}
    stch = balancers.load("stch", tasks, mu=0.5, warmup=0, **prefer)
    stch.start_epoch([nadir.tolist()])
    for balancer, total in ((balancers.load("si", tasks, **prefer), (p * losses.log()).sum()),
                            (balancers.load("gls", tasks, **prefer), (losses ** (p / 4.5)).prod()),
                            (balancers.load("stch", tasks, **prefer), (p * losses.log()).sum()),
                            (stch, 3 * 0.5 * torch.logsumexp((p * losses / nadir).log() / 0.5, 0)),
                            (balancers.load("imtl", tasks, part="L", **prefer), (p * losses).sum()),
                            (balancers.load("uncertainty", tasks, init=0.0, **prefer), (p * losses).sum() / 2)):
        exact, = torch.autograd.grad(total, losses)
        torch.testing.assert_close(balancer.applied(losses.detach(), None), exact)


def test_famo_moves_towards_the_task_that_falls_least():
    balancer = balancers.load("famo", ["a", "b"], decay=0.0)
    losses = torch.tensor([1.0, 1.0])
    torch.testing.assert_close(balancer.weights(losses, None), torch.tensor([0.5, 0.5]))
    balancer.look_again(torch.tensor([0.5, 1.0]))
    assert balancer.learned[1] > 0 > balancer.learned[0]
    assert balancer.weights(losses, None)[1] > 0.5


def test_gradnorm_lowers_the_weight_of_the_task_with_the_longer_gradient():
    balancer = balancers.load("gradnorm", ["a", "b"], lr=0.1)
    m = torch.diag(torch.tensor([100.0, 1.0], dtype=torch.float64))
    assert balancer.weights(torch.ones(2), m).tolist() == [1, 1]
    second = balancer.weights(torch.ones(2), m)
    assert second[0] < 1 < second[1] and second.sum().item() == pytest.approx(2)
    # equal norms: the task that has fallen less is pulled up
    other = balancers.load("gradnorm", ["a", "b"], lr=0.1)
    other.weights(torch.ones(2), torch.eye(2, dtype=torch.float64))
    other.weights(torch.tensor([0.2, 1.0]), torch.eye(2, dtype=torch.float64))
    assert other.learned[1] > 1 > other.learned[0]


def test_gradnorm_waits_for_a_loss_above_zero():
    balancer, m = balancers.load("gradnorm", ["a", "b"], lr=0.1), torch.eye(2, dtype=torch.float64)
    for losses in ([0.0, 1.0], [0.0, 1.0], [0.5, 1.0], [0.5, 0.2], [0.5, 0.2]):
        found = balancer.weights(torch.tensor(losses), m)
    assert balancer.first.tolist() == [0.5, 1] and found[0] > 1 > found[1]
    for _ in range(3):
        assert balancer.weights(torch.zeros(2), 0 * m).isfinite().all()


def test_gradnorm_keeps_preferred_norms():
    balancer = balancers.load("gradnorm", ["a", "b"], lr=0.1, preference={"b": 3.0})
    for _ in range(300):
        found = balancer.applied(torch.ones(2), torch.diag(torch.tensor([16.0, 1.0], dtype=torch.float64)))
    assert (found[1] / found[0]).item() == pytest.approx(12, rel=0.1)


def test_uncertainty_settles_at_half_over_the_loss():
    balancer = balancers.load("uncertainty", ["a", "b"], lr=0.1)
    for _ in range(300):
        found = balancer.weights(torch.tensor([0.1, 4.0]), None)
    assert found.tolist() == pytest.approx([5, 0.125], rel=1e-2)


def test_learned_weights_follow_the_network_unless_they_have_a_rate():
    for options, rate in (({}, 0.5), ({"lr": 0.1}, 0.1)):
        balancer = balancers.load("uncertainty", ["a"], init=0.0, **options)
        balancer.set_lr(0.5)
        balancer.weights(torch.tensor([0.1]), None)
        assert balancer.learned.item() == pytest.approx(-rate)       # the first step of Adam is its rate


def test_random_weights_are_drawn_anew_from_the_seed():
    first, second = (balancers.load("rlw", ["a", "b", "c"], seed=3) for _ in range(2))
    one, two = (first.weights(torch.ones(3), None) for _ in range(2))
    assert one.sum().item() == pytest.approx(1) and not torch.equal(one, two)
    assert torch.equal(second.weights(torch.ones(3), None), one)


def test_moving_averages_of_dwa_in_steps():
    balancer = balancers.load("dwa", ["one", "two"], window=25)
    first, fall = torch.tensor([2.0, 1.0]), torch.tensor([0.97, 0.99])
    seen = {k + 1: balancer.weights(first * fall**k, None).tolist() for k in range(60)}
    for call, expected in {26: [1, 1], 27: [1.092165, 0.907835], 28: [1.075443, 0.924557], 41: [0.958945, 1.041055],
                           60: [0.922444, 1.077556]}.items():
        assert seen[call] == pytest.approx(expected, abs=2e-6)


def test_dwa_follows_the_ratio_of_two_epochs():
    balancer = balancers.load("dwa", ["one", "two"])
    for history in ([], [[1.0, 1.0]]):
        balancer.start_epoch(history)
        assert balancer.weights(torch.ones(2), None).tolist() == [1, 1]
    balancer.start_epoch([[9.0, 9.0], [2.0, 4.0], [1.0, 4.0]])
    expected = 2 * torch.softmax(torch.tensor([0.5, 1.0]) / 2, 0)
    torch.testing.assert_close(balancer.weights(torch.ones(2), None), expected)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("scale", [0.0, 1e-15, 1.0, 1e15])
def test_hostile_losses_have_finite_weights(name, scale):
    balancer = balancers.load(name, ["a", "b", "c"])
    for _ in range(3):
        found = balancer.weights(scale * torch.tensor([1.0, 2.0, 3.0]), torch.eye(3, dtype=torch.float64))
        assert found.isfinite().all() and (found >= 0).all()
