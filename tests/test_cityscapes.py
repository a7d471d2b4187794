"""The Cityscapes reader on small folders in both layouts; on the real ones where CITYSCAPES_ROOT names them."""

import io
import os
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from pipeline.data import cityscapes, files, streets
from pipeline.runtime.errors import UserError

H, W = 8, 16
STEMS = ["aachen/aachen_000000_000019", "aachen/aachen_000001_000019", "zurich/zurich_000010_000019"]
COUNTS = {"train": None, "test": None}
NO_CLASS = {9, 10, 14, 15, 16, 18, 29, 30}      # ids that have a category but no train class


def arrays(i, height=H, width=W):
    """One image as Cityscapes stores it: RGB, ids 0..33 all there, 16-bit disparity with invalid pixels."""
    rng = np.random.default_rng(i)
    p = rng.integers(1, 32258, (height, width)).astype(np.uint16)
    p[0, 0], p[0, 1], p[0, 2], p[0, 3] = 0, 1, 32257, 256
    ids = (np.arange(height * width) % 34).reshape(height, width).astype(np.uint8)
    return {"image": rng.integers(0, 256, (height, width, 3)).astype(np.uint8), "label": ids, "depth": p}


def path(root, kind, stem=STEMS[1], split="train"):
    folder, ending = cityscapes.PNGS[kind][:2]
    return pathlib.Path(root, folder, split, stem + ending)


def png(array, **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG", **options)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.fixture
def original(tmp_path):
    for split in ("train", "val"):
        for i, stem in enumerate(STEMS):
            for kind, array in arrays(i).items():
                file = path(tmp_path, kind, stem, split)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(png(array))
    return tmp_path


def mtan_arrays(i):
    raw = arrays(i)
    return {"image": raw["image"] / 255, "depth": (raw["depth"] / 65535)[..., None],
            "label_7": np.arange(H * W).reshape(H, W) % 8 - 1, "label_19": np.arange(H * W).reshape(H, W) % 20 - 1}


@pytest.fixture
def mtan(tmp_path):
    for split in ("train", "val"):
        for i in range(3):
            for kind, array in mtan_arrays(i).items():
                (tmp_path / split / kind).mkdir(parents=True, exist_ok=True)
                (tmp_path / split / kind / f"{i}.npy").write_bytes(npy(array.astype(np.float64)))
    return tmp_path


def read(root, name=f"train/{STEMS[1]}", size=(H, W), **options):
    return cityscapes.read("train", name, size, {"root": str(root), **options})


def contract(sample, size=(H, W)):
    return {kind: (a.shape, a.dtype.name) for kind, a in sample.items()} == {
        "image": ((*size, 3), "float32"), "label": (size, "int8"), "depth": (size, "float32"),
        "disparity": (size, "float32")}


def test_the_original_files_are_read_at_full_depth(original):
    sample, stored = read(original), arrays(1)
    assert contract(sample)
    np.testing.assert_array_equal(sample["image"], stored["image"] / np.float32(255))
    np.testing.assert_array_equal(np.rint(sample["depth"] * 65535), stored["depth"])      # all 16 bits
    np.testing.assert_allclose(sample["depth"][0, :3], [0, 1.526e-5, 0.49221], rtol=1e-4)
    other = read(original, disparity="(p-1)/65536")["depth"]
    np.testing.assert_allclose(other, np.maximum(stored["depth"] - 1.0, 0) / 65536, atol=1e-9)
    stored["depth"][1, :6] = 0, 1, 2, 32257, 32258, 65535
    path(original, "depth").write_bytes(png(stored["depth"]))
    other = read(original, disparity="(p-1)/65536")["depth"]
    np.testing.assert_array_equal(other[1, :6], np.float32([0, 0, 1 / 65536, 126 / 256, 0.4922, 0.4922]))
    metres = 0.209 * 2262.5 / ((256 - 1) / 256)
    assert np.isclose(0.209 * 2262.5 / metres * 256 + 1, sample["depth"][0, 3] * 65535)   # the unit of streets' depth


def test_a_rendered_street_written_as_cityscapes_files_reads_the_same(tmp_path):
    size, ids = (64, 128), np.append([int(np.flatnonzero(cityscapes.TRAIN_ID == c)[0]) for c in range(19)], 0)
    street = streets.read("train", "train-00000", size, {})
    written = {"image": np.rint(street["image"] * 255), "label": ids[street["label"]],
               "depth": np.rint(street["depth"] * 65535)}
    for kind, array in written.items():
        path(tmp_path, kind).parent.mkdir(parents=True)
        path(tmp_path, kind).write_bytes(png(array.astype(np.uint16 if kind == "depth" else np.uint8)))
    for classes in (19, 7):
        street = streets.read("train", "train-00000", size, {"classes": classes})
        sample = read(tmp_path, size=size, classes=classes)
        np.testing.assert_array_equal(sample["label"], street["label"])
        np.testing.assert_array_equal(sample["depth"], street["depth"])
        np.testing.assert_allclose(sample["image"], street["image"], atol=0.002)
        assert streets.classes({"classes": classes}) == cityscapes.classes({"root": str(tmp_path), "classes": classes})


def test_label_ids_become_19_classes_or_7_by_two_routes(original):
    stored = arrays(1)["label"]
    nineteen, seven, folded = (read(original, **o)["label"] for o in (
        {}, {"classes": 7}, {"classes": 7, "seven": "train_ids"}))
    for i in range(34):
        label, category, fold = (a[stored == i][0] for a in (nineteen, seven, folded))
        assert (category == -1) == (i <= 6) and (label == -1) == (i <= 6 or i in NO_CLASS)
        assert fold == (-1 if i in NO_CLASS else category)
    assert sorted(set(nineteen.ravel())) == list(range(-1, 19)) and sorted(set(seven.ravel())) == list(range(-1, 7))
    names = cityscapes.classes({"root": str(original)}), cityscapes.classes({"root": str(original), "classes": 7})
    assert [len(n) for n in names] == [19, 7]
    for i, name, category in ((7, "road", "flat"), (11, "building", "construction"), (20, "traffic sign", "object"),
                              (21, "vegetation", "nature"), (23, "sky", "sky"), (25, "rider", "human"),
                              (33, "bicycle", "vehicle")):
        assert names[0][nineteen[stored == i][0]] == name and names[1][seven[stored == i][0]] == category


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4"])
def test_mtans_arrays_are_read_in_any_float_dtype(mtan, dtype):
    for kind, array in mtan_arrays(1).items():
        (mtan / f"train/{kind}/1.npy").write_bytes(npy(array.astype(dtype)))
    stored, atol = mtan_arrays(1), 3e-4 if dtype == "f2" else 1e-7
    sample = read(mtan, "train/1")
    assert contract(sample)
    np.testing.assert_allclose(sample["image"], stored["image"], atol=2 * atol)
    np.testing.assert_allclose(sample["depth"], stored["depth"][..., 0], atol=atol)
    np.testing.assert_array_equal(sample["label"], stored["label_19"])
    np.testing.assert_array_equal(read(mtan, "train/1", classes=7)["label"], stored["label_7"])
    folded = read(mtan, "train/1", classes=7, seven="train_ids")["label"]
    assert (folded[0, :5] == [-1, 0, 0, 1, 1]).all()


def test_only_the_labels_in_use_have_to_be_there(mtan):
    (mtan / "train/label_7").rename(mtan / "elsewhere")
    read(mtan, "train/0")
    with pytest.raises(UserError, match="train/label_7 cannot be listed"):
        cityscapes.check({"root": str(mtan), "classes": 7}, COUNTS)


def test_ids_are_ordered_and_spread_and_the_test_split_is_the_folder_val(original, mtan):
    both = [{"root": str(original), "layout": layout} for layout in ("original", "mtan")]
    for options, expected in zip(both, (STEMS, ["0", "1", "2"]), strict=True):
        cityscapes.check(options, COUNTS)
        assert cityscapes.ids("test", None, options) == [f"test/{name}" for name in expected]
        assert cityscapes.ids("train", 2, options) == [f"train/{expected[0]}", f"train/{expected[1]}"]
        sample = cityscapes.read("test", f"test/{expected[2]}", (H, W), options)
        np.testing.assert_allclose(sample["image"], arrays(2)["image"] / 255, atol=1e-6)


@pytest.mark.parametrize("size", [(4, 8), (12, 24), (3, 6)], ids=str)
def test_resize_averages_images_and_invents_no_label_or_disparity(original, size):
    path(original, "image").write_bytes(png(np.full((H, W, 3), 51, np.uint8)))
    sample, stored = read(original, size=size), read(original)
    assert contract(sample, size) and all(a.flags.c_contiguous for a in sample.values())
    np.testing.assert_allclose(sample["image"], 0.2, atol=1e-6)
    for kind in ("label", "depth"):
        assert set(sample[kind].ravel()) <= set(stored[kind].ravel())
    if size == (4, 8):
        np.testing.assert_array_equal(sample["depth"], stored["depth"][1::2, 1::2])


@pytest.mark.parametrize("size", [(4, 8), (2, 4), (16, 32)], ids=str)
def test_a_nearest_image_is_the_pixel_that_its_label_is_of(original, size):
    sample, image = read(original, size=size, image="nearest"), arrays(1)["image"]
    assert contract(sample, size)
    theirs = np.array(Image.fromarray(image).resize(size[::-1], Image.NEAREST))
    np.testing.assert_array_equal(sample["image"], theirs / np.float32(255))
    for kind in ("label", "depth"):
        np.testing.assert_array_equal(sample[kind], read(original, size=size)[kind])
    both = {"image": np.repeat(arrays(1)["label"][..., None], 3, 2), "label": arrays(1)["label"]}
    for kind, array in both.items():
        path(original, kind).write_bytes(png(array))
    same = read(original, size=size, image="nearest", classes=7)
    seen = np.rint(same["image"][..., 0] * 255).astype(int)
    np.testing.assert_array_equal(cityscapes.CATEGORY_OF_ID[seen], same["label"])


def test_the_nearest_pixel_of_the_papers_size():
    place = np.arange(1024 * 2048, dtype=np.int32).reshape(1024, 2048)
    theirs = np.array(Image.fromarray(place).resize((256, 128), Image.NEAREST))
    np.testing.assert_array_equal(theirs, place[4::8, 4::8])
    np.testing.assert_array_equal(files.resized("image", place, (128, 256), "nearest"), place[4::8, 4::8])


# -- faults: each is one sentence that names the file or key, before anything is computed

def drop(file):
    return lambda root: (root / file).unlink()


def put(kind, content):
    return lambda root: path(root, kind).write_bytes(content)


COLOURED = np.zeros((H, W, 3), np.uint8)
IMAGE, LABEL, DISPARITY = (str(path("", kind)) for kind in ("image", "label", "depth"))
ORIGINAL_FAULTS = {
    "no-label": (drop(LABEL), f"ROOT/{LABEL} is missing although its image is there"),
    "no-disparity": (drop(DISPARITY), f"ROOT/{DISPARITY} is missing although its image is there"),
    "no-gtFine": (lambda root: (root / "gtFine").rename(root / "gt"), "ROOT/gtFine/train cannot be listed"),
    "no-val": (lambda root: (root / "leftImg8bit/val").rename(root / "test"), "leftImg8bit/val cannot be listed"),
    "empty-split": (lambda root: [path(root, "depth", stem, "val").unlink() for stem in STEMS],
                    "ROOT/disparity/val holds no files CITY/CITY_SEQ_FRAME_disparity.png"),
    "8-bit-disparity": (put("depth", png(np.zeros((H, W), np.uint8))),
                        f"ROOT/{DISPARITY} is 8-bit grey, expected 16-bit grey"),
    "16-bit-label": (put("label", png(np.zeros((H, W), np.uint16))),
                     f"ROOT/{LABEL} is 16-bit grey, expected 8-bit grey"),
    "coloured-label": (put("label", png(COLOURED)), f"ROOT/{LABEL} is 8-bit RGB, expected 8-bit grey"),
    "grey-image": (put("image", png(COLOURED[..., 0])), f"ROOT/{IMAGE} is 8-bit grey, expected 8-bit RGB"),
    "other-size": (put("label", png(COLOURED[1:, :, 0])), f"ROOT/{LABEL} is 7 x 16 but ROOT/{IMAGE} is 8 x 16"),
    "not-png": (put("image", b"<html>quota exceeded</html> and more"), f"ROOT/{IMAGE} is not a PNG file"),
    "no-bytes": (put("depth", b""), f"ROOT/{DISPARITY} is not a PNG file"),
    "transposed": (put("label", png(arrays(1)["label"].T)), f"ROOT/{LABEL} is 16 x 8 but ROOT/{IMAGE} is 8 x 16; "
                   "height and width look swapped"),
    "train-ids": (lambda root: [path(root, "label", stem).write_bytes(png(cityscapes.TRAIN_ID.astype(np.uint8)[
        arrays(i)["label"]])) for i, stem in enumerate(STEMS)],
                  "the label ids in ROOT/gtFine/train are 18 at most in 3 images: they look like trainIds"),
}
MTAN_FAULTS = {
    "unequal": (drop("val/depth/2.npy"), "ROOT/val hold unequal numbers of files (image 3, label_19 3, depth 2)"),
    "hole": (drop("train/image/1.npy"), "ROOT/train/image/1.npy is missing although the numbers go up to 2"),
    "no-folder": (lambda root: (root / "val/depth").rename(root / "d"), "the folder ROOT/val/depth cannot be listed"),
    "renamed": (lambda root: [(root / f"val/image/{i}.npy").rename(root / f"val/image/0{i}.npy") for i in range(3)],
                "ROOT/val/image holds no files 0.npy, 1.npy"),
    "text": (lambda root: (root / "train/depth/1.npy").write_bytes(b"oops"), "depth/1.npy is not a plain .npy array"),
    "cut": (lambda root: (root / "train/depth/1.npy").write_bytes(npy(np.zeros((H, W)))[:-1]), "or cut short"),
    "pickled": (lambda root: np.save(root / "train/depth/1.npy", np.array([[None]])), "is not a plain .npy array"),
    "channels-first": (lambda root: np.save(root / "train/image/1.npy", np.zeros((3, H, W))),
                       "image/1.npy has shape (3, 8, 16), expected (H, W, 3) for image"),
    "16-bit-depth": (lambda root: np.save(root / "train/depth/1.npy", np.zeros((H, W), np.uint16)),
                     "depth/1.npy has dtype uint16, expected a float type for depth"),
    "other-size": (lambda root: np.save(root / "train/label_19/1.npy", np.zeros((H, W + 1))),
                   "label_19/1.npy is 8 x 17 but ROOT/train/image/1.npy is 8 x 16"),
}


@pytest.mark.parametrize("case", ORIGINAL_FAULTS)
def test_check_finds_in_the_original(original, case):
    spoil, sentence = ORIGINAL_FAULTS[case]
    spoil(original)
    with pytest.raises(UserError, match=re.escape(sentence.replace("ROOT", str(original)))):
        cityscapes.check({"root": str(original)}, COUNTS)


@pytest.mark.parametrize("case", MTAN_FAULTS)
def test_check_finds_in_mtans_folders(mtan, case):
    spoil, sentence = MTAN_FAULTS[case]
    spoil(mtan)
    with pytest.raises(UserError, match=re.escape(sentence.replace("ROOT", str(mtan)))):
        cityscapes.check({"root": str(mtan)}, COUNTS)


@pytest.mark.parametrize(("kind", "value", "shown"), [
    ("depth", np.nan, "nan"), ("depth", 12.5, "12.5"), ("depth", -0.1, "-0.10"), ("image", 255, "255"),
    ("image", np.nan, "nan"), ("label_19", 19, "19"), ("label_19", 255, "255"), ("label_19", 1.5, "1.5"),
    ("label_19", np.nan, "nan")])
def test_read_refuses_a_value_of_mtans(mtan, kind, value, shown):
    array = mtan_arrays(1)[kind].astype(float)
    array[(2, 3, 0)[:array.ndim]] = value
    np.save(mtan / f"train/{kind}/1.npy", array)
    with pytest.raises(UserError, match=re.escape(f"{mtan}/train/{kind}/1.npy holds {shown}") + r".* at \(2, 3"):
        read(mtan, "train/1", (4, 8))


def test_read_refuses_an_id_outside_the_map_and_a_damaged_file(original):
    for value in (34, 255):
        ids = arrays(1)["label"]
        ids[2, 3] = value
        path(original, "label").write_bytes(png(ids))
        with pytest.raises(UserError, match=rf"_labelIds.png holds {value} at \(2, 3\), but label ids are 0..33"):
            read(original)
    path(original, "label").write_bytes(png(arrays(1)["label"]))
    whole = path(original, "image").read_bytes()
    path(original, "image").write_bytes(whole[:len(whole) // 2])
    with pytest.raises(UserError, match="_leftImg8bit.png is damaged .*copy it again"):
        read(original)


@pytest.mark.parametrize(("changed", "sentence"), [
    ({"root": "no/such/folder"}, "`datasets.cityscapes.root` is 'no/such/folder', which is not a folder"),
    ({"root": ""}, "`datasets.cityscapes.root` is '', which is not a folder"),
    ({"classes": 8}, "`datasets.cityscapes.classes` is 8; input should be 7 or 19"),
    ({"layout": "flat"}, "`datasets.cityscapes.layout` is 'flat'; input should be 'auto', 'mtan' or 'original'"),
    ({"seven": "ids"}, "`datasets.cityscapes.seven` is 'ids'"),
    ({"disparity": "metres"},
     "`datasets.cityscapes.disparity` is 'metres'; input should be 'p/65535' or '(p-1)/65536'"),
    ({"image": "area"}, "`datasets.cityscapes.image` is 'area'; input should be 'bilinear' or 'nearest'"),
    ({"clases": 7}, "unknown key `datasets.cityscapes.clases`; did you mean `classes`?"),
    ({"layout": "mtan"}, "/train/image cannot be listed"),
])
def test_a_bad_option_is_named_with_its_value(original, changed, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        cityscapes.ids("train", None, {"root": str(original), **changed})


def test_the_layout_must_be_plain_and_mtans_unit_is_its_own(tmp_path, original, mtan):
    with pytest.raises(UserError, match="holds both train/image .*set `datasets.cityscapes.layout`"):
        cityscapes.ids("train", None, {"root": str(original)})
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds neither train/image"):
        cityscapes.ids("train", None, {"root": str(tmp_path / "empty")})
    with pytest.raises(UserError, match="disparity` is '.p-1./65536' but MTAN's arrays"):
        cityscapes.ids("train", None, {"root": str(mtan), "layout": "mtan", "disparity": "(p-1)/65536"})


@pytest.mark.parametrize(("split", "folder", "count"), [("train", "train", 4), ("test", "val", 0)])
def test_a_number_of_images_that_is_not_there_is_refused(original, split, folder, count):
    sentence = f"data.{split}` asks for {count} images but the `{folder}` folders of {original} hold 3: set a number"
    with pytest.raises(UserError, match=re.escape(sentence)):
        cityscapes.check({"root": str(original)}, COUNTS | {split: count})


def test_another_aspect_ratio_is_refused(original):
    with pytest.raises(UserError, match="is 8 x 16 .height x width. but .* asks for 8 x 12"):
        read(original, size=(8, 12))


@pytest.mark.skipif("CITYSCAPES_ROOT" not in os.environ, reason="CITYSCAPES_ROOT names no Cityscapes")
def test_real_data_reads():
    real = {"root": os.environ["CITYSCAPES_ROOT"]}
    cityscapes.check(real, COUNTS)
    for split in COUNTS:
        for name in cityscapes.ids(split, 3, real):
            sample = cityscapes.read(split, name, (128, 256), real)
            assert sample["image"].std() > 0.02 and 0.01 < np.median(sample["depth"]) < 0.4
            assert sample["depth"].max() < 0.5 and len(np.unique(sample["label"])) > 4
