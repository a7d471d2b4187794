"""What the system refuses, disk, memory or a key press, is one sentence; nothing half written stays."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, command

import pipeline
from pipeline.runtime import files
from pipeline.runtime.errors import UserError


def test_a_full_disk_is_told_with_bytes_and_leaves_nothing_beside(tmp_path, monkeypatch):
    (tmp_path / "last.state").write_bytes(b"before")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UserError, match=r"last.state cannot be written \(No space left on device\): it needs 1,000 "
                                        r"bytes, [\d,]+ are free; make room"):
        files.write(tmp_path / "last.state", bytes(1000))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"last.state": b"before"}


def test_a_file_where_a_folder_should_be_is_named(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="out/rooms/x cannot be written"):
        files.write(tmp_path / "out/rooms/x", b"")


HERE = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


def test_a_limit_on_the_size_of_files_stops_a_verb_with_a_sentence(folder):
    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    done = subprocess.run([sys.executable, "-m", "pipeline.rows", "rooms"], cwd=folder, preexec_fn=limited, text=True,
                          capture_output=True, env=HERE)
    assert done.returncode == 2 and "cannot be written (File too large): it needs " in done.stderr
    assert not [path for path in (folder / "out").rglob("*.tmp")] and "Traceback" not in done.stderr


def test_too_little_memory_for_torch_is_a_sentence(folder):
    limit = 1_500_000_000
    done = subprocess.run([sys.executable, "-m", "pipeline.evaluate", "rooms", "baseline", "segnet", "uniform", "0"],
                          cwd=folder, capture_output=True, text=True, env=HERE,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("error: there is too little memory (")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("wait", [0.3, 0.8])
def test_interrupted_before_it_has_begun(folder, wait):
    process = subprocess.Popen([sys.executable, "-m", "pipeline.train", "rooms", "baseline", "segnet", "uniform", "0"],
                               cwd=folder, stderr=subprocess.PIPE, text=True, env=HERE)
    time.sleep(wait)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode in (130, -signal.SIGINT) and "Traceback" not in said
    assert "interrupted; the same command goes on" in said


def test_other_mistakes_keep_their_traceback(capsys):
    try:
        raise KeyError("a fault of ours")
    except KeyError as mistake:
        pipeline.tell(KeyError, mistake, mistake.__traceback__)
    assert "Traceback" in capsys.readouterr().err
    assert command(code="import pipeline, sys; print(sys.excepthook is sys.__excepthook__)").stdout == "True\n"
