"""Targets that are not what they say are refused before any work, by their values; what may be right is a warning; the
data sets that are there pass without one."""

import functools
import os
import pathlib
import re

import numpy as np
import pytest

from pipeline import prepare, tasks
from pipeline.data import glyphs, readers, scenes, streets
from pipeline.runtime.errors import UserError
from pipeline.tasks import labels

H, W, ROOMS, scenes_read = 32, 64, {"seed": 0, "noise": 0.03, "holes": 0.08}, scenes.read


def scaled(kind, factor, offset=0.0):
    return lambda sample: {kind: (sample[kind] * factor + offset).astype(sample[kind].dtype)}


def void_as_zero(sample):
    return {"label": sample["label"] + 1}


def from_one(sample):
    return {"label": np.where(sample["label"] < 0, 1, sample["label"] + 1)}


def constant(kind, value):
    return lambda sample: {kind: np.full_like(sample[kind], value)}


WRONG = {       # id: what is done to a sample of rooms, the sentence
    "coded-normals": (scaled("normal", 0.5, 0.5), "`normal` of `data: scenes` .train.: normals are of length 0.* on "
                      r"average and all >= 0: they look like \(n \+ 1\) / 2; write 2 n - 1"),
    "colours": (scaled("normal", 127.5, 127.5), r"all >= 0: they look like 255 \(n \+ 1\) / 2; write n / 127.5 - 1"),
    "short-normals": (scaled("normal", 0.3), "normals are of length 0.30 on average, expected 1: divide"),
    "no-normals": (constant("normal", 0), "normals are 0, which stands for none, in all of 8 images"),
    "void-is-0": (void_as_zero, "labels are 0..13, expected whole numbers 0..12, or -1 for none: with 13 there and no "
                  "-1 they look as though 0 stood for void; write label - 1"),
    "from-1": (from_one, "labels are 1..13, .* as though classes began at 1; write label - 1"),
    "void-is-255": (lambda s: {"label": np.where(s["label"] < 0, 255, s["label"].astype(int))},
                    "labels are 0..255, .* 255 looks like void; write -1 for it"),
    "fractions": (lambda s: {"label": s["label"] + 0.5}, "expected whole numbers 0..12"),
    "millimetres": (scaled("depth", 1000), "`depth` .*median is [0-9.e+]+, expected metres: it looks like millimetres; "
                    "divide by 1000"),
    "negative": (lambda s: {"depth": np.where(s["depth"] == 0, -1, s["depth"])}, "goes down to -1; write 0 where"),
    "no-depth": (constant("depth", 0), "it is 0, which stands for none, in all of 8 images"),
    "lost-in-float16": (scaled("depth", 1e-9), r"`depth` .* [0-9.]+% of the values become 0 \(none\) in float16, in "
                        "which KINDS of pipeline/data/scenes.py"),
    "infinite-in-float16": (lambda s: {"depth": np.where(np.arange(W) < 9, 1e6, s["depth"])},
                            "become infinite in float16"),
    "nan": (constant("depth", np.nan), "`depth` .* 2048 values are not finite; put 0 where there is none"),
    "grey-levels": (scaled("image", 255), "`image` .* values are .*..255, expected 0..1; they look like 0..255: div"),
    "dark-bytes": (lambda s: {"image": np.rint(s["image"]) / np.float32(255)}, "no value is above 0.003922: they look "
                   "like floats in 0..1 that were saved as whole numbers"),
    "black": (constant("image", 0), "every value is 0 in all of 8 images"),
    "transposed": (lambda s: {"label": s["label"].T}, r"`label` .* the shape \(64, 32\), expected \(32, 64\); "
                   "height and width look swapped"),
    "channels-first": (lambda s: {"image": s["image"].transpose(2, 0, 1)}, r"the shape \(3, 32, 64\), expected"),
}
DOUBTFUL = {    # id: what is done to a sample of rooms, the line of warning
    "centimetres": (scaled("depth", 100), "`depth` of `data: scenes` .*: its median is [0-9.]+, expected metres; it "
                    "may be millimetres or centimetres"),
    "to-one": (scaled("depth", 0.1), r"it is 0\.\d+ at most, expected metres; it may be scaled to 0..1, kilometres or"),
    "frayed-normals": (lambda s: {"normal": s["normal"] * np.where(np.arange(W) < 20, 0.5, 1)[:, None]},
                       r"\d\d% of the normals are longer or shorter than 1 by more than 0.1"),
    "dark": (scaled("image", 0.05), "`image` of `data: scenes` .*: no value is above 0.05 of 1"),
}


READ = functools.cache(lambda split, name: scenes_read(split, name, (H, W), ROOMS))      # of rooms, rendered once


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def prepared(monkeypatch, name, options, size, counts):
    targets = {facts.target: list(facts.behind) for facts in map(tasks.facts, readers.reader(name).TASKS)}
    row = {"suite": "x", "protocol": "smoke", "targets": targets, "data": {
        "folder": "out/x/data", "reader": name, "options": options, "height": size[0], "width": size[1],
        "target_stride": 1, **counts}}
    monkeypatch.setattr(prepare, "read", lambda *words: row)
    prepare.main("x")


def altered(monkeypatch, alter, train=8):
    """Prepare rooms of which `alter` makes other samples: it is given the split, the name and the sample."""
    monkeypatch.setattr(scenes, "read", lambda split, name, *more: alter(split, name, READ(split, name)))
    prepared(monkeypatch, "scenes", ROOMS, (H, W), {"train": train, "test": 4})


def of_all(alter):
    return lambda split, name, sample: sample | alter(sample)


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_right_is_refused_before_any_work(monkeypatch, case):
    alter, sentence = WRONG[case]
    with pytest.raises(UserError, match=sentence):
        altered(monkeypatch, of_all(alter))
    assert not pathlib.Path("out").exists()


@pytest.mark.parametrize("case", DOUBTFUL)
def test_what_may_be_right_is_a_line_of_warning(monkeypatch, capsys, case):
    alter, sentence = DOUBTFUL[case]
    altered(monkeypatch, of_all(alter))
    for split, line in zip(("train", "test"), capsys.readouterr().err.splitlines(), strict=True):
        assert re.search(sentence, line) and re.match(rf"warning: `\w+` of `data: scenes` \({split}\): ", line)
    assert pathlib.Path("out/x/data/manifest.json").exists()


def test_a_missing_kind_is_refused(monkeypatch):
    with pytest.raises(UserError, match="`depth` .*`read` of pipeline/data/scenes.py gives image, label, normal; let"):
        altered(monkeypatch, lambda split, name, sample: {kind: sample[kind] for kind in ("image", "label", "normal")})


def test_a_label_that_no_looked_at_image_has_is_refused_with_no_manifest(monkeypatch):
    """The last of nine images of the training split is not among those that are looked at."""
    last = scenes.ids("train", 9, {})[-1]
    with pytest.raises(UserError, match="labels are 0..13, .* no -1 they look as though 0 stood for void"):
        altered(monkeypatch, lambda split, name, sample: sample | {
            "label": np.full((H, W), 13) if name == last else sample["label"].clip(0)}, 9)
    assert pathlib.Path("out/x/data").exists() and not pathlib.Path("out/x/data/manifest.json").exists()


def test_each_split_is_looked_at_by_itself(monkeypatch):
    """Most normals are right, and so would be the mean length and the signs of all."""
    with pytest.raises(UserError, match=r"`normal` of `data: scenes` \(test\): normals .* 2 n - 1"):
        altered(monkeypatch, lambda split, name, sample: sample | (
            scaled("normal", 0.5, 0.5)(sample) if split == "test" else {}))


def test_inverse_depth_is_less_than_one():
    def doubts(median):
        return list(tasks.load("depth").check([np.full((4, 4), median)], {"inverse_depth": True}))
    assert doubts(0.05) == [] and "its median is 2.5, but `INVERSE_DEPTH`" in doubts(2.5)[0]
    with pytest.raises(ValueError, match="its median is 9000, expected inverse depth: .* disparities; divide p by"):
        doubts(9000)


@pytest.mark.parametrize("task, classes, images, enough", [
    ("semantic", 20, 64, True), ("semantic", 20, 63, False), ("digits", 20, 100, True), ("digits", 20, 99, False),
    ("digits", 3, 64, True), ("digits", 3, 63, False)])
def test_a_class_that_never_occurs_is_told_where_there_are_images_enough(task, classes, images, enough):
    manifest = {"classes": {task: [chr(ord("a") + i) for i in range(classes)]}}
    labels = [np.array(1 + i % (classes - 1)) for i in range(images)]
    assert list(tasks.load(task).check(labels, manifest)) == [
        f"1 of {classes} classes never occur in {images} images: 0 (a); where labels begin at 1 or 0 is void, write "
        "label - 1"] * enough
    assert list(tasks.load(task).check([np.array(i % 2) for i in range(images)], manifest)) == [
        f"{classes - 2} of {classes} classes never occur in {images} images: 2 (c)"
        + ", 3 (d), 4 (e), ..." * (classes > 3)] * enough


def test_labels_that_look_like_nothing_known():
    assert labels.likeness({-1, 0, 40}, 13) == labels.likeness({0, 13, 14}, 13) == "map yours to these"


# -- what is there passes

SETS = {  # id: reader, its options, size, numbers of images
    "rooms": (scenes, ROOMS, (32, 64), {"train": 48, "test": 16}),
    "streets": (streets, {"seed": 0, "noise": 0.03, "holes": 0.15, "classes": 7}, (32, 64), {"train": 8, "test": 4}),
    "streets-19": (streets, {"seed": 0, "noise": 0.03, "holes": 0.15, "classes": 19}, (32, 64), {
        "train": 48, "test": 16}),
    "glyphs": (glyphs, {"seed": 0, "alphabet": 20}, (32, 32), {
        "train": {"digits": 100, "characters": 100}, "test": {"digits": 20, "characters": 20}}),
}


@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.slow] * (case == "streets-19"))
                                  for case in SETS])        # each of 19 classes takes 64 rendered streets
def test_rendered_sets_pass_without_a_warning(monkeypatch, capsys, case):
    reader, *words = SETS[case]
    prepared(monkeypatch, reader.__name__.rpartition(".")[2], *words)
    assert capsys.readouterr().err == ""


REAL = {  # reader: its folders and the variables that name them, its other options, size, numbers of images
    "nyuv2": ({"root": "NYUV2_ROOT"}, {"source": "mtan", "normals": "derived", "depth": "raw", "crop": "toolbox"},
              (72, 96), {"train": 128, "test": 128}),
    "cityscapes": ({"root": "CITYSCAPES_ROOT"}, {}, (64, 128), {"train": 128, "test": 32}),
    "svhn_omniglot": ({"mnist_root": "MNIST_ROOT", "omniglot_root": "OMNIGLOT_ROOT"}, {"digits": "mnist"}, (32, 32), {
        "train": {"digits": 200, "characters": 200}, "test": {"digits": 50, "characters": 50}}),
}


@pytest.mark.parametrize("name", REAL)
def test_real_sets_pass_without_a_warning(monkeypatch, capsys, name):
    folders, options, *words = REAL[name]
    if missing := [variable for variable in folders.values() if variable not in os.environ]:
        pytest.skip(f"{missing[0]} names no folder")
    prepared(monkeypatch, name, options | {key: os.environ[folders[key]] for key in folders}, *words)
    assert capsys.readouterr().err == ""
