"""Drawn digits and characters: the pair's contract, one drawing per name at any size, learnable but not at a glance."""

import numpy as np
import pytest

from pipeline.data import glyphs, pair
from pipeline.runtime.errors import UserError

OPTIONS = {"seed": 0, "alphabet": 100}          # the default
SIZES = [(32, 32), (28, 28), (33, 47)]


def samples(split, digits, characters, size=(32, 32), **changed):
    options = OPTIONS | changed
    names = glyphs.ids(split, {"digits": digits, "characters": characters}, options)
    return [glyphs.read(split, name, size, options) for name in names]


def stacked(some, task):
    """(N, H, W, 3) images and (N,) labels of one task."""
    some = [s for s in some if s[task] >= 0]
    return np.stack([s["image"] for s in some]), np.array([s[task] for s in some])


@pytest.fixture(scope="module")
def train():
    return samples("train", 800, 1200)


@pytest.fixture(scope="module")
def test():
    return samples("test", 200, 400)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sample_keeps_the_contract(size):
    assert list(glyphs.KINDS) == ["image", *pair.TASKS]
    for i, s in enumerate(samples("test", 3, 3, size)):
        image, digit, character = s.values()
        assert list(s) == list(glyphs.KINDS) and type(digit) is type(character) is int
        assert image.shape == (*size, 3) and image.dtype == np.float32
        assert image.min() >= 0 and image.max() <= 1 and image.std() > 0.02
        assert (0 <= digit < 10 and character == -1) if i < 3 else (digit == -1 and 0 <= character < 100)


def test_ids_are_digits_first_and_a_smaller_count_is_a_prefix():
    names = glyphs.ids("train", {"digits": 3, "characters": None}, OPTIONS)
    assert len(names) == len(set(names)) == 3 + 100 * 12
    assert names[:5] == ["train-digits-00000", "train-digits-00001", "train-digits-00002", "train-characters-0000-00",
                         "train-characters-0001-00"]
    assert glyphs.ids("train", {"digits": 2, "characters": 150}, OPTIONS) == names[:2] + names[3:153]


def test_classes_are_the_labels_and_characters_are_balanced(train, test):
    assert {task: len(names) for task, names in glyphs.classes(OPTIONS).items()} == {"digits": 10, "characters": 100}
    for some, each in ((train, 12), (test, 4)):
        assert np.bincount(stacked(some, "characters")[1]).tolist() == [each] * 100
    assert np.bincount(stacked(train, "digits")[1]).min() > 50


def test_read_is_deterministic_and_seeded():
    once, again, other = (samples("train", 2, 2, seed=seed) for seed in (5, 5, 6))
    for a, b, c in zip(once, again, other, strict=True):
        assert np.array_equal(a["image"], b["image"]) and not np.array_equal(a["image"], c["image"])


def test_no_two_drawings_are_the_same(train, test):
    assert len({s["image"].tobytes() for s in train + test}) == len(train + test)


def test_one_name_is_one_drawing_at_every_size():
    for small, large in zip(samples("train", 6, 6), samples("train", 6, 6, (96, 96)), strict=True):
        assert (small["digits"], small["characters"]) == (large["digits"], large["characters"])
        a, b = (s["image"].reshape(16, n, 16, n, 3).mean((1, 3)) for s, n in ((small, 2), (large, 6)))
        assert np.abs(a - b).mean() < 0.04


def test_characters_are_grey_ink_on_zero(train):
    image, _ = stacked(train, "characters")
    assert (image[..., :1] == image).all() and np.median(image) == 0 and (image.max((1, 2, 3)) > 0.9).mean() > 0.95
    rim = np.concatenate([image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]])
    assert 0.05 < image.mean() < 0.12 and rim.mean() < 0.03


def test_moments_are_those_of_the_images(train):
    for task, (mean, std) in glyphs.moments({}).items():
        image, _ = stacked(train, task)
        np.testing.assert_allclose(image.mean((0, 1, 2)), mean, atol=0.025)
        np.testing.assert_allclose(image.std((0, 1, 2)), std, atol=0.015)


def orientations(image, bins=8, cells=4):
    """(N, 32, 32, 3) -> (N, bins * cells^2): roots of histograms of edge directions, blind to which side is darker."""
    down, across = np.gradient(image.mean(-1), axis=(1, 2))
    length, bin = np.hypot(down, across), (np.arctan2(down, across) / np.pi * bins).astype(int) % bins
    parts = np.where(bin[..., None] == np.arange(bins), length[..., None], 0)
    parts = parts.reshape(len(image), cells, 32 // cells, cells, 32 // cells, bins).sum((2, 4)).reshape(len(image), -1)
    return np.sqrt(parts / parts.sum(1, keepdims=True))


def nearest(seen, labels, asked):
    return labels[((asked**2).sum(1)[:, None] + (seen**2).sum(1) - 2 * asked @ seen.T).argmin(1)]


@pytest.mark.parametrize("task, chance, pixels, edges", [("digits", 0.1, (0.05, 0.25), (0.35, 0.75)),
                                                         ("characters", 0.01, (0.2, 0.65), (0.6, 0.95))])
def test_a_nearest_neighbour_learns_but_not_everything(train, test, task, chance, pixels, edges):
    """On pixels digits are as good as unlearnable, because of their colours; on edges both are well above chance."""
    (seen, labels), (asked, truth) = stacked(train, task), stacked(test, task)
    for (low, high), features in ((pixels, lambda x: x.reshape(len(x), -1)), (edges, orientations)):
        reached = (nearest(features(seen), labels, features(asked)) == truth).mean()
        assert low < reached < high, reached
    assert edges[0] > 3 * chance


def test_neither_colour_nor_brightness_gives_a_digit_away(train, test):
    (seen, labels), (asked, truth) = stacked(train, "digits"), stacked(test, "digits")
    means = [np.concatenate([x.mean((1, 2)), x.std((1, 2))], 1) for x in (seen, asked)]
    assert (nearest(means[0], labels, means[1]) == truth).mean() < 0.2


@pytest.mark.parametrize("key, value", [("seed", -1), ("seed", 1.5), ("seed", True), ("alphabet", 1),
                                        ("alphabet", "latin")])
def test_a_bad_option_is_named_with_its_value(key, value):
    for call in (lambda: samples("train", 1, 1, **{key: value}), lambda: glyphs.classes({key: value})):
        with pytest.raises(UserError, match=f"datasets.glyphs.{key}` is {value!r}"):
            call()


@pytest.mark.parametrize("count, sentence", [
    ({"digits": 0, "characters": 1}, "data.train.digits is 0, not a whole number from 1$"),
    ({"digits": 1, "characters": 1201}, "data.train.characters is 1201, not a whole number from 1 to 1200"),
    ({"digits": 1.0, "characters": 1}, "data.train.digits is 1.0"),
    ({"digits": None, "characters": 1}, "digits is None, not a whole number from 1: drawn images have no end$"),
    ({"digits": 1}, "data.train is .'digits': 1.: give a number of images for each task"),
    (400, "data.train is 400: give"),
])  # fmt: skip
def test_a_count_that_is_not_there_is_refused(count, sentence):
    with pytest.raises(UserError, match=sentence):
        glyphs.ids("train", count, OPTIONS)


def test_an_unknown_option_and_a_tiny_size_are_refused():
    with pytest.raises(UserError, match="unknown key `datasets.glyphs.noise` .known here: seed, alphabet"):
        glyphs.ids("train", {"digits": 1, "characters": 1}, {"noise": 0})
    with pytest.raises(UserError, match=r"at least 16 pixels a side; found \[32, 15\]"):
        samples("train", 1, 1, (32, 15))
