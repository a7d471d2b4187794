"""`make plan`: what would rerun and why, how long it takes, what it needs; runs nothing.

    python -m pipeline.plan

Hours come from the step times that finished runs have recorded (out/*/runs/*/cost.json): of the same run if there is
one, else of runs of the same network and kind, scaled by pixels, batch and width squared and marked ~; a kind that has
never run has none. The paper's own protocol is costed likewise, for several devices. What lies outside DVC's
knowledge (a GPU, a raw folder) is not seen.
"""

import collections
import copy
import heapq
import json
import math
import os
import pathlib
import shutil
import statistics
import sys

import torch

import models
from pipeline.config import params
from pipeline.runtime.errors import UserError, run
from pipeline.runtime.progress import clock

TRAINED = ("teacher", "baseline", "wide", "student", "ablation", "searched")
BYTES = {"float32": 4, "float16": 2, "uint8": 1}


def main():
    chosen = params.load()
    params.check_options(chosen)
    stale, reasons, waiting = outdated()
    groups = collections.defaultdict(list)
    for name in stale:
        groups[name.partition("@")[0]].append(name)
    print(f"protocol {chosen.protocol}: {len(stale)} of {len(reasons)} stages would run")
    total, unknown, timed = 0.0, 0, records()
    for stage, names in groups.items():
        seconds = [seconds_of(chosen, name, timed) for name in names] if trains(stage) else []
        known = [value for value, _ in seconds if value is not None]
        total, unknown = total + sum(known), unknown + len(seconds) - len(known)
        about = "~" if any(scaled for _, scaled in seconds) else ""
        took = f"{about}{clock(sum(known))}" if known else "not measured yet" if seconds else ""
        print(f"  {stage:25} {len(names):4} {took:>16}  {'; '.join(sorted({reasons[name] for name in names}))[:90]}")
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
    from dvc.utils import serialize
    read = {}

    def parsed_once(path, **how):          # DVC parses params.yaml anew for each stage
        if path not in read:
            read[path] = serialize.load_yaml(path, **how)
        return copy.deepcopy(read[path])
    serialize.LOADERS[".yaml"] = parsed_once
    try:
        with Repo() as repo, repo.lock:               # `repo.status` would build the graph, and throw it away
            graph = repo.index.graph
            changed = {key: what for stage in graph.nodes for key, what in stage.status(check_updates=True).items()}
            stages = {stage.addressing: stage for stage in graph.nodes}
    except DvcException as mistake:
        raise UserError(f"DVC: {' '.join(str(mistake).split())}") from None
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
    found = {name: seconds_of(chosen, name, timed)[0] for name in waiting if trains(name)}
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
    verb, _, suite = stage.partition("-")
    suite = suite or chosen.search.suite                    # what a search found is trained there
    model, _, rest = rest.partition("-")
    method, _, seed = rest.rpartition("-")
    protocol = chosen.training_of(suite)
    one, images = protocol.train[model].model_dump(), protocol.data
    steps = one["epochs"] * steps_of(images.train, one["batch"], method)
    work = params.work(one, images.height, images.width)
    timed = records() if timed is None else timed
    own = timed.get(params.folder(suite, model, method, seed))
    if own and own[1] == work:
        return own[0] * steps, False
    alike = [record for folder, record in timed.items()
             if folder.name.startswith(f"{model}-") and record[2] == (verb == "teacher")]
    if not alike:
        return None, False
    return steps * work * statistics.median(record[0] / record[1] for record in alike), True


def trains(name):
    return name.partition("@")[0].partition("-")[0] in TRAINED


def numbers(images):
    """Training images {task: number} of two domains; the real pair's, for all there are."""
    return {"digits": images.digits or 47_217, "characters": images.characters or 19_476}


def steps_of(images, batch, row):
    """Of an epoch: of two domains until the larger, or a teacher's own, is through, as half of a batch is of each."""
    if isinstance(images, int):
        return max(1, images // batch)
    domains = numbers(images)
    return math.ceil(domains.get(row, max(domains.values())) / (batch // 2))


def records():
    """{folder: `recorded`} of every finished run."""
    return {folder: record for folder in pathlib.Path("out").glob("*/runs/*-*") if (record := recorded(folder))}


def recorded(folder):
    """(seconds a step, work of a step, whether for one task, device) of a finished run, or None."""
    try:
        cost = json.loads((folder / "cost.json").read_text())
        return cost["seconds_per_step"], cost["work"], cost["stage"] == "teacher", cost["device"]
    except (OSError, ValueError, KeyError):
        return None


def feature_bytes(chosen):
    total = 0
    for name, suite in chosen.suites:
        protocol = chosen.training_of(name)
        images = protocol.data
        for model in suite.models:
            if protocol.train[model].augment != "none":          # teachers run live
                continue
            channels = tap_channels(chosen, model, protocol, suite.tasks)
            pixels = {"last": images.height * images.width if "mid" in channels else 1,
                      "mid": (images.height // 32) * (images.width // 32)}
            train = images.train if isinstance(images.train, int) else sum(numbers(images.train).values())
            total += sum(pixels[tap] * c for tap, c in channels.items()) * train * len(suite.tasks) * len(suite.seeds)
    return int(total * BYTES[chosen.features.dtype])


def tap_channels(chosen, model, protocol, tasks):
    """{tap: channels of a network of this protocol}; no weight is drawn."""
    options = chosen.architecture(model, protocol)
    options.pop("pretrained", None)
    with torch.device("meta"):
        return models.load(model, dict.fromkeys(tasks, 2), protocol.train[model].width, **options).tap_channels


if __name__ == "__main__":
    run(main, *sys.argv[1:])
