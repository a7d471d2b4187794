"""`make plan`: what would rerun and why, and how long it takes; runs nothing.

    python -m pipeline.plan [SUITE ...]          all suites, or these

What DVC knows is asked of DVC; the rows are resolved in memory, so that an edit of params.yaml or of code shows
before the stage `rows` has run. Hours come from the step times that finished runs have recorded (cost.json): of the
same run if there is one, else of runs of the same network and kind, scaled by pixels, batch and width squared and
marked ~. A fresh clone has those of step_times.yaml, of the machine that it names. What lies outside DVC's knowledge
(a raw folder) is not seen.
"""

import collections
import contextlib
import functools
import heapq
import math
import pathlib
import statistics
import sys
from typing import NamedTuple

import yaml

from pipeline import rows
from pipeline.config import params, resolve
from pipeline.loop.curve import work_of
from pipeline.runtime import documents
from pipeline.runtime.errors import UserError, run
from pipeline.runtime.progress import clock

TRAINED = (*params.GROUPS, resolve.SEARCHED)
SHIPPED = pathlib.Path(__file__).parent / "config/step_times.yaml"
LINES = 30                  # of stages; a screen has room for the rest
ALL = 47_217                # images, where a protocol takes all that there are: SVHN's share of the Visual Decathlon


class Record(NamedTuple):
    """A finished run's step: seconds, and what its time is taken to grow with."""
    group: str
    model: str
    seconds: float
    work: float
    device: str


def main(*suites):
    stale, reasons, waiting, found = outdated(suites)
    timed = records()
    shipped = None if timed else yaml.safe_load(SHIPPED.read_text())
    if shipped:
        timed = {key: Record(*key.split(), seconds, 1.0, shipped["machine"])
                 for key, seconds in shipped["seconds_per_work"].items()}
    print(f"{len(stale)} of {len(reasons)} stages would run")
    kinds = collections.defaultdict(list)
    for name in stale:
        kinds[name.partition("@")[0]].append(name)
    for kind, names in list(kinds.items())[:LINES]:
        print(told(kind, names, reasons, found, timed))
    if len(kinds) > LINES:
        print(f"  and {len(kinds) - LINES} kinds of stages more; `python -m pipeline.plan SUITE` has one suite's")
    seconds = [seconds_of(found[name], timed)[0] for name in stale if trains(name)]
    by = f"the step times shipped with the project, of {shipped['machine']}" if shipped else "recorded step times"
    print(f"training: {clock(sum(filter(None, seconds)))} by {by}"
          + (f", and {seconds.count(None)} runs never timed" if None in seconds else ""))
    if not shipped:                     # days on another machine's steps would say nothing of this one's
        print(cost_of_paper(suites, waiting, found, timed))


def told(kind, names, reasons, found, timed):
    """A line of one kind of stage: how many, how long, why."""
    seconds = [seconds_of(found[name], timed) for name in names if trains(name)]
    known = [value for value, _ in seconds if value is not None]
    about = "~" if any(scaled for _, scaled in seconds) else ""
    took = f"{about}{clock(sum(known))}" if known else "not measured yet" if seconds else ""
    why = "; ".join(dict.fromkeys(reasons[name] for name in names))
    return f"  {short(kind):34} {len(names):4} {took:>16}  {why[:60]}"


def short(stage):
    """A stage's name with its suite before it."""
    file, _, name = stage.rpartition(":")
    return f"{file.split('/')[-2]}: {name}" if file else name


def outdated(suites=()):
    """Stages that would run, in their order; {stage: why} of all, "" if it would not; {stage: what it waits for};
    {stage: its row}, of every stage that has one."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    known = params.files()
    for suite in suites:
        if suite not in known:
            raise UserError(f"{suite!r} is no suite; there are {', '.join(known)}")
    now = {f"out/{suite}/rows/{name}": row for suite in suites or known
           for name, row in resolve.everything(suite).items()}
    try:
        with read_only(), Repo() as repo, repo.lock:  # `repo.status` would build the graph, and throw it away
            graph = repo.index.graph
            nodes = [stage for stage in graph.nodes if not suites or suite_of(stage, known) in suites]
            changed = {key: what for stage in nodes for key, what in stage.status(check_updates=True).items()}
            stages = {stage.addressing: stage for stage in nodes}
            waiting = {name: [up.addressing for up in graph.successors(stage) if up.addressing in stages]
                       for name, stage in stages.items()}
            of = {name: next((str(dep) for dep in stage.deps if str(dep) in now), None)
                  for name, stage in stages.items()}
    except DvcException as mistake:
        raise UserError(f"DVC: {' '.join(str(mistake).split())}") from None
    reasons = {name: why(changed[name]) if name in changed else "" for name in stages}
    for name, file in of.items():
        if file and (told := difference(pathlib.Path(file), now[file])):
            reasons[name] = told
    for name in order(waiting):
        if not reasons[name]:
            first = next((up for up in waiting[name] if reasons[up] and not rows_of(up)), None)
            reasons[name] = f"after {first.rpartition(':')[2].partition('@')[0]}" if first else ""
    stale = [name for name in order(waiting) if reasons[name]]
    return stale, reasons, waiting, {name: now[file] for name, file in of.items() if file}


@contextlib.contextmanager
def read_only():
    """DVC without two costs that a reader of its graph need not pay.

    It parses the same ${...} again for every stage of a group, and it writes .dvc/tmp/rwlock twice for every stage,
    which guards files that a stage is about to write.
    """
    from dvc import rwlock
    from dvc.parsing import interpolate
    before = interpolate.parse_expr, rwlock.rwlock
    interpolate.parse_expr = functools.cache(interpolate.parse_expr)
    rwlock.rwlock = lambda *args: contextlib.nullcontext()
    try:
        yield
    finally:
        interpolate.parse_expr, rwlock.rwlock = before


def suite_of(stage, known):
    """The suite whose folder holds a stage's dvc.yaml; the top one's lies at the root."""
    folder = pathlib.Path(stage.path_in_repo).parent
    return next((suite for suite, file in known.items() if file.parent == folder), None)


def rows_of(name):
    """Whether a stage writes rows: what comes after it depends on its own row, which is compared here."""
    return name.rpartition(":")[2] == "rows"


def difference(file, row):
    """What of a row has changed since it was written, in a few words; "" if nothing has."""
    if file.exists() and file.read_bytes() == rows.text(file, row).encode():
        return ""
    try:
        keys = changed_keys(documents.read(file, str, parse=documents.from_yaml), row)
    except documents.Missing:
        return "its row is new"
    except UserError:
        return "its row is damaged"
    return "row: " + ", ".join(keys[:4]) + (", ..." if len(keys) > 4 else "")


def changed_keys(before, after, above=""):
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return [] if before == after else [above]
    return [key for name in dict.fromkeys([*before, *after])
            for key in changed_keys(before.get(name), after.get(name), f"{above}.{name}".lstrip("."))]


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
    if words := [change for change in changes if isinstance(change, str)]:
        return "; ".join(words)
    said = collections.ChainMap(*changes)
    changed, gone = said.get("changed deps", {}), said.get("changed outs", {})
    if changed and gone and set(gone.values()) == {"deleted"}:
        return "never ran here"
    return f"{', '.join(changed)} changed" if changed else "its results are not there"


def cost_of_paper(suites, waiting, found, timed):
    """A line: hours of training of every stage under `paper` on 1, 8 and 64 devices like those that were timed."""
    known = [suite for suite in suites or params.files() if "paper" in params.load(suite).protocols]
    paper = {row["folder"]: seconds_of(row, timed)[0] for suite in known
             for path, row in resolve.everything(suite, "paper").items() if path.startswith("train/")}
    took = {name: paper.get(found[name]["folder"]) if trains(name) else 0.0 for name in waiting}
    unknown = list(took.values()).count(None)
    if unknown == sum(map(trains, waiting)):
        return "the paper's protocol: no step was ever timed"
    took = {name: seconds or 0.0 for name, seconds in took.items()}
    times = "; ".join(f"{count} device{'s' * (count > 1)} {clock(makespan(took, waiting, count))}"
                      for count in (1, 8, 64))
    return (f"the paper's protocol, everything: {times}" + (f", and {unknown} runs never timed" if unknown else "")
            + f" (by steps on {', '.join(sorted({record.device for record in timed.values()}))}; in `make -jN` a stage "
            "has a device)")


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


def seconds_of(row, timed):
    """(seconds of a row's training, whether scaled from other runs); (None, False) if nothing like it ever ran."""
    steps = row["train"]["epochs"] * steps_of(row)
    work = work_of(row["train"], row["data"]["height"], row["data"]["width"])
    own = timed.get(row["folder"])
    if own and own.work == work:
        return own.seconds * steps, False
    alike = [record for record in timed.values() if record.model == row["model"] and (
        (record.group == "teacher") == (row["group"] == "teacher"))]
    if not alike:
        return None, False
    return steps * work * statistics.median(record.seconds / record.work for record in alike), True


def trains(name):
    return name.rpartition(":")[2].partition("@")[0] in TRAINED


def steps_of(row):
    """Of an epoch: of several domains until the longest, or a teacher's own, is through, as an equal share is of each.

    A null, all that there are, is taken as the numbers of the real pair of domains.
    """
    images, batch = row["data"]["train"], row["train"]["batch"]
    if not isinstance(images, dict):
        return max(1, (images or ALL) // batch)
    counts = {task: number or ALL for task, number in images.items()}
    return math.ceil(max(counts[task] for task in row["tasks"]) / (batch // len(counts)))


def records():
    """{folder: Record} of every finished run."""
    return {str(file.parent): record for file in pathlib.Path("out").glob("*/*/*/cost.json")
            if (record := recorded(file))}


def recorded(file):
    """The step of a finished run, or None."""
    try:
        cost = documents.read(file, str, documents.COST)
        return Record(cost["group"], file.parent.name.partition("-")[0], cost["seconds_per_step"], cost["work"],
                      cost["device"])
    except UserError:
        return None


def ship(machine):
    """Write step_times.yaml from this machine's finished runs: `python -m pipeline.plan ship "MACHINE"`."""
    timed, kinds = records(), collections.defaultdict(list)
    for record in timed.values():
        kinds["teacher" if record.group == "teacher" else "student", record.model].append(record.seconds / record.work)
    if not kinds:
        raise UserError("no run has finished here, so there is no step time to ship; run `make table2` first")
    text = (f"# Seconds a step per pixel, image and width squared, from `python -m pipeline.plan ship`.\n"
            f"machine: {machine}\nseconds_per_work:\n")
    text += "".join(f"  {group} {model}: {statistics.median(values):.4g}\n"
                    for (group, model), values in sorted(kinds.items()))
    SHIPPED.write_text(text)
    print(text, end="")


if __name__ == "__main__":
    run(*(ship, *sys.argv[2:]) if sys.argv[1:2] == ["ship"] else (main, *sys.argv[1:]))
