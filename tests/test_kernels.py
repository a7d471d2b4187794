"""The feature distance: the reference against KD4MTL's formula, the fused ways against the reference in float64."""

import os
import pathlib
import re
import subprocess
import sys
import tomllib
import warnings

import pytest
import torch

from kernels import autograd, cases, dispatch, feature_distance, normalise, pack, reference, unpack
from kernels.cases import Distance
from kernels.cpu import feature_distance as cpu
from kernels.native import build
from kernels.native import feature_distance as native

gpu = pytest.importorskip("kernels.gpu.feature_distance", reason="there is no Triton for this platform",
                          exc_type=ImportError)
compile = pytest.importorskip("kernels.compile", exc_type=ImportError)
versions = pytest.importorskip("kernels.versions", exc_type=ImportError)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"      # without one, Triton's interpreter
WAYS = {"chunked": (cpu.feature_distance, "cpu"), "native": (native.feature_distance, "cpu"),
        "triton": (gpu.feature_distance, DEVICE)}
NAMES = ["chunked", pytest.param("native", marks=pytest.mark.native), "triton"]


@pytest.fixture(params=["B1-C2-D2-H1-W2", "B2-C8-D8-H3-W5", "B3-C7-D16-H1-W1"])
def maps(request):
    """Student map, adaptor and a post-ReLU teacher map with one dead pixel, in float64."""
    b, c, d, h, w = (int(part[1:]) for part in request.param.split("-"))
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(b, c, h, w, generator=generator, dtype=torch.float64)
    weight = torch.randn(d, c, generator=generator, dtype=torch.float64)
    teacher = torch.randn(b, d, h, w, generator=generator, dtype=torch.float64).relu()
    teacher[0, :, 0, 0] = 0
    return student, weight, teacher


def one(student, weight, unit, energy):
    return reference.feature_distance(student, [weight], [unit], [energy], [1.0])[0]


def relative(value, exact):
    return ((value.double().cpu() - exact.double().cpu()).norm() / exact.double().norm().cpu()).item()


def gradients(total, students, adaptors, factor=1.0):
    """Gradients of factor * total, by the student or students and by the adaptors there are."""
    leaves = [*([students] if torch.is_tensor(students) else students), *(a for a in adaptors if a is not None)]
    (total * factor).backward()
    return [leaf.grad for leaf in leaves]


def assert_as_exact_as(way, device, case, tolerance, factor=1.0):
    exact, values = case.inputs(dtype=torch.float64), case.inputs(device)
    total, distances = reference.feature_distance(*exact)
    fused, fused_distances = way(*values)
    assert relative(fused, total) < tolerance[0]
    assert relative(fused_distances, distances) < tolerance[0]
    wanted = gradients(total, *exact[:2], factor)
    found = gradients(fused, *values[:2], factor)
    maps = len(values[0]) if case.students == "own" else 1
    for i, (value, target) in enumerate(zip(found, wanted, strict=True)):
        assert relative(value, target) < tolerance[1 if i < maps else 2], f"gradient {i}"


# -- the reference

def test_oracle_distance():
    """method/kd4mtl.md section 10.4: two pixels, the second one's teacher dead."""
    student = torch.tensor([[[[3.0, 4.0]], [[0.0, 1.0]]]], dtype=torch.float64)
    teacher = torch.tensor([[[[4.0, 0.0]], [[3.0, 0.0]]]], dtype=torch.float64)
    distance = one(student, None, *normalise(teacher)).item()
    assert round(distance, 4) == 0.7000
    assert cases.official(student, [None], [teacher], [1.0]).item() == pytest.approx(distance, rel=1e-12)


def test_distance_and_gradients_equal_the_printed_formula(maps):
    student, weight, teacher = (x.requires_grad_(i < 2) for i, x in enumerate(maps))
    ours = one(student, weight, *normalise(teacher))
    theirs = cases.official(student, [weight], [teacher], [1.0])
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    torch.testing.assert_close(*(torch.autograd.grad(x, (student, weight)) for x in (ours, theirs)),
                               rtol=1e-10, atol=1e-13)


def test_distance_gradcheck(maps):
    student, weight, teacher = maps
    unit, energy = normalise(teacher)
    assert torch.autograd.gradcheck(lambda s, a: one(s, a, unit, energy),
                                    (student.requires_grad_(), weight.requires_grad_()))


def test_total_is_the_weighted_sum_of_the_distances():
    students, adaptors, teachers, energies, weights = Distance(3, 2, 16, 3, 5).inputs(dtype=torch.float64)
    total, distances = reference.feature_distance(students, adaptors, teachers, energies, weights)
    assert total.item() == pytest.approx((weights * distances).sum().item(), rel=1e-12)
    for t in range(3):
        alone = one(students, adaptors[t], teachers[t], energies[t])
        assert alone.item() == pytest.approx(distances[t].item(), rel=1e-12)


# -- the fused ways

@pytest.mark.parametrize("way", NAMES)
@pytest.mark.parametrize("case", cases.DISTANCE_TESTS, ids=str)
def test_fused_equals_the_reference(way, case):
    assert_as_exact_as(*WAYS[way], case, cases.COMPUTED[case.dtype])


ON_THE_CHIP = [case for case in cases.DISTANCE_TESTS if case.dtype == cases.F32 and case.adaptor == "linear"
               and {case.channels, case.teacher_channels} <= set(gpu.CHANNELS)]


@pytest.mark.parametrize("case", ON_THE_CHIP, ids=str)
def test_products_on_the_chip_equal_the_reference(case, monkeypatch):
    """A float32 student after set_float32_matmul_precision("medium"); the interpreter still multiplies in float32."""
    monkeypatch.setattr(gpu.torch, "get_float32_matmul_precision", lambda: "medium")
    assert_as_exact_as(gpu.feature_distance, DEVICE, case, cases.COMPUTED[cases.F32 if DEVICE == "cpu" else cases.BF16])


@pytest.mark.parametrize("way", NAMES[:2])
def test_float64_stays_float64_on_the_cpu(way):
    assert_as_exact_as(*WAYS[way], Distance(3, 2, 16, 3, 5, dtype=torch.float64, stored=cases.F32),
                       cases.COMPUTED[torch.float64])


@pytest.mark.parametrize("way", NAMES)
def test_gradient_of_a_multiple_is_the_multiple(way):
    assert_as_exact_as(*WAYS[way], Distance(2, 2, 16, 3, 5), cases.COMPUTED[cases.F32], factor=-1.5)


@pytest.mark.parametrize("way", NAMES[:2])
def test_chunks_add_up(way):
    """More than one chunk an image, and the last one short."""
    case = Distance(3, 2, 64, 61, 83)
    assert case.height * case.width > cpu.PIXELS and case.height * case.width % cpu.PIXELS
    assert_as_exact_as(*WAYS[way], case, cases.COMPUTED[cases.F32])


@pytest.mark.parametrize("way", NAMES)
@pytest.mark.parametrize("case", [Distance(3, 2, 64, 9, 13, cases.BF16), Distance(2, 2, 48, 3, 5),
                                  Distance(3, 2, 16, 3, 5, adaptor="none")], ids=str)
def test_two_launches_give_equal_bits_and_read_nothing_unwritten(way, case, monkeypatch):
    fused, device = WAYS[way]

    def launch():
        values = case.inputs(device)
        total, distances = fused(*values)
        return [total.detach(), distances, *gradients(total, *values[:2])]

    clean = launch()
    for name in ("empty", "empty_like"):
        original = getattr(torch, name)

        def poisoned(*size, original=original, **options):
            x = original(*size, **options)
            return x.fill_(torch.nan) if x.is_floating_point() else x

        monkeypatch.setattr(torch, name, poisoned)
    for first, second in zip(clean, launch(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("way", NAMES)
@pytest.mark.parametrize("wanted", ["student", "adaptors", "neither"])
def test_only_the_wanted_gradients_are_made(way, wanted):
    fused, device = WAYS[way]
    student, adaptors, *rest = Distance(2, 2, 16, 3, 5).inputs(device)
    with torch.set_grad_enabled(wanted != "neither"):
        total, distances = fused(student.requires_grad_(wanted == "student"),
                                 [a.requires_grad_(wanted == "adaptors") for a in adaptors], *rest)
    full = fused(*Distance(2, 2, 16, 3, 5).inputs(device))
    assert torch.equal(total, full[0]) and torch.equal(distances, full[1]) and not distances.requires_grad
    if wanted == "neither":
        assert not total.requires_grad
        return
    total.backward()
    assert (student.grad is not None) == (wanted == "student")
    assert all((a.grad is not None) == (wanted == "adaptors") for a in adaptors)


@pytest.mark.parametrize("way", NAMES)
def test_second_use_is_refused(way):
    fused, device = WAYS[way]
    values = Distance(2, 1, 16, 2, 3).inputs(device)
    total, _ = fused(*values)
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="a second backward through feature_distance"):
        total.backward()
    total, _ = fused(*values)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(total, values[0], create_graph=True)


def test_float16_students_are_refused_on_the_gpu():
    with pytest.raises(ValueError, match="torch.float16; the fused distance takes float32 or bfloat16"):
        gpu.feature_distance(*Distance(2, 1, 16, 2, 3, dtype=cases.F16).inputs(DEVICE))


# -- what is stored

@pytest.mark.parametrize("dtype", cases.STORED, ids=str)
def test_storage_types_stay_within_their_bounds(dtype):
    generator = torch.Generator().manual_seed(2)
    student, weight = torch.randn(2, 64, 8, 9, generator=generator), torch.randn(64, 64, generator=generator) / 8
    unit, energy = normalise(torch.randn(2, 64, 8, 9, generator=generator).relu())
    leaves = student.requires_grad_(), weight.requires_grad_()
    exact, stored = one(*leaves, unit, energy), one(*leaves, pack(unit, dtype), energy)
    bounds = cases.STORED[dtype]
    assert relative(stored, exact) < bounds[0]
    for g, h, bound in zip(torch.autograd.grad(stored, leaves), torch.autograd.grad(exact, leaves), bounds[1:],
                           strict=True):
        assert relative(g, h) < bound


def test_dead_pixels_stay_zero_in_every_type():
    unit, energy = normalise(torch.zeros(1, 4, 2, 2))
    assert energy.item() == 0
    for dtype in cases.STORED:
        assert not unpack(pack(unit, dtype)).any()


def test_uint8_refuses_negative_features():
    with pytest.raises(ValueError, match="must not be negative, found -0.8.*float16"):
        pack(torch.tensor([[[0.6, -0.8]]]), torch.uint8)


# -- what is refused, and who decides

@pytest.mark.parametrize("call", [reference.feature_distance, *(call for call, _ in WAYS.values())],
                         ids=["reference", *WAYS])
def test_shapes_that_do_not_fit_are_named(call):
    unit, energy = normalise(torch.ones(2, 4, 3, 3))
    w = torch.ones(1)
    with pytest.raises(ValueError, match=r"\(5, 3\) does not map 3 student channels to 4"):
        call(torch.ones(2, 3, 3, 3), [torch.ones(5, 3)], [unit], [energy], w)
    with pytest.raises(ValueError, match=r"\(2, 8, 4\) and teacher features \(2, 9, 4\)"):
        call(torch.ones(2, 4, 2, 4), [None], [unit], [energy], w)
    with pytest.raises(ValueError, match="2 student maps, 1 adaptors, 1 teachers"):
        call([torch.ones(2, 4, 3, 3)] * 2, [None], [unit], [energy], w)
    with pytest.raises(ValueError, match="0 teachers, 0 energies and 0 weights; .* there should be a task"):
        call([], [], [], [], w[:0])
    with pytest.raises(ValueError, match=r"weights \[-1.0\]; a lambda should be 0 or more"):
        call(torch.ones(2, 4, 3, 3), [None], [unit], [energy], -w)
    with pytest.raises(ValueError, match="lie on cpu, meta"):
        call(torch.ones(2, 4, 3, 3, device="meta"), [None], [unit], [energy], w)
    with pytest.raises(ValueError, match="float32', .*float64'.* differ between tasks"):
        call([torch.ones(2, 4, 3, 3), torch.ones(2, 4, 3, 3).double()], [None] * 2, [unit] * 2, [energy] * 2,
             torch.ones(2))
    with pytest.raises(ValueError, match="student maps are torch.int64"):
        call(torch.ones(2, 4, 3, 3).long(), [None], [unit], [energy], w)
    with pytest.raises(ValueError, match=r"\(2, 4, 9\); it should be \(B, C, H, W\) or \(B, C\)"):
        call(torch.ones(2, 4, 9), [None], [unit], [energy], w)
    with pytest.raises(ValueError, match="differ between tasks"):
        call(torch.ones(2, 4, 3, 3), [None, torch.ones(4, 4)], [unit] * 2, [energy] * 2, torch.ones(2))


@pytest.mark.parametrize("asked, chosen", [("auto", "native"), ("fused", "native"), ("chunked", "chunked"),
                                           ("reference", "reference")])
def test_environment_chooses_the_way_on_the_cpu(asked, chosen, monkeypatch):
    monkeypatch.setenv("KERNELS", asked)
    chosen = "chunked" if chosen == "native" and build.why_not() else chosen
    assert dispatch.choose(torch.device("cpu")) == chosen
    values = Distance(2, 1, 16, 2, 3).inputs()
    total, _ = feature_distance(*values)
    assert (type(total.grad_fn).__name__ == f"{autograd.FeatureDistance.__name__}Backward") == (chosen != "reference")


def test_environment_that_cannot_be_met_is_a_sentence(monkeypatch):
    monkeypatch.setenv("KERNELS", "fast")
    with pytest.raises(ValueError, match="KERNELS is 'fast'; it can be auto, fused, chunked or reference"):
        dispatch.choose(torch.device("cpu"))
    monkeypatch.setenv("KERNELS", "fused")
    with pytest.raises(ValueError, match="no fused kernels for the device 'mps'; set KERNELS=auto"):
        dispatch.choose(torch.device("mps"))
    monkeypatch.setattr(dispatch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="CUDA without the package triton"):
        dispatch.choose(torch.device("cuda"))
    monkeypatch.setenv("KERNELS", "auto")
    assert dispatch.describe("cuda") == "reference, since there is none for CUDA without the package triton"


def test_a_cpu_run_never_loads_the_triton_kernels():
    program = ("import sys; from kernels.cases import Distance; from kernels import feature_distance; "
               "feature_distance(*Distance(2, 1, 16, 2, 3).inputs()); "
               "print([m for m in sys.modules if 'kernels.gpu' in m])")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- ahead of time

def compiled(*words):
    """Run Python without the interpreter of Triton; the finished process."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment)


def test_kernels_compile_for_hopper_without_spills():
    """The gate of `cases.GATE` too: warp-group products, asynchronous 128-bit loads, instructions a pixel."""
    done = compiled("-m", "kernels.compile", "90")
    assert done.returncode == 0, done.stdout + done.stderr
    if done.stderr:                          # a compiler that nobody has tried
        warnings.warn(done.stderr, stacklevel=1)
    else:
        assert done.stdout.count("instructions a pixel") == len(cases.GATE)


SPILL = ("import triton; import kernels.gpu.feature_distance as f; from kernels import cases, compile; "
         "f.SHIPPED[9][3] = (256, 8, 2); compile.OPERATIONS = {'feature_distance': cases.GATE[:1]}; "
         "triton.__version__ = 'VERSION'; compile.main(90)")


@pytest.mark.parametrize("version, code", [("3.8.2", 1), ("3.10.0", 0), ("4.0.0+git1a2b", 0)])
def test_a_spill_is_named_and_fails_on_the_compilers_that_were_tried(version, code):
    done = compiled("-c", SPILL.replace("VERSION", version))
    assert done.returncode == code, done.stdout + done.stderr
    assert "bytes of registers are spilled" in done.stderr and "Traceback" not in done.stderr
    assert (f"Triton {version} has not been tried, 3.6, " in done.stderr) == (code == 0)


@pytest.mark.parametrize("version, code", [("3.8.2", 1), ("4.0.0", 0)])
def test_a_compiler_that_has_changed_is_a_sentence_unless_it_was_tried(version, code):
    done = compiled("-c", SPILL.replace("compile.main", "del triton.compiler.ASTSource; compile.main")
                    .replace("VERSION", version))
    assert done.returncode == code, done.stdout + done.stderr
    assert ("it cannot be compiled or read here, ImportError" in done.stderr) == (code == 0)


def test_the_versions_of_triton_that_were_tried_start_at_the_lowest_allowed():
    text = (pathlib.Path(__file__).parent.parent / "pyproject.toml").read_text()
    triton, = (x for x in tomllib.loads(text)["project"]["dependencies"] if x.startswith("triton"))
    assert re.match(r"triton>=([\d.]+)", triton)[1] == compile.TRIED[0]


def test_the_verdict_on_a_version_names_its_faults_and_a_compiler_that_is_not_it():
    said = "triton 3.6.0\n 76.1 instructions a pixel, 48\n 71.1 instructions a pixel\n101 builds, 0 faults\n"
    assert versions.judge("3.6", 0, said, []) == (
        "triton 3.6.0: 101 builds, 0 faults; 76.1 and 71.1 instructions a pixel", [])
    assert versions.judge("3.6", 1, said, ["a spill"])[1] == ["a spill"]
    assert versions.judge("3.6", 2, said, [])[1] == ["exit code 2"]
    for wrong in (said.replace("3.6.0", "3.60.0"), ""):
        verdict, faults = versions.judge("3.6", 0, wrong, [])
        assert "another compiler ran" in verdict and faults == ["its folder was not imported"]
