"""The Python that forks for stages does what their own commands would, and goes when its keeper goes."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest
from conftest import ROOT, change

from pipeline import rows
from pipeline.runtime import starter

EVALUATE = ("pipeline.evaluate", "rooms", "baseline", "segnet", "uniform", "0")
METRICS = pathlib.Path("out/rooms/metrics/baseline/segnet-uniform-s0.json")
MARK = f"STARTER_OF={os.getpid()}"          # in the environment of every process that these tests start
PLAIN = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | dict([MARK.split("=")])


@pytest.fixture(scope="module")
def warm():
    """The environment of a stage beside a starter."""
    with starter.kept(PLAIN) as ready:
        yield PLAIN | ready()


def stage(environment, *words, start=subprocess.run, **more):
    return start([sys.executable, "-m", *words], env=environment, text=True, **more)


def numbers():
    found = json.loads(METRICS.read_text())
    return {rule: values for rule, values in found["rules"].items()}


def test_a_fork_leaves_what_the_command_leaves_and_says_the_same(copy, warm):
    said = []
    for environment in (PLAIN, warm):
        METRICS.unlink(missing_ok=True)
        done = stage(environment, *EVALUATE, capture_output=True)
        said.append((done.returncode, done.stdout, done.stderr, numbers()))
    assert said[0] == said[1] and said[0][0] == 0


def test_what_is_told_of_a_mistake_comes_through(copy, warm):
    done = stage(warm, *EVALUATE[:-1], capture_output=True)
    assert done.returncode == 2 and done.stderr.startswith("error: 4 words given") and "Traceback" not in done.stderr


@pytest.fixture
def slow(copy):
    """A training of minutes in the working folder, and its words."""
    change(("epochs: 2, batch: 4", "epochs: 2000, batch: 4"))
    rows.main("rooms")
    return "pipeline.train", "rooms", "baseline", "segnet", "uniform", "0"


def begun(process):
    """Wait until it has trained an epoch."""
    for line in process.stdout:
        if "epoch 1/" in line:
            return
    pytest.fail("it never trained")


def processes():
    """How many processes of these tests there are: the starter, its forks, and commands."""
    found = 0
    for place in pathlib.Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            found += MARK.encode() in place.read_bytes()
    return found


def test_ctrl_c_reaches_the_fork(slow, warm):
    process = stage(warm, *slow, start=subprocess.Popen, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    begun(process)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=30)[1]
    assert process.returncode == 130 and "interrupted; the same command goes on" in said


def test_a_killed_command_takes_its_fork_along(slow, warm):
    before = processes()
    process = stage(warm, *slow, start=subprocess.Popen, stdout=subprocess.PIPE)
    begun(process)
    assert processes() == before + 2                       # the command and its fork
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 10
    while processes() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes() == before


@pytest.mark.parametrize("sent", [b"", b"\0\0", (100).to_bytes(4) + b"{"])
def test_a_client_that_is_killed_while_it_asks_leaves_the_starter_as_it_was(copy, warm, sent):
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(warm[starter.VARIABLE])
        link.sendall(sent)
    METRICS.unlink()
    before = processes()
    assert stage(warm, *EVALUATE, capture_output=True).returncode == 0 and METRICS.exists()
    assert processes() == before                           # the starter is still there


def test_without_a_starter_the_command_runs_as_ever(copy, tmp_path):
    METRICS.unlink()
    gone = PLAIN | {starter.VARIABLE: str(tmp_path / "gone")}
    assert stage(gone, *EVALUATE, capture_output=True).returncode == 0 and METRICS.exists()


def test_another_number_of_threads_is_not_the_starter_s(copy, warm):
    """What torch has read when it was imported, a fork cannot change: the command runs by itself."""
    code = ("import sys; sys.argv = ['-m']; sys.orig_argv = ['python', '-m', 'pipeline.evaluate']; import pipeline; "
            "print('by itself')")
    done = subprocess.run([sys.executable, "-c", code], env=warm | {"OMP_NUM_THREADS": "7"}, text=True,
                          capture_output=True)
    assert done.stdout == "by itself\n", done.stderr
