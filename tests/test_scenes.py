"""The embedded scenes: sample contract, exact geometry, the Kinect's flaws, one room per name at any size."""

import numpy as np
import pytest

from pipeline.data import scenes
from pipeline.runtime.errors import UserError

OPTIONS = {"seed": 7, "noise": 0.03, "holes": 0.08}
SIZES = [(96, 128), (65, 91), (33, 47)]


def sample(index=0, size=(96, 128), split="train", **changed):
    return scenes.read(split, f"{split}-{index:05d}", size, {**OPTIONS, **changed})


@pytest.fixture(scope="module")
def sixty():
    return [sample(index) for index in range(60)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sample_keeps_the_contract(size):
    s = sample(3, size)
    assert {name: (a.shape, a.dtype.name) for name, a in s.items()} == {
        "image": ((*size, 3), "float32"), "label": (size, "int8"), "depth": (size, "float32"),
        "normal": ((*size, 3), "float32")}
    assert s["image"].min() >= 0 and s["image"].max() <= 1 and s["image"].std() > 0.05
    assert s["label"].min() >= -1 and s["label"].max() < len(scenes.CLASSES) == 13
    seen = s["depth"][s["depth"] != 0]
    assert 0.5 < seen.min() and seen.max() < 10.5


def test_read_is_deterministic_and_seeded():
    once, again, other = sample(5), sample(5), sample(5, seed=8)
    assert all(np.array_equal(once[key], again[key]) for key in once)
    assert not any(np.array_equal(once[key], other[key]) for key in once)


@pytest.mark.parametrize("index, means", [(0, (0.54711, 5.07227, 2.37113, -0.0211, -0.09069, -0.45029)),
                                          (1, (0.49291, 5.47461, 1.93691, -0.02339, 0.10154, -0.7923))])
def test_rooms_stay_those_that_the_printed_tables_were_measured_on(index, means):
    s = sample(index, (48, 64))
    found = s["image"].mean(), s["label"].mean(), s["depth"].mean(), *s["normal"].mean((0, 1))
    np.testing.assert_allclose(found, means, rtol=2e-3, atol=2e-4)         # another CPU may round a pixel otherwise


def test_noise_changes_the_image_only():
    clean, noisy = sample(2, noise=0.0), sample(2, noise=0.1)
    assert 0.05 < np.std(clean["image"] - noisy["image"]) < 0.11
    assert all(np.array_equal(clean[key], noisy[key]) for key in ("label", "depth", "normal"))


def test_ids_are_stable_under_count():
    assert scenes.ids("train", 2, OPTIONS) == ["train-00000", "train-00001"]
    assert scenes.ids("test", 30, OPTIONS)[:9] == scenes.ids("test", 9, OPTIONS)
    assert len(set(scenes.ids("train", 200, OPTIONS))) == 200


def test_train_and_test_rooms_differ():
    rooms = {sample(index, (33, 47), split)["depth"].tobytes() for split in ("train", "test")
             for index in range(12)}
    assert len(rooms) == 24


def test_normals_are_unit_or_exactly_zero(sixty):
    length = np.linalg.norm(np.stack([s["normal"] for s in sixty]), axis=-1)
    assert np.abs(length[length != 0] - 1).max() < 1e-5
    assert 0.5 < (length != 0).mean() < 1


def test_normals_face_the_camera(sixty):
    ray = scenes.rays((96, 128))
    assert max((s["normal"] * ray).sum(-1).max() for s in sixty) < 1e-3


def test_normals_agree_with_planes_fitted_to_the_depth(sixty):
    """On 3 x 3 pixels of one flat surface the back-projected points span the plane that the normal names."""
    ray, angles = scenes.rays((96, 128)).astype(float), []
    for s in sixty[:20]:
        point, normal = s["depth"][..., None] * ray, s["normal"].astype(float)
        across, down = point[1:-1, 2:] - point[1:-1, :-2], point[2:, 1:-1] - point[:-2, 1:-1]
        fitted = np.cross(down, across)
        fitted /= np.maximum(np.linalg.norm(fitted, axis=-1, keepdims=True), 1e-9)
        around = np.stack([normal[1 + y:95 + y, 1 + x:127 + x] for y in (-1, 0, 1) for x in (-1, 0, 1)])
        flat = (np.abs(around - around[4]).max((0, -1)) < 1e-6) & (np.abs(around[4]).max(-1) > 0)
        # A step between parallel faces leaves the normal alone but not the depth: its middle is off the line.
        curve = np.maximum(np.abs(point[1:-1, 2:] + point[1:-1, :-2] - 2 * point[1:-1, 1:-1]).max(-1),
                           np.abs(point[2:, 1:-1] + point[:-2, 1:-1] - 2 * point[1:-1, 1:-1]).max(-1))
        flat &= curve < 0.05 * s["depth"][1:-1, 1:-1]
        angles.append(np.degrees(np.arccos(np.clip((fitted * normal[1:-1, 1:-1]).sum(-1), -1, 1)))[flat])
    angles = np.concatenate(angles)
    assert len(angles) > 20 * 96 * 128 * 0.3
    assert np.median(angles) < 0.1 and np.quantile(angles, 0.95) < 2


def test_invalid_shares_lie_in_their_bands(sixty):
    depth = [(s["depth"] == 0).mean() for s in sixty]
    normal = [(s["normal"] == 0).all(-1).mean() for s in sixty]
    void = [(s["label"] < 0).mean() for s in sixty]
    assert 0.06 < np.mean(depth) < 0.10 and max(depth) < 0.13
    assert np.mean(depth) < np.mean(normal) < 0.22
    assert 0.10 < np.mean(void) < 0.17
    assert all(((s["normal"] == 0).all(-1) | (s["depth"] > 0)).all() for s in sixty)


@pytest.mark.parametrize("holes", [0.0, 0.3, 0.9])
def test_holes_sets_the_share_of_invalid_depth(holes):
    share = np.mean([(sample(index, holes=holes)["depth"] == 0).mean() for index in range(12)])
    assert abs(share - holes) <= 0.3 * holes


def test_holes_are_patches_and_prefer_glass(sixty):
    hole = np.stack([s["depth"] == 0 for s in sixty])
    label = np.stack([s["label"] for s in sixty])
    assert (hole[:, :, 1:] & hole[:, :, :-1]).sum() > 0.6 * hole.sum()
    glass = np.isin(label, [scenes.CLASSES.index("window"), scenes.CLASSES.index("tv")])
    assert hole[glass].mean() > 1.5 * hole[~glass].mean()


def test_all_classes_appear_and_none_dominates(sixty):
    count = np.bincount(np.concatenate([s["label"].ravel() for s in sixty]) + 1, minlength=14)[1:]
    assert count.min() > 0 and count.max() < 0.45 * 60 * 96 * 128
    assert count.max() > 20 * count.min()
    assert 5 <= np.mean([len(np.unique(s["label"])) - 1 for s in sixty]) <= 10


def test_colour_alone_does_not_give_the_class_away(sixty):
    """The best guess from a pixel's colour, binned 8 x 8 x 8, stays near the share of the largest class."""
    label = np.concatenate([s["label"].ravel() for s in sixty])
    image = np.stack([s["image"] for s in sixty]).reshape(-1, 3)
    colour = np.minimum(image * 8, 7).astype(int) @ (64, 8, 1)
    table = np.bincount(colour[label >= 0] * 13 + label[label >= 0], minlength=512 * 13).reshape(512, 13)
    assert table.max(1).sum() < 0.6 * table.sum()


@pytest.mark.parametrize("index", range(4))
def test_one_name_is_one_room_at_every_size(index):
    small, large = sample(index), sample(index, (288, 384))
    label, depth = large["label"][1::3, 1::3], large["depth"][1::3, 1::3]
    both = (small["label"] >= 0) & (label >= 0)
    assert both.mean() > 0.6 and (small["label"] == label)[both].mean() > 0.97
    both = (small["depth"] > 0) & (depth > 0)
    assert both.mean() > 0.8 and np.median(np.abs(small["depth"] - depth)[both]) < 1e-4


@pytest.mark.parametrize("key, value", [("holes", 0.95), ("holes", -0.1), ("noise", 2), ("noise", "much"),
                                        ("noise", float("nan")), ("seed", -1), ("seed", 1.5), ("seed", True)])
def test_a_bad_option_is_named_with_its_value(key, value):
    for call in (lambda options: scenes.ids("train", 1, options), lambda options: sample(**options)):
        with pytest.raises(UserError, match=f"datasets.scenes.{key}.*{value!r}"):
            call({key: value})


def test_an_unknown_option_and_a_tiny_size_are_refused():
    with pytest.raises(UserError, match="datasets.scenes.hole`"):
        scenes.ids("train", 1, {"hole": 0.1})
    with pytest.raises(UserError, match="datasets.scenes.size.*31"):
        sample(size=(96, 31))
