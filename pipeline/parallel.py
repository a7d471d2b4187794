"""`make -jN`: the stale stages of some targets, several at a time, each by DVC itself.

    python -m pipeline.parallel 4 table-main@table2       without a target: the top-level suite, as `dvc repro` has it

The rows of the suites concerned are written first, since they say what is stale.
A stage starts when what it waits for is done, as `dvc --wait-for-lock repro -s`, with its share of the cores and, where
there are GPUs, one of them (NPROC of them) to itself; its output goes to .work/logs/. A failing one stops only what
waits for it. The last word has a plain `dvc repro`, which must find nothing left to do. Results are those of a serial
run with as many threads (OMP_NUM_THREADS): sums in another order end in other bits.
"""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

from pipeline import plan
from pipeline.config.targets import stage, suites_of
from pipeline.runtime import distributed, locks
from pipeline.runtime.errors import UserError, run
from pipeline.runtime.files import WORK
from pipeline.runtime.progress import clock

LOGS = WORK / "logs"
PATIENCE = 20.0            # seconds that a stage has to end in when all are stopped


def main(jobs, *targets):
    if not jobs.isdigit() or int(jobs) < 1:
        raise UserError(f"{jobs!r} jobs; it should be a number of at least 1, as in `make -j4 table2`")
    locks.mend()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))        # so that `finally` comes to its turn
    suites = suites_of(targets)
    rows = subprocess.run(["dvc", "repro", "--quiet", *(stage(suite, "rows") for suite in suites)])
    if rows.returncode:
        raise UserError("the stage `rows` failed; what it says stands above")
    stale, _, waiting, _ = plan.outdated(suites)
    wanted = needed(targets, waiting)
    todo = [name for name in stale if name in wanted]
    failed = schedule(todo, waiting, places(int(jobs), gpus(), distributed.wanted()))
    if failed:
        logs = "; ".join(f"{name} (see {log_of(name)})" for name, why in failed.items() if why == "failed")
        raise UserError(f"{len(failed)} of {len(todo)} stages are not done: {logs}; what waits for them was left out. "
                      "The same command goes on from here")
    closing = subprocess.run(["dvc", "repro", *targets], capture_output=True, text=True)
    if closing.returncode or "Running stage" in closing.stdout:
        raise UserError("a plain `dvc repro` after the parallel one still had work to do: "
                      + " ".join((closing.stdout + closing.stderr).split())[-300:])
    print(f"{len(todo)} stages; a plain `dvc repro` finds nothing left to do")


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


def schedule(todo, waiting, slots):
    """Run `todo` as far as possible; {stage: "failed" or "left out"} of what is not done."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, cores // len(slots) // distributed.wanted())))
    left, free, running, failed, total = list(todo), list(slots), {}, {}, len(todo)
    LOGS.mkdir(parents=True, exist_ok=True)
    try:
        while left or running:
            while stopped := [name for name in left if any(up in failed for up in waiting[name])]:
                left = [name for name in left if name not in stopped]
                failed |= dict.fromkeys(stopped, "left out")
            ready = [name for name in left if not any(up in left or up in running for up in waiting[name])]
            for name in ready[:len(free)]:
                left.remove(name)
                slot = free.pop(0)
                environment = os.environ | {"OMP_NUM_THREADS": threads} | (
                    {"CUDA_VISIBLE_DEVICES": slot} if slot is not None else {})
                command = ["dvc", "--wait-for-lock", "repro", "-s", name]
                with open(log_of(name), "w") as log:
                    process = subprocess.Popen(command, stdout=log, stderr=log, env=environment,
                                               start_new_session=True)
                running[name] = process, slot, time.monotonic()
            time.sleep(0.05)
            for name, (process, slot, begun) in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    free.append(slot)
                    if process.returncode:
                        failed[name] = "failed"
                    done = total - len(left) - len(running)
                    print(f"{done:4}/{total}  {plan.short(name)}  {'FAILED' if process.returncode else 'done'}  "
                          f"({clock(time.monotonic() - begun)})", flush=True)
    finally:
        stop([process for process, _, _ in running.values()])
    return failed


def stop(processes):
    """End the stages that still run, and wait for them: DVC's own files are whole only once they have ended.

    Each is a session of its own, so that a Ctrl-C comes from here alone, to DVC and to the verb that it runs.
    """
    for process in processes:
        tell(process, signal.SIGINT)
    for process in processes:
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            tell(process, signal.SIGKILL)
            process.wait()


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
