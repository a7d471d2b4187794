"""`make plan`: what would rerun and why, how long it takes, what it needs; runs nothing.

    python -m pipeline.plan

Hours come from the step times that finished runs have recorded (out/runs/*/cost.json): of the same run if there is one,
else of runs of the same network and kind, scaled by pixels, batch and width squared and marked ~; a kind that has never
run has none. The paper's own protocol is costed likewise, for several devices. What lies outside DVC's knowledge (a
GPU, a raw folder) is not seen.
"""

import collections
import heapq
import json
import os
import pathlib
import shutil
import statistics
import sys

from pipeline import params
from pipeline.problem import Problem, run
from pipeline.progress import clock

TRAINED = ("teacher", "baseline", "wide", "student")
RUNS = pathlib.Path("out/runs")
BYTES = {"float32": 4, "float16": 2, "uint8": 1}


def main():
    chosen = params.load()
    params.check_options(chosen)
    stale, reasons, waiting = outdated()
    groups = collections.defaultdict(list)
    for name in stale:
        groups[name.partition("@")[0]].append(name)
    print(f"data {chosen.data}, protocol {chosen.protocol}, seeds {chosen.seeds}: {len(stale)} of "
          f"{len(reasons)} stages would run")
    total, unknown, timed = 0.0, 0, records()
    for stage, names in groups.items():
        seconds = [seconds_of(chosen, name, timed) for name in names] if stage in TRAINED else []
        known = [value for value, _ in seconds if value is not None]
        total, unknown = total + sum(known), unknown + len(seconds) - len(known)
        about = "~" if any(scaled for _, scaled in seconds) else ""
        took = f"{about}{clock(sum(known))}" if known else "not measured yet" if seconds else ""
        print(f"  {stage:18} {len(names):4} {took:>16}  {'; '.join(sorted({reasons[name] for name in names}))[:90]}")
    print(f"training: {clock(total)} by recorded step times" + (f", and {unknown} runs never timed" if unknown else ""))
    if "paper" in chosen.protocols:
        print(cost_of_paper(chosen.model_copy(update={"protocol": "paper"}), waiting, timed))
    needed, free = feature_bytes(chosen), shutil.disk_usage(".").free
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    print(f"features: {needed / 1e9:.2f} GB when all are there; disk free {free / 1e9:.1f} GB, memory "
          f"{memory / 1e9:.1f} GB" + ("" if needed < free else ": they do not fit; make room, or set FEATURES=live"))


def outdated():
    """Stages that would run, in their order; {stage: why} of all, "" if it would not; {stage: what it waits for}."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    try:
        with Repo() as repo:
            changed = repo.status()
            graph = repo.index.graph
            stages = {stage.addressing: stage for stage in graph.nodes}
    except DvcException as mistake:
        raise Problem(f"DVC: {' '.join(str(mistake).split())}") from None
    reasons = {name: why(changed[name]) if name in changed else "" for name in stages}
    waiting = {name: [up.addressing for up in graph.successors(stage)] for name, stage in stages.items()}
    for name in order(waiting):
        if not reasons[name]:
            first = next((up for up in waiting[name] if reasons[up]), None)
            reasons[name] = f"after {first.partition('@')[0]}" if first else ""
    return [name for name in order(waiting) if reasons[name]], reasons, waiting


def order(waiting):
    """Names so that what each waits for comes before it."""
    done = {}

    def visit(name):
        if name not in done:
            for up in waiting[name]:
                visit(up)
            done[name] = True
    for name in waiting:
        visit(name)
    return list(done)


def why(changes):
    """What DVC says of one stage, in a few words."""
    changed = {path: what for change in changes if isinstance(change, dict)
               for path, what in change.get("changed deps", {}).items()}
    parameters = changed.pop("params.yaml", {})
    if not isinstance(parameters, dict):
        return "never ran"
    parts = [f"params {', '.join(parameters)}"] if parameters else []
    parts += [change for change in changes if isinstance(change, str)] + [", ".join(changed)] * bool(changed)
    return "; ".join(parts) or "its results are not there"


def cost_of_paper(chosen, waiting, timed):
    """A line: hours of training of every stage on 1, 8 and 64 devices like those that step times were recorded on."""
    found = {name: seconds_of(chosen, name, timed)[0] for name in waiting if name.partition("@")[0] in TRAINED}
    unknown = sum(seconds is None for seconds in found.values())
    took = {name: found.get(name) or 0.0 for name in waiting}
    devices = sorted({device for *_, device in timed.values()})
    if unknown == len(found):
        return "the paper's protocol: no step was ever timed"
    times = "; ".join(f"{count} device{'s' * (count > 1)} {clock(makespan(took, waiting, count))}"
                      for count in (1, 8, 64))
    return (f"the paper's protocol, everything: {times}" + (f", and {unknown} runs never timed" if unknown else "")
            + f" (by steps on {', '.join(devices)}; in `make -jN` a stage has a device)")


def makespan(took, waiting, count):
    """Seconds until all are done, `count` at a time; those with the longest way to the end begin first."""
    after = collections.defaultdict(list)
    for name in waiting:
        for up in waiting[name]:
            after[up].append(name)
    way = {}
    for name in reversed(order(waiting)):
        way[name] = took[name] + max((way[next_] for next_ in after[name]), default=0.0)
    missing = {name: len(waiting[name]) for name in waiting}
    ready, running, now = [(-way[name], name) for name in waiting if not missing[name]], [], 0.0
    heapq.heapify(ready)
    while ready or running:
        while ready and len(running) < count:
            _, name = heapq.heappop(ready)
            heapq.heappush(running, (now + took[name], name))
        now, done = heapq.heappop(running)
        for name in after[done]:
            missing[name] -= 1
            if not missing[name]:
                heapq.heappush(ready, (-way[name], name))
    return now


def seconds_of(chosen, name, timed=None):
    """(seconds of training, whether they were scaled from another run); (None, False) if nothing like it ever ran."""
    stage, _, rest = name.partition("@")
    model, _, rest = rest.partition("-")
    method, _, seed = rest.rpartition("-")
    row = chosen.resolve(stage, model, method, seed)
    one, images = row["train"], chosen.in_force.data
    steps = one["epochs"] * (images.train // one["batch"])
    work = params.work(one, images.height, images.width)
    timed = records() if timed is None else timed
    own = timed.get(params.folder(model, method, seed))
    if own and own[1] == work:
        return own[0] * steps, False
    alike = [record for folder, record in timed.items()
             if folder.name.startswith(f"{model}-") and record[2] == (stage == "teacher")]
    if not alike:
        return None, False
    return steps * work * statistics.median(record[0] / record[1] for record in alike), True


def records():
    """{folder: `recorded`} of every finished run."""
    return {folder: record for folder in RUNS.glob("*-*") if (record := recorded(folder))}


def recorded(folder):
    """(seconds a step, work of a step, whether for one task, device) of a finished run, or None."""
    try:
        cost = json.loads((folder / "cost.json").read_text())
        return cost["seconds_per_step"], cost["work"], cost["stage"] == "teacher", cost["device"]
    except (OSError, ValueError, KeyError):
        return None


def feature_bytes(chosen):
    images, total = chosen.in_force.data, 0
    for model in chosen.models:
        width = chosen.in_force.train[model].width
        last = 64 * width * images.height * images.width
        mid = 512 * width * (images.height // 32) * (images.width // 32)
        total += (last + mid) * BYTES[chosen.features.dtype]
    return int(total * images.train * len(chosen.tasks) * len(chosen.seeds))


if __name__ == "__main__":
    run(main, *sys.argv[1:])
