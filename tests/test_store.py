"""The feature store: exact enough, found by identity, never stale, never silently damaged."""

import shutil

import numpy as np
import pytest
import torch
from conftest import change, folder_of, row_of, run

from kernels import unpack
from pipeline import data, features, train
from pipeline.data.split import Split
from pipeline.runtime import documents
from pipeline.runtime.errors import UserError
from pipeline.teachers import networks, sources, store

CPU = torch.device("cpu")


@pytest.fixture
def row(copy):
    return row_of("rooms", "student", "segnet", "ours", "0")


def edit(old, new):
    change((old, new))
    return row_of("rooms", "student", "segnet", "ours", "0")


def source(row, monkeypatch=None, place=None):
    if place:
        monkeypatch.setenv("FEATURES", place)
    return store.open_for(row, "semantic", Split("out/rooms/data", "train", CPU), CPU)


def batch(row, *rest):
    split = Split("out/rooms/data", "train", CPU)
    return source(row, *rest).batch([5, 1, 2], split.batch([5, 1, 2])[0], ("mid", "last"))


@pytest.mark.parametrize("dtype, gap", [("float32", 1e-5), ("float16", 1e-3), ("uint8", 5e-3)])
def test_cached_equals_live_to_the_declared_precision(copy, monkeypatch, dtype, gap):
    row = edit("dtype: float16", f"dtype: {dtype}")
    run(features, "rooms", "teacher", "segnet", "semantic", "0")
    live = batch(row, monkeypatch, "live")
    for place in ("ram", "disk", "auto"):
        for tap, (stored, energy) in batch(row, monkeypatch, place).items():
            assert stored.dtype == getattr(torch, dtype)
            assert (unpack(stored) - live[tap][0]).abs().max() < gap
            torch.testing.assert_close(energy, live[tap][1], rtol=1e-5, atol=1e-6)


def test_student_curve_cached_equals_live(copy, monkeypatch):
    """With eval-mode teachers a cache is the same method: only rounding differs."""
    edit("dtype: float16", "dtype: float32")
    for task in ("semantic", "depth", "normal"):
        run(features, "rooms", "teacher", "segnet", task, "0")
    curves = {}
    for place in ("ram", "disk", "live"):
        monkeypatch.setenv("FEATURES", place)
        shutil.rmtree(folder_of("rooms", "segnet", "ours"))
        run(train, "rooms", "student", "segnet", "ours", "0")
        curves[place] = (folder_of("rooms", "segnet", "ours") / "curve.csv").read_text()
    assert curves["ram"] == curves["disk"]
    values = {place: [[float(x) for x in line.split(",")[:9]] for line in text.splitlines()[1:]]
              for place, text in curves.items()}
    np.testing.assert_allclose(values["ram"], values["live"], rtol=1e-4)


def test_batch_mode_teachers_depend_on_the_batch(copy):
    """Why `teacher_bn: batch` cannot be cached: an image's features change with its neighbours."""
    row = row_of("rooms", "student", "segnet", "ours", "0")
    split = Split("out/rooms/data", "train", CPU)
    for statistics, differ in ((True, True), (False, False)):
        live = sources.Live(row, "semantic", split.classes, CPU, batch_statistics=statistics)
        first = [live.batch(None, split.batch(index)[0], ["last"])["last"][0][0] for index in ([0, 1], [0, 2])]
        assert ((first[0] - first[1]).abs().max() > 1e-3) == differ


def test_identity_changes_with_what_decides_the_features(row):
    before = {store.identity(row, "semantic"), store.identity(row, "depth")}
    assert len(before) == 2
    assert store.identity(edit("dtype: float16", "dtype: uint8"), "semantic") not in before
    manifest = data.load_manifest("out/rooms/data")
    manifest["sha256"]["train/image.npy"] = "0"
    documents.write("out/rooms/data/manifest.json", manifest)
    assert store.identity(row, "semantic") not in before


def test_changed_teacher_is_refused(row):
    path, other = networks.weights_file(row, "semantic"), networks.weights_file(row, "depth")
    cost = documents.read(path.parent / "cost.json", str)
    documents.write_run(path.parent, {path.name: other.read_bytes()}, cost)         # trained anew, to these weights
    with pytest.raises(UserError, match="semantic.json is stale.*dvc repro features@segnet-semantic-0"):
        source(row)


def test_missing_bulk_is_rebuilt_to_the_same_bits(row, capsys):
    bulk = store.BULK / store.identity(row, "semantic")
    before = {tap: (bulk / f"{tap}.npy").read_bytes() for tap in ("mid", "last")}
    shutil.rmtree(bulk)
    source(row)
    assert "rebuilding" in capsys.readouterr().out
    assert before == {tap: (bulk / f"{tap}.npy").read_bytes() for tap in ("mid", "last")}


@pytest.mark.parametrize("place", ["ram", "disk"])
def test_damaged_shard_is_named(row, monkeypatch, place):
    path = store.BULK / store.identity(row, "semantic") / "last.npy"
    array = np.load(path, mmap_mode="r+")
    array[5, 3, 2] += 0.5
    array.flush()
    with pytest.raises(UserError, match=r"last.npy is damaged \(checksum of image train-00005\); remove"):
        batch(row, monkeypatch, place)


def test_truncated_shard_is_named(row):
    path = store.BULK / store.identity(row, "semantic") / "last.npy"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="last.npy is damaged"):
        source(row)


def test_missing_manifest_is_named(row):
    store.manifest_file(row, "semantic").unlink()
    with pytest.raises(UserError, match="semantic.json is not there; .*dvc repro -s features@segnet-sem"):
        source(row)


def test_small_disk_is_told_before_work(row, monkeypatch):
    shutil.rmtree(store.BULK)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(UserError, match=r"features need [\d,]+ bytes but .* has 1 free"):
        run(features, "rooms", "teacher", "segnet", "semantic", "0")
    assert not store.BULK.exists()


def test_predicted_bytes_are_the_written_ones(copy, capsys):
    shutil.rmtree(store.BULK)
    run(features, "rooms", "teacher", "segnet", "semantic", "0")
    said = capsys.readouterr().out
    predicted, written = (float(said.split(word)[0].split()[-2]) for word in (" predicted", " written"))
    assert predicted == pytest.approx(written, rel=0.01)


def test_parity_gate_refuses_other_features(row, monkeypatch):
    shutil.rmtree(store.BULK)
    encode = store.encode

    def wrong(teacher, image, task, dtype):
        stored, energies = encode(teacher, image, task, dtype)
        return {tap: array[:, ::-1].copy() for tap, array in stored.items()}, energies

    monkeypatch.setattr(store, "encode", wrong)
    with pytest.raises(UserError, match="differ from the live teacher's"):
        run(features, "rooms", "teacher", "segnet", "semantic", "0")


def test_unknown_place(row, monkeypatch):
    monkeypatch.setenv("FEATURES", "cloud")
    with pytest.raises(UserError, match="FEATURES is 'cloud'"):
        source(row)
    monkeypatch.setenv("FEATURES", "gpu")
    with pytest.raises(UserError, match="DEVICE=cuda"):
        source(row)
