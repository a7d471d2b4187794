"""The methods' weights on given Gramians: printed values, each method's own equation, invariances, hostile input, and
TorchJD's implementation where it has an exact one."""

import importlib

import pytest
import torch

from pipeline import balancers
from pipeline.balancers import cagrad, pcgrad, upgrad
from pipeline.options import declared

METHODS = declared.names("pipeline.balancers")
GRAMIAN = [name for name in METHODS if name != "graddrop" and declared.attribute(
    f"pipeline.balancers.{name}", "Balancer", "needs") in ("gramian", "features")] + ["imtl"]
DRAWN = {"pcgrad", "gradvac"}          # a random order each step
ROWS = torch.tensor([[4, -1, 0, 2], [-1, 3, 1, 0.5], [0.5, -2, 1.5, -1]], dtype=torch.float64)


def weights(name, gramian, losses=None, **options):
    tasks = [f"task{i}" for i in range(len(gramian))]
    losses = torch.linspace(0.5, 2, len(tasks)) if losses is None else losses
    return balancers.load(name, tasks, **options).weights(losses, gramian)


def rows(tasks, seed=0, width=30):
    return torch.randn(tasks, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- printed values

GOLDEN = {
    "aligned min": ("aligned_mtl", {}, [0.535855, 1.030506, 1.051526]),
    "aligned median": ("aligned_mtl", {"mode": "median"}, [0.996779, 1.916911, 1.956012]),
    "aligned rmse": ("aligned_mtl", {"mode": "rmse"}, [1.069565, 2.056886, 2.098843]),
    "aligned ub": ("aligned_mtl_ub", {}, [0.535855, 1.030506, 1.051526]),
    "mgda": ("mgda", {}, [0.140117, 0.413426, 0.446457]),
    "mgda released": ("mgda", {"compat": "released"}, [0.140113, 0.413426, 0.446460]),
    "cagrad": ("cagrad", {"c": 0.5, "rescale": "none"}, [0.333333, 0.612068, 0.583498]),
    "cagrad rescaled": ("cagrad", {"c": 0.4}, [0.287356, 0.481740, 0.443869]),
    "imtl": ("imtl", {}, [0.170770, 0.416894, 0.412335]),
    "nash": ("nash_mtl", {}, [0.281345, 0.586904, 0.583771]),
    "fairgrad 1": ("fairgrad", {"exponent": 1.0}, [0.281345, 0.586904, 0.583771]),
    "fairgrad 2": ("fairgrad", {"exponent": 2.0}, [0.195976, 0.470984, 0.484652]),
    "config": ("config", {}, [0.550746, 1.344512, 1.329807]),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_weights_on_a_fixed_matrix(case):
    name, options, expected = GOLDEN[case]
    assert weights(name, ROWS @ ROWS.T, **options).tolist() == pytest.approx(expected, abs=1.5e-6)


@pytest.mark.parametrize("order, expected", [
    ("012", [1.285714, 2.022221, 1.781586]), ("021", [1.285714, 2.022221, 1.657142]),
    ("102", [1.330158, 2.022221, 1.781586]), ("120", [1.260317, 2.022221, 1.857776]),
    ("201", [1.215873, 2.022221, 1.733332]), ("210", [1.260317, 2.022221, 1.733332])])
def test_surgery_in_a_fixed_order(order, expected):
    orders = torch.tensor([[int(j) for j in order if int(j) != i] for i in range(3)])
    assert pcgrad.projected(ROWS @ ROWS.T, orders).tolist() == pytest.approx(expected, abs=3e-6)


# -- each method's own equation

@pytest.mark.parametrize("tasks", [2, 3, 5, 8, 11])
@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0, 5.0])
def test_fairness_equation_is_met(tasks, exponent):
    for seed in range(5):
        j = rows(tasks, seed) * 10 ** rows(tasks, seed + 100, 1)
        m = j @ j.T
        a = weights("fairgrad", m, exponent=exponent)
        assert (a > 0).all()
        torch.testing.assert_close((m @ a) * a ** (1 / exponent), torch.ones_like(a), rtol=1e-8, atol=0)


def test_two_tasks_bargain_in_closed_form():
    j = rows(2)
    m, norms = j @ j.T, (j @ j.T).diagonal().sqrt()
    cosine = m[0, 1] / norms[0] / norms[1]
    torch.testing.assert_close(weights("nash_mtl", m), 1 / (norms * (1 + cosine).sqrt()), rtol=1e-8, atol=0)


def test_nash_clips_the_norm():
    m = ROWS @ ROWS.T
    a, clipped = weights("nash_mtl", m), weights("nash_mtl", m, clip=1.0)
    assert (a @ m @ a).item() == pytest.approx(3, abs=1e-8) and (clipped @ m @ clipped).item() == pytest.approx(1)


@pytest.mark.parametrize("tasks", [2, 3, 5, 8, 11])
def test_impartial_projections_are_equal(tasks):
    j = rows(tasks)
    a = weights("imtl", j @ j.T)
    projections = (j @ (a @ j)) / j.norm(dim=1)
    assert a.sum().item() == pytest.approx(1) and (projections - projections[0]).abs().max() < 1e-9


@pytest.mark.parametrize("tasks", [2, 3, 5, 8, 11])
def test_conflict_free_direction_has_one_cosine(tasks):
    j = rows(tasks)
    g = weights("config", j @ j.T) @ j
    cosines = j @ g / j.norm(dim=1) / g.norm()
    assert (cosines - cosines[0]).abs().max() < 1e-9 and cosines[0] > 0
    assert g.norm().item() == pytest.approx((j @ g / g.norm()).sum().item())


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_preferred_utilities(exponent):
    j, p = rows(3), torch.tensor([1.0, 4.0, 0.3], dtype=torch.float64)
    m, names = j @ j.T, {"task1": 4.0, "task2": 0.3}
    a = weights("fairgrad", m, exponent=exponent, preference=names)
    torch.testing.assert_close(m @ a, (p / a) ** (1 / exponent), rtol=1e-6, atol=0)
    if exponent == 1:
        torch.testing.assert_close(weights("nash_mtl", m, preference=names), a)
        assert (a @ m @ a).item() == pytest.approx(5.3)


def test_preferred_projections():
    j, p = rows(3), torch.tensor([1.0, 4.0, 0.3], dtype=torch.float64)
    for name in ("imtl", "config"):
        balancer = balancers.load(name, ["one", "two", "three"], preference={"two": 4.0, "three": 0.3})
        along = j @ (balancer.weights(torch.ones(3), j @ j.T) @ j) / j.norm(dim=1)
        torch.testing.assert_close(along / along[0], p, rtol=1e-6, atol=0)
        assert balancer.residual is None or balancer.residual < 1e-9


@pytest.mark.parametrize("tasks", [2, 3, 5, 8, 11])
@pytest.mark.parametrize("mode", ["min", "median", "rmse"])
def test_aligned_components_are_equal(tasks, mode):
    """Algorithm 1: the rows of B J are orthogonal and of one length; here column by column of B."""
    j = rows(tasks) * torch.linspace(1, 4, tasks)[:, None]
    m = j @ j.T
    b = torch.stack([weights("aligned_mtl", m, mode=mode, preference={f"task{i}": 1e-9 if k != i else 1.0
                                                                     for i in range(tasks)}) for k in range(tasks)])
    singular = torch.linalg.svdvals(j)
    length = {"min": singular[-1], "median": singular.median(), "rmse": singular.square().mean().sqrt()}[mode]
    torch.testing.assert_close(b @ m @ b.T, length**2 * torch.eye(tasks, dtype=m.dtype), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("tasks", [2, 3, 5, 8, 11])
@pytest.mark.parametrize("c", [0.1, 0.4, 0.9])
def test_conflict_averse_weights_are_optimal(tasks, c):
    """First-order condition of the convex problem in w on the simplex, w read off the weights."""
    for seed in range(5):
        j = rows(tasks, seed, width=6) + 0.5 * rows(1, seed + 50, width=6)
        m = j @ j.T
        w = weights("cagrad", m, c=c, rescale="none") - 1 / tasks
        radius = c * m.mean().sqrt()
        assert (w >= -1e-12).all() and (w @ m @ w).sqrt().item() == pytest.approx(radius.item(), rel=1e-6)
        w = w / w.sum()
        slope = m.mean(1) + radius * (m @ w) / (w @ m @ w).sqrt()
        scale = m.diagonal().max()
        assert (slope - slope @ w).min() > -1e-8 * scale
        assert ((slope - slope @ w).abs() * w).max() < 1e-8 * scale
        assert cagrad.residual(m, 1 / tasks + radius * w / (w @ m @ w).sqrt()) < 1e-8
        off = torch.ones_like(w) / tasks                       # from another w
        assert cagrad.residual(m, 1 / tasks + radius * off / (off @ m @ off).sqrt()) > 1e-3


@pytest.mark.parametrize("tasks", [2, 3, 5, 8, 11])
def test_projections_onto_the_dual_cone_are_optimal(tasks):
    """KKT of each projection: v >= e_i, M v >= 0, and M v = 0 where v is above."""
    for seed in range(5):
        j = rows(tasks, seed, width=2 * tasks) - 0.3 * rows(1, seed + 50, width=2 * tasks)
        m = (j @ j.T).numpy()
        for i in range(tasks):
            e = torch.eye(tasks, dtype=torch.float64)[i].numpy()
            v, _ = upgrad.unconflicting(m, e)
            assert (v >= e - 1e-12).all() and (m @ v).min() > -1e-9 and abs((v - e) * (m @ v)).max() < 1e-9


@pytest.mark.parametrize("name", ["mgda", "nash_mtl", "fairgrad", "upgrad", "config"])
def test_update_conflicts_with_no_task(name):
    for seed in range(10):
        j = rows(5, seed, width=20) - 0.8 * rows(1, seed + 50, width=20)
        g = weights(name, j @ j.T) @ j
        assert (j @ g).min() >= -1e-9 * j.norm(dim=1).max() * g.norm()


def test_vaccine_raises_cosines_to_their_target():
    balancer = balancers.load("gradvac", ["one", "two"], beta=0.0)
    j = rows(2)
    balancer.target.fill_(0.5)
    a = balancer.weights(torch.ones(2), j @ j.T)
    n = j.norm(dim=1)
    cosine = (j[0] @ j[1] / n[0] / n[1]).item()
    assert cosine < 0.5
    sine = (1 - cosine**2) ** 0.5
    factor = (0.5 * sine - cosine * 0.75**0.5) / 0.75**0.5
    assert a.tolist() == pytest.approx([1 + factor * (n[1] / n[0]).item(), 1 + factor * (n[0] / n[1]).item()])
    v = j[0] + factor * n[0] / n[1] * j[1]
    assert (v @ j[1] / v.norm() / n[1]).item() == pytest.approx(0.5)


def test_dropped_signs_follow_the_purity():
    """Where tasks agree nothing is dropped; where they differ exactly one sign stays, in proportion to its size."""
    balancer = balancers.load("graddrop", ["one", "two"])
    feature = torch.ones(1, 4, 20_000)
    first, second = torch.ones_like(feature), torch.ones_like(feature)
    first[:, 1], second[:, 1], second[:, 2], second[:, 3] = -1, -2, -1, -3
    (a,), (b,) = balancer.prepare([[first], [second]], None, [feature])
    assert torch.equal(a[:, :2], first[:, :2]) and torch.equal(b[:, :2], second[:, :2])
    for row, share in ((2, 0.5), (3, 0.25)):
        kept = a[0, row] != 0
        assert kept.double().mean().item() == pytest.approx(share, abs=0.015)
        assert torch.equal(kept, b[0, row] == 0)
    leaky = balancers.load("graddrop", ["one", "two"], leak=1.0)
    (a,), (b,) = leaky.prepare([[first], [second]], None, [feature])
    assert torch.equal(a, first) and torch.equal(b, second)


# -- invariances

@pytest.mark.parametrize("name", [name for name in GRAMIAN if name not in DRAWN])
def test_order_of_tasks_does_not_matter(name):
    j, order = rows(5, width=8), torch.tensor([3, 0, 4, 2, 1])
    m, losses = j @ j.T, torch.linspace(0.5, 2, 5)
    torch.testing.assert_close(weights(name, m[order][:, order], losses[order]), weights(name, m, losses)[order],
                               rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", GRAMIAN)
@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e12])
def test_a_common_scale_changes_the_weights_by_a_power(name, scale):
    j = rows(4, width=6)
    power = {"nash_mtl": -1, "fairgrad": -4 / 3}.get(name, 0)
    torch.testing.assert_close(weights(name, scale**2 * (j @ j.T)) / scale**power, weights(name, j @ j.T),
                               rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["mgda", "imtl", "nash_mtl", "aligned_mtl", "cagrad", "pcgrad"])
def test_many_pairs_of_tasks_at_once(name):
    """(..., 2, 2), as the toy uses it, is what one after the other gives."""
    j = torch.stack([rows(2, seed, width=3) for seed in range(20)]).view(4, 5, 2, 3)
    m = j @ j.mT
    balancer = balancers.load(name, ["one", "two"])
    together = balancer.weights(torch.ones(4, 5, 2), m)
    for i in range(4):
        for k in range(5):
            torch.testing.assert_close(together[i, k], balancer.weights(torch.ones(2), m[i, k]), rtol=1e-7, atol=1e-9)


# -- hostile input

def hostile(kind, tasks):
    j = rows(tasks)
    if kind == "zero":
        return 0 * j
    if kind == "one zero":
        return torch.cat([0 * j[:1], j[1:]])
    if kind == "equal":
        return j[:1].expand(tasks, -1).clone()
    if kind == "antiparallel":
        return torch.cat([j[:-1], -j[:1]]) if tasks > 1 else -j
    if kind == "rank one":
        return torch.linspace(-1, 2, tasks, dtype=torch.float64)[:, None] * j[:1]
    if kind == "plane":
        return rows(tasks, 1, 2) @ rows(2, 2)
    return j * 10.0 ** torch.linspace(-15, 15, tasks, dtype=torch.float64)[:, None]


@pytest.mark.parametrize("name", GRAMIAN)
@pytest.mark.parametrize("kind", ["zero", "one zero", "equal", "antiparallel", "rank one", "plane", "scales"])
@pytest.mark.parametrize("tasks", [1, 2, 3, 5, 11])
def test_hostile_gradients_have_finite_weights(name, kind, tasks):
    j = hostile(kind, tasks)
    found = weights(name, j @ j.T)
    assert found.shape == (tasks,) and found.isfinite().all()
    if kind != "scales":
        assert (found @ j).norm() <= 1e2 * j.norm()


@pytest.mark.parametrize("name", GRAMIAN)
def test_gradients_that_are_not_finite_show(name):
    j = rows(3)
    for value in (torch.nan, torch.inf):
        j[1, 2] = value
        balancer = balancers.load(name, ["a", "b", "c"])
        for scale in ("own", "mean"):
            balancer.scale = scale
            assert balancer.applied(torch.ones(3), j @ j.T).isnan().tolist() == [False, True, False]


def test_impartial_residual_is_zero_where_every_gradient_is():
    balancer = balancers.load("imtl", ["a", "b", "c"])
    assert balancer.weights(torch.ones(3), torch.zeros(3, 3, dtype=torch.float64)).tolist() == [1 / 3] * 3
    assert balancer.residual == 0


def test_mean_is_left_where_there_is_nothing_to_avert():
    m = torch.diag(torch.tensor([1.0, 4.0], dtype=torch.float64))
    assert cagrad.averse(m, 0.0).tolist() == [0.5, 0.5]
    assert cagrad.averse(0 * m, 0.4).tolist() == [0.5, 0.5]


# -- beside TorchJD

PEERS = {"aligned_mtl": (lambda a: a.AlignedMTL(), {}, lambda t: 1 / t, 1e-9),
         "aligned_mtl median": (lambda a: a.AlignedMTL(scale_mode="median"), {"mode": "median"}, lambda t: 1 / t, 1e-9),
         "aligned_mtl rmse": (lambda a: a.AlignedMTL(scale_mode="rmse"), {"mode": "rmse"}, lambda t: 1 / t, 1e-9),
         "imtl": (lambda a: a.IMTLG(), {}, lambda t: 1, 1e-9),
         "config": (lambda a: a.ConFIG(), {}, lambda t: 1, 1e-9),
         "upgrad": (lambda a: a.UPGrad(), {}, lambda t: 1, 1e-3),         # theirs adds 1e-4 to the diagonal
         "cagrad": (lambda a: a.CAGrad(c=0.4), {"c": 0.4, "rescale": "none"}, lambda t: 1, 1e-5),
         "fairgrad": (lambda a: a.FairGrad(alpha=2.0), {}, lambda t: 1, 1e-6),
         "uniform": (lambda a: a.Sum(), {}, lambda t: 1, 1e-12)}


@pytest.mark.parametrize("case", PEERS)
@pytest.mark.parametrize("tasks", [2, 3, 5])
def test_torchjd_agrees(case, tasks):
    try:
        peer, options, factor, tolerance = PEERS[case]
        peer = peer(importlib.import_module("torchjd.aggregation"))
    except ImportError as missing:
        pytest.skip(f"TorchJD without {missing.name}")
    for seed in range(3):
        j = rows(tasks, seed)
        ours = factor(tasks) * weights(case.split()[0], j @ j.T, **options).to(j) @ j
        torch.testing.assert_close(ours, peer(j), rtol=0, atol=tolerance * j.norm().item())


@pytest.mark.parametrize("name, peer, factor, tolerance", [("aligned_mtl", "AlignedMTL", 1, 1e-9),
                                                           ("config", "ConFIG", 1, 1e-9),
                                                           ("upgrad", "UPGrad", 1 / 3, 1e-3)])
def test_torchjd_agrees_on_preferences(name, peer, factor, tolerance):
    aggregation = pytest.importorskip("torchjd.aggregation")
    p = torch.tensor([1.0, 4.0, 0.5], dtype=torch.float64)
    for seed in range(3):
        j = rows(3, seed)
        ours = weights(name, j @ j.T, preference={"task1": 4.0, "task2": 0.5}) @ j
        torch.testing.assert_close(ours, factor * getattr(aggregation, peer)(p)(j), rtol=0,
                                   atol=tolerance * j.norm().item())


@pytest.mark.parametrize("name, options, peer", [("mgda", {}, "MGDA"), ("pcgrad", {}, "PCGrad"),
                                                 ("gradvac", {"beta": 0.2}, "GradVac")])
def test_torchjd_agrees_on_two_tasks(name, options, peer):
    """Where the order is no matter of chance and theirs is exact; a run, as the vaccine's targets move."""
    peer = getattr(pytest.importorskip("torchjd.aggregation"), peer)(**options)
    ours = balancers.load(name, ["one", "two"], **options)
    for seed in range(20):
        j = rows(2, seed, width=4)
        torch.testing.assert_close(ours.weights(torch.ones(2), j @ j.T) @ j, peer(j), rtol=1e-6, atol=1e-6)
