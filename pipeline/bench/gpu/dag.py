"""Part d of `make gpu`: every verb of a small experiment in its order, without DVC, on the device and on the CPU.

    python -m pipeline.bench.gpu.dag FOLDER            both, their metrics compared; then a kill and a resume
    python -m pipeline.bench.gpu.dag FOLDER verbs      the verbs alone, on the DEVICE of the environment

The experiment is `rooms` under the protocol `smoke`: SegNet's teachers, Uniform and Ours on rendered rooms, for a few
epochs more. Two devices round differently, so their first losses and last metrics have to agree within `BANDS`; the run
that was killed has to end with the bits of the one that was not.
"""

import contextlib
import json
import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

from kernels import figures
from pipeline import evaluate, features, prepare, rows, table, train
from pipeline.config import params, reading, smoke
from pipeline.loop import curve
from pipeline.runtime import device, files
from pipeline.runtime.errors import UserError, run

EPOCHS = 6                 # of the smoke protocol's 2: a kill has to come before the last
# How far two devices may be apart. On the CPU `precision: bfloat16` moves these by 0.0014, 0.023 and 3.99, and
# KERNELS=reference by 2e-7, 0.007 and 0.6.
BANDS = {"a loss of the first epoch, relative": 0.01, "an error or angle at the end, relative": 0.05,
         "a percentage at the end, points": 4.0}
STUDENT = ("student", "segnet", "ours", "0")
ALONE = {"OMP_NUM_THREADS": "1"}         # networks as small as these lose more by waiting than threads gain
WAIT = 60.0                # seconds for the first epoch of the run that is killed


def main(folder, what="all"):
    place = pathlib.Path(folder)
    if what == "verbs":
        verbs(place)
        return
    shutil.rmtree(place, ignore_errors=True)
    where = device.pick()
    names = {where.type: where.type} | ({"again": "cpu"} if where.type == "cpu" else {"cpu": "cpu"})
    started = {name: subprocess.Popen([sys.executable, "-m", "pipeline.bench.gpu.dag", str(place / name), "verbs"],
                                      env=os.environ | ALONE | {"DEVICE": kind}) for name, kind in names.items()}
    if failed := [name for name, process in started.items() if process.wait()]:
        raise UserError(f"the verbs failed on {', '.join(failed)}; what they said stands above")
    ours, other = names
    worst = furthest(place / ours, place / other)
    for what, (off, where) in worst.items():
        print(f"{ours} and {other}: {what}: {off:.3g} apart at most ({where}), {BANDS[what]:g} allowed", flush=True)
    same = resumed(place / ours, ours)
    print(f"killed with -9 after an epoch and started again: {'the same bits' if same else 'OTHER BITS'}", flush=True)
    figures.note("dag", devices=list(names.values()), bands=BANDS, same_bits=same,
                 worst={what: off for what, (off, _) in worst.items()})
    sys.exit(0 if same and all(off <= BANDS[what] for what, (off, _) in worst.items()) else 1)


def verbs(place):
    """rows, prepare, then each run's verbs, then the table, in a folder of their own."""
    place.mkdir(parents=True)
    with contextlib.chdir(place):
        tree = smoke.small(reading.read(files.PROJECT / params.TOP))
        tree["paper"] = str(files.PROJECT / tree["paper"])
        tree["protocols"]["smoke"]["train"]["default"]["epochs"] = EPOCHS
        params.TOP.write_text(reading.text(tree))
        rows.main("rooms")
        prepare.main("rooms")
        for task in tree["teacher"]["rows"]:
            train.main("rooms", "teacher", "segnet", task, "0")
            features.main("rooms", "teacher", "segnet", task, "0")
            evaluate.main("rooms", "teacher", "segnet", task, "0")
        for group, *words in (("baseline", "segnet", "uniform", "0"), STUDENT):
            train.main("rooms", group, *words)
            evaluate.main("rooms", group, *words)
        table.main("rooms", "table2")


def furthest(one, other):
    """{kind of number in `BANDS`: (how far two folders are apart at most, where)}."""
    found = {what: [(0.0, "nowhere")] for what in BANDS}
    losses, errors, shares = found.values()
    for file in sorted(one.glob("out/rooms/metrics/*/*.json")):
        mine, theirs = (json.loads((place / file.relative_to(one)).read_text()) for place in (one, other))
        for protocol, name in ((p, n) for p, values in mine["rules"]["last"].items() for n in values):
            a, b = (each["rules"]["last"][protocol][name] for each in (mine, theirs))
            points = name.endswith("_pct")
            (shares if points else errors).append(
                (distance(a, b, 1 if points else abs(b)), f"{mine['run']}, {protocol} {name}"))
        run = pathlib.Path("out/rooms", mine["group"], mine["run"])
        a, b = (curve.read(place / run, "start again")[0][0] for place in (one, other))
        losses += [(distance(a[key], b[key], abs(b[key])), f"{mine['run']}, {key}") for key in a if "loss" in key]
    return {what: max(values) for what, values in found.items()}


def distance(a, b, unit):
    off = abs(a - b) / max(unit, 1e-9)
    return math.inf if math.isnan(off) else off


def resumed(place, name):
    """Whether the student, killed after its first epoch and started again, ends with the bits of `verbs`."""
    stem = "-".join(STUDENT[1:-1]) + f"-s{STUDENT[-1]}"
    folder = place / "out/rooms/student" / stem
    before = {part: (folder / part).read_bytes() for part in ("weights.pt", "curve.csv", "balance.csv")}
    shutil.rmtree(folder)
    command = [sys.executable, "-m", "pipeline.train", "rooms", *STUDENT]
    environment = os.environ | ALONE | {"DEVICE": name, "PYTHONPATH": path()}
    process = subprocess.Popen(command, cwd=place, env=environment)
    begun = time.monotonic()
    while not any(place.glob(f".work/rooms-{stem}-*/last.state")):
        if process.poll() is not None or time.monotonic() - begun > WAIT:
            process.kill()
            raise UserError("the student that was to be killed ended, or wrote no epoch, before it could be")
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    if process.wait() == 0:
        raise UserError("the student that was to be killed had ended; raise EPOCHS of pipeline/bench/gpu/dag.py")
    subprocess.run(command, cwd=place, env=environment, check=True)
    return all((folder / part).read_bytes() == payload for part, payload in before.items())


def path():
    """PYTHONPATH for a verb that runs in another folder."""
    return os.pathsep.join([str(files.PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])


if __name__ == "__main__":
    run(main, *sys.argv[1:])
