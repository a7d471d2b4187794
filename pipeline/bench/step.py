"""`make bench-step`: a training step of the released recipe in its plainest form beside ours, on the same images.

    python -m pipeline.bench.step [segnet|mtan ...] [batch=2 ...] [size=288x384] [width=1.0] [rounds=3]
                                  [compiled] [graphs]

`plain` is KD4MTL's released training step (`pipeline.bench.recipe`): eager float32, NCHW layout, live teachers,
float64 files, metrics on the host. All others are `pipeline.loop.epoch`'s step on the project's own pieces, with
deterministic algorithms as in training; the plain ones do without. With `compiled`, and always on CUDA, come `plain
compiled` (torch.compile on its networks and loss, and channels last) and ours with COMPILE=on; with `graphs`, ours with
CUDA graphs.

Scenes are rendered and teachers drawn at random in a temporary folder (batch norm has one batch's statistics). Then:

1. Peak of memory of two steps: on a CPU in a fresh process, above what it held after its imports, features read from
   disk; on CUDA above what the allocator held before.
2. Every eager variant has to give the losses and gradients of `plain` with teachers in eval mode; else no speed is
   printed, and the exit status is 1.
3. All take turns, one step of warm-up first (ten a turn on CUDA); the median round is printed. "Outside convolutions"
   is the share of a step that torch.profiler does not find in them (the plain recipe's 1x1 adaptors are among them);
   on CUDA it includes the time in which the GPU waits. "Waits" are the times that the host waits for a GPU in a step,
   as torch's own debug mode counts them. A data path is all that a step reads.
4. The compiled variants follow, beside eager ones again, so that a compiler that takes long loses nothing.
"""

import contextlib
import datetime
import os
import pathlib
import re
import statistics
import sys
import tempfile
import warnings
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

import torch
import torch._dynamo  # noqa: F401    the first optimiser would, and its memory is not the step's
from torch import profiler

import kernels.dispatch
from kernels import figures
from kernels.bench import relative, resident
from pipeline.bench.variants import (
    COMPILED,
    EAGER,
    GRAPHS,
    HALF,
    LAST,
    ON,
    PLAIN,
    SAME,
    UNIFORM,
    UNIFORM_HALF,
    make,
    make_project,
    seconds,
)
from pipeline.evaluate import commit
from pipeline.runtime import device
from pipeline.runtime.errors import UserError, run
from pipeline.runtime.progress import Line

# relative to `plain` in the same layout (another one's rounding alone turns the gradient of such first weights by up to
# a quarter): task losses, distance, gradient of the adaptors, of the network. float16 features cost 1e-5 and 5e-4
BOUNDS = {"float32": (1e-5, 5e-5, 1e-3, 2e-3), "bfloat16": (2e-2, 5e-3, 0.1, None)}


def main(*words):
    models, batches, size, width, rounds, options = asked(words)
    where = device.pick()
    further = [COMPILED, ON] if "compiled" in options or where.type == "cuda" else []
    further += [GRAPHS] * ("graphs" in options)
    tf32 = [f"{name} {'on' if part.allow_tf32 else 'off'}" for name, part in (
        ("convolutions", torch.backends.cudnn), ("products", torch.backends.cuda.matmul))]
    print(f"{datetime.date.today()}  {device.describe(where)}  commit {commit()}\n"
          f"kernels {kernels.dispatch.describe(where)}; TF32 (CUDA only): {', '.join(tf32)}", flush=True)
    failed = []
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        make_project(models, max(batches), size, width, where)
        for model, batch in ((model, batch) for model in models for batch in batches):
            title = f"{model}, batch {batch}, {size[0]}x{size[1]}, width {width:g}"
            print(f"\n{title}", flush=True)
            try:
                fault = compare(title, further, model, batch, rounds, where)
            except (BrokenProcessPool, torch.OutOfMemoryError):
                fault = "it does not fit into the memory of this machine"
            if fault:
                print(f"  {fault}", flush=True)
                failed.append(f"{title}: {fault}")
    for line in failed:
        print(line, file=sys.stderr)
    sys.exit(1 if failed else 0)


def asked(words):
    """(models, batches, (height, width), width multiplier, rounds, options) from the command line's words."""
    shapes = {"batch": r"[1-9]\d*", "size": r"\d+x\d+", "width": r"\d+(\.\d+)?", "rounds": r"[1-9]\d*"}
    models, options = ["segnet", "mtan"], ["compiled", "graphs"]
    found = {"size": ["288x384"], "width": ["1.0"], "rounds": ["3"]}
    for word in words:
        key, _, value = word.partition("=")
        if word not in [*models, *options] and not (key in shapes and re.fullmatch(shapes[key], value)):
            raise UserError(f"{word!r} is not understood; the words are segnet, mtan, compiled, graphs, batch=2, "
                            "size=288x384, width=1.0 and rounds=3")
        found.setdefault(key, []).append(value)
    size = tuple(map(int, found["size"][-1].split("x")))
    return ([model for model in models if model in found] or models, [*map(int, found.get("batch", [2, 8]))], size,
            float(found["width"][-1]), int(found["rounds"][-1]), [option for option in options if option in found])


# -- one case

def compare(title, further, model, batch, rounds, where):
    """Print everything about one network and batch; None, or what is wrong."""
    memory, ways = made(EAGER, model, batch, where)
    if fault := check(ways, batch):
        return f"check: {fault}"
    print(f"  check: passed; a teacher's features: {ways[LAST].distance.sources['depth'].describe()}", flush=True)
    times = medians(ways, batch, rounds)
    show(title, batch, ways, times, memory, times)
    for name, values, above, below in (
            ("plain / cached, same layout and type", times, PLAIN, SAME),
            ("plain / cached, channels-last", times, PLAIN, LAST),
            ("plain / cached, channels-last bfloat16", times, PLAIN, HALF),
            ("cached KD / uniform, time", times, LAST, UNIFORM),
            ("cached KD / uniform, time in bfloat16", times, HALF, UNIFORM_HALF),
            ("cached KD / uniform, memory", memory, LAST, UNIFORM)):
        print(f"  {name:48} {values[above] / values[below]:6.2f}x", flush=True)
    _, _, predictions, targets = ways[PLAIN].compute(list(range(batch)))
    for name, of, call in (("data path", LAST, lambda: ways[LAST].data(list(range(batch)))),
                           ("data path", PLAIN, lambda: ways[PLAIN].data(list(range(batch)))),
                           ("training metrics", PLAIN, lambda: ways[PLAIN].metrics(predictions, targets))):
        taken = statistics.median(seconds(call, ways[of]) for _ in range(3))
        print(f"  {f'{name} of {of}':48} {taken / times[of]:6.1%} of its step", flush=True)
    for name in further:                       # one at a time, beside eager ones
        cost, way = made([name], model, batch, where)
        if way:
            if name != COMPILED and (fault := check({PLAIN: ways[PLAIN]} | way, batch)):
                return f"check: {fault}"
            again = medians({n: ways[n] for n in (PLAIN, LAST, HALF)} | way, batch, rounds)
            show(title, batch, way, again, cost, {n: again[n] for n in (PLAIN, LAST, HALF)})
    return None


def made(names, model, batch, where):
    """({variant: MB}, {variant: it}), without one that would have to be compiled and cannot be here."""
    line, memory, ways = Line("  peaks of memory", len(names)), {}, {}
    for i, name in enumerate(names):
        try:
            if where.type == "cuda":
                memory[name], ways[name] = peak(name, model, batch, where)
            else:
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
                    memory[name] = fresh.submit(peak_alone, name, model, batch).result()
                ways[name] = make(name, model, batch, where)
        except Exception as reason:                            # torch.compile needs a C++ compiler on the CPU
            if name in EAGER:
                raise
            print(f"  {name} cannot run here: {(str(reason).strip().splitlines() or [repr(reason)])[0][:90]}")
        line.step(i + 1, lambda name=name: name)
    line.close("measured")
    return memory, ways


def peak_alone(name, model, batch):
    os.environ["FEATURES"] = "disk"
    return peak(name, model, batch, device.pick())[0]


def peak(name, model, batch, where):
    """(MB that two steps need above what was held before, the variant)."""
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
        before = torch.cuda.memory_allocated(where) / 1e6
    else:
        before = highest(where)
    way = make(name, model, batch, where)
    for _ in range(2):
        seconds(lambda: way.step(list(range(batch))), way)
    return highest(where) - before, way


def highest(where):
    """MB so far. On Linux not ru_maxrss, which a process inherits from the one that started it."""
    status = pathlib.Path("/proc/self/status")
    if where.type == "cuda" or not status.exists():
        return device.peak_memory(where)
    return resident(status, "VmHWM") / 1e6


def show(title, batch, ways, times, memory, beside):
    """A line a variant, and the same as figures."""
    print(f"  {'':31} {'s a step':>9} {'images/s':>9} {'speed':>7} {'peak MB':>9} {'outside convolutions':>21} "
          f"{'waits':>6}")
    index = list(range(batch))
    for name, way in ways.items():
        away, waits = outside(way, index, times[name]), waiting(way, index)
        print(f"  {name:31} {times[name]:9.4f} {batch / times[name]:9.2f} {times[PLAIN] / times[name]:6.2f}x "
              f"{memory[name]:9.1f} {away:21.1%} {'-' if waits is None else waits:>6}", flush=True)
        figures.note("step", title=title, variant=name, seconds=times[name], memory=memory[name], outside=away,
                     waits=waits, beside=beside)


def check(ways, batch):
    """None, or what differs from the plain recipe with teachers in eval mode: first weights, same images, no TF32."""
    index, plain, before = list(range(batch)), ways[PLAIN], torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    plain.teachers.eval()
    try:
        for name, way in ways.items():
            if way is plain:
                continue
            plain.arrange(way.layout)
            plain.teachers.to(memory_format=torch.channels_last)               # as when their features were stored
            torch.use_deterministic_algorithms(True, warn_only=True)           # the loss of `plain` has none on CUDA
            right, distances, *_ = plain.compute(index)
            torch.use_deterministic_algorithms(True)
            losses, terms = way.compute(index)
            off = {"the task losses are": relative(torch.stack(losses).detach(), torch.stack(right).detach())}
            if terms:
                off["the distance is"] = relative(*(x["distance"].detach() for x in (terms, distances)))
                for part in ("adaptors", "model"):
                    off[f"the gradient of the {part} is"] = relative(*(
                        torch.cat([p.grad.flatten() for p in getattr(x, part).parameters()]) for x in (way, plain)))
            for (what, value), bound in zip(off.items(), BOUNDS[way.precision], strict=False):
                if bound and not value <= bound:
                    return f"{name}: {what} off by {value:.1e}, the bound is {bound:.0e}"
    finally:
        torch.backends.cudnn.allow_tf32 = before
        plain.teachers.train()
        plain.arrange(torch.contiguous_format)
    return None


def medians(ways, batch, rounds):
    """{variant: seconds a step}; all take turns over the same images."""
    count, steps = len(ways[LAST].split), 10 if ways[LAST].where.type == "cuda" else 1
    taken = {name: [] for name in ways}
    for turn in range(rounds + 1):
        line = Line(f"  round {turn}/{rounds}" if turn else "  warm-up", len(ways))
        indices = [[((turn * steps + s) * batch + i) % count for i in range(batch)] for s in range(steps)]
        for i, (name, way) in enumerate(ways.items()):
            taken[name].append(seconds(lambda way=way, indices=indices: [way.step(x) for x in indices], way) / steps)
            line.step(i + 1, lambda name=name: f"{name} {taken[name][-1]:.3f} s")
        line.close(" ".join(f"{values[-1]:.3f}" for values in taken.values()) + " s a step")
    return {name: statistics.median(values[1:]) for name, values in taken.items()}


def outside(way, index, usual):
    """Share of a step's time outside convolutions and their gradients."""
    cuda = way.where.type == "cuda"
    kinds = [profiler.ProfilerActivity.CPU, *[profiler.ProfilerActivity.CUDA] * cuda]
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")            # else it notes every start on stderr
    with profiler.profile(activities=kinds) as seen:
        taken = seconds(lambda: way.step(index), way)
    inside = sum(event.self_device_time_total if cuda else event.self_cpu_time_total for event in seen.key_averages()
                 if re.match(r"(aten|mkldnn)::\w*conv(olution|\d)", event.key))
    return 1 - inside / 1e6 / (usual if cuda else taken)       # the profiler slows the host, not the GPU


def waiting(way, index):
    """How often the host waits for the GPU in a step; None without one."""
    if way.where.type != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.use_deterministic_algorithms(way.deterministic)
            way.step(index)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in seen)


if __name__ == "__main__":
    run(main, *sys.argv[1:])
