"""What every target of make that runs stages calls: those of some targets that are stale, several at a time, by DVC.

    python -m pipeline.parallel auto table-main@table2    without a target: the top-level suite, as `dvc repro` has it

`auto` is a stage a GPU (NPROC of them), or without one a stage a core, 8 at most; a number is `make -jN`.

The rows of the suites concerned are written first, since they say what is stale.
A stage starts when what it waits for is done, as `dvc --wait-for-lock repro -s`, with its share of the cores and, where
there are GPUs, one of them (NPROC of them) to itself; its output goes to .work/logs/. A terminal shows what runs, a log
a line a stage. A failing one stops only what waits for it. The last word has a plain `dvc repro`, which must find
nothing left to do. Results are those of a serial run with as many threads (OMP_NUM_THREADS): sums in another order end
in other bits.
"""

import contextlib
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

from dvc.cli import main as dvc

from pipeline import plan
from pipeline.config.targets import stage, suites_of
from pipeline.runtime import distributed, locks, starter
from pipeline.runtime.errors import UserError, run
from pipeline.runtime.files import WORK
from pipeline.runtime.progress import Status, clock

LOGS = WORK / "logs"
FORK = multiprocessing.get_context("fork")
MOST, LAST = 8, 12         # stages at a time by themselves; lines that are shown of a failed stage's log
PATIENCE = 20.0            # seconds that a stage has to end in when all are stopped


def main(jobs, *targets):
    devices = gpus()
    if jobs == "auto":
        jobs = str(max(1, (len(devices) or min(cores(), MOST)) // distributed.wanted()))
    if not jobs.isdigit() or int(jobs) < 1:
        raise UserError(f"{jobs!r} jobs; it should be a number of at least 1, as in `make -j4 table2`")
    locks.mend()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))        # so that `finally` comes to its turn
    slots = places(int(jobs), devices, distributed.wanted())
    environment = os.environ | {"OMP_NUM_THREADS": threads(len(slots))}
    with starter.kept(environment) as ready:
        todo, waiting = stale(targets)
        failed = schedule(todo, waiting, slots, environment | (ready() if todo else {}))
    if failed:
        broken = [name for name, why in failed.items() if why == "failed"]
        print(*log_of(broken[0]).read_text(errors="replace").splitlines()[-LAST:], sep="\n", file=sys.stderr)
        logs = "; ".join(f"{name} (see {log_of(name)})" for name in broken)
        raise UserError(f"{len(failed)} of {len(todo)} stages are not done: {logs}; what waits for them was left out. "
                      "The same command goes on from here")
    closing = subprocess.run(["dvc", "repro", *targets], capture_output=True, text=True)
    if closing.returncode or "Running stage" in closing.stdout:
        raise UserError("a plain `dvc repro` after the parallel one still had work to do: "
                      + " ".join((closing.stdout + closing.stderr).split())[-300:])
    print(f"{len(todo)} stages; a plain `dvc repro` finds nothing left to do")


def stale(targets):
    """(the stages of the targets that have to run, in order; {stage: those that it waits for}), by fresh rows."""
    suites = suites_of(targets)
    if not suites:
        raise UserError(f"{' '.join(targets)} is of no suite; `make tables` lists what is, `dvc repro` runs the rest")
    rows = subprocess.run(["dvc", "repro", "--quiet", *(stage(suite, "rows") for suite in suites)])
    if rows.returncode:
        raise UserError("the stage `rows` failed; what it says stands above")
    outdated, _, waiting, _ = plan.outdated(suites)
    wanted = needed(targets, waiting)
    return [name for name in outdated if name in wanted], waiting


def places(jobs, gpus, each):
    """What CUDA_VISIBLE_DEVICES is in each of so many jobs: `each` (NPROC) GPUs of their own as far as there are."""
    if not gpus:
        return [None] * jobs
    if len(gpus) < each:
        raise UserError(f"NPROC is {each} but there are {len(gpus)} GPUs; lower it")
    groups = [",".join(gpus[i:i + each]) for i in range(0, len(gpus) - each + 1, each)]
    return (groups * -(-jobs // len(groups)))[:jobs]     # more jobs than groups share them


def needed(targets, waiting):
    """Stages of the targets (all without any; a name before @ means every one of it) and what those wait for."""
    found = set()
    todo = [name for name in waiting if not targets or name in targets or name.partition("@")[0] in targets]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += waiting[name]
    return found


def cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def threads(jobs):
    """OMP_NUM_THREADS of a stage: what is set, else its share of the cores."""
    return os.environ.get("OMP_NUM_THREADS", str(max(1, cores() // jobs // distributed.wanted())))


def schedule(todo, waiting, slots, environment):
    """Run `todo` as far as possible; {stage: "failed" or "left out"} of what is not done."""
    left, free, running, failed, total = list(todo), list(slots), {}, {}, len(todo)
    LOGS.mkdir(parents=True, exist_ok=True)
    line = Status(sys.stdout)
    if todo:
        print(f"{total} stages to run, {len(slots)} at a time, OMP_NUM_THREADS={environment['OMP_NUM_THREADS']}; "
              f"logs in {LOGS}/", flush=True)
    try:
        while left or running:
            while stopped := [name for name in left if any(up in failed for up in waiting[name])]:
                left = [name for name in left if name not in stopped]
                failed |= dict.fromkeys(stopped, "left out")
            ready = [name for name in left if not any(up in left or up in running for up in waiting[name])]
            for name in ready[:len(free)]:
                left.remove(name)
                slot = free.pop(0)
                own = environment | ({"CUDA_VISIBLE_DEVICES": slot} if slot is not None else {})
                process = FORK.Process(target=reproduce, args=(name, own))
                process.start()
                running[name] = process, slot, time.monotonic()
            time.sleep(0.05)
            line.show({name: log_of(name) for name in running}, total - len(left) - len(running), total)
            for name, (process, slot, begun) in list(running.items()):
                if process.exitcode is not None:
                    del running[name]
                    free.append(slot)
                    if process.exitcode:
                        failed[name] = "failed"
                    done = total - len(left) - len(running)
                    line.clear()
                    print(f"{done:4}/{total}  {plan.short(name)}  {'FAILED' if process.exitcode else 'done'}  "
                          f"({clock(time.monotonic() - begun)})", flush=True)
    finally:
        line.clear()
        stop([process for process, _, _ in running.values()])
    return failed


def reproduce(name, environment):
    """In a fork, which has imported DVC already: `dvc --wait-for-lock repro -s name`, its words in the stage's log."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
    with open(log_of(name), "w") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    os.environ.update(environment)
    sys.exit(dvc(["--wait-for-lock", "repro", "-s", name]))


def stop(processes):
    """End the stages that still run, and wait for them: DVC's own files are whole only once they have ended.

    Each is a session of its own, so that a Ctrl-C comes from here alone, to DVC and to the verb that it runs.
    """
    for process in processes:
        tell(process, signal.SIGINT)
    for process in processes:
        process.join(PATIENCE)
        if process.exitcode is None:
            tell(process, signal.SIGKILL)
            process.join()


def tell(process, what):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, what)


def log_of(name):
    return LOGS / f"{plan.short(name).replace(': ', '-')}.log"


def gpus():
    """Indices of the GPUs as text; none on a machine without."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [index for index in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if index.strip()]
    return [path.name.removeprefix("nvidia") for path in pathlib.Path("/dev").glob("nvidia[0-9]*")]


if __name__ == "__main__":
    run(main, *sys.argv[1:])
