"""`make -jN`: jobs and their GPUs; what they run is told by tests/test_dag.py."""

import fcntl
import os
import pathlib
import signal
import time

import pytest

from pipeline import parallel
from pipeline.runtime import locks
from pipeline.runtime.errors import UserError


def test_jobs_have_gpus_of_their_own():
    assert parallel.places(3, [], 1) == [None] * 3
    assert parallel.places(3, ["0", "1"], 1) == ["0", "1", "0"]
    assert parallel.places(2, ["0", "1", "2", "3", "4"], 2) == ["0,1", "2,3"]
    with pytest.raises(UserError, match="NPROC is 4 but there are 2 GPUs"):
        parallel.places(1, ["0", "1"], 4)


@pytest.mark.parametrize("asked", ["0", "many"])
def test_jobs_are_a_number(asked):
    with pytest.raises(UserError, match=f"'{asked}' jobs"):
        parallel.main(asked)


@pytest.fixture
def lock(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    locks.FOLDER.mkdir(parents=True)
    return locks.FOLDER / "rwlock"


@pytest.mark.parametrize("left", ["", '{"read": {"out/x": [{"pid": 1'])
def test_a_lock_that_a_killed_command_cut_is_removed_unless_it_is_being_written(lock, left, capsys):
    lock.write_text(left)
    with open(lock.with_name("rwlock.lock"), "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        locks.mend()
        assert lock.exists()
    locks.mend()
    assert not lock.exists() and "was cut by a command that was killed" in capsys.readouterr().err


def test_a_whole_lock_stays(lock):
    locks.mend()
    lock.write_text('{"read": {}, "write": {}}')
    locks.mend()
    assert lock.exists()


def willing():
    os.setsid()
    pathlib.Path("willing").touch()
    try:
        time.sleep(60)
    finally:
        time.sleep(0.5)
        pathlib.Path("ended").touch()


def stubborn():
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pathlib.Path("stubborn").touch()
    time.sleep(60)


def test_stopping_waits_for_what_runs_and_ends_what_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(parallel, "PATIENCE", 2.0)
    started = [parallel.FORK.Process(target=target) for target in (willing, stubborn)]
    for process in started:
        process.start()
    while not (pathlib.Path("willing").exists() and pathlib.Path("stubborn").exists()):
        time.sleep(0.02)
    begun = time.monotonic()
    parallel.stop(started)
    assert pathlib.Path("ended").exists() and time.monotonic() - begun < 10
    assert started[1].exitcode == -signal.SIGKILL
