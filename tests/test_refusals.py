"""What the system refuses, disk, memory or a key press, is one sentence; nothing half written stays."""

import errno
import os
import pathlib
import re
import resource
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, change, command, run

import pipeline
from pipeline import prepare, train
from pipeline.config import params
from pipeline.data import scenes
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


@pytest.mark.parametrize("wait", [0.0, 0.3, 0.8])
def test_interrupted_before_it_has_begun(folder, wait):
    """torch's C++ start aborts where a signal becomes an exception inside it: one run in twenty did."""
    process = subprocess.Popen([sys.executable, "-m", "pipeline.train", "rooms", "baseline", "segnet", "uniform", "0"],
                               cwd=folder, stderr=subprocess.PIPE, text=True, env=HERE)
    libraries = pathlib.Path(f"/proc/{process.pid}/maps")
    while "libtorch" not in libraries.read_text():
        time.sleep(0.01)
    time.sleep(wait)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode == 130 and "Traceback" not in said
    assert "interrupted; the same command goes on" in said


def test_other_mistakes_keep_their_traceback(capsys):
    try:
        raise KeyError("a fault of ours")
    except KeyError as mistake:
        pipeline.tell(KeyError, mistake, mistake.__traceback__)
    assert "Traceback" in capsys.readouterr().err
    assert command(code="import pipeline, sys; print(sys.excepthook is sys.__excepthook__)").stdout == "True\n"


TOO_MUCH = {          # what no machine or no float32 can hold, and what is said of it before work
    "lambda": ("lambda: {semantic: 1.0", "lambda: {semantic: 1.0e+39", "lambda.semantic` is 1e+39; input should be"),
    "rate": ("lr: 1.0e-3", "lr: 1.0e+300", "lr` is 1e+300"),
    "temperature": ("temperature: 1.0", "temperature: 1.0e+300", "temperature` is 1e+300"),
    "cold": ("temperature: 1.0", "temperature: 1.0e-300", "temperature` is 1e-300"),
    "batch": ("batch: 4", "batch: 1000000000", "batch` is 1000000000; input should be less than or equal to 65536"),
    "official-batch": ("official_batch: 2", "official_batch: 1000000000", "`official_batch` is 1000000000"),
    "images": ("train: 8, test: 4", f"train: {10**30}, test: 4", f"data.train` is {10**30}"),
    "epochs": ("epochs: 2,", f"epochs: {10**12},", f"epochs` is {10**12}")}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_more_than_can_run_is_refused_by_make_params(name, folder):
    old, new, said = TOO_MUCH[name]
    change((old, new))
    with pytest.raises(UserError, match=re.escape(said)):
        params.load("rooms")


def test_images_for_which_there_is_no_room_are_refused_before_they_are_named(folder, monkeypatch):
    change(("train: 8, test: 4", "train: 100000000, test: 4"))
    monkeypatch.setattr(scenes, "ids", lambda *_: pytest.fail("a hundred million names were listed"))
    with pytest.raises(UserError, match="the prepared data need .* lower `protocols.smoke.data.train`"):
        run(prepare, "rooms")


def test_a_batch_of_one_image_that_cannot_be_normalised_is_refused(folder):
    """ResNet's deepest map of 32x32 images is one pixel, so batch norm would have one number a channel."""
    change(("height: 32, width: 64", "height: 32, width: 32"), ("epochs: 2, batch: 4", "epochs: 2, batch: 1"),
           suite="xtask_rooms")
    run(prepare, "xtask_rooms")
    with pytest.raises(UserError, match="a batch of 1 image is too small for resnet at 32x32 .*raise `batch`"):
        run(train, "xtask_rooms", "teacher", "resnet", "semantic", "0")
