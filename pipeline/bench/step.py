"""`make bench-step`: a training step of the released recipe in its plainest form beside ours, on the same images.

    python -m pipeline.bench.step [segnet|mtan ...] [batch=2 ...] [size=288x384] [width=1.0] [rounds=3] [compiled]

`plain` is KD4MTL's released training step (`pipeline.bench.recipe`): eager float32, NCHW layout, live teachers,
float64 files, metrics on the host. `plain compiled` has torch.compile and channels last (on CUDA, or with the word
`compiled`). All others are `pipeline.loop.epoch`'s step on the project's own pieces, with deterministic algorithms as
in training; the plain ones do without.

Scenes are rendered and teachers drawn at random in a temporary folder (batch norm has one batch's statistics). Then:

1. Peak of memory: two steps in a fresh process, above what it held after its imports, features read from disk.
2. Every variant has to give the losses and gradients of `plain` with teachers in eval mode; else no speed is printed,
   and the exit status is 1.
3. All take turns, one step of warm-up first (ten a turn on CUDA); the median round is printed. "Outside convolutions"
   is the share of a step that torch.profiler does not find in them (the plain recipe's 1x1 adaptors are among them);
   on CUDA it includes the time in which the GPU waits. A data path is all that a step reads.
"""

import contextlib
import datetime
import os
import pathlib
import re
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

import torch
import torch._dynamo  # noqa: F401    the first optimiser would, and its memory is not the step's
from torch import profiler

import kernels.dispatch
from kernels.bench import relative, resident
from pipeline import features, objectives, prepare, rows
from pipeline.bench import recipe
from pipeline.config import params, reading
from pipeline.data.split import Split
from pipeline.evaluate import commit
from pipeline.loop import epoch
from pipeline.loop.record import Record, Sums
from pipeline.loop.state import balancer_of
from pipeline.runtime import device, files, weights
from pipeline.runtime.errors import UserError, run
from pipeline.runtime.progress import Line
from pipeline.runtime.row import read
from pipeline.teachers import networks

PLAIN, SAME, LAST, HALF, UNIFORM, COMPILED = VARIANTS = (
    "plain", "cached, contiguous float32", "cached, channels-last float32", "cached, channels-last bfloat16",
    "uniform, channels-last float32", "plain compiled")
# relative to `plain` in the same layout (another one's rounding alone turns the gradient of such first weights by up to
# a quarter): task losses, distance, gradient of the adaptors, of the network. float16 features cost 1e-5 and 5e-4
BOUNDS = {"float32": (1e-5, 5e-5, 1e-3, 2e-3), "bfloat16": (2e-2, 5e-3, 0.1, None)}


def main(*words):
    models, batches, size, width, rounds, compiled = asked(words)
    where = device.pick()
    names = VARIANTS if compiled or where.type == "cuda" else VARIANTS[:-1]
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
                fault = compare(names, model, batch, rounds, where)
            except (BrokenProcessPool, torch.OutOfMemoryError):
                fault = "it does not fit into the memory of this machine"
            if fault:
                print(f"  {fault}", flush=True)
                failed.append(f"{title}: {fault}")
    for line in failed:
        print(line, file=sys.stderr)
    sys.exit(1 if failed else 0)


def asked(words):
    """(models, batches, (height, width), width multiplier, rounds, compiled) from the command line's words."""
    shapes = {"batch": r"[1-9]\d*", "size": r"\d+x\d+", "width": r"\d+(\.\d+)?", "rounds": r"[1-9]\d*"}
    known, found = ["segnet", "mtan", "compiled"], {"size": ["288x384"], "width": ["1.0"], "rounds": ["3"]}
    for word in words:
        key, _, value = word.partition("=")
        if word not in known and not (key in shapes and re.fullmatch(shapes[key], value)):
            raise UserError(f"{word!r} is not understood; the words are segnet, mtan, compiled, batch=2, size=288x384, "
                          "width=1.0 and rounds=3")
        found.setdefault(key, []).append(value)
    size = tuple(map(int, found["size"][-1].split("x")))
    return ([model for model in known[:2] if model in found] or known[:2], [*map(int, found.get("batch", [2, 8]))],
            size, float(found["width"][-1]), int(found["rounds"][-1]), "compiled" in found)


# -- a project in the working folder

def make_project(models, batch, size, width, where):
    """params.yaml, prepared scenes and the same as float64 files, drawn teachers and their features."""
    tree = reading.read(files.PROJECT / params.TOP)
    paper, ours = tree["protocols"]["paper"], tree["methods"]["ours"]
    tree |= {"protocol": "paper", "data": "scenes", "seeds": [0]}
    for group, rows_of in (("teacher", ["semantic", "depth", "normal"]), ("baseline", ["uniform"]),
                           ("student", ["ours"]), ("wide", []), ("ablation", [])):
        tree[group] = {"models": models, "rows": rows_of}
    tree |= {"tables": dict.fromkeys(tree["tables"], []), "printed": {}, "paper": str(files.PROJECT / tree["paper"])}
    paper["data"] = {"height": size[0], "width": size[1], "train": max(2 * batch, 16), "test": 1}
    for section in paper["train"].values():
        section |= {"batch": batch, "width": width, "precision": "float32"}
    tree["features"] |= {"dtype": "float16", "teacher": "last"}
    ours |= {"balancer": "uniform", "options": {}, "taps": ["mid", "last"], "adaptor": "linear",
             "teacher_bn": "running", "towards": "own", "loss": "l2", "adaptor_init": "xavier", "switches": {}}
    ours.pop("augment", None)
    tree["switches"]["normal_mask"] = "depth"          # as released, so that losses can be compared
    params.TOP.write_text(reading.text(tree))
    rows.main("rooms")
    prepare.main("rooms")
    split = Split("out/rooms/data", "train", where)
    recipe.write_raw(split)
    for model in models:
        row = read("train", "rooms", "student", f"{model}-ours-s0")
        for i, task in enumerate(row["tasks"]):
            torch.manual_seed(i + 1)
            teacher = networks.network(row, [task], split.classes, where).train()
            for part in teacher.modules():
                if isinstance(part, torch.nn.BatchNorm2d):
                    part.momentum = 1.0
            with torch.no_grad():
                teacher.features(split.batch(list(range(8)))[0])
            files.write(networks.weights_file(row, task), weights.pack({"last": weights.copy_of(teacher)}))
            features.main("rooms", "teacher", model, task, "0")


# -- the variants: `data`, then `compute` up to the gradients, then `step`

def make(name, model, where):
    group, method = ("baseline", "uniform") if name == UNIFORM else ("student", "ours")
    row = read("train", "rooms", group, f"{model}-{method}-s0")
    row["train"]["precision"] = "bfloat16" if name == HALF else "float32"
    if name in (PLAIN, COMPILED):
        return recipe.Recipe(row, where, name == COMPILED)
    return Ours(row, where, torch.contiguous_format if name == SAME else torch.channels_last)


class Ours:
    """The step of `pipeline.loop.epoch`, which takes this for its run."""
    deterministic, trunk = True, None

    def __init__(self, row, where, layout):
        self.where, self.layout, self.tasks, self.lr = where, layout, row["tasks"], row["train"]["lr"]
        self.precision, self.record, self.sums = row["train"]["precision"], Record(self.tasks), Sums(sys.maxsize)
        self.split = Split("out/rooms/data", "train", where)
        torch.manual_seed(row["seed"])
        self.model = networks.network(row, self.tasks, self.split.classes, where).to(memory_format=layout).train()
        self.objective = objectives.load(row["method"]["objective"], row, self.model, self.split, where)
        if self.objective.terms:
            _, self.distance = self.objective.parts
            self.adaptors = self.distance.adaptors
        self.balancer = balancer_of(row, where)
        self.optimiser = torch.optim.Adam(self.model.parameters(), self.lr, fused=True)

    def data(self, index):
        image, _ = self.split.batch(index)
        return [source.batch(index, image, self.distance.taps) for source in self.distance.sources.values()]

    def batch(self, index):
        image, targets = self.split.batch(index)
        return epoch.Batch(index, None, image.contiguous(memory_format=self.layout), targets, 1.0)

    def compute(self, index):
        """Gradients, then (task losses, {"distance": scalar} or {})."""
        self.optimiser.zero_grad(set_to_none=True)
        step = epoch.forward(self.model, self.batch(index), self.precision, self.lr)
        found, _, _ = epoch.gradients(self.model, self.objective, self.balancer, step)
        return found.losses, found.terms

    def step(self, index):
        self.sums.add(len(self.record.steps), *epoch.train_step(self, self.batch(index), self.lr, 0.0, self.record))


# -- one case

def compare(names, model, batch, rounds, where):
    """Print everything about one network and batch; None, or what is wrong."""
    memory = peaks(names, model, batch)
    ways = {name: make(name, model, where) for name in memory}
    if fault := check(ways, batch):
        return f"check: {fault}"
    print(f"  check: passed; a teacher's features: {ways[LAST].distance.sources['depth'].describe()}", flush=True)
    times = medians(ways, batch, rounds)
    print(f"  {'':30} {'s a step':>9} {'images/s':>9} {'speed':>7} {'peak MB':>9} {'outside convolutions':>21}")
    index = list(range(batch))
    for name, way in ways.items():
        print(f"  {name:30} {times[name]:9.4f} {batch / times[name]:9.2f} {times[PLAIN] / times[name]:6.2f}x "
              f"{memory[name]:9.1f} {outside(way, index, times[name]):21.1%}", flush=True)
    ratios = [("plain / cached, same layout and type", times, PLAIN, SAME),
              ("plain / cached, channels-last", times, PLAIN, LAST),
              ("plain / cached, channels-last bfloat16", times, PLAIN, HALF),
              ("cached KD / uniform, time", times, LAST, UNIFORM),
              ("cached KD / uniform, memory", memory, LAST, UNIFORM)]
    if COMPILED in ways:
        ratios += [(f"plain compiled / {name}", times, COMPILED, name) for name in (LAST, HALF)]
    for title, values, above, below in ratios:
        print(f"  {title:48} {values[above] / values[below]:6.2f}x")
    _, _, predictions, targets = ways[PLAIN].compute(index)
    for title, name, call in (("data path", LAST, lambda: ways[LAST].data(index)),
                              ("data path", PLAIN, lambda: ways[PLAIN].data(index)),
                              ("training metrics", PLAIN, lambda: ways[PLAIN].metrics(predictions, targets))):
        taken = statistics.median(seconds(call, ways[name]) for _ in range(3))
        print(f"  {f'{title} of {name}':48} {taken / times[name]:6.1%} of its step", flush=True)
    return None


def peaks(names, model, batch):
    """{variant: MB}, without a `plain compiled` that cannot run here."""
    line, found = Line("  peaks of memory", len(names)), {}
    for i, name in enumerate(names):
        try:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
                found[name] = fresh.submit(peak, name, model, batch).result()
        except Exception as reason:                            # torch.compile needs a C++ compiler on the CPU
            if name != COMPILED:
                raise
            print(f"  {name} cannot run here: {(str(reason).strip().splitlines() or [repr(reason)])[0][:90]}")
        line.step(i + 1, lambda name=name: name)
    line.close("measured")
    return found


def peak(name, model, batch):
    """MB that two steps need above what this fresh process held before; features are read from disk."""
    os.environ["FEATURES"] = "disk"
    where = device.pick()
    before = highest(where)
    way = make(name, model, where)
    for _ in range(2):
        seconds(lambda: way.step(list(range(batch))), way)
    return highest(where) - before


def highest(where):
    """MB so far. On Linux not ru_maxrss, which a process inherits from the one that started it."""
    status = pathlib.Path("/proc/self/status")
    if where.type == "cuda" or not status.exists():
        return device.peak_memory(where)
    return resident(status, "VmHWM") / 1e6


def check(ways, batch):
    """None, or what differs from the plain recipe with teachers in eval mode: first weights, same images, no TF32."""
    index, plain, before = list(range(batch)), ways[PLAIN], torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    plain.teachers.eval()
    try:
        for name in (SAME, LAST, HALF, UNIFORM):
            way = ways[name]
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


def seconds(call, way):
    torch.use_deterministic_algorithms(way.deterministic)
    wait = torch.cuda.synchronize if way.where.type == "cuda" else lambda: None
    wait()
    begun = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - begun


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


if __name__ == "__main__":
    run(main, *sys.argv[1:])
