"""Several processes: the same training as one, one writer, and resumption after one of them is killed."""

import csv
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, command, folder_of, run

from pipeline import train
from pipeline.runtime import distributed
from pipeline.runtime.errors import UserError

# In float64, where two orders of summation do not part; leaves what every process's balancer saw. No image of the
# second step has a depth.
ROWS = """
import os, sys, torch
torch.set_default_dtype(torch.float64)
torch.Tensor.float = torch.Tensor.double
from pipeline import train
from pipeline.data.split import Split
from pipeline.loop import order, record
seen, add, batch = [], record.Record.add, Split.batch
def watched(steps, weights, gramian, residual, there):
    seen.append((weights.clone(), None if gramian is None else gramian.clone()))
    add(steps, weights, gramian, residual, there)
record.Record.add = watched
def without(split, index):
    image, targets = batch(split, index)
    if len(split) == 8 and "depth" in targets:
        later = order.epoch_of(split, {"train": {"batch": 3}, "seed": 0, "switches": {"drop_last": True}}, 0)[1]
        targets["depth"][[i in later for i in index]] = 0
    return image, targets
Split.batch = without
for row in sys.argv[1:]:
    train.main("rooms", *row.split())
torch.save(seen, "seen" + os.environ.get("RANK", ""))
"""
# losses, a layer's, features' and parameters' Gramians, signs of features, a second look, averages, and distillation
SHARED = ("baseline segnet uniform 0", "wide segnet gradnorm 0", "wide segnet aligned-ub 0", "wide segnet aligned 0",
          "wide segnet graddrop 0", "wide segnet famo 0", "wide segnet db-mtl 0", "student segnet ours 0",
          "student segnet aligned-ours 0", "student segnet bam 0", "baseline segnet consistent 0",
          "baseline segnet aligned-consistent 0")
CONSISTENT = """  consistent:
    title: consistent
    objective: consistency
    balancer: uncertainty
    consistency: {lambda: {semantic: 0.1, depth: 0.2, normal: 0.3}, depth: ssim, smoothing: 0.1}
  aligned-consistent:
    like: consistent
    balancer: aligned_mtl
    consistency: {lambda: {semantic: 0.1, depth: 0.2, normal: 0.3}, batch_norm: true, void: zero}
  aligned-ours: {like: ours, balancer: aligned_mtl}
"""


def rows(text):
    """SHARED's rows in params.yaml, with two steps of three images, which two processes share unevenly."""
    for old, new in (("  rows: [si,", "  rows: [gradnorm, si,"), ("rows: [ours]", "rows: [ours, aligned-ours, bam]"),
                     ("rows: [uniform]", "rows: [uniform, consistent, aligned-consistent]"),
                     ("\nmethods:\n", f"\nmethods:\n{CONSISTENT}"), ("epochs: 2, batch: 4", "epochs: 1, batch: 3")):
        assert old in text, old
        text = text.replace(old, new, 1)
    return text


def run_of(row):
    _, model, name, seed = row.split()
    return f"{model}-{name}-s{seed}"


def together(count, *words, cwd, code):
    """`python -c code words` as `count` processes of one group; all have ended well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = os.environ | {"PYTHONPATH": str(ROOT), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
                           "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [subprocess.Popen([sys.executable, "-c", code, *words], cwd=cwd, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True,
                                  env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(count)]
    said = [process.communicate()[0] for process in processes]
    assert not any(process.returncode for process in processes), said
    return said


def read(file):
    with open(file) as lines:
        return [{key: float(value) for key, value in line.items()} for line in csv.DictReader(lines)]


@pytest.fixture(scope="module")
def both(trained, tmp_path_factory):
    """Folders in which SHARED was trained by one process, and by two."""
    alone, two = (tmp_path_factory.mktemp(name) / "copy" for name in ("alone", "two"))
    for folder in (alone, two):
        shutil.copytree(trained, folder)
        (folder / "params.yaml").write_text(rows((folder / "params.yaml").read_text()))
        assert command("pipeline.rows", "rooms", cwd=folder).returncode == 0
    done = command(*SHARED, cwd=alone, code=ROWS)
    assert done.returncode == 0, done.stderr
    said = together(2, *SHARED, cwd=two, code=ROWS)
    return alone, two, said


@pytest.mark.parametrize("row", SHARED)
def test_two_processes_equal_one(both, row):
    alone, two, _ = both
    for name in ("curve.csv", "balance.csv"):
        expected, found = (read(folder / "out/rooms" / row.split()[0] / run_of(row) / name) for folder in (alone, two))
        assert len(found) == len(expected) == 1 and found[0].keys() == expected[0].keys()
        for key in set(found[0]) - {"residual"}:               # which is rounding itself
            # after the two Adam steps of an epoch, which multiply a difference of 1e-15
            assert found[0][key] == pytest.approx(expected[0][key], rel=1e-6, abs=1e-9), (name, key)


def test_every_process_has_the_same_weights_and_gramians(both):
    first, second = (torch.load(both[1] / f"seen{rank}", weights_only=True) for rank in range(2))
    assert len(first) == 2 * len(SHARED)
    for (weights, gramian), (others, its) in zip(first, second, strict=True):
        assert torch.equal(weights, others)
        assert gramian is its is None or torch.equal(gramian, its)


def test_rank_0_alone_speaks_and_writes(both):
    _, two, said = both
    assert "2 x cpu" in said[0] and "segnet-ours-s0 epoch 1/1" in said[0]
    assert said[1] == ""


# Rank 1 kills itself in the second epoch, the first time that it gets there. Read by every python of the run.
KILLS_ONE = """
import os, signal, sys
if os.environ.get("RANK") == "1":
    sys.path.insert(0, os.environ["PYTHONPATH"])
    from pipeline import balancers
    called, original = 0, balancers.backward
    def killing(*arguments):
        global called
        called += 1
        if called == 3 and not os.path.exists("killed"):
            open("killed", "w")
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)
    balancers.backward = killing
"""
STUDENT = ("pipeline.train", "rooms", "student", "segnet", "ours", "0")


def test_after_a_kill_of_one_process_the_same_bits(copy, tmp_path):
    """By the same command again, and by torchrun's own restart."""
    (tmp_path / "kill").mkdir()
    (tmp_path / "kill/sitecustomize.py").write_text(KILLS_ONE)
    folder = folder_of(STUDENT[1], *STUDENT[3:])

    def bits():
        return {name: (folder / name).read_bytes() for name in ("weights.pt", "curve.csv", "balance.csv")}
    done = command(*STUDENT, cwd=copy, NPROC="2")
    assert done.returncode == 0, done.stderr
    assert "2 x cpu" in done.stdout and done.stdout.count("epoch 2/2") == 1
    expected = bits()
    path = f"{tmp_path / 'kill'}:{ROOT}"
    shutil.rmtree(folder)
    killed = command(*STUDENT, cwd=copy, NPROC="2", PYTHONPATH=path)
    assert killed.returncode == 2 and not folder.exists()
    assert killed.stderr.strip().splitlines()[-1] == (
        "error: process 1 of 2 was ended by SIGKILL; the same command goes on from the last finished epoch")
    assert "Traceback" not in killed.stderr
    again = command(*STUDENT, cwd=copy, NPROC="2")
    assert "going on from epoch 1" in again.stdout and bits() == expected
    shutil.rmtree(folder)
    pathlib.Path("killed").unlink()
    restarted = command(*STUDENT, cwd=copy, NPROC="2", PYTHONPATH=path, PET_MAX_RESTARTS="1")
    assert restarted.returncode == 0, restarted.stderr
    assert "going on from epoch 1" in restarted.stdout and bits() == expected


def test_too_many_processes_are_refused_in_one_sentence(copy):
    done = command(*STUDENT, cwd=copy, NPROC="5")
    assert done.returncode == 2
    assert done.stderr.strip() == ("error: 5 processes share a batch of 4; raise `batch` of the protocol in force, or "
                                   "lower NPROC")


@pytest.mark.parametrize("asked", ["0", "two", "-1"])
def test_nproc_is_a_number(copy, monkeypatch, asked):
    monkeypatch.setenv("NPROC", asked)
    with pytest.raises(UserError, match=f"NPROC is '{asked}'"):
        run(train, *STUDENT[1:])


def test_a_part_of_a_list_for_everyone(monkeypatch):
    parts = []
    for rank in range(3):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(distributed, "size", lambda: 3)
        parts.append(distributed.share(list(range(8))))
    assert sum(parts, []) == list(range(8)) and {len(part) for part in parts} == {2, 3}
