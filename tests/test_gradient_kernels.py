"""Gramian, min-norm solver and combination: the reference against the definitions, the fused ways against both."""

import itertools

import pytest
import torch

from kernels import cases, combine, dispatch, gramian, min_norm, reference
from kernels.cases import Gradients
from kernels.cpu import combine as cpu_combine
from kernels.cpu import gramian as cpu_gramian
from kernels.native import build
from kernels.native import combine as native_combine
from kernels.native import gramian as native_gramian

gpu = pytest.importorskip("kernels.gpu.gramian", reason="there is no Triton for this platform", exc_type=ImportError)
from kernels.gpu import combine as gpu_combine  # noqa: E402
from kernels.gpu import min_norm as gpu_min_norm  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"      # without one, Triton's interpreter
GRAMIANS = {"reference": (reference.gramian, "cpu"), "cpu": (cpu_gramian.gramian, "cpu"),
            "native": (native_gramian.gramian, "cpu"), "triton": (gpu.gramian, DEVICE)}
COMBINES = {"reference": (reference.combine, "cpu"), "cpu": (cpu_combine.combine, "cpu"),
            "native": (native_combine.combine, "cpu"), "triton": (gpu_combine.combine, DEVICE)}
FUSED = ["cpu", pytest.param("native", marks=pytest.mark.native), "triton"]
SOLVERS = {"reference": (reference.min_norm, "cpu"), "triton": (gpu_min_norm.min_norm, DEVICE)}


def matrix(gradients):
    """The T x P matrix in float64, zeros where there is no gradient."""
    shapes = [next(x for x in column if x is not None).shape for column in zip(*gradients, strict=True)]
    return torch.stack([torch.cat([torch.zeros(shape).flatten().double() if g is None else g.double().cpu().flatten()
                                   for g, shape in zip(task, shapes, strict=True)]) for task in gradients])


# -- the Gramian

@pytest.mark.parametrize("way", ["reference", *FUSED])
@pytest.mark.parametrize("case", cases.GRADIENTS_TESTS, ids=str)
def test_gramian_is_the_matrix_product(way, case):
    compute, device = GRAMIANS[way]
    _, gradients = case.inputs(device)
    exact = matrix(gradients) @ matrix(gradients).T
    norm = exact.diagonal().sqrt()
    found = compute(gradients).cpu()
    assert found.dtype == torch.float64 and torch.equal(found, found.T)
    assert ((found - exact).abs() / norm / norm[:, None]).max() < cases.GRAMIAN


@pytest.mark.parametrize("way", FUSED)
def test_non_finite_gradients_reach_the_gramian(way):
    compute, device = GRAMIANS[way]
    gradients = [[torch.ones(2000, device=device)], [torch.full((2000,), torch.inf, device=device)]]
    found = compute(gradients)
    assert found[0, 0] == 2000 and found[0, 1] == torch.inf and found[1, 1] == torch.inf


# -- the combination

def combined(way, case, weights):
    compute, device = COMBINES[way]
    parameters, gradients = case.inputs(device)
    compute(parameters, gradients, torch.tensor(weights, dtype=torch.float64, device=device))
    return [p.grad for p in parameters]


@pytest.mark.parametrize("way", ["reference", *FUSED])
@pytest.mark.parametrize("case", cases.GRADIENTS_TESTS, ids=str)
def test_combination_is_added_to_grad(way, case):
    weights = [0.25, -2.0, 0.0, 1.0, 3.0, *[0.5] * 27][:case.tasks]
    parameters, gradients = case.inputs()
    found = combined(way, case, weights)
    for i, (p, *parts) in enumerate(zip(parameters, *gradients, strict=True)):
        held = [w * g.double() for w, g in zip(weights, parts, strict=True) if g is not None]
        exact = sum(held) + (0 if p.grad is None else p.grad.double())
        size = sum(x.norm() for x in held) + (0 if p.grad is None else p.grad.double().norm())
        assert found[i].shape == p.shape and found[i].dtype == p.dtype
        assert (found[i].double().cpu() - exact).norm() <= cases.COMBINE[case.dtype] * size, f"parameter {i}"


@pytest.mark.parametrize("way", ["reference", *FUSED])
def test_parameter_that_no_task_reaches_is_left_alone(way):
    compute, device = COMBINES[way]
    one, two = (torch.nn.Parameter(torch.zeros(3, device=device)) for _ in range(2))
    compute([one, two], [[None, torch.ones(3, device=device)]], torch.ones(1, device=device))
    assert one.grad is None and torch.equal(two.grad.cpu(), torch.ones(3))


@pytest.mark.parametrize("way", ["reference", *FUSED])
def test_a_weight_that_is_not_finite_only_touches_what_its_task_reaches(way):
    compute, device = COMBINES[way]
    one, two = (torch.nn.Parameter(torch.zeros(3, device=device)) for _ in range(2))
    ones = [torch.ones(3, device=device) for _ in range(3)]
    compute([one, two], [[None, ones[0]], ones[1:]], torch.tensor([torch.nan, 2.0], device=device))
    assert torch.equal(one.grad.cpu(), torch.full((3,), 2.0)) and two.grad.isnan().all()


@pytest.mark.parametrize("way", ["reference", *FUSED])
def test_one_tensor_handed_out_twice_is_not_spoilt(way):
    """autograd's gradients of a + b are one tensor; so are views of one buffer."""
    compute, device = COMBINES[way]
    a, b = (torch.nn.Parameter(torch.zeros(4, device=device)) for _ in range(2))
    gradients = [list(torch.autograd.grad((factor * (a + b)).sum(), [a, b])) for factor in (1.0, 10.0)]
    assert gradients[0][0].data_ptr() == gradients[0][1].data_ptr()
    compute([a, b], gradients, torch.tensor([2.0, 3.0], device=device))
    assert torch.equal(a.grad.cpu(), torch.full((4,), 32.0)) and torch.equal(b.grad, a.grad)


@pytest.mark.parametrize("way", FUSED)
def test_fused_combination_takes_the_memory_that_is_there(way):
    compute, device = COMBINES[way]
    (one, two), gradients = Gradients(2, ((3, 5), (7,))).inputs(device)
    two.grad = present = torch.ones(7, device=device)
    compute([one, two], gradients, torch.ones(2, device=device))
    assert one.grad is gradients[0][0] and two.grad is present


@pytest.mark.parametrize("way", FUSED)
@pytest.mark.parametrize("case", [Gradients(3, cases.SOME, holes=True), Gradients(11, cases.SOME[:5])], ids=str)
def test_two_launches_give_equal_bits_and_read_nothing_unwritten(way, case, monkeypatch):
    def launch():
        _, gradients = case.inputs(GRAMIANS[way][1])
        g = GRAMIANS[way][0](gradients)
        solver = SOLVERS["triton" if way == "triton" else "reference"][0]
        return [g, *solver(g), *combined(way, case, [0.3] * case.tasks)]

    clean = launch()
    for name in ("empty", "empty_like"):
        original = getattr(torch, name)

        def poisoned(*size, original=original, **options):
            x = original(*size, **options)
            return x.fill_(torch.nan if x.is_floating_point() else 77)

        monkeypatch.setattr(torch, name, poisoned)
    for first, second in zip(clean, launch(), strict=True):
        assert torch.equal(first, second)


# -- the smallest norm

def gradients_of(kind, tasks, seed=0):
    """T x 40 matrix in float64 of one kind."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    j = draw(tasks, 40)
    if kind == "common":                # a common direction: few conflicts
        return j + 2 * draw(1, 40)
    if kind == "scales":
        return j * 10.0 ** torch.linspace(-15, 15, tasks, dtype=torch.float64)[:, None]
    if kind == "conflict":
        return j - 1.2 * j.mean(0)
    if kind == "collinear":
        return j[:1] + 1e-6 * j
    if kind in ("near", "nearer"):      # a narrow cone whose axis is no member: every gradient counts
        j[:, 0] = 0
        axis = torch.eye(40, dtype=torch.float64)[0]
        return axis + (1e-2 if kind == "near" else 1e-5) * j / j.norm(dim=1, keepdim=True)
    if kind == "plane":                 # rank 2
        return draw(tasks, 2) @ draw(2, 40)
    if kind == "rank1":
        return draw(tasks, 1) * j[:1]
    if kind == "identical":
        return j[:1].expand(tasks, 40)
    if kind == "antiparallel":
        return torch.cat([j[:-1], -2 * j[:1]]) if tasks > 1 else j
    if kind == "zero":
        return torch.cat([j[:-1], 0 * j[:1]])
    return j


KINDS = ("random", "common", "scales", "conflict", "collinear", "near", "nearer", "plane", "rank1", "identical",
         "antiparallel", "zero")


def smallest_by_enumeration(g):
    """min a' G a on the simplex: over every face, the minimum of its affine hull where that lies in the face."""
    norm = g.diagonal().sqrt()
    best = g.diagonal().min()
    for size in range(2, len(g) + 1):
        for face in itertools.combinations(range(len(g)), size):
            index = torch.tensor(face)
            scale = norm[index]
            h = g[index][:, index] / scale / scale[:, None] + (u := scale.min() / scale) * u[:, None]
            if scale.min() == 0 or torch.linalg.cond(h) > 1e13:
                continue                # the smallest norm is attained on an independent face too
            y = torch.linalg.solve(h, u) / scale
            if (y >= 0).all():
                a = y / y.sum()
                best = torch.minimum(best, a @ g[index][:, index] @ a)
    return best


def assert_stationary(g, weights, tolerance):
    """No gradient has a smaller inner product with the combination than the combination itself; used ones, an equal."""
    assert (weights >= 0).all() and weights.sum().item() == pytest.approx(1, abs=1e-12)
    norm = g.diagonal().sqrt()
    unit = (g @ weights - weights @ g @ weights) / (norm * norm.min()).clamp_min(1e-300)
    assert (unit >= -tolerance).all()
    assert (unit[weights * norm > 1e-9 * norm.min()] <= tolerance).all()


@pytest.mark.parametrize("way", SOLVERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tasks", [1, 2, 3, 5, 8])
def test_smallest_norm_is_exact(way, kind, tasks):
    solve, device = SOLVERS[way]
    j = gradients_of(kind, tasks)
    g = j @ j.T
    weights, state = solve(g.to(device))
    assert state.item() == reference.SOLVED and state.dtype == torch.int32 and weights.dtype == torch.float64
    weights = weights.cpu()
    assert_stationary(g, weights, cases.KKT * 1e-3)
    assert weights @ g @ weights - smallest_by_enumeration(g) <= 1e-9 * g.diagonal().min()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tasks", [16, 32])
def test_smallest_norm_of_many_tasks_is_stationary(kind, tasks):
    j = gradients_of(kind, tasks)
    g = j @ j.T
    weights, state = reference.min_norm(g)
    assert state.item() == reference.SOLVED
    assert_stationary(g, weights, cases.KKT)


@pytest.mark.parametrize("tasks, kind", [(11, "random"), (16, "scales"), (32, "common"), (32, "identical")])
def test_fused_smallest_norm_of_many_tasks_is_stationary(tasks, kind):
    j = gradients_of(kind, tasks)
    g = j @ j.T
    weights, state = gpu_min_norm.min_norm(g.to(DEVICE))
    assert state.item() == reference.SOLVED
    assert_stationary(g, weights.cpu(), cases.KKT)


@pytest.mark.parametrize("way", SOLVERS)
@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_a_common_scale_changes_no_weight(way, scale):
    solve, device = SOLVERS[way]
    j = gradients_of("random", 4)
    power = 2.0 ** round(torch.tensor(scale).log2().item())          # exact in binary
    assert torch.equal(*(solve((f * j) @ (f * j).T.to(device))[0] for f in (1.0, power)))


@pytest.mark.parametrize("way", SOLVERS)
def test_two_tasks_have_the_closed_form(way):
    solve, device = SOLVERS[way]
    for seed in range(5):
        j = gradients_of("random", 2, seed) * torch.tensor([[1.0], [seed + 0.5]], dtype=torch.float64)
        g = j @ j.T
        closed = ((g[1, 1] - g[0, 1]) / (g[0, 0] + g[1, 1] - 2 * g[0, 1])).clamp(0, 1).item()
        assert solve(g.to(device))[0][0].item() == pytest.approx(closed, abs=1e-14)


@pytest.mark.parametrize("way", SOLVERS)
def test_degenerate_gramians_have_a_defined_answer(way):
    solve, device = SOLVERS[way]

    def weights(rows):
        j = torch.tensor(rows, dtype=torch.float64, device=device)
        return solve(j @ j.T)[0].tolist()

    assert weights([[2.0, 0.0]]) == [1.0]
    assert weights([[0.0], [0.0], [0.0]]) == [1.0, 0.0, 0.0]                  # the first zero gradient
    assert weights([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]) == [0.0, 1.0, 0.0]
    assert weights([[3.0, 4.0], [3.0, 4.0]]) == [1.0, 0.0]                    # the first of equal ones
    assert weights([[1.0, 0.0], [-3.0, 0.0]]) == pytest.approx([0.75, 0.25], abs=1e-15)
    assert weights([[1.0, 0.0], [5.0, 1.0]]) == [1.0, 0.0]                    # the longer one does not help


@pytest.mark.parametrize("way", SOLVERS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_gramian_that_is_not_finite_is_reported(way, value):
    solve, device = SOLVERS[way]
    g = torch.eye(3, dtype=torch.float64, device=device)
    g[1, 2] = value
    weights, state = solve(g)
    assert state.item() == reference.NOT_FINITE and weights.isnan().all()


def test_a_solver_that_runs_out_of_steps_says_so(monkeypatch):
    monkeypatch.setattr(gpu_min_norm, "STEPS", 1)                             # one a task is not enough
    j = gradients_of("random", 4)
    weights, state = gpu_min_norm.min_norm((j @ j.T).to(DEVICE))
    assert state.item() == reference.NOT_CONVERGED and weights.isnan().all()


# -- what is refused, and who decides

@pytest.mark.parametrize("way", ["reference", *FUSED])
def test_lists_that_do_not_fit_are_named(way):
    compute, add = GRAMIANS[way][0], COMBINES[way][0]
    one = torch.ones(3)
    for gradients, message in [
            ([], "no tasks: 0 lists"),
            ([[None], [None]], "none of the 2 tasks reaches any parameter"),
            ([[one], [one, one]], "lists of 1, 2 gradients"),
            ([[one], [torch.ones(4)]], r"parameter 0 differ in shape or type: \(3,\) torch.float32, \(4,\)"),
            ([[one, one], [one, one.double()]], "parameter 1 differ in shape or type"),
            ([[one.long()], [one.long()]], "parameter 0 are torch.int64"),
            ([[one], [one.to("meta")]], "lie on cpu, meta")]:
        with pytest.raises(ValueError, match=message):
            compute(gradients)
    p = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(ValueError, match=r"weights of shape \(3,\) for 2 tasks"):
        add([p], [[one], [one]], torch.ones(3))
    with pytest.raises(ValueError, match="for 2 parameters"):
        add([p, p], [[one], [one]], torch.ones(2))
    with pytest.raises(ValueError, match=r"parameter 0 differ in shape or type: \(3,\) torch.float32, \(4,\)"):
        add([p], [[torch.ones(4)], [torch.ones(4)]], torch.ones(2))
    assert p.grad is None


@pytest.mark.parametrize("way", SOLVERS)
def test_matrices_that_are_no_gramian_are_named(way):
    for shape in [(2, 3), (4,), (0, 0)]:
        with pytest.raises(ValueError, match=r"a Gramian of shape \(.*\); it should be \(T, T\)"):
            SOLVERS[way][0](torch.ones(shape))
    if way == "triton":
        with pytest.raises(ValueError, match="a Gramian of 33 tasks; the fused solver takes 32, set KERNELS=reference"):
            SOLVERS[way][0](torch.eye(33))


@pytest.mark.parametrize("asked", ["auto", "chunked", "reference"])
def test_dispatch_reaches_every_operation(asked, monkeypatch):
    monkeypatch.setenv("KERNELS", asked)
    parameters, gradients = Gradients(3, ((4, 5), (6,))).inputs()
    used = dispatch.implementation("gramian", torch.device("cpu"))
    fused = cpu_gramian if build.why_not() else native_gramian
    assert used is {"auto": fused, "chunked": cpu_gramian, "reference": reference}[asked]
    weights, state = min_norm(gramian(gradients))
    combine(parameters, gradients, weights)
    assert state.item() == reference.SOLVED and all(p.grad is not None for p in parameters)
    for call in (gramian, lambda g: combine([], g, torch.ones(0))):
        with pytest.raises(ValueError, match="no tasks"):
            call([])
