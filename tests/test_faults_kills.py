"""Commands killed at random moments, over every suite's smallest DAG: the same command goes on, to the same bits.

For `make test-faults` alone. A kill takes DVC, its stages and their children at once, as a cut of the power does.
"""

import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, use_dvc

from pipeline.config import targets
from pipeline.config.params import files

pytestmark = pytest.mark.slow
KILLS = 100
LONGEST = 6.0              # seconds until a kill, at most, from the start or from a stage's; a smallest stage takes two
PATHS = {"PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}


def project_in(folder):
    """Every suite at its smallest, as `make smoke` lays it."""
    for name in ("pipeline", "models", "kernels"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "dvc.lock", "toy"))
    if (ROOT / ".work/kernels").is_dir():            # compiling takes longer than a kill waits
        shutil.copytree(ROOT / ".work/kernels", folder / ".work/kernels")
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, folder)
    use_dvc(folder)
    subprocess.run([sys.executable, "-m", "pipeline.config.smoke"], cwd=folder, check=True, capture_output=True)
    return folder


def commands(folder, monkeypatch):
    """{suite: (the serial command, the parallel one)}, in an order in which a search follows what it searches."""
    with monkeypatch.context() as patches:
        patches.chdir(folder)
        known, tables = files(), targets.tables()
    return {suite: (["dvc", "repro", str(file.with_name("dvc.yaml"))],
                    ["pipeline.parallel", "2", *(target for target, own in tables.values() if own == suite)])
            for suite, file in known.items()}


def start(folder, words, log, mark):
    return subprocess.Popen([sys.executable, "-m", *words], cwd=folder, stdout=log, stderr=log, start_new_session=True,
                            env=os.environ | PATHS | {"KILL_MARK": mark})


def cut(process, mark):
    """SIGKILL to a command and everything that it started, in whatever session."""
    marked = f"KILL_MARK={mark}".encode()
    for _ in range(3):                                     # what was being started meanwhile
        for place in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if marked in (place / "environ").read_bytes():
                    os.kill(int(place.name), signal.SIGKILL)
            except OSError:                                # it ended by itself
                continue
        time.sleep(0.1)
    process.wait()


def await_stages(process, log):
    """Wait until a stage other than `rows` has begun, or the command has ended."""
    while process.poll() is None and not re.search("stages to run|Running stage '(?!.*rows')", log.read_text()):
        time.sleep(0.05)


def bits(folder):
    """What the trainings left."""
    return {str(path.relative_to(folder)): path.read_bytes() for name in ("weights.pt", "curve.csv", "balance.csv")
            for path in (folder / "out").rglob(name)}


def test_a_hundred_kills_end_with_the_same_bits(tmp_path, monkeypatch):
    whole, killed = (project_in(tmp_path / name) for name in ("whole", "killed"))
    for _, parallel in commands(whole, monkeypatch).values():
        done = subprocess.run([sys.executable, "-m", *parallel], cwd=whole, env=os.environ | PATHS, capture_output=True,
                              text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    expected, seed, kills = bits(whole), random.randrange(10**6), 0
    chance = random.Random(seed)
    while kills < KILLS:
        for suite, ways in commands(killed, monkeypatch).items():
            finished = False
            while not finished:
                words, log = ways[chance.random() < 0.8], tmp_path / "log"
                with open(log, "w") as file:
                    process = start(killed, words, file, mark := f"{os.getpid()}-{kills}")
                    try:
                        if chance.random() < 0.8:
                            await_stages(process, log)
                        finished = process.wait(chance.uniform(0.1, LONGEST)) == 0
                    except subprocess.TimeoutExpired:
                        cut(process, mark)
                        kills += 1
                        print(f"{kills} kills: {suite}, {words[0]}", flush=True)
                said = log.read_text()
                assert finished or process.returncode == -signal.SIGKILL, (seed, kills, suite, words, said)
                for broken in ("Traceback", "Unable to read RWLock"):
                    assert broken not in said, (seed, kills, suite, words, said)
        assert bits(killed) == expected, (seed, kills)
        print(f"{kills} kills, the same bits (seed {seed})")
        work = [path for path in (killed / ".work").iterdir() if path.name != "kernels"]
        for path in (killed / "out", killed / ".dvc/cache", killed / ".dvc/tmp", *work):
            shutil.rmtree(path)
        for lock in killed.rglob("dvc.lock"):
            lock.unlink()
