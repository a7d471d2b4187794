"""`make bench`: check every operation against the reference, then time it beside eager torch and torch.compile.

    python -m kernels.bench [seconds=N] [WORD ...]      only the cases whose line has every word

With `seconds`, no case begins later than that, and what was left out is named. All ways of a case take turns in one
run; the median is printed, with bytes a second over the bytes that have to be moved (`kernels.cases`), the share of the
bandwidth of a plain copy, and the peak of memory above what was held before. Numbers of an operation that fails its
check are not printed, and the exit status is 1.
"""

import ctypes
import datetime
import functools
import gc
import itertools
import math
import pathlib
import statistics
import subprocess
import sys
import time

import torch

from kernels import cases, dispatch, figures, reference
from kernels.packing import unpack

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SECONDS = 4.0              # of each way of a case on the CPU
LEAST = 5                  # calls, however long they take
REPLAYED = "fused, replayed"         # from a CUDA graph: what the device takes, without the host's part of a launch


def main(*words):
    limits = [float(word.partition("=")[2]) for word in words if word.startswith("seconds=")]
    end, words = time.monotonic() + min(limits, default=math.inf), [w for w in words if not w.startswith("seconds=")]
    bandwidth = copy_bandwidth()
    print(heading(bandwidth), flush=True)
    failed = []
    for title, chosen, check, ways in (
            ("min_norm", cases.GRADIENTS_BUILDS, check_solver, solver_ways),
            ("gramian, min_norm and combine", cases.GRADIENTS_BENCH, check_gradients, gradients_ways),
            ("loss and every gradient", distance_cases(), check_distance, distance_ways)):
        for case in chosen:
            line = f"{title}: {case}"
            if not all(word in line for word in words):
                continue
            if time.monotonic() > end:
                print(f"\n{line}\n  left out: the time is up", flush=True)
            else:
                fault = check(case)
                print(f"\n{line}\n  check: {fault or 'passed'}", flush=True)
                figures.note("check", case=line, fault=fault)
                if fault:
                    failed.append(f"{line}: {fault}")
                else:
                    compare(line, case, ways(case), bandwidth)
    for line in failed:
        print(line, file=sys.stderr)
    sys.exit(1 if failed else 0)


def commit():
    """Of the project; "unknown" outside a clone."""
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True,
                          cwd=pathlib.Path(__file__).parent)
    return done.stdout.strip() or "unknown"


def heading(bandwidth):
    name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return (f"{datetime.date.today()}  {name}  torch {torch.__version__}  commit {commit()}\n"
            f"kernels {dispatch.describe(DEVICE)}; a copy moves {bandwidth / 1e9:.1f} GB/s")


# -- what is compared

def distance_cases():
    return (cases.GPU_ONLY if DEVICE.type == "cuda" else []) + cases.DISTANCE_BENCH


def distance_ways(case):
    """{name: a call that makes loss and gradients}."""
    inputs = students, adaptors, teachers, _, weights = case.inputs(DEVICE)
    factors = weights.tolist()
    order = torch.channels_last if case.layout == "channels_last" else torch.contiguous_format
    raw = [unpack(t).transpose(1, 2).unflatten(2, (case.height, case.width)).to(case.dtype).contiguous(
        memory_format=order) for t in teachers]
    leaves = [*([students] if torch.is_tensor(students) else students), *(a for a in adaptors if a is not None)]
    compiled = torch.compile(cases.official, dynamic=False)

    def trained(loss):
        def call():
            loss().backward()
            for leaf in leaves:
                leaf.grad = None
        return call

    return {"eager": trained(lambda: cases.official(students, adaptors, raw, factors)),
            "torch.compile": trained(lambda: compiled(students, adaptors, raw, factors)),
            "reference": trained(lambda: reference.feature_distance(*inputs)[0]),
            "fused": trained(lambda: fused("feature_distance")(*inputs)[0])}


def gradients_ways(case):
    parameters, gradients = case.inputs(DEVICE)
    ones = torch.zeros(case.tasks, dtype=torch.float64, device=DEVICE)
    ones[0] = 1                # leaves the first gradient, in whose memory the sum lies, as it is

    def balanced(gramian, min_norm, combine):
        def call():
            min_norm(gramian(gradients))
            for p in parameters:
                p.grad = None
            combine(parameters, gradients, ones)
        return call

    def matrix():
        rows = torch.stack([torch.cat([g.flatten() for g in task]) for task in gradients])
        reference.min_norm(rows @ rows.T)
        total = ones.to(rows.dtype) @ rows
        for p, part in zip(parameters, total.split([p.numel() for p in parameters]), strict=True):
            p.grad = part.view_as(p)

    return {"one read": lambda: [g.sum() for task in gradients for g in task],
            "matrix": matrix,
            "reference": balanced(reference.gramian, reference.min_norm, reference.combine),
            "fused": balanced(fused("gramian"), fused("min_norm"), fused("combine")),
            "- gramian": functools.partial(fused("gramian"), gradients),
            "- combine": functools.partial(balanced(lambda _: None, lambda _: None, fused("combine")))}


def solver_ways(case):
    g = gramian_of(case)
    ways = {"reference": lambda: reference.min_norm(g), "fused": lambda: fused("min_norm")(g)}
    return ways | ({REPLAYED: ways["fused"]} if DEVICE.type == "cuda" else {})


def gramian_of(case):
    rows = torch.randn(case.tasks, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    return rows @ rows.T


def fused(operation):
    return getattr(dispatch.implementation(operation, DEVICE), operation)


# -- whether it is right

def relative(found, exact):
    return ((found.double() - exact.double()).norm() / exact.double().norm().clamp_min(1e-300)).item()


def check_distance(case):
    """None, or what is wrong: loss and whole gradients against the reference in float64."""
    results = []
    for way, dtype in ((reference.feature_distance, torch.float64), (fused("feature_distance"), case.dtype)):
        students, adaptors, *rest = case.inputs(DEVICE, dtype)
        total, _ = way(students, adaptors, *rest)
        maps = [students] if torch.is_tensor(students) else students
        trained = [a for a in adaptors if a is not None]
        found = torch.autograd.grad(total, [*maps, *trained])
        results.append((total.detach(), found[:len(maps)], found[len(maps):]))
    bounds = cases.COMPUTED[case.dtype]
    (exact, *exact_gradients), (total, *gradients) = results
    for name, bound, pairs in (("loss", bounds[0], [(total, exact)]),
                               ("student gradient", bounds[1], zip(gradients[0], exact_gradients[0], strict=True)),
                               ("adaptor gradient", bounds[2], zip(gradients[1], exact_gradients[1], strict=True))):
        for found, right in pairs:
            if not (off := relative(found, right)) <= bound:
                return f"{name} is off by {off:.1e}, the bound is {bound:.0e}"
    return None


def check_gradients(case):
    parameters, gradients = case.inputs(DEVICE)
    exact = reference.gramian(gradients)
    norm = exact.diagonal().sqrt()
    off = ((fused("gramian")(gradients) - exact).abs() / norm / norm[:, None]).max().item()
    if not off <= cases.GRAMIAN:
        return f"gramian is off by {off:.1e}, the bound is {cases.GRAMIAN:.0e}"
    weights = torch.rand(case.tasks, dtype=torch.float64, device=DEVICE)
    right = [sum(w * g.double() for w, g in zip(weights, column, strict=True))
             for column in zip(*gradients, strict=True)]
    fused("combine")(parameters, gradients, weights)
    off = max(relative(p.grad, x) for p, x in zip(parameters, right, strict=True))
    return None if off <= cases.COMBINE[case.dtype] else f"combine is off by {off:.1e}"


def check_solver(case):
    g = gramian_of(case)
    weights, state = fused("min_norm")(g)
    c = g @ weights
    worst = ((weights @ c - c) / (g.diagonal().sqrt() * g.diagonal().min().sqrt())).max().item()
    if state.item() != reference.SOLVED or not worst <= cases.KKT:
        return f"state {state.item()}, a gradient lies nearer by {worst:.1e}, the bound is {cases.KKT:.0e}"
    return None


# -- how long it takes, how much it needs

def compare(line, case, ways, bandwidth):
    usable = {}
    for name, call in ways.items():
        try:
            call()
            usable[name] = call
        except Exception as reason:                            # torch.compile needs a C++ compiler on the CPU
            if name != "torch.compile":
                raise
            print(f"  {name:15} cannot run here: {str(reason).strip().splitlines()[0][:90]}")
    times, memory = medians(usable), {name: extra_memory(call) for name, call in usable.items()}
    for name in usable:
        text = f"  {name:15} {times[name] * 1e3:10.3f} ms {times[name] / times['fused']:7.2f}x"
        if (moved := bytes_moved(case, name)) is not None:
            rate = moved / times[name]
            text += f" {rate / 1e9:8.1f} GB/s {rate / bandwidth:6.1%} of a copy"
        print(f"{text}  {memory[name] / 1e6:8.1f} MB more" if memory[name] is not None else text, flush=True)
    figures.note("kernel", case=line, seconds=times, memory=memory, bandwidth=bandwidth,
                 bytes={name: bytes_moved(case, name) for name in usable})
    if isinstance(case, cases.Gradients) and "one read" in usable:
        print(f"  fused takes {times['fused'] / times['one read']:.2f} times one read of the gradients")


def bytes_moved(case, name):
    """Bytes that have to be read and written, the same for all ways but the parts of one; None for T x T."""
    if isinstance(case, cases.Distance):
        return case.bytes
    if case in cases.GRADIENTS_BUILDS:
        return None
    one = case.size * case.dtype.itemsize
    read, combined = case.tasks * one, (case.tasks + 1) * one
    return {"one read": read, "- gramian": read, "- combine": combined}.get(name, read + combined)


def medians(ways):
    if DEVICE.type == "cuda":
        from triton.testing import do_bench, do_bench_cudagraph
        return {name: (do_bench_cudagraph(call, rep=100, return_mode="median") if name == REPLAYED else
                       do_bench(call, warmup=100, rep=400, return_mode="median")) / 1e3 for name, call in ways.items()}
    taken = {name: [] for name in ways}
    begun = time.perf_counter()
    for turn in itertools.count():
        if turn >= LEAST and time.perf_counter() - begun > SECONDS * len(ways):
            return {name: statistics.median(values) for name, values in taken.items()}
        for name, call in ways.items():
            start = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - start)


def extra_memory(call):
    """Peak bytes of one call above what was held before it; None where the system does not tell."""
    gc.collect()
    if DEVICE.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated() - before
    status, reset = pathlib.Path("/proc/self/status"), pathlib.Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    ctypes.CDLL(None).malloc_trim(0)           # give back what earlier calls have left
    reset.write_text("5")                      # the peak starts anew
    before = resident(status, "VmRSS")
    call()
    return resident(status, "VmHWM") - before


def resident(status, key):
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith(key))


def copy_bandwidth():
    """Bytes a second, read and written, of copying 256 MB."""
    source = torch.ones(1 << 26, device=DEVICE)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * source.nbytes / medians({"copy": lambda: target.copy_(source)})["copy"]


if __name__ == "__main__":
    main(*sys.argv[1:])
