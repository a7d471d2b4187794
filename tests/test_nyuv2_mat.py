"""NYUv2 from the .mat files, in the true layout and size: HDF5 leaves frames that nobody wrote out of the file."""

import pathlib
import re
import sys

import numpy as np
import pytest
from conftest import change, run

from pipeline import data, prepare
from pipeline.data import nyuv2, nyuv2_mat
from pipeline.runtime.errors import UserError

COUNTS = {"train": None, "test": None}
FRAME = 480, 640
INSIDE = {"toolbox": np.s_[44:471, 40:601], "border16": np.s_[16:464, 16:624]}
SIZE = {"toolbox": (427, 561), "border16": (448, 608)}
SHUFFLED = np.random.default_rng(0).permutation(1449) + 1
NDXS = {"train": np.sort(SHUFFLED[:795]), "test": np.sort(SHUFFLED[795:])}
MAP40 = np.random.default_rng(1).integers(1, 41, 894)


def options(root, **changed):
    return {"source": "mat", "root": str(root), "normals": "derived", "depth": "raw", "crop": "toolbox"} | changed


def savemat(path, **variables):
    pytest.importorskip("scipy.io", reason="the extra `mat` is not installed").savemat(path, variables)


def labeled(root, frames, **changed):
    """nyu_depth_v2_labeled.mat as MATLAB writes it. frames: {(variable, frame from 1): array as MATLAB shows it};
    changed: another (shape, dtype) of a variable, or None for none."""
    h5py = pytest.importorskip("h5py", reason="the extra `mat` is not installed")
    path = root / "nyu_depth_v2_labeled.mat"
    variables = {"images": ((1449, 3, 640, 480), "u1"), "labels": ((1449, 640, 480), "u2"),
                 "depths": ((1449, 640, 480), "f4"), "rawDepths": ((1449, 640, 480), "f4")} | changed
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, kind in variables.items():
            if kind:
                file.create_dataset(name, *kind, chunks=(1, *kind[0][1:]), compression="gzip", compression_opts=1)
        for (name, frame), array in frames.items():
            file[name][frame - 1] = array.T
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


def splits(root, **changed):
    whole = {f"{split}Ndxs": ndxs[:, None].astype(float) for split, ndxs in NDXS.items()}
    savemat(root / "splits.mat", **whole | changed)


def class_map(root, **changed):
    savemat(root / "classMapping40.mat", **{"mapClass": MAP40[None].astype(np.uint8)} | changed)


@pytest.fixture
def root(tmp_path):
    """The three files, every frame black, void and without depth."""
    labeled(tmp_path, {})
    splits(tmp_path)
    class_map(tmp_path)
    return tmp_path


def plane(normal, distance, shape=FRAME):
    """Depth (H, W) float32 in metres of a plane at `distance` from NYUv2's colour camera, 0 where the rays miss it."""
    row, column = np.indices(shape)
    toward = -(normal[0] * (column - 324.58) / 518.86 + normal[1] * (row - 252.74) / 519.47 + normal[2])
    return np.where(toward > 0.1, distance / np.maximum(toward, 0.1), 0).astype(np.float32)


def degrees(normals, normal):
    return np.degrees(np.arccos(np.clip(normals @ np.asarray(normal), -1, 1)))


@pytest.mark.parametrize("crop", INSIDE)
def test_frame_lands_upright_uncut_and_in_its_classes(root, crop):
    rng, frame = np.random.default_rng(2), NDXS["train"][7]
    image, label = rng.integers(0, 256, (*FRAME, 3), "u1"), rng.integers(0, 895, FRAME, "u2")
    raw, filled = (rng.uniform(0.5, 9, FRAME).astype(np.float32) for _ in range(2))
    raw[100, 200] = 0
    labeled(root, {(name, frame): array for name, array in (("images", image), ("labels", label), ("rawDepths", raw),
                                                           ("depths", filled))})
    chosen = options(root, crop=crop)
    sample = nyuv2.read("train", "train/7", SIZE[crop], chosen)
    assert {kind: (array.dtype, array.shape, array.flags.c_contiguous) for kind, array in sample.items()} == {
        "image": (np.float32, (*SIZE[crop], 3), True), "label": (np.int8, SIZE[crop], True),
        "depth": (np.float32, SIZE[crop], True), "normal": (np.float32, (*SIZE[crop], 3), True)}
    expected = np.full(FRAME, -1)
    for number, class40 in enumerate(MAP40, 1):
        expected[label == number] = nyuv2_mat.CLASS13[class40]
    np.testing.assert_array_equal(sample["image"], image[INSIDE[crop]] / np.float32(255))
    np.testing.assert_array_equal(sample["label"], expected[INSIDE[crop]])
    np.testing.assert_array_equal(sample["depth"], raw[INSIDE[crop]])
    assert (sample["depth"] == 0).sum() == 1
    filled_in = nyuv2.read("train", "train/7", SIZE[crop], chosen | {"depth": "filled"})
    np.testing.assert_array_equal(filled_in["depth"], filled[INSIDE[crop]])


def test_classes_40_fall_into_the_13_of_their_names():
    # wall, floor, cabinet, bed, chair, sofa, table, door, window, bookshelf, picture, counter, blinds, desk, ...
    names = ("wall floor furniture bed chair sofa table wall window furniture picture furniture window table furniture "
             "window furniture objects objects floor objects ceiling books furniture tv" + " objects" * 6 + " furniture"
             + " objects" * 6 + " furniture objects").split()
    assert [nyuv2.CLASSES[number] for number in nyuv2_mat.CLASS13[1:]] == names and nyuv2_mat.CLASS13[0] == -1


def test_splits_count_from_one_and_keep_their_order(root):
    wanted = {("train", 0), ("train", 794), ("test", 0), ("test", 653)}
    labeled(root, {("labels", NDXS[split][i]): np.full(FRAME, 1 + i) for split, i in wanted})
    nyuv2.check(options(root), COUNTS)
    for split, total in (("train", 795), ("test", 654)):
        assert nyuv2.ids(split, None, options(root)) == [f"{split}/{i}" for i in range(total)]
        assert nyuv2.ids(split, 2, options(root)) == [f"{split}/0", f"{split}/{total // 2}"]
        for i in (0, total - 1):
            label = nyuv2.read(split, f"{split}/{i}", (144, 192), options(root))["label"]
            assert (label == nyuv2_mat.CLASS13[MAP40[i]]).all()
    with pytest.raises(UserError, match="data.test asks for 655 images but .*splits.mat holds 654"):
        nyuv2.check(options(root), {"test": 655})


@pytest.mark.parametrize("normal", [(0, 0, -1), (0.5, -0.6, -0.62), (0, -0.98, -0.2), (-0.9, 0.1, -0.42)], ids=str)
def test_planes_of_the_depth(normal):
    normal = np.array(normal) / np.linalg.norm(normal)
    depth = plane(normal, 1.6)
    depth[200:260, 300:340] = 0
    fitted = nyuv2_mat.planes(depth)
    found = fitted.any(-1)
    assert not found[depth == 0].any() and found[depth > 0].mean() > 0.98
    assert fitted.dtype == np.float32 and np.abs(np.linalg.norm(fitted[found], axis=-1) - 1).max() < 1e-6
    assert degrees(fitted[found], normal).max() < 0.1
    step = 0.075 * 519 * 8                  # the sensor sees disparity, in eighths of a pixel
    coarse = np.where(depth > 0, step / np.maximum(np.rint(step / np.maximum(depth, 0.1)), 1), 0).astype(np.float32)
    fitted = nyuv2_mat.planes(coarse)
    assert np.median(degrees(fitted[fitted.any(-1)], normal)) < 2


def test_planes_do_not_reach_over_an_edge_and_lone_pixels_have_none():
    depth = plane((0, 0, -1), 2)
    depth[:, 320:] = 3
    depth[:100] = 0
    depth[50, 50] = 2
    fitted = nyuv2_mat.planes(depth)
    np.testing.assert_allclose(fitted[110:], np.broadcast_to([0, 0, -1], fitted[110:].shape), atol=1e-6)
    assert not fitted[:100].any()


def test_prepare_takes_the_files(folder):
    root = folder / "data/nyuv2"
    root.mkdir(parents=True)
    frames = [NDXS["train"][i] for i in range(0, 795, 198)] + [NDXS["test"][0]]
    normal, grey = np.array((0.36, -0.48, -0.8)), np.full((*FRAME, 3), 128, np.uint8)
    labeled(root, {("rawDepths", frame): plane(normal, 2) for frame in frames} | {
        ("images", frame): grey for frame in frames})
    splits(root)
    class_map(root)
    change(("data: scenes ", "data: nyuv2 "), ("source: mtan", "source: mat"), ("published ", "derived "),
           ("height: 32, width: 64, train: 8, test: 4", "height: 48, width: 64, train: 4, test: 1"))
    run(prepare, "rooms")
    assert data.load_manifest("out/rooms/data")["ids"]["train"] == ["train/0", "train/198", "train/397", "train/596"]
    stored = np.load(pathlib.Path("out/rooms/data") / "train/normal.npy")[:2].astype(float)
    assert np.quantile(degrees(stored[stored.any(-1)], normal), 0.99) < 2


def test_window_of_another_ratio_is_refused(root):
    with pytest.raises(UserError, match="`crop: toolbox` is 427 x 561 .height x width. but .* asks for 32 x 64"):
        nyuv2.read("train", "train/0", (32, 64), options(root))


def truncate(root, file):
    content = (root / file).read_bytes()
    (root / file).write_bytes(content[:len(content) // 2])


def v5(root, file):
    savemat(root / file, labels=np.zeros(3))


def v73(root, file):
    (root / file).write_bytes((root / "nyu_depth_v2_labeled.mat").read_bytes())


def ndxs(**changed):
    """A fault of splits.mat: places and values of trainNdxs."""
    def break_it(root):
        train = NDXS["train"].astype(float)
        for place, value in changed.items():
            train[int(place[1:])] = value
        splits(root, trainNdxs=train[:, None])
    return break_it


LABELED = "nyu_depth_v2_labeled.mat"
AGAIN = {LABELED: "the labeled dataset on the page of NYU Depth Dataset V2",
         "splits.mat": "the train/test split of Silberman et al. 2012",
         "classMapping40.mat": "part of Gupta et al. 2013's code"}
FAULTS = {  # id: (the file, what is broken, the sentence behind the file's path)
    **{f"missing-{file}": (file, lambda root, file=file: (root / file).unlink(),
                           r" cannot be read .No such file or directory.: datasets.nyuv2.root, '.*', must hold")
       for file in AGAIN},
    **{f"text-{file}": (file, lambda root, file=file: (root / file).write_text("<html>quota exceeded</html>"),
                        " is no .mat file, expected MATLAB v") for file in AGAIN},
    **{f"cut-{file}": (file, lambda root, file=file: truncate(root, file), r" is damaged ") for file in AGAIN},
    "v5": (LABELED, lambda root: v5(root, LABELED), " is MATLAB v5, expected MATLAB v7.3: .* with -v7.3"),
    **{f"v7.3-{file}": (file, lambda root, file=file: v73(root, file), " is MATLAB v7.3, expected MATLAB v5: .* -v7")
       for file in ("splits.mat", "classMapping40.mat")},
    **{f"no-{variable}": (LABELED, lambda root, variable=variable: labeled(root, {}, **{variable: None}),
                          rf" has no variable {variable} .it has \w")
       for variable in ("images", "labels", "rawDepths")},
    "no-splits": ("splits.mat", lambda root: savemat(root / "splits.mat", trainNdxs=NDXS["train"]),
                  " has no variable testNdxs .it has trainNdxs."),
    "no-map": ("classMapping40.mat", lambda root: savemat(root / "classMapping40.mat", className=np.zeros(40)),
               " has no variable mapClass .it has className."),
    "frames": (LABELED, lambda root: labeled(root, {}, labels=((1448, 640, 480), "u2")),
               r": labels has shape .1448, 640, 480., expected .1449, 640, 480."),
    "upright": (LABELED, lambda root: labeled(root, {}, images=((1449, 480, 640, 3), "u1")),
                r": images has shape .1449, 480, 640, 3., expected .1449, 3, 640, 480."),
    "millimetres": (LABELED, lambda root: labeled(root, {}, rawDepths=((1449, 640, 480), "u2")),
                    ": rawDepths has dtype uint16, expected floating"),
    "float-images": (LABELED, lambda root: labeled(root, {}, images=((1449, 3, 640, 480), "f4")),
                     ": images has dtype float32, expected uint8"),
    "short-split": ("splits.mat", lambda root: splits(root, trainNdxs=NDXS["train"][:-1]),
                    ": trainNdxs has 794 values of .*, expected 795 whole"),
    "range-high": ("splits.mat", ndxs(_3=1450), r": trainNdxs holds 1450 at place 4, expected whole numbers 1..1449"),
    "range-low": ("splits.mat", ndxs(_0=0), r": trainNdxs holds 0 at place 1, expected whole numbers 1..1449"),
    "fraction": ("splits.mat", ndxs(_1=2.5), r": trainNdxs holds 2.5 at place 2"),
    "overlap": ("splits.mat", ndxs(_0=NDXS["test"][0]), f" has frame {NDXS['test'][0]} more than once"),
    "twice": ("splits.mat", ndxs(_0=NDXS["train"][1]), f" has frame {NDXS['train'][1]} more than once"),
    "short-map": ("classMapping40.mat", lambda root: class_map(root, mapClass=MAP40[1:]), ": mapClass has 893 values"),
    "41": ("classMapping40.mat", lambda root: class_map(root, mapClass=MAP40 + 1),
           ": mapClass holds 41 at place .*, expected whole numbers 0..40"),
    "nan-map": ("classMapping40.mat", lambda root: class_map(root, mapClass=np.where(MAP40 == 3, np.nan, MAP40)),
                ": mapClass holds nan at place"),
    "words": ("classMapping40.mat", lambda root: class_map(root, mapClass=np.full(894, "wall", object)),
              ": mapClass has 894 values of object"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_check_finds(root, case):
    file, broken, sentence = FAULTS[case]
    broken(root)
    with pytest.raises(UserError, match=re.escape(str(root / file)) + sentence) as caught:
        nyuv2.check(options(root), COUNTS)
    assert AGAIN[file] in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("variable", "value", "rule"), [
    ("labels", 895, "classes are 0..894"), ("labels", 65535, "classes are 0..894"), ("rawDepths", np.nan, "depth is"),
    ("rawDepths", -0.5, "depth is in metres"), ("rawDepths", np.inf, "depth is in metres and finite")], ids=str)
def test_read_refuses_the_value(root, variable, value, rule):
    frame = NDXS["train"][4]
    array = np.zeros(FRAME, "u2" if variable == "labels" else "f4")
    array[60, 70] = value
    labeled(root, {(variable, frame): array})
    sentence = re.escape(f"{root / LABELED}: {variable}(61, 71, {frame}) is {value:g}, but {rule}")
    with pytest.raises(UserError, match=f"{sentence}.*{AGAIN[LABELED]}"):
        nyuv2.read("train", "train/4", (144, 192), options(root))


def test_read_of_a_damaged_frame_is_a_sentence(root):
    labeled(root, {("images", NDXS["train"][0]): np.random.default_rng(3).integers(0, 256, (*FRAME, 3), "u1")})
    content = bytearray((root / LABELED).read_bytes())
    middle = len(content) // 2
    content[middle:middle + 1000] = bytes(1000)
    (root / LABELED).write_bytes(content)
    with pytest.raises(UserError, match="is damaged or cut short"):
        nyuv2.read("train", "train/0", (144, 192), options(root))


@pytest.mark.parametrize("package", ["h5py", "scipy"])
def test_a_missing_package_is_a_sentence(tmp_path, monkeypatch, package):
    if package == "scipy":
        labeled(tmp_path, {})
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"needs {package}, which is not installed: run `.*pip install -e '.\[mat\]'`"):
        nyuv2.check(options(tmp_path), COUNTS)
