"""The compiled operations of the CPU: layouts and types, threads, and what happens where nothing can be compiled."""

import contextlib
import os
import pathlib
import re
import subprocess
import sys

import pytest
import torch

from kernels import cases, combine, compile_cpu, dispatch, feature_distance, gramian, reference
from kernels.cases import Distance, Gradients
from kernels.native import build
from kernels.native import combine as native_combine
from kernels.native import feature_distance as native
from kernels.native import gramian as native_gramian

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Nothing is compiled yet: an empty folder for the library, and no memory of an earlier attempt."""
    monkeypatch.setattr(build, "PLACE", tmp_path / "libraries")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("KERNELS", "auto")
    build.attempt.cache_clear()
    build.digest.cache_clear()
    yield tmp_path / "libraries"
    build.attempt.cache_clear()
    build.digest.cache_clear()


@contextlib.contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def relative(found, exact):
    return ((found.double() - exact.double()).norm() / exact.double().norm()).item()


def results(way, inputs):
    """Loss, distances and every gradient."""
    students, adaptors, *_ = inputs
    total, distances = way(*inputs)
    leaves = [*([students] if torch.is_tensor(students) else students), *(a for a in adaptors if a is not None)]
    return [total.detach(), distances, *torch.autograd.grad(total, leaves)]


# -- right in every layout and type, with every number of threads

MANY = [Distance(3, 2, 64, 61, 83), Distance(2, 2, 48, 61, 83, stored=cases.U8, layout="channels_last"),
        Distance(1, 3, 20, 61, 83, teacher_channels=40, layout="strided"), Distance(2, 1, 250, 31, 23),
        Distance(3, 2, 256, 9, 12), Distance(3, 2, 256, 1, 1, layout="vectors"),
        Distance(2, 3, 33, 61, 29, adaptor="none", students="own"), Distance(3, 700, 70, 1, 1, layout="vectors")]


@pytest.mark.native
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("case", MANY, ids=str)
def test_distance_is_right_with_every_number_of_threads(case, count, monkeypatch):
    monkeypatch.setattr(native, "SMALL", 0)
    with threads(count):
        found, again = (results(native.feature_distance, case.inputs()) for _ in range(2))
    exact = results(reference.feature_distance, case.inputs(dtype=torch.float64))
    for value, other, right in zip(found, again, exact, strict=True):
        assert relative(value, right) < cases.COMPUTED[cases.F32][1] and torch.equal(value, other)


@pytest.mark.native
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("stored", [cases.F32, cases.F16, cases.U8], ids=str)
@pytest.mark.parametrize("dtype", [cases.F32, cases.BF16], ids=str)
def test_teachers_may_lie_pixel_by_pixel_or_channel_by_channel(dtype, stored, layout):
    """The store holds them the first way, live ones come the second."""
    case = Distance(2, 2, 24, 7, 11, dtype=dtype, stored=stored, layout=layout)
    found = []
    for order in (torch.Tensor.contiguous, lambda t: t.transpose(1, 2).contiguous().transpose(1, 2)):
        students, adaptors, teachers, energies, weights = case.inputs()
        found.append(results(native.feature_distance, (students, adaptors, [order(t) for t in teachers], energies,
                                                       weights)))
    exact = results(reference.feature_distance, case.inputs(dtype=torch.float64))
    for one, other, right in zip(*found, exact, strict=True):
        assert max(relative(one, right), relative(other, right)) < cases.COMPUTED[dtype][1]


@pytest.mark.native
def test_the_students_gradient_has_the_students_order():
    for layout in ("contiguous", "channels_last"):
        inputs = Distance(2, 2, 24, 7, 11, layout=layout).inputs()
        by_student = results(native.feature_distance, inputs)[2]
        assert by_student.stride() == inputs[0].stride()
    turned, *rest = Distance(2, 2, 24, 7, 11).inputs()
    plain = results(reference.feature_distance, (turned, *rest))[2]
    turned = turned.detach().transpose(2, 3).contiguous().transpose(2, 3).requires_grad_()
    assert relative(results(native.feature_distance, (turned, *rest))[2], plain) < cases.COMPUTED[cases.F32][1]


@pytest.mark.native
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_pixel_that_is_not_finite_spoils_the_loss_and_its_own_gradient(value):
    students, *rest = Distance(2, 2, 16, 5, 7).inputs()
    with torch.no_grad():
        students[1, 3, 2, 4] = value
    total, distances, by_student, *_ = results(native.feature_distance, (students, *rest))
    assert not total.isfinite() and not distances.isfinite().any()
    spoilt = ~by_student.isfinite().all(1)
    assert spoilt[1, 2, 4] and spoilt.sum() == 1


@pytest.mark.native
def test_what_is_not_compiled_for_runs_in_torch(monkeypatch):
    monkeypatch.setattr(native, "entry", lambda: pytest.fail("the library was called"))
    for dtype in (torch.float64, cases.F16):
        native.feature_distance(*Distance(2, 1, 16, 2, 3, dtype=dtype).inputs())
    native.feature_distance(*Distance(2, 1, 257, 2, 3, teacher_channels=256).inputs())      # an adaptor above WIDEST


@pytest.mark.native
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("case", [Gradients(3, cases.SOME, holes=True), Gradients(11, cases.SOME, cases.BF16),
                                  Gradients(2, ((1 << 17,), (3,), (70001,)), cases.F16)], ids=str)
def test_lists_are_right_with_every_number_of_threads(case, count, monkeypatch):
    monkeypatch.setattr("kernels.native.lists.SMALL", 0)
    weights = torch.linspace(-1, 2, case.tasks, dtype=torch.float64)
    parameters, gradients = case.inputs()
    exact = reference.gramian(gradients)
    norm = exact.diagonal().sqrt()
    with threads(count):
        found = native_gramian.gramian(gradients)
        assert torch.equal(found, native_gramian.gramian(gradients))
        native_combine.combine(parameters, gradients, weights)
    assert ((found - exact).abs() / norm / norm[:, None]).max() <= reference.GRAMIAN_ERROR
    wide, gradients = case.inputs()
    for p in wide:
        p.data, p.grad = p.data.double(), None if p.grad is None else p.grad.double()
    reference.combine(wide, [[None if g is None else g.double() for g in task] for task in gradients], weights)
    for one, other in zip(parameters, wide, strict=True):
        if other.grad is not None and other.numel():
            assert relative(one.grad, other.grad) < 2 * cases.COMBINE[case.dtype]


@pytest.mark.native
@pytest.mark.parametrize("dtype", [cases.F32, cases.BF16, cases.F16, torch.float64], ids=str)
def test_every_number_of_a_type_survives(dtype):
    """Subnormal, infinite and rounded ones: a sum of one gradient is that gradient."""
    numbers = torch.cat([torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(torch.float16).float(),
                         torch.randn(1000) * 1e-6, torch.tensor([65519.0, 65520.0, 1e30])]).to(dtype)
    p = torch.nn.Parameter(torch.zeros_like(numbers))
    native_combine.combine([p], [[numbers.clone()]], torch.ones(1))
    assert torch.equal(p.grad.nan_to_num(7.0), numbers.nan_to_num(7.0))
    half = torch.nn.Parameter(torch.zeros_like(numbers))
    native_combine.combine([half], [[numbers.clone()]], torch.tensor([1 / 3]))
    right = (numbers.to(torch.promote_types(dtype, torch.float32)) * torch.tensor(1 / 3)).to(dtype)
    torch.testing.assert_close(half.grad, right, rtol=1e-7, atol=0, equal_nan=True)


# -- built, or not

@pytest.mark.native
def test_the_library_is_built_once_and_under_its_digest(elsewhere, capfd, monkeypatch):
    monkeypatch.setattr(build, "FLAGS", ("-O0", *build.FLAGS[1:]))          # sooner
    assert dispatch.choose(torch.device("cpu")) == "native" and dispatch.describe("cpu") == "fused (native)"
    assert capfd.readouterr().err == "compiling kernels for this CPU\n"
    assert [re.fullmatch(r"[0-9a-f]{20}\.so", path.name) is not None for path in elsewhere.iterdir()] == [True]
    build.attempt.cache_clear()
    assert build.why_not() is None and capfd.readouterr().err == ""


@pytest.mark.native
def test_of_two_processes_that_want_the_library_one_compiles(tmp_path):
    program = ("import pathlib, sys; from kernels.native import build; build.PLACE = pathlib.Path(sys.argv[1]); "
               "build.FLAGS = ('-O0', *build.FLAGS[1:]); sys.exit(build.why_not())")
    both = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "libraries")], text=True,
                             stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)}) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(said) == ["", "compiling kernels for this CPU\n"]


def without(reason):
    """Every operation runs in torch, and `describe` says why."""
    assert dispatch.choose(torch.device("cpu")) == "chunked"
    assert re.fullmatch(rf"fused \(chunked, since {reason}\)", dispatch.describe("cpu"))
    values = Distance(2, 1, 16, 2, 3).inputs()
    assert feature_distance(*values)[0].item() == pytest.approx(reference.feature_distance(*values)[0].item(), rel=1e-6)
    parameters, gradients = Gradients(3, ((4, 5), (6,))).inputs()
    combine(parameters, gradients, gramian(gradients).diagonal())
    assert all(p.grad is not None for p in parameters)


def test_without_a_compiler_torch_runs_and_says_so(elsewhere, monkeypatch):
    monkeypatch.setenv("PATH", "")
    without(r"there is no C\+\+ compiler")
    monkeypatch.setenv("CXX", "/nonexistent/c++ -O3")
    build.attempt.cache_clear()
    without(r"CXX is '/nonexistent/c\+\+', which is not there")


@pytest.mark.native
def test_a_build_that_fails_is_a_few_words(elsewhere, monkeypatch):
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-DLANES=)"))
    without(r"c\+\+ failed: .*error.*")
    assert not list(elsewhere.iterdir())


@pytest.mark.native
def test_a_folder_that_cannot_be_written_is_a_few_words(elsewhere, monkeypatch):
    elsewhere.write_text("a file where the folder should be")
    without(r"the compiled library cannot be written or loaded, .*")


def test_a_process_without_a_compiler_trains_on(tmp_path):
    program = "from kernels import dispatch; print(dispatch.describe('cpu'))"
    environment = {key: value for key, value in os.environ.items() if key != "KERNELS"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT,
                          env=environment | {"CXX": "/nonexistent", "PATH": str(tmp_path), "PYTHONPATH": str(ROOT)})
    assert done.stdout == "fused (chunked, since CXX is '/nonexistent', which is not there)\n" and not done.stderr


@pytest.mark.native
def test_make_kernels_names_compiler_flags_and_library(capsys):
    compile_cpu.main()
    said = capsys.readouterr().out
    assert "-march=native" in said and re.search(r"\.work/kernels/[0-9a-f]{20}\.so", said)
