"""The real pair on small files in the true layouts, written here; on real ones where ../shared/data has them."""

import gzip
import pathlib
import re
import struct
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from pipeline.data import pair, svhn_omniglot
from pipeline.runtime.errors import UserError

io = pytest.importorskip("scipy.io", reason="scipy, which writes .mat files for these tests, is not there")
SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared/data"
ALL = {"digits": None, "characters": None}
FOLDERS = ("images_background/Greek/character01", "images_background/Greek/character02",
           "images_evaluation/Avesta/character01")
SIZES = {"svhn": {"train": 8, "test": 5}, "mnist": {"train": 6, "test": 4}}


def digits(number=13, side=32):
    rng = np.random.default_rng(0)
    return {"X": rng.integers(256, size=(side, side, 3, number), dtype=np.uint8),
            "y": (np.arange(number) % 10 + 1)[:, None].astype(np.uint8)}           # 1..10, as in the file


def mnist(root, split="train", images=None, labels=None):
    number = SIZES["mnist"][split]
    images = np.arange(number * 784).reshape(-1, 28, 28).astype(np.uint8) if images is None else images
    labels = np.arange(number).astype(np.uint8) if labels is None else labels
    raw = root / "MNIST/raw"
    raw.mkdir(parents=True, exist_ok=True)
    name = {"train": "train", "test": "t10k"}[split]
    (raw / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, *images.shape) + images.tobytes())
    (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, len(labels)) + labels.tobytes())


def paper(folder, drawing):
    """White paper with a black bar whose place and height tell folder and drawing."""
    paper = np.ones((105, 105), bool)
    paper[20 * FOLDERS.index(folder):20 * FOLDERS.index(folder) + 10, :5 * drawing] = False
    return paper


def draw(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(array).save(path)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(svhn_omniglot, "DIGITS", SIZES)
    monkeypatch.setattr(svhn_omniglot, "CHARACTERS", len(FOLDERS))
    io.savemat(tmp_path / "train_32x32.mat", digits(), do_compression=True)
    for split in SIZES["mnist"]:
        mnist(tmp_path, split)
    for folder in FOLDERS:
        for drawing in range(1, 21):
            draw(tmp_path / folder / f"0394_{drawing:02d}.png", paper(folder, drawing))
    return tmp_path


def options(root, **changed):
    return {f"{which}_root": str(root) for which in ("svhn", "mnist", "omniglot")} | {"seed": 0} | changed


def refuses(root, sentence, **changed):
    with pytest.raises(UserError, match=re.escape(sentence.replace("ROOT", str(root)))):
        svhn_omniglot.check(options(root, **changed), {"train": ALL, "test": ALL})


def test_the_split_is_the_decathlons(root):
    svhn_omniglot.check(options(root), {"train": ALL, "test": ALL})
    names = {split: svhn_omniglot.ids(split, ALL, options(root)) for split in ("train", "test")}
    assert [len(names[split]) for split in names] == [8 + 3 * 12, 5 + 3 * 4]
    assert sorted(names["train"][:8] + names["test"][:5]) == sorted(f"digits/{i}" for i in range(13))
    drawings = names["train"][8:] + names["test"][5:]
    assert len(set(drawings)) == 48 and {name.split("/", 1)[0] for name in drawings} == {"characters"}
    for folder in FOLDERS:
        assert [sum(folder in name for name in names[split]) for split in names] == [12, 4]


def test_published_sizes():
    assert svhn_omniglot.DIGITS["svhn"] == {"train": 47_217, "test": 73_257 - 47_217}
    assert 1623 * 12 == 19_476 and svhn_omniglot.CHARACTERS == 1623 and svhn_omniglot.SHARES["test"] == (12, 16)


@pytest.mark.parametrize("which", ["svhn", "mnist"])
def test_a_smaller_count_is_a_prefix_balanced_over_characters(root, which):
    whole = svhn_omniglot.ids("train", ALL, options(root, digits=which))
    some = svhn_omniglot.ids("train", {"digits": 3, "characters": 7}, options(root, digits=which))
    first = SIZES[which]["train"]
    assert some == whole[:3] + whole[first:first + 7]
    assert sorted(sum(folder in name for name in some) for folder in FOLDERS) == [2, 2, 3]


def test_ids_follow_the_seed(root):
    a, b, c = (svhn_omniglot.ids("train", ALL, options(root, seed=seed)) for seed in (0, 0, 1))
    assert a == b != c and a[:8] != c[:8] and a[8:] != c[8:]


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("dtype", ["u1", "f8"])
def test_svhn_reads_as_stored_and_ten_is_zero(root, compressed, dtype):
    stored = digits()
    note = {"note": "text is no number", "cells": np.array([[1], "a"], object)}
    io.savemat(root / "train_32x32.mat", note | stored | {"y": stored["y"].astype(dtype)}, do_compression=compressed)
    for split in ("train", "test"):
        for name in svhn_omniglot.ids(split, {"digits": None, "characters": 1}, options(root))[:-1]:
            i, sample = int(name.split("/")[1]), svhn_omniglot.read(split, name, (32, 32), options(root))
            assert list(sample) == list(svhn_omniglot.KINDS) and sample["characters"] == -1
            assert type(sample["digits"]) is int and sample["digits"] == stored["y"][i, 0] % 10
            np.testing.assert_array_equal(sample["image"], stored["X"][..., i] / np.float32(255))


def test_mnist_is_replicated_and_keeps_its_own_split(root):
    names = svhn_omniglot.ids("test", ALL, options(root, digits="mnist"))
    assert sorted(names[:4]) == [f"digits/{i}" for i in range(4)]
    sample = svhn_omniglot.read("test", "digits/2", (28, 28), options(root, digits="mnist"))
    expected = (np.arange(784) + 2 * 784).astype(np.uint8).reshape(28, 28) / np.float32(255)
    np.testing.assert_array_equal(sample["image"], np.repeat(expected[..., None], 3, -1))
    assert (sample["digits"], sample["characters"]) == (2, -1)


def test_a_drawing_is_ink_on_zero_and_knows_its_character(root):
    assert svhn_omniglot.classes(options(root)) == {
        "digits": tuple("0123456789"), "characters": ("Greek/character01", "Greek/character02", "Avesta/character01")}
    for label, folder in enumerate(FOLDERS):
        sample = svhn_omniglot.read("train", f"characters/{folder}/0394_07.png", (105, 105), options(root))
        np.testing.assert_array_equal(sample["image"], np.repeat(~paper(folder, 7)[..., None], 3, -1))
        assert (sample["digits"], sample["characters"]) == (-1, label)


@pytest.mark.parametrize("side", [28, 32, 64, 105])
@pytest.mark.parametrize("which", ["svhn", "mnist"])
def test_any_size_keeps_contract_and_mean(root, which, side):
    names = svhn_omniglot.ids("train", {"digits": 1, "characters": 1}, options(root, digits=which))
    for name, stored in zip(names, ({"svhn": 32, "mnist": 28}[which], 105), strict=True):
        image, whole = (svhn_omniglot.read("train", name, (n, n), options(root, digits=which))["image"]
                        for n in (side, stored))
        assert image.shape == (side, side, 3) and image.dtype == np.float32 and image.flags.c_contiguous
        assert image.min() >= 0 and image.max() <= 1 and abs(image.mean() - whole.mean()) < 0.02


def test_moments_follow_the_digits(root):
    assert svhn_omniglot.moments({})["digits"][0][0] == 0.4376821
    assert svhn_omniglot.moments({"digits": "mnist"})["digits"] == ((0.1307,) * 3, (0.3081,) * 3)
    assert list(svhn_omniglot.moments({})) == list(pair.TASKS)


def test_torchvisions_folder_is_found(root):
    (root / "omniglot-py").mkdir()
    for part in ("images_background", "images_evaluation"):
        (root / part).rename(root / "omniglot-py" / part)
    svhn_omniglot.check(options(root), {"train": ALL})


@pytest.mark.parametrize("gone, which, command", [
    ("train_32x32.mat", "svhn", "download_url('http://ufldl.stanford.edu/housenumbers/train_32x32.mat', 'ROOT')\""),
    ("MNIST/raw/t10k-labels-idx1-ubyte", "mnist", "MNIST('ROOT', download=True)\""),
    ("images_evaluation", "svhn", "[Omniglot('ROOT', background=b, download=True) for b in (True, False)]\""),
])  # fmt: skip
def test_what_is_missing_comes_with_the_command_that_downloads_it(root, gone, which, command):
    (root / gone).rename(root / "elsewhere")
    refuses(root, f"ROOT/{gone} is not there: set `datasets.svhn_omniglot.", digits=which)
    refuses(root, command, digits=which)


def hdf5():
    return b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\0\2IM" + bytes(400)


MATS = {  # id: variables or bytes, the sentence behind the path
    "fewer": (digits(12), "holds 12 images and 12 labels, expected 13 of both: put train_32x32.mat there"),
    "labels-fewer": (digits() | {"y": digits(12)["y"]}, "holds 13 images and 12 labels"),
    "no-labels": ({"X": digits()["X"]}, "holds the variables ['X'], expected X and y"),
    "other-side": (digits(side=28), "holds X as uint8 (28, 28, 3, 13), expected uint8 (32, 32, 3, N)"),
    "floats": (digits() | {"X": digits()["X"] / 255}, "holds X as float64 (32, 32, 3, 13), expected uint8"),
    "label-11": (digits() | {"y": np.arange(13)[:, None]}, "holds the label 11 at 11, but labels are 0..10"),
    "label-half": (digits() | {"y": np.full((13, 1), 1.5)}, "holds the label 1.5 at 0, but labels are 0..10"),
    "label-negative": (digits() | {"y": np.full((13, 1), -1)}, "holds the label -1 at 0"),
    "matlab-7.3": (hdf5(), "begins with b'MATLAB 7.3 MAT-file', not as a MATLAB 5.0 file does"),
    "text": (b"<html>quota exceeded</html>", "begins with b'<html>quota exceede', not as"),
    "no-bytes": (b"", "begins with b'', not as"),
}


@pytest.mark.parametrize("case", MATS)
def test_a_bad_mat_is_refused(root, case):
    content, sentence = MATS[case]
    if isinstance(content, bytes):
        (root / "train_32x32.mat").write_bytes(content)
    else:
        io.savemat(root / "train_32x32.mat", content, do_compression=True)
    refuses(root, f"ROOT/train_32x32.mat {sentence}")


@pytest.mark.parametrize("compressed", [True, False])
def test_a_mat_cut_anywhere_or_damaged_is_refused(root, compressed):
    path = root / "train_32x32.mat"
    io.savemat(path, digits(), do_compression=compressed)
    whole = path.read_bytes()
    assert len(whole) > 30_000
    for length in (0, 127, 128, 131, 140, 1000, len(whole) // 2, len(whole) - 9, len(whole) - 4):  # less: padding
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=re.escape(str(path))):
            svhn_omniglot.check(options(root), {"train": ALL})
    path.write_bytes(whole[:130] + b"\x77" * 40 + whole[170:])
    refuses(root, f"ROOT/train_32x32.mat is damaged or cut short ({len(whole)} bytes): download it again")


def test_a_missing_scipy_is_a_sentence(root, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "scipy"]:
        monkeypatch.setitem(sys.modules, name, None)
    refuses(root, "`datasets.svhn_omniglot.digits: svhn` needs scipy, which is not installed: run `.venv/bin/pip "
                  "install -e '.[mat]'`, or set `digits: mnist`")
    svhn_omniglot.check(options(root, digits="mnist"), {"train": ALL})


@pytest.mark.parametrize("part, change, sentence", [
    ("train-images-idx3", lambda b: b[:-1], "holds 4703 bytes behind the header 0000080300000006"),
    ("t10k-images-idx3", lambda b: b[:7] + b"\5" + b[8:], "expected 3136 behind 0000080300000004"),
    ("train-labels-idx1", gzip.compress, "behind the header 1f8b0800"),
    ("t10k-labels-idx1", lambda b: b"", "holds 0 bytes behind the header , expected 4 behind 0000080100000004"),
    ("train-labels-idx1", lambda b: b[:9] + b"\n" + b[10:], "holds the label 10 at 1, but labels are 0..9"),
])  # fmt: skip
def test_bad_idx_files_are_refused(root, part, change, sentence):
    path = root / f"MNIST/raw/{part}-ubyte"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=re.escape(f"{path} ") + ".*" + re.escape(sentence)):
        svhn_omniglot.check(options(root, digits="mnist"), {"train": ALL, "test": ALL})


@pytest.mark.parametrize("old, new, sentence", [
    ("images_evaluation/Avesta/character01", "away", "images_{background,evaluation} hold 2 characters, expected 3"),
    ("images_background/Greek/character02/0394_05.png", "away.png",
     "images_background/Greek/character02 holds 19 drawings (*.png), expected 20"),
])  # fmt: skip
def test_missing_characters_and_drawings_are_refused(root, old, new, sentence):
    (root / old).rename(root / new)
    refuses(root, f"ROOT/{sentence}")


@pytest.mark.parametrize("content, sentence", [
    (np.ones((28, 105), bool), "is 28 x 105, expected 105 x 105: unpack Omniglot there again, not resized"),
    (b"", "cannot be read as a picture (damaged)"),
    (b"\x89PNG\r\n\x1a\n", "cannot be read as a picture (damaged)"),
], ids=["side", "no-bytes", "cut-header"])  # fmt: skip
def test_a_bad_drawing_is_refused_by_check_and_read(root, content, sentence):
    for path in (root / FOLDERS[1]).iterdir():
        draw(path, content) if isinstance(content, np.ndarray) else path.write_bytes(content)
    refuses(root, sentence)
    with pytest.raises(UserError, match=re.escape(f"{root}/{FOLDERS[1]}/0394_01.png {sentence}")):
        svhn_omniglot.read("train", f"characters/{FOLDERS[1]}/0394_01.png", (32, 32), options(root))


@pytest.mark.parametrize("change, sentence", [
    (lambda path: path.write_bytes(path.read_bytes()[:-30]), "is damaged or cut short"),
    (lambda path: draw(path, ~paper(FOLDERS[0], 10)), "is 95% black, but drawings are black ink on white"),
], ids=["cut", "inverted"])  # fmt: skip
def test_a_drawing_that_only_its_pixels_betray_is_refused_by_read(root, change, sentence):
    path = root / FOLDERS[0] / "0394_01.png"
    change(path)
    with pytest.raises(UserError, match=re.escape(f"{path} {sentence}")):
        svhn_omniglot.read("train", f"characters/{FOLDERS[0]}/0394_01.png", (32, 32), options(root))


@pytest.mark.parametrize("key, value, rule", [
    ("digits", "usps", "input should be 'svhn' or 'mnist'"), ("seed", -1, "input should be greater than"),
    ("seed", True, "input should be a valid integer"),
    ("svhn_root", "", "string should have"), ("omniglot_root", None, "input should be a valid string"),
])  # fmt: skip
def test_a_bad_option_is_named_with_its_value(root, key, value, rule):
    refuses(root, f"`datasets.svhn_omniglot.{key}` is {value!r}; {rule}", **{key: value})


def test_unknown_options_counts_and_shapes_are_refused(root):
    refuses(root, "unknown key `datasets.svhn_omniglot.part` (known here: digits, svhn_root", part="x")
    for task, number, there in (("digits", 9, 8), ("characters", 37, 36)):
        with pytest.raises(UserError, match=f"train.{task} is {number}, not a whole number from 1 to {there}"):
            svhn_omniglot.ids("train", {"digits": 8, "characters": 36} | {task: number}, options(root))
    with pytest.raises(UserError, match="asks for 32 x 40 .height x width., but digits and drawings are square"):
        svhn_omniglot.read("train", "digits/0", (32, 40), options(root))


@pytest.mark.skipif(not (SHARED / "mnist").is_dir(), reason="../shared/data has no MNIST")
def test_real_mnist_and_omniglot_read(tmp_path, monkeypatch):
    """All of MNIST; of Omniglot every 40th character, since writing 32,460 files takes half a minute."""
    subprocess.run([sys.executable, SHARED / "mnist/unpack.py", tmp_path], check=True, capture_output=True)
    pack = np.load(SHARED / "omniglot/omniglot_105x105_ink_bits.npz")
    folders = [path.rsplit("/", 1)[0] for path in pack["path"].tolist()]
    assert len(set(folders)) == svhn_omniglot.CHARACTERS and len(folders) == 20 * svhn_omniglot.CHARACTERS
    some = sorted(set(folders))[::40]
    for path, folder, bits in zip(pack["path"].tolist(), folders, pack["ink_bits"], strict=True):
        if folder in some:
            draw(tmp_path / path, np.unpackbits(bits, count=105 * 105).reshape(105, 105) == 0)
    monkeypatch.setattr(svhn_omniglot, "CHARACTERS", len(some))
    real = options(tmp_path, digits="mnist")
    names = {split: svhn_omniglot.ids(split, ALL, real) for split in ("train", "test")}
    assert [len(each) for each in names.values()] == [60_000 + 12 * len(some), 10_000 + 4 * len(some)]
    svhn_omniglot.check(real, dict.fromkeys(names, ALL))
    for split, first in (("train", 60_000), ("test", 10_000)):
        for task, part in (("digits", names[split][:100]), ("characters", names[split][first:])):
            samples = [svhn_omniglot.read(split, name, (32, 32), real) for name in part]
            (mean, *_), _ = svhn_omniglot.moments(real)[task]
            assert abs(np.mean([s["image"] for s in samples]) - mean) < 0.015
            assert len({s[task] for s in samples}) == (10 if task == "digits" else len(some))
        assert [some[s["characters"]] for s in samples] == ["/".join(name.split("/")[1:-1]) for name in part]
