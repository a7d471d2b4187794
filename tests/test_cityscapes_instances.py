"""Cityscapes' three tasks of Aligned-MTL: offsets from instanceIds as a loop over pixels gives them, and disparity."""

import re

import numpy as np
import pytest
import yaml
from conftest import change, file_of, row_of
from test_cityscapes import STEMS, arrays, path, png

from pipeline.config import params
from pipeline.data import cityscapes
from pipeline.runtime.errors import UserError
from pipeline.tasks import from_raw

H, W = 16, 32
THINGS = {24, 25, 26, 27, 28, 31, 32, 33}
COUNTS = {"train": None, "test": None}


def instance_ids(i):
    """Every label id, crowds among them, two cars and a person that a pole parts; caravans and trailers."""
    ids = np.random.default_rng(i).permutation(np.arange(H * W) % 34).reshape(H, W).astype(np.uint16)
    ids[2:9, 3:12], ids[4:14, 10:20], ids[5:12, 22:30], ids[:, 25] = 26000, 26001, 24013, 17
    ids[0, :6] = 29000, 30001, 33999, 24000, 5, 0
    return ids


@pytest.fixture
def tree(tmp_path):
    for split in ("train", "val"):
        for i, stem in enumerate(STEMS):
            ids = instance_ids(i)
            label = np.where(ids < 1000, ids, ids // 1000).astype(np.uint8)
            for kind, array in (arrays(i, H, W) | {"label": label, "offset": ids}).items():
                file = path(tmp_path, kind, stem, split)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(png(array))
    return tmp_path


def read(root, size=(H, W), **options):
    return cityscapes.read("train", f"train/{STEMS[1]}", size, {"root": str(root), "instances": True, **options})


def test_offsets_are_those_of_a_loop_over_pixels(tree):
    cityscapes.check({"root": str(tree), "instances": True}, COUNTS)
    ids, sample = instance_ids(1), read(tree)
    assert sample["offset"].shape == (H, W, 2) and sample["offset"].dtype == np.float32
    for r, c in np.ndindex(H, W):
        one, label = ids[r, c], ids[r, c] if ids[r, c] < 1000 else ids[r, c] // 1000
        if label not in THINGS:
            assert (sample["offset"][r, c] == from_raw.VOID).all(), one
            continue
        places = [(y, x) for y, x in np.ndindex(H, W) if ids[y, x] == one]
        middle = np.mean(places, 0)
        assert sample["offset"][r, c] == pytest.approx((r - middle[0], c - middle[1]), abs=1e-4), one
    valid = (sample["offset"] != from_raw.VOID).all(-1)
    assert (valid == (sample["label"] >= 11)).all() and 0.3 < valid.mean() < 0.9


@pytest.mark.parametrize("classes", [7, 19])
def test_smaller_images_keep_the_unit_of_the_stored_ones(tree, classes):
    whole, half = read(tree), read(tree, (H // 2, W // 2), classes=classes)
    for kind in ("offset", "disparity"):
        np.testing.assert_array_equal(half[kind], whole[kind][1::2, 1::2])


@pytest.mark.parametrize("unit", ["p/65535", "(p-1)/65536"])
def test_disparity_is_the_stored_number_by_the_papers_constant(tree, unit):
    found, p = read(tree, disparity=unit)["disparity"], arrays(1, H, W)["depth"]
    np.testing.assert_allclose(found, p / 2729.0680031169923, rtol=1e-6)
    assert ((found == 0) == (p == 0)).all()


def test_mtans_arrays_give_disparity_too(tmp_path):
    p = arrays(1, H, W)["depth"]
    for split in ("train", "val"):
        for kind, array in {"image": np.zeros((H, W, 3)), "label_19": np.zeros((H, W)), "depth": p / 65535}.items():
            (tmp_path / split / kind).mkdir(parents=True)
            np.save(tmp_path / split / kind / "0.npy", array.astype(np.float32))
    sample = cityscapes.read("train", "train/0", (H, W), {"root": str(tmp_path)})
    np.testing.assert_allclose(sample["disparity"], p / 2729.0680031169923, rtol=1e-5)
    with pytest.raises(UserError, match=f"cityscapes.instances` is true but MTAN's arrays in {tmp_path} hold none"):
        cityscapes.check({"root": str(tmp_path), "instances": True}, COUNTS)


def test_an_image_without_an_instance_is_void(tree):
    path(tree, "offset").write_bytes(png(np.full((H, W), 7, np.uint16)))
    assert (read(tree)["offset"] == from_raw.VOID).all()


@pytest.mark.parametrize("one", [34, 255, 999, 1000, 23001, 34000, 65535])
def test_ids_that_no_label_has_are_named(tree, one):
    ids = instance_ids(1)
    ids[3, 4] = one
    path(tree, "offset").write_bytes(png(ids))
    with pytest.raises(UserError, match=rf"_instanceIds.png holds {one} at \(3, 4\), but instance ids are label ids"):
        read(tree)


@pytest.mark.parametrize("spoil, sentence", [
    (lambda root: [path(root, "offset", stem, split).unlink() for stem in STEMS for split in ("train", "val")],
     "ROOT/gtFine/train holds no files CITY/CITY_SEQ_FRAME_gtFine_instanceIds.png: unpack Cityscapes' gtFine there"),
    (lambda root: path(root, "offset").unlink(),
     "_000019_gtFine_instanceIds.png is missing although its image is there, and so are 0 more"),
    (lambda root: path(root, "offset").write_bytes(png(np.zeros((H, W), np.uint8))),
     "_instanceIds.png is 8-bit grey, expected 16-bit grey: take the file of Cityscapes' own gtFine package"),
    (lambda root: path(root, "depth").write_bytes(png(np.zeros((H, W), np.uint8))),
     "_disparity.png is 8-bit grey, expected 16-bit grey: take the file of Cityscapes' own disparity package"),
])
def test_a_tree_that_lacks_them_is_refused_before_any_work(tree, spoil, sentence):
    spoil(tree)
    with pytest.raises(UserError, match=re.escape(sentence.replace("ROOT", str(tree)))):
        cityscapes.check({"root": str(tree), "instances": True}, COUNTS)


def test_a_tree_without_them_still_serves_two_tasks(tree):
    for stem in STEMS:
        path(tree, "offset", stem).unlink()
    cityscapes.check({"root": str(tree)}, COUNTS)
    assert "offset" not in read(tree, instances=False)


def test_the_task_needs_the_option(folder):
    tree = yaml.safe_load(file_of("streets").read_text())
    tree["data"], tree["teacher"]["rows"] = "cityscapes", ["semantic", "depth", "instance", "disparity"]
    for method in tree["methods"].values():
        if "lambda" in method:
            method["lambda"] |= {"instance": 1.0, "disparity": 1.0}
    file_of("streets").write_text(yaml.safe_dump(tree, sort_keys=False))
    with pytest.raises(UserError, match="has 'instance', which `data: cityscapes` has only with .*instances: true"):
        params.load("streets")
    change(("instances: false", "instances: true"), suite="streets")
    row = row_of("streets", "teacher", "segnet", "instance")
    assert row["data"]["options"]["instances"] and row["tasks"] == ["instance"]
