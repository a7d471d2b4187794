"""The embedded streets: sample contract, geometry in Cityscapes' units, stereo's flaws, classes that must be learnt."""

import numpy as np
import pytest

from pipeline.data import raycast, streets
from pipeline.runtime.errors import UserError
from pipeline.tasks import from_raw

OPTIONS = {"seed": 7, "noise": 0.03, "holes": 0.15, "classes": 19}
SIZE, N = (64, 128), 48
FOCAL_BASELINE = 0.209 * 2262.5     # disparity in pixels of 2048 times metres


def sample(index=0, size=SIZE, split="train", **changed):
    return streets.read(split, f"{split}-{index:05d}", size, {**OPTIONS, **changed})


def disparity(inverse):
    """Pixels of an image 2048 wide; nan where invalid."""
    return np.where(inverse > 0, (inverse.astype(float) * 65535 - 1) / 256, np.nan)


@pytest.fixture(scope="module")
def many():
    samples = [sample(index) for index in range(N)]
    return {kind: np.stack([s[kind] for s in samples]) for kind in streets.KINDS}


@pytest.mark.parametrize("size", [(64, 128), (65, 91), (33, 47)], ids=str)
def test_sample_keeps_the_contract(size):
    s = sample(3, size)
    assert {name: (a.shape, a.dtype.name) for name, a in s.items()} == {
        "image": ((*size, 3), "float32"), "label": (size, "int8"), "depth": (size, "float32"),
        "instance": (size, "int16"), "offset": ((*size, 2), "float32"), "disparity": (size, "float32")}
    assert s["image"].min() >= 0 and s["image"].max() <= 1 and s["image"].std() > 0.05
    assert -1 <= s["label"].min() and s["label"].max() < 19


def test_read_is_deterministic_and_seeded():
    once, again, other = sample(5), sample(5), sample(5, seed=8)
    assert all(np.array_equal(once[key], again[key]) for key in once)
    assert not any(np.array_equal(once[key], other[key]) for key in once)


def test_noise_changes_the_image_only():
    clean, noisy = sample(2, noise=0.0), sample(2, noise=0.1)
    assert 0.05 < np.std(clean["image"] - noisy["image"]) < 0.11
    assert all(np.array_equal(clean[key], noisy[key]) for key in ("label", "depth", "instance"))


def test_ids_are_stable_under_count_and_the_splits_differ():
    assert streets.ids("test", 30, OPTIONS)[:9] == streets.ids("test", 9, OPTIONS)
    assert len(set(streets.ids("train", 200, OPTIONS))) == 200
    worlds = {sample(index, (33, 47), split)["depth"].tobytes() for split in ("train", "test") for index in range(5)}
    assert len(worlds) == 10


def test_one_name_is_one_street_at_every_size():
    for index in range(2):
        small, large = sample(index), sample(index, (192, 384))
        label, depth = large["label"][1::3, 1::3], disparity(large["depth"][1::3, 1::3])
        both = (small["label"] >= 0) & (label >= 0)
        assert both.mean() > 0.8 and (small["label"] == label)[both].mean() > 0.97
        apart = np.abs(disparity(small["depth"]) - depth)
        assert np.isfinite(apart).mean() > 0.6 and np.nanmedian(apart) <= 2 / 256


def test_all_classes_occur_in_shares_like_a_citys(many):
    label = many["label"]
    share = np.bincount(label.ravel() + 1, minlength=20) / label.size
    names = dict(zip(streets.TRAIN_CLASSES, share[1:], strict=True))
    assert min(names.values()) > 0, names
    assert 0.2 < names["road"] < 0.45 and 0.08 < names["building"] < 0.3 and 0.02 < names["sidewalk"] < 0.12
    assert 0.05 < names["vegetation"] < 0.25 and 0.03 < names["sky"] < 0.2 and 0.05 < names["car"] < 0.25
    assert max(names[name] for name in ("traffic light", "rider", "motorcycle", "fence")) < 0.02
    assert 8 < np.mean([len(np.unique(one)) - 1 for one in label]) < 17


def test_seven_classes_are_the_categories_of_the_nineteen():
    seven, nineteen = sample(4, classes=7), sample(4)
    fine, coarse = nineteen["label"], seven["label"]
    assert np.array_equal(fine < 0, coarse < 0) and np.array_equal(seven["image"], nineteen["image"])
    assert streets.classes(OPTIONS) == streets.TRAIN_CLASSES and len(streets.classes({"classes": 7})) == 7
    for name, category in (("road", "flat"), ("sidewalk", "flat"), ("building", "construction"), ("pole", "object"),
                           ("vegetation", "nature"), ("sky", "sky"), ("person", "human"), ("car", "vehicle")):
        found = coarse[fine == streets.TRAIN_CLASSES.index(name)]
        assert (found == streets.CATEGORIES.index(category)).all()


def test_void_is_the_bonnet_and_little_else(many):
    void = many["label"] < 0
    assert 0.02 < void.mean() < 0.12 and void[:, -1].mean() > 0.5 and void[:, :-12].mean() < 0.05
    assert void[:, -1, 64].all() and (many["depth"][:, -1, 64] == 0).all()     # nearer than the matcher's range


def test_the_road_is_the_plane_that_camera_height_and_focal_length_say(many):
    """On a plane disparity is linear in the pixel; its slopes give the camera's height, about 1.25 m."""
    ray, heights = raycast.rays(SIZE, streets.FIELD_OF_VIEW_RAD).astype(float), []
    for label, depth in zip(many["label"], many["depth"], strict=True):
        on = (label == streets.ROAD) & (depth > 0)
        if on.sum() > 800:
            inverse = disparity(depth)[on] / FOCAL_BASELINE             # 1 / metres = normal . ray / height
            plane, *_ = np.linalg.lstsq(ray[on], inverse, rcond=None)
            assert np.quantile(np.abs(ray[on] @ plane - inverse), 0.9) < 3e-3
            assert abs(plane[0]) < 0.06 * plane[1]                      # level but for the camera's roll
            heights.append(1 / np.linalg.norm(plane))
    assert len(heights) > N / 2 and 1.1 < min(heights) and max(heights) < 1.4


def test_inverse_depth_is_in_cityscapes_units(many):
    p = many["depth"].astype(float) * 65535
    assert np.abs(p - np.rint(p)).max() < 0.01
    assert 0.45 < many["depth"].max() < 0.4923
    sky = (many["label"] == streets.HEAVEN) & (many["depth"] > 0)
    assert sky.sum() > 1000 and (np.rint(p[sky]) == 1).all()            # disparity 0, tiny but valid
    metres = FOCAL_BASELINE / disparity(many["depth"])[(many["depth"] > 1e-3)]
    assert metres.min() > 3.7 and 8 < np.median(metres) < 30


def test_holes_are_patches_shadows_and_the_left_border(many):
    hole = many["depth"][:, :50] == 0                                   # above the bonnet
    assert (hole[:, :, 1:] & hole[:, :, :-1]).sum() > 0.6 * hole.sum()
    assert hole[..., 0].mean() > 0.6 > 0.3 > hole[..., 60:].mean()
    # just left of a nearer thing the second camera sees nothing, just right of one it does
    whole = disparity(np.stack([sample(index, holes=0.0)["depth"] for index in range(8)]))[:, :50]
    step = whole[..., 1:] - whole[..., :-1]
    left, right = hole[:8, :, :-1][step > 16].mean(), hole[:8, :, 1:][step < -16].mean()
    assert left > 0.7 and right < 0.5 * left


@pytest.mark.parametrize("holes", [0.0, 0.3])
def test_holes_sets_the_share_of_invalid_depth(holes):
    shares = [(s["depth"] == 0)[s["label"] >= 0].mean() for s in (sample(index, holes=holes) for index in range(10))]
    assert abs(np.mean(shares) - holes) <= 0.04 + 0.3 * holes


def test_instances_are_of_one_class_and_only_of_things(many):
    assert (many["instance"][many["label"] < streets.PERSON] == 0).all()
    assert (many["instance"][many["label"] >= streets.PERSON] > 0).all()
    counts = []
    for label, instance in zip(many["label"], many["instance"], strict=True):
        present = np.unique(instance[instance > 0])
        counts.append(len(present))
        assert all(len(np.unique(label[instance == one])) == 1 for one in present)
    assert 5 < np.mean(counts) < 40


def test_instances_hide_one_another_and_are_cut_by_the_border(many):
    """Of one class there are several in an image, some side by side; some are in two parts; some end at the border."""
    beside = split = cut = several = 0
    for label, instance in zip(many["label"], many["instance"], strict=True):
        left, right = instance[:, :-1], instance[:, 1:]
        beside += ((left != right) & (left > 0) & (right > 0) & (label[:, :-1] == label[:, 1:])).any()
        cut += (instance[:, [0, -1]] > 0).any()
        several += max(len(np.unique(instance[label == one])) for one in (streets.PERSON, streets.PERSON + 2)) > 2
        for one in np.unique(instance[instance > 0]):
            columns = (instance == one).any(0)
            split += np.diff(columns.astype(int)).clip(0).sum() + columns[0] > 1
    assert min(beside, cut, several, split) > N / 4, (beside, cut, several, split)


def test_offsets_are_in_pixels_of_an_image_2048_wide_and_disparity_in_the_papers_unit(many):
    for instance, offset in zip(many["instance"][:8], many["offset"], strict=False):
        assert ((offset == from_raw.VOID).all(-1) == (instance == 0)).all()
        for one in np.unique(instance[instance > 0]):
            places = np.argwhere(instance == one)
            np.testing.assert_allclose(offset[instance == one], 16 * (places - places.mean(0)), atol=1e-2)
    p = np.rint(many["depth"].astype(float) * 65535)
    np.testing.assert_allclose(many["disparity"], p / 2729.0680031169923, rtol=1e-6)


def test_colour_alone_does_not_give_the_class_away(many):
    """The nearest mean colour, learnt on half of the images, is better than a draw and far from the truth."""
    category = np.where(many["label"] < 0, -1, streets.CATEGORY[many["label"]])
    half = np.arange(N) < N // 2
    learnt, said = many["image"][half][category[half] >= 0], category[half][category[half] >= 0]
    means = np.stack([learnt[said == c].mean(0) for c in range(7)])
    asked, truth = many["image"][~half][category[~half] >= 0], category[~half][category[~half] >= 0]
    guess = np.linalg.norm(asked[:, None] - means, axis=-1).argmin(1)
    recall = np.mean([(guess == c)[truth == c].mean() for c in range(7)])
    assert 1 / 7 + 0.05 < recall < 0.5 and (guess == truth).mean() < 0.5


def test_colour_and_place_give_more_than_place_alone(many):
    """There is something to learn from the pixels: the best guess from row, column and grey beats row and column."""
    label = many["label"][:, ::2, ::2].astype(int)
    grey = np.clip(many["image"][:, ::2, ::2].mean(-1) * 5, 0, 4).astype(int)
    place = np.broadcast_to(np.arange(32)[:, None] // 2 * 16 + np.arange(64) // 4, label.shape)
    half, scores = np.arange(N) < N // 2, []
    for key, keys in ((place, 256), (place * 5 + grey, 1280)):
        table = np.zeros((keys, 19))
        learnt = label[half] >= 0
        np.add.at(table, (key[half][learnt], label[half][learnt]), 1)
        asked = label[~half] >= 0
        scores.append((table.argmax(1)[key[~half][asked]] == label[~half][asked]).mean())
    assert scores[0] + 0.02 < scores[1] < 0.8


@pytest.mark.parametrize("key, value", [("holes", 0.95), ("noise", 2), ("noise", float("nan")), ("seed", -1),
                                        ("seed", True), ("classes", 8), ("classes", "19")])
def test_a_bad_option_is_named_with_its_value(key, value):
    for call in (lambda options: streets.ids("train", 1, options), lambda options: sample(**options)):
        with pytest.raises(UserError, match=f"datasets.streets.{key}.*{value!r}"):
            call({key: value})


def test_an_unknown_option_and_a_tiny_size_are_refused():
    with pytest.raises(UserError, match="datasets.streets.hole`"):
        streets.ids("train", 1, {"hole": 0.1})
    with pytest.raises(UserError, match="datasets.streets.size.*31"):
        sample(size=(64, 31))
