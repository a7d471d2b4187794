"""What `make gpu` says of its figures: lines of a part, and the table at the end."""

import re

# what an H200 has to reach
DISTANCE_US, SOLVER_US = 80.0, 20.0          # T=3, 2x64x288x384 in bfloat16 with float16 teachers; any T
BYTES = 1.3                                  # times the time in which a copy moves the same bytes
OVER_UNIFORM = 1.10                          # a step of Ours over one of Uniform
OVER_PLAIN = {"plain": 3.5, "plain compiled": 1.6}      # how much faster than the released recipe, eager and compiled
PAPER = "segnet, batch 2, 288x384, width 1"  # a step of part c as the paper's are
HEADLINE = "T3-2x64x288x384-bfloat16-float16"


def text(found):
    """The table: a heading a part, then what it measured."""
    lines = [f"{found['date']}  {found['device']}  torch {found['torch']}  triton {found['triton']}  commit "
             f"{found['commit']}"]
    for part, result in found["parts"].items():
        lines.append(f"{part}  {result['state']}, {result['seconds']:.0f} s")
        lines += [f"   {line}" for line in of_part(part, result["figures"], found["judged"])]
    lines += [f"   {line}" for line in hours(found["parts"])]
    return "\n".join(lines)


def of_part(part, figures, judged):
    """The lines of a part, without what a GPU should reach unless `judged`; empty where it measured nothing."""
    of = {"a": of_tests, "b": of_kernels, "c": of_steps, "d": of_verbs, "e": of_training}[part]
    return of(figures, verdict if judged else lambda *_, **__: "")


def verdict(value, limit, least=False):
    """" (at most 80: ok)", or that it misses, behind a value."""
    good = value >= limit if least else value <= limit
    return f" ({'at least' if least else 'at most'} {limit:g}: {'ok' if good else 'misses'})"


# -- a

def tests(logs):
    """What several runs of pytest said, as a figure."""
    counts = {word: sum(int(n) for log in logs for n in re.findall(rf"(\d+) {word}", log.strip().rpartition("\n")[2]))
              for word in ("passed", "failed", "error")}
    faults = [line for log in logs for line in re.findall(r"^(?:FAILED|ERROR) .*", log, re.M)]
    return {"kind": "tests", **counts, "faults": faults}


def of_tests(figures, judge):
    return [line for f in figures if f["kind"] == "tests" for line in (
        f"{f['passed']} tests passed, {f['failed']} failed, {f['error']} broke", *(x[:150] for x in f["faults"][:6]))]


# -- b

def of_kernels(figures, judge):
    lines = [f"{f['case']}: WRONG, {f['fault']}" for f in figures if f["kind"] == "check" and f["fault"]]
    for f in figures:
        if f["kind"] == "kernel":
            operation, _, case = f["case"].partition(": ")
            lines += {"min_norm": solver, "gramian, min_norm and combine": gradients}.get(operation, distance)(
                case, f, judge)
    return lines


def solver(case, f, judge):
    if "float32" not in case:
        return []
    us = 1e6 * f["seconds"].get("fused, replayed", f["seconds"]["fused"])
    return [f"min_norm {case.partition('-')[0]}: {us:.1f} us{judge(us, SOLVER_US)}, with its launch "
            f"{1e6 * f['seconds']['fused']:.0f} us"]


def gradients(case, f, judge):
    said = []
    for name in ("gramian", "combine"):
        took = f["seconds"][f"- {name}"]
        share = took / f["bytes"][f"- {name}"] * f["bandwidth"]
        said.append(f"{name} {1e3 * took:.3f} ms, {share:.2f} of its bytes' time{judge(share, BYTES)}")
    return [f"{case}: {'; '.join(said)}"]


def distance(case, f, judge):
    us = {name: 1e6 * value for name, value in f["seconds"].items()}
    share = f["seconds"]["fused"] / f["bytes"]["fused"] * f["bandwidth"]
    ratios = ", ".join(f"{us[name] / us['fused']:.1f}x {name}" for name in ("eager", "torch.compile") if name in us)
    asked = judge(us["fused"], DISTANCE_US) if HEADLINE in case else ""
    return [f"distance {case}: {us['fused']:.0f} us{asked}, {share:.2f} of its bytes' time; {ratios}"]


# -- c

def of_steps(figures, judge):
    steps = [f for f in figures if f["kind"] == "step"]
    compiled = {f["title"]: f["seconds"] for f in steps if f["variant"] == "plain compiled"}
    lines = []
    for f in steps:
        bases = {"plain": f["beside"]["plain"], "plain compiled": compiled.get(f["title"])}
        said = [f"{base / f['seconds']:.2f}x {name}" + (
            f"{judge(base / f['seconds'], OVER_PLAIN[name], least=True)}" if f["variant"].startswith("cached") and
            "bfloat16" in f["variant"] else "") for name, base in bases.items() if base]
        lines.append(f"{f['title']}: {f['variant']:31} {1e3 * f['seconds']:8.2f} ms {f['memory']:7.0f} MB, waits "
                     f"{'-' if f['waits'] is None else f['waits']}; {', '.join(said)}")
    for title in dict.fromkeys(f["title"] for f in steps):
        took = {f["variant"]: f["seconds"] for f in steps if f["title"] == title}
        for kind in ("float32", "bfloat16"):
            ours, uniform = (took.get(f"{name}, channels-last {kind}") for name in ("cached", "uniform"))
            if ours and uniform:
                lines.append(f"{title}: KD / uniform in {kind} {ours / uniform:.3f}"
                             f"{judge(ours / uniform, OVER_UNIFORM)}")
    return lines


def hours(parts):
    """What the paper's steps would take at the times of part c, where e says how many there are."""
    steps = [f["paper_steps"] for part in parts.values() for f in part["figures"] if f["kind"] == "real"]
    return [f"{f['title']}, {f['variant']}: the paper's {steps[0]:,} steps in {f['seconds'] * steps[0] / 3600:.2f} h"
            for part in parts.values() for f in part["figures"] if steps and f["kind"] == "step" and
            f["title"] == PAPER and "bfloat16" in f["variant"]]


# -- d

def of_verbs(figures, judge):
    lines = []
    for f in (f for f in figures if f["kind"] == "dag"):
        lines += [f"{what}: {' and '.join(f['devices'])} are {off:.3g} apart, {f['bands'][what]:g} are allowed"
                  for what, off in f["worst"].items()]
        lines.append(f"killed and resumed: {'the same bits' if f['same_bits'] else 'OTHER BITS'}")
    return lines


# -- e

def of_training(figures, judge):
    lines = []
    for f in (f for f in figures if f["kind"] == "real"):
        size = "x".join(map(str, f["size"]))
        lines.append(f"{f['data']} at {size}, {f['images']} images, {f['epochs']} of {f['of']} epochs, bfloat16")
        for method in dict.fromkeys(cell["method"] for cell in f["cells"]):
            shown = {cell["metric"]: cell["mean"] for cell in f["cells"] if cell["method"] == method
                     and cell["rule"] == "train_loss" and cell["protocol"] == "official" and cell["mean"] is not None}
            lines.append(f"{method:8} {'  '.join(f'{name} {value:.4g}' for name, value in shown.items())}")
        lines += [f"{name}: {1e3 * cost['seconds_per_step']:.1f} ms a step at {size}; the paper's {f['paper_steps']:,} "
                  f"steps at that {cost['seconds_per_step'] * f['paper_steps'] / 3600:.2f} h"
                  for name, cost in f["cost"].items()]
    return lines
