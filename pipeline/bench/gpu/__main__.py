"""`make gpu`: on one GPU check the kernels, measure kernels and training step, run the verbs, train.

    python -m pipeline.bench.gpu [seconds=420] [parts=abcde] [nyuv2=FOLDER] [out=.work/gpu] [more]

    a  the kernels' tests on the device, against float64                                 60 s
    b  `kernels.bench`: every operation beside eager torch, torch.compile and a copy     90 s
    c  `pipeline.bench.step`: SegNet at batch 2, 288x384; with `more`, MTAN, batch 8 and CUDA graphs too     120 s
    d  the verbs in order on the device and on the CPU, a kill and a resume              60 s
    e  real training, with `nyuv2` on MTAN's arrays of NYUv2                             what is left

Each part is a process of its own, ended at its budget; what it has measured until then stays. Writes OUT/gpu.json after
every part, OUT/<part>.log as it runs, and prints a table at the end. Installs nothing: where pydantic is missing it is
taken from the wheels in the folder that the environment's WHEELS names. DEVICE=cpu runs every part at its smallest.
"""

import contextlib
import datetime
import importlib.util
import json
import math
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import torch

from kernels.bench import commit
from pipeline.bench.gpu import summary
from pipeline.runtime import files
from pipeline.runtime.errors import raise_on_interrupt
from pipeline.runtime.files import PROJECT

BUDGETS = {"a": 60, "b": 90, "c": 120, "d": 60, "e": math.inf}
DRY = 40                   # seconds of part e without a GPU
ENDING = 4                 # seconds kept for the table
WORDS = {"seconds": r"\d+", "parts": "[abcde]+", "nyuv2": ".+", "out": ".+"}
TESTS = [*(f"tests/test_{name}.py" for name in ("kernels", "gradient_kernels", "gramian_bound")), "-rfE", "-p",
         "no:cacheprovider", "-k"]


def main(words):
    begun, asked = time.monotonic(), understood(words)
    dry = os.environ.get("DEVICE") == "cpu"
    if not dry and not torch.cuda.is_available():
        sys.exit("error: torch finds no GPU; DEVICE=cpu make gpu runs every part at its smallest")
    out = pathlib.Path(asked["out"]).resolve()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    environment = prepared(out) | ({"OMP_NUM_THREADS": "1"} if dry else {})      # tiny networks lose more by waiting
    found = {"date": str(datetime.date.today()), "device": named(dry), "torch": torch.__version__,
             "triton": version("triton"), "commit": commit(), "judged": not dry, "parts": {}}
    print(f"{found['date']}  {found['device']}  torch {found['torch']}  triton {found['triton']}  commit "
          f"{found['commit']}", flush=True)
    for part in sorted(set(asked["parts"])):
        left = int(asked["seconds"]) - ENDING - (time.monotonic() - begun)
        found["parts"][part] = run_part(part, min(DRY if dry and part == "e" else BUDGETS[part], left),
                                        asked, dry, out, environment)
        files.write(out / "gpu.json", (json.dumps(found, indent=1) + "\n").encode())
    print(f"\n{summary.text(found)}\n{out}/gpu.json", flush=True)
    sys.exit(0 if all(part["state"] == "passed" for part in found["parts"].values()) else 1)


def understood(words):
    """{word: value} of the command line; exit 2 with a sentence."""
    asked = {"seconds": "420", "parts": "abcde", "nyuv2": "", "out": ".work/gpu", "more": ""}
    for word in words:
        key, _, value = word.partition("=")
        if word != "more" and not (key in WORDS and re.fullmatch(WORDS[key], value)):
            print(f"error: {word!r} is not understood; the words are seconds=420, parts=abcde, nyuv2=FOLDER, "
                  "out=.work/gpu and more", file=sys.stderr)
            sys.exit(2)
        asked[key] = value or "more"
    if asked["nyuv2"]:
        asked["nyuv2"] = str(pathlib.Path(asked["nyuv2"]).resolve())
    return asked


def prepared(out):
    """The environment of the parts; pydantic from wheels where it is missing."""
    paths = [str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
    if not importlib.util.find_spec("pydantic"):
        wheels = sorted(pathlib.Path(os.environ.get("WHEELS", "/nowhere")).glob("*.whl"))
        for wheel in wheels:
            zipfile.ZipFile(wheel).extractall(out / "wheels")
        paths.append(str(out / "wheels"))
        if not wheels:
            print("warning: there is no pydantic, which parts c, d and e need; name a folder of its wheels as WHEELS",
                  file=sys.stderr)
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


# -- the commands of each part

def commands(part, asked, dry, out, seconds):
    """Lists of commands; those of one list run at once."""
    python = [sys.executable, "-m"]
    if part == "a":
        which = ("triton and (T1-3x16 or T3-2x16 or two_launches) and not never" if dry else
                 "(triton or products_on_the_chip or float16_students) and not never_loads and not versions")
        shards = max(1, min(12, (os.cpu_count() or 1) - 2))
        tests = [[*python, "pytest", *TESTS, which, f"--shard={i}/{shards}"] for i in range(shards)]
        return [[*tests, [*python, "kernels.compile_cpu"]]]           # which part d wants on the CPU
    if part == "b":
        bench = [*python, "kernels.bench", f"seconds={0.85 * seconds:.0f}"]
        return [[[*bench, "min_norm: T3"]], [[*bench, "2x512x9x12"]]] if dry else [[bench]]
    if part == "c":
        step = [*python, "pipeline.bench.step"]
        sizes = ["segnet", "batch=2", *(["size=32x64", "width=0.125", "rounds=1"] if dry else [])]
        return [[[*step, *sizes]], *([[[*step, "batch=2", "batch=8", "graphs"]]] if asked["more"] else [])]
    if part == "d":
        return [[[*python, "pipeline.bench.gpu.dag", str(out / "dag")]]]
    small = ["size=32x64", "width=0.125", "images=8", "most=2"] if dry else []
    real = [f"nyuv2={asked['nyuv2']}"] if asked["nyuv2"] else []
    return [[[*python, "pipeline.bench.gpu.real", str(out / "real"), f"seconds={seconds:.0f}", *small, *real]]]


def run_part(part, seconds, asked, dry, out, environment):
    """Run a part until its seconds are over -> {"state", "seconds", "figures"}."""
    begun, state = time.monotonic(), "passed"
    print(f"\n-- {part}: at most {max(0, seconds):.0f} s", flush=True)
    figures = out / f"{part}.jsonl"
    logs = []
    if seconds < 5:
        state = "left out: the time is up"
    else:
        for at_once in commands(part, asked, dry, out, seconds):
            names = [out / f"{part}{len(logs) + i or ''}.log" for i in range(len(at_once))]
            logs += names
            codes = watch(at_once, names, begun + seconds, environment | {"FIGURES": str(figures)})
            if None in codes:
                state = f"cut at its {seconds:.0f} s"
                break
            if any(codes):
                state = f"failed (exit code {max(codes, key=abs)})"
    found = [json.loads(line) for line in figures.read_text().splitlines()] if figures.exists() else []
    if part == "a" and logs:
        found.append(summary.tests([log.read_text() for log in logs]))
    took = time.monotonic() - begun
    print(f"-- {part}: {state}, {took:.0f} s", flush=True)
    for line in summary.of_part(part, found, not dry):
        print(f"   {line}", flush=True)
    return {"state": state, "seconds": took, "figures": found}


def watch(commands, logs, end, environment):
    """Run commands at once until `end` -> their exit codes, None of one that was ended. One alone is shown."""
    started = []
    for command, log in zip(commands, logs, strict=True):
        with open(log, "wb") as file:
            started.append(subprocess.Popen(command, cwd=PROJECT, stdout=file, stderr=subprocess.STDOUT,
                                            env=environment, start_new_session=True))
    with open(logs[0], "rb") as shown:
        while True:
            codes = [process.poll() for process in started]
            if len(commands) == 1:
                sys.stdout.write(shown.read().decode(errors="replace"))
                sys.stdout.flush()
            if None not in codes or time.monotonic() > end:
                break
            time.sleep(0.1)
    for process, code in zip(started, codes, strict=True):
        if code is None:
            end_all(process)
    return codes


def end_all(process):
    """A process and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# -- what is said

def named(dry):
    if dry:
        return f"CPU, {torch.get_num_threads()} threads"
    return torch.cuda.get_device_name()


def version(package):
    return importlib.import_module(package).__version__ if importlib.util.find_spec(package) else "none"


if __name__ == "__main__":
    raise_on_interrupt()
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit("interrupted; what was measured until then lies in gpu.json of the folder `out`")
