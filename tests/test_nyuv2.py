"""The NYUv2 reader on small folders in MTAN's layout; on the real one where NYUV2_ROOT names it."""

import io
import os
import re

import numpy as np
import pytest

from pipeline.data import files, nyuv2
from pipeline.runtime.errors import UserError

H, W, N = 12, 16, 3
COUNTS = {"train": None, "test": None}
SIZES = [(6, 8), (9, 12), (3, 4), (24, 32)]


def arrays(i, height=H, width=W):
    """One valid image: all 13 classes and void, a depth hole, a normal hole."""
    rng = np.random.default_rng(i)
    normal = rng.normal(size=(height, width, 3))
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    depth = rng.uniform(0.5, 9, (height, width, 1))
    normal[0, 0], depth[1, 1] = 0, 0
    label = (np.arange(height * width) % 14 - 1).reshape(height, width)
    return {"image": rng.random((height, width, 3)), "label": label, "depth": depth, "normal": normal}


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def write(root, split, i, sample, dtype=np.float64):
    for kind, array in sample.items():
        (root / split / kind).mkdir(parents=True, exist_ok=True)
        (root / split / kind / f"{i}.npy").write_bytes(npy(array.astype(dtype)))


def replace(root, **content):
    for kind, array in content.items():
        (root / f"train/{kind}/1.npy").write_bytes(array if isinstance(array, bytes) else npy(array))


def options(root):
    return {"source": "mtan", "root": str(root)}


def read(root, size=(H, W)):
    return nyuv2.read("train", "train/1", size, options(root))


@pytest.fixture
def root(tmp_path):
    for split in ("train", "val"):
        for i in range(N):
            write(tmp_path, split, i, arrays(i))
    return tmp_path


@pytest.mark.parametrize(("dtype", "atol"), [("f2", 5e-3), ("f4", 1e-6), ("f8", 1e-6), (">f4", 1e-6)])
def test_read_takes_any_float_dtype(root, dtype, atol):
    write(root, "train", 1, arrays(1), dtype)
    sample, stored = read(root), arrays(1)
    assert {kind: (array.dtype, array.shape) for kind, array in sample.items()} == {
        "image": (np.float32, (H, W, 3)), "label": (np.int8, (H, W)),
        "depth": (np.float32, (H, W)), "normal": (np.float32, (H, W, 3))}
    np.testing.assert_array_equal(sample["label"], stored["label"])
    np.testing.assert_allclose(sample["depth"], stored["depth"][..., 0], atol=atol)
    np.testing.assert_allclose(sample["image"], stored["image"], atol=atol)
    np.testing.assert_allclose(sample["normal"], stored["normal"], atol=atol)
    assert sample["depth"][1, 1] == 0 and not sample["normal"][0, 0].any() and sample["label"].min() == -1


def test_read_takes_integer_labels_and_uint8_images(root):
    grey = np.arange(H * W * 3).reshape(H, W, 3).astype(np.uint8)
    for dtype in ("int8", "int16", "int64"):
        replace(root, image=grey, label=arrays(1)["label"].astype(dtype))
        sample = read(root)
        np.testing.assert_array_equal(sample["label"], arrays(1)["label"])
        np.testing.assert_array_equal(sample["image"], grey / np.float32(255))


def test_read_is_indifferent_to_memory_order_and_depth_axis(root):
    plain, stored = read(root), arrays(1)
    stored["depth"] = stored["depth"][..., 0]
    replace(root, **{kind: np.asfortranarray(array) for kind, array in stored.items()})
    for kind, array in read(root).items():
        np.testing.assert_array_equal(array, plain[kind])
        assert array.flags.c_contiguous and array.flags.writeable


def test_read_leaves_normals_as_stored_and_clips_the_slack_of_images(root):
    ramp = np.linspace(-9e-4, 1 + 9e-4, H * W * 3).reshape(H, W, 3)
    replace(root, normal=np.full((H, W, 3), 0.25), image=ramp)
    sample = read(root)
    assert (sample["normal"] == 0.25).all() and (sample["image"].min(), sample["image"].max()) == (0, 1)


def test_the_test_split_is_the_folder_val(root):
    write(root, "val", 2, arrays(7))
    image = nyuv2.read("test", "test/2", (H, W), options(root))["image"]
    np.testing.assert_allclose(image, arrays(7)["image"], atol=1e-6)


def test_ids_are_in_numeric_order_and_skip_foreign_files(tmp_path):
    for i in range(12):
        write(tmp_path, "train", i, arrays(0, 2, 2))
    for foreign in (".DS_Store", "._0.npy", "03.npy", "mean.npy"):
        (tmp_path / "train/image" / foreign).write_bytes(b"")
    assert nyuv2.ids("train", None, options(tmp_path)) == [f"train/{i}" for i in range(12)]
    assert nyuv2.ids("train", 5, options(tmp_path)) == [f"train/{i}" for i in (0, 2, 4, 7, 9)]


@pytest.mark.parametrize("size", [*SIZES, (36, 48)], ids=str)
def test_resize_keeps_constants_and_invents_no_values(root, size):
    replace(root, image=np.full((H, W, 3), 0.3))
    sample, stored = read(root, size), read(root)
    assert all(array.shape[:2] == size and array.flags.c_contiguous for array in sample.values())
    np.testing.assert_allclose(sample["image"], 0.3, atol=1e-6)
    for kind in ("label", "depth", "normal"):
        assert ({tuple(pixel) for pixel in np.atleast_3d(sample[kind]).reshape(size[0] * size[1], -1)}
                <= {tuple(pixel) for pixel in np.atleast_3d(stored[kind]).reshape(H * W, -1)})


@pytest.mark.parametrize("axis", [0, 1], ids=["rows", "columns"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_resize_keeps_a_step_edge_at_the_same_place_in_all_kinds(root, size, axis):
    step = (np.indices((H, W))[axis] >= (H, W)[axis] / 2).astype(float)
    rgb = np.repeat(step[..., None], 3, axis=-1)
    replace(root, image=rgb, label=step, depth=step, normal=rgb)
    from_edge = np.indices(size)[axis] + 0.5 - size[axis] / 2  # 0 where an odd size has a pixel on the edge
    for kind, array in read(root, size).items():
        plane = array.reshape(*size, -1)[..., 0]
        assert ((plane > 0.5) == (from_edge > 0))[from_edge != 0].all(), kind


@pytest.mark.parametrize("size", [(6, 8), (9, 12), (5, 7), (96, 128), (128, 172)], ids=str)
def test_resize_centres_of_average_and_nearest_differ_by_half_a_pixel_at_most(size):
    rows, columns = np.indices((64, 86), dtype=np.float32) / 100
    ramps = np.stack([rows, columns, rows], axis=-1)
    apart = abs(files.nearest(ramps, size) - files.bilinear(ramps, size)) * 100
    assert apart[1:-1, 1:-1].max() <= 0.501  # inside, since the border cuts the triangle off


def test_resize_averages_images_over_pixels_that_plain_bilinear_would_skip(root):
    stripes = np.isin(np.arange(W) % 4, (1, 2)).astype(float)  # plain bilinear sees only columns 1, 2 of four
    replace(root, image=np.broadcast_to(stripes[:, None], (H, W, 3)))
    np.testing.assert_allclose(read(root, (3, 4))["image"], 0.5, atol=0.04)


def test_resize_refuses_another_aspect_ratio(root):
    read(root, (59, 80))  # 1.7 % off
    with pytest.raises(UserError, match="12 x 16 .height x width. but protocols.<name>.data asks for 12 x 17"):
        read(root, (12, 17))
    with pytest.raises(UserError, match="asks for 16 x 12; height and width look swapped: choose"):
        read(root, (16, 12))


def test_check_passes_a_sound_folder_without_reading_values(root):
    replace(root, depth=np.full((H, W), np.nan))
    nyuv2.check(options(root), COUNTS)
    nyuv2.check(options(root), {"train": 2, "test": 1})


@pytest.mark.parametrize("missing", ["", "no/such/folder"])
def test_check_names_the_key_of_a_missing_root(missing):
    with pytest.raises(UserError, match=f"datasets.nyuv2.root is '{missing}'.*`data: scenes`, which needs no"):
        nyuv2.check(options(missing), COUNTS)


LAYOUT = {  # id: files and folders renamed, the sentence
    "split-gone": ({"val": "test"}, "the folder ROOT/val/image cannot be listed (No such file"),
    "kind-gone": ({"val/depth": "val/d"}, "the folder ROOT/val/depth cannot be listed (No such file"),
    "kind-empty": ({f"val/depth/{i}.npy": f"{i}.npy" for i in range(N)},
                   "the folder ROOT/val/depth holds no files 0.npy, 1.npy, ... (without zero padding)"),
    "zero-padded": ({f"val/label/{i}.npy": f"val/label/0{i}.npy" for i in range(N)},
                    "the folder ROOT/val/label holds no files 0.npy, 1.npy, ... (without zero padding)"),
    "hole": ({"train/label/1.npy": "1.npy"}, "ROOT/train/label/1.npy is missing although the numbers"),
    "unequal": ({"val/label/2.npy": "2.npy"},
                "ROOT/val hold unequal numbers of files (image 3, label 2, depth 3, normal 3)"),
}


@pytest.mark.parametrize("case", LAYOUT)
def test_check_finds_in_the_folders(root, case):
    renames, sentence = LAYOUT[case]
    for old, new in renames.items():
        (root / old).rename(root / new)
    with pytest.raises(UserError, match=re.escape(sentence.replace("ROOT", str(root)))):
        nyuv2.check(options(root), COUNTS)


def test_check_finds_a_dangling_link(root):
    (root / "val/depth/1.npy").unlink()
    (root / "val/depth/1.npy").symlink_to("nowhere")
    with pytest.raises(UserError, match="val/depth/1.npy cannot be read .No such file or directory."):
        nyuv2.check(options(root), COUNTS)


def zeros(*shape, dtype=float):
    return npy(np.zeros(shape, dtype))


NOT_NPY = "is not a .npy file or its header is damaged: copy it again"
FILES = {  # id: kind, content of ROOT/train/<kind>/1.npy, the sentence behind that path
    "text": ("depth", b"<html>quota exceeded</html>", NOT_NPY),
    "no-bytes": ("depth", b"", NOT_NPY),
    "zip": ("depth", b"PK\x03\x04" + bytes(40), NOT_NPY),
    "cut-header": ("depth", zeros(H, W)[:60], NOT_NPY),
    "damaged-header": ("depth", zeros(H, W).replace(b"'descr'", b"((('''("), NOT_NPY),
    "unknown-version": ("depth", b"\x93NUMPY\x03\x00" + zeros(H, W)[8:], NOT_NPY),
    "truncated": ("normal", zeros(H, W, 3)[:-1], "is truncated (4735 bytes where its header says 4736)"),
    "pickled": ("label", npy(np.array([[None]])), "holds pickled Python objects, refused because"),
    "channels-first": ("image", zeros(3, H, W), "has shape (3, 12, 16), expected (H, W, 3) for image"),
    "label-channel": ("label", zeros(H, W, 1), "has shape (12, 16, 1), expected (H, W) for label"),
    "depth-rgb": ("depth", zeros(H, W, 3), "has shape (12, 16, 3), expected (H, W, 1) or (H, W) for depth"),
    "no-rows": ("normal", zeros(0, W, 3), "has shape (0, 16, 3), expected (H, W, 3) for normal"),
    "scalar": ("label", zeros(), "has shape (), expected (H, W) for label"),
    "millimetres": ("depth", zeros(H, W, dtype="u2"), "has dtype uint16, expected floating for depth"),
    "16-bit": ("image", zeros(H, W, 3, dtype="u2"), "has dtype uint16, expected floating or uint8 for image"),
    "complex": ("label", zeros(H, W, dtype="c16"), "has dtype complex128, expected floating or integer for"),
    "other-size": ("label", zeros(H, W + 1), "is 12 x 17 but ROOT/train/image/1.npy is 12 x 16: replace"),
    "transposed": ("depth", zeros(W, H), "is 16 x 12 but ROOT/train/image/1.npy is 12 x 16; height and width look "),
}


@pytest.mark.parametrize("case", FILES)
def test_check_and_read_find_in_a_file(root, case):
    kind, content, sentence = FILES[case]
    replace(root, **{kind: content})
    sentence = f"ROOT/train/{kind}/1.npy {sentence}".replace("ROOT", str(root))
    with pytest.raises(UserError, match=re.escape(sentence)):
        nyuv2.check(options(root), COUNTS)
    with pytest.raises(UserError, match=re.escape(sentence)):
        read(root)


@pytest.mark.parametrize(("split", "folder", "count"), [("train", "train", 4), ("test", "val", 0)])
def test_check_refuses_a_number_of_images_that_is_not_there(root, split, folder, count):
    sentence = f"protocols.<name>.data.{split} asks for {count} images but {root}/{folder} holds 3: set"
    with pytest.raises(UserError, match=re.escape(sentence)):
        nyuv2.check(options(root), COUNTS | {split: count})


@pytest.mark.parametrize(("kind", "value", "shown", "remedy"), [
    ("depth", np.nan, "nan", "with 0"), ("depth", np.inf, "inf", "with 0"), ("depth", 1e300, "inf", "with 0"),
    ("depth", -0.5, "-0.5", "mark invalid pixels with 0"),
    ("label", 13, "13", "-1 for void"), ("label", -2, "-2", "-1 for void"), ("label", 2.5, "2.5", "-1 for"),
    ("label", np.nan, "nan", "-1 for void"), ("label", np.uint8(255), "255", "-1 for void"),
    ("label", np.uint64(2**64 - 1), "1.84467441e+19", "-1 for void"),
    ("image", 255, "255", "divide by 255"), ("image", 1.002, "1.00199997", "divide by 255"),
    ("image", -0.5, "-0.5", "divide by 255"), ("image", np.nan, "nan", "divide by 255"),
    ("normal", -1.25, "-1.25", "save unit vectors"), ("normal", np.nan, "nan", "save unit vectors"),
], ids=str)
def test_read_refuses_the_value(root, kind, value, shown, remedy):
    array = abs(arrays(1)[kind]).astype(value.dtype if isinstance(value, np.integer) else float)
    array[(3, 4, 0)[:array.ndim]] = value
    replace(root, **{kind: array})
    sentence = re.escape(f"{root}/train/{kind}/1.npy holds {shown} at (3, 4") + f".*{remedy}"
    with pytest.raises(UserError, match=sentence):
        read(root, (6, 8))


@pytest.mark.parametrize("labels, words", [
    (arrays(1)["label"] + 1, "with 13 there and no -1 they look as though 0 stood for void; write label - 1"),
    (arrays(1)["label"].clip(0) + 1, "as though classes began at 1"),
    (np.where(arrays(1)["label"] < 0, 255, arrays(1)["label"]), "255 looks like void; write -1 for it"),
    (arrays(1)["label"] * 3, "or -1 for void: map yours to these")], ids=["void-0", "from-1", "void-255", "others"])
def test_labels_say_what_they_look_like(root, labels, words):
    replace(root, label=labels)
    with pytest.raises(UserError, match=words):
        read(root)


@pytest.mark.skipif("NYUV2_ROOT" not in os.environ, reason="NYUV2_ROOT names no folder in MTAN's layout")
def test_real_data_reads():
    real = options(os.environ["NYUV2_ROOT"])
    nyuv2.check(real, COUNTS)
    for split in COUNTS:
        for name in nyuv2.ids(split, 3, real):
            sample = nyuv2.read(split, name, (96, 128), real)
            assert sample["image"].std() > 0.02 and 0.3 < np.median(sample["depth"]) < 10
            assert len(np.unique(sample["label"])) > 2
            lengths = np.linalg.norm(sample["normal"], axis=-1)
            assert 0.9 < np.median(lengths[lengths > 0]) < 1.1
