"""`prepare`: compact arrays, a manifest with checksums, and sentences before any work."""

import hashlib
import json
import pathlib
import shutil

import numpy as np
import pytest
import torch
from conftest import change, run

from pipeline import data, prepare
from pipeline.data import nyuv2, scenes
from pipeline.data.split import Split
from pipeline.runtime.errors import UserError

CPU = torch.device("cpu")
H, W = 32, 64


def use_nyuv2(root, images=8, tests=4):
    """A tiny data set in MTAN's layout, chosen in params.yaml."""
    rng = np.random.default_rng(0)
    for split, count in (("train", images), ("val", tests)):
        for i in range(count):
            normal = rng.normal(size=(H, W, 3))
            sample = {"image": rng.random((H, W, 3)), "label": rng.integers(-1, 13, (H, W)).astype(float),
                      "depth": rng.uniform(1, 9, (H, W, 1)),
                      "normal": normal / np.linalg.norm(normal, axis=-1, keepdims=True)}
            for kind, array in sample.items():
                (root / split / kind).mkdir(parents=True, exist_ok=True)
                np.save(root / split / kind / f"{i}.npy", array)
    change(("data: scenes ", "data: nyuv2 "))
    return root


def test_arrays_hold_what_the_reader_gave(folder):
    run(prepare, "rooms")
    manifest = data.load_manifest("out/rooms/data")
    options = {"seed": 0, "noise": 0.01, "holes": 0.08}
    assert manifest["ids"]["train"] == scenes.ids("train", 8, options) and manifest["classes"] == {
        "semantic": list(scenes.CLASSES)}
    image, targets = Split("out/rooms/data", "test", CPU).batch([2])
    sample = scenes.read("test", manifest["ids"]["test"][2], (H, W), options)
    assert np.abs(image[0].permute(1, 2, 0).numpy() - sample["image"]).max() <= 0.5 / 255 + 1e-6
    assert (targets["label"][0].numpy() == sample["label"]).all()
    np.testing.assert_allclose(targets["depth"][0, 0].numpy(), sample["depth"], rtol=2 ** -11)
    np.testing.assert_allclose(targets["normal"][0].permute(1, 2, 0).numpy(), sample["normal"], atol=2 ** -11)
    assert (targets["depth"][0, 0].numpy() == 0).any() and (targets["label"] == -1).any()


def test_batches_are_channels_last_and_in_the_order_asked(folder):
    run(prepare, "rooms")
    split = Split("out/rooms/data", "train", CPU)
    image, targets = split.batch([3, 1])
    assert image.is_contiguous(memory_format=torch.channels_last) and image.dtype == torch.float32
    assert torch.equal(split.batch([1])[0][0], image[1]) and targets["label"].dtype == torch.int64


def test_manifest_has_every_checksum(folder):
    run(prepare, "rooms")
    manifest = json.loads((pathlib.Path("out/rooms/data") / "manifest.json").read_text())
    assert len(manifest["sha256"]) == 8
    for file, digest in manifest["sha256"].items():
        assert hashlib.sha256((pathlib.Path("out/rooms/data") / file).read_bytes()).hexdigest() == digest


def test_preparing_twice_gives_the_same_bits(folder):
    run(prepare, "rooms")
    before = (pathlib.Path("out/rooms/data") / "manifest.json").read_text()
    run(prepare, "rooms")
    assert (pathlib.Path("out/rooms/data") / "manifest.json").read_text() == before


def test_nyuv2_folders_as_a_user_has_them(folder):
    use_nyuv2(folder / "data/nyuv2")
    run(prepare, "rooms")
    manifest = data.load_manifest("out/rooms/data")
    assert manifest["ids"]["test"] == ["test/0", "test/1", "test/2", "test/3"]
    image, targets = Split("out/rooms/data", "train", CPU).batch([5])
    stored = np.load(folder / "data/nyuv2/train/depth/5.npy")[..., 0]
    np.testing.assert_allclose(targets["depth"][0, 0].numpy(), stored, rtol=1e-3)


BROKEN = {
    "no-root": (lambda root: shutil.rmtree(root), "datasets.nyuv2.root"),
    "partial": (lambda root: shutil.rmtree(root / "val/normal"), "val/normal"),
    "counts": (lambda root: (root / "train/depth/7.npy").unlink(), "unequal numbers"),
    "truncated": (lambda root: (root / "train/image/3.npy").write_bytes(
        (root / "train/image/3.npy").read_bytes()[:-50]), "train/image/3.npy"),
    "shape": (lambda root: np.save(root / "train/label/2.npy", np.zeros((H, W, 3))), "train/label/2.npy"),
    "nan": (lambda root: np.save(root / "train/depth/0.npy", np.full((H, W, 1), np.nan)), "holds nan"),
    "millimetres": (lambda root: np.save(root / "train/depth/0.npy", np.full((H, W, 1), 2500.0)), "millimetres"),
    "label": (lambda root: np.save(root / "val/label/0.npy", np.full((H, W), 40.0)), "holds 40"),
    "too-few": (lambda root: [(root / "train" / kind / "7.npy").unlink()
                              for kind in ("image", "label", "depth", "normal")], "protocols"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_data_are_a_sentence_before_work(folder, case):
    root = use_nyuv2(folder / "data/nyuv2")
    breaking, words = BROKEN[case]
    breaking(root)
    with pytest.raises(UserError, match=words):
        run(prepare, "rooms")
    assert not pathlib.Path("out/rooms/data").exists()


def test_other_proportions_are_refused(folder):
    root = use_nyuv2(folder / "data/nyuv2")
    for split in ("train", "val"):
        for path in (root / split).rglob("*.npy"):
            np.save(path, np.concatenate([np.load(path)] * 2, axis=0))
    with pytest.raises(UserError, match="height"):
        run(prepare, "rooms")


def test_small_disk_is_told_before_work(folder, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(UserError, match=r"need 294,912 bytes but the disk has 1 free; make room .* `protocols.smoke"):
        run(prepare, "rooms")


def test_readers_agree_on_the_classes():
    assert tuple(scenes.CLASSES) == tuple(nyuv2.CLASSES) and len(scenes.CLASSES) == 13


def test_montage_is_drawn(folder):
    run(prepare, "rooms")
    prepare.montage("rooms")
    assert pathlib.Path("out/rooms/montage.png").read_bytes()[:4] == b"\x89PNG"
