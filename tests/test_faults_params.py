"""Edits of params.yaml that nobody thought of: each is refused with its key, or the suite can train with it.

Here a few, the same ones each time; `make test-faults` draws new ones, 2,000 in all.
"""

import contextlib
import copy
import math
import pathlib
import shutil

import pytest
import torch
import yaml
from conftest import SUITES, enter, file_of
from hypothesis import event, given, note
from hypothesis import strategies as draw

from pipeline.config import resolve
from pipeline.loop import epoch
from pipeline.loop.record import Record, Sums
from pipeline.loop.state import Run
from pipeline.runtime import errors

ALL = ["rooms", *SUITES]
ODD = (None, "", " ", [], {}, [[]], [None], {"a": 1}, 0, 1, -1, 2, 3, 0.5, -0.0, 1e-300, 1e39, 1e308, 10**30, math.inf,
       -math.inf, math.nan, True, False, "x", "null", "1", "1e-4", "segnet", "uniform", "semantic", "../..", "a/b", "~",
       "a b", "ü", "x" * 3000, [0, 0], ["uniform"], ["segnet"], {"semantic": 1.0}, "none", "batch", "mid")


@pytest.fixture(scope="module")
def place(trained, tmp_path_factory):
    """Trained rooms, and the other suites' files; examples put back what they change."""
    folder = tmp_path_factory.mktemp("edits") / "copy"
    shutil.copytree(trained, folder)
    with pytest.MonkeyPatch.context() as patches:
        enter(folder, patches)
        yield folder


def leaves(tree, above=()):
    """Places in a tree, as tuples of keys and positions: of everything in it, lists and mappings too."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield (*above, key)
        if isinstance(value, dict | list):
            yield from leaves(value, (*above, key))


def at(tree, where):
    for key in where:
        tree = tree[key]
    return tree


KINDS = {          # of an edit: which places it is for
    "odd": lambda holder, value: True, "other": lambda holder, value: True, "left out": lambda holder, value: True,
    "renamed": lambda holder, value: isinstance(holder, dict), "added": lambda holder, value: isinstance(value, list),
    "scaled": lambda holder, value: isinstance(value, int | float), "shuffled": lambda holder, value: isinstance(
        value, list) and len(value) > 1}


def edited(data, tree):
    """A tree with one edit that is drawn, and where it is."""
    tree = copy.deepcopy(tree)
    kind = data.draw(draw.sampled_from([*KINDS, "scaled", "scaled", "other"]), "kind")
    fits = [where for where in leaves(tree) if KINDS[kind](at(tree, where[:-1]), at(tree, where))]
    top = data.draw(draw.sampled_from(list(dict.fromkeys(where[0] for where in fits))), "section")
    where = data.draw(draw.sampled_from([where for where in fits if where[0] == top]), "where")
    holder, key = at(tree, where[:-1]), where[-1]
    value = holder[key]
    if kind == "odd":
        holder[key] = data.draw(draw.sampled_from(ODD), "value")
    elif kind == "other":                                   # what stands at another place, of the same type
        alike = [place for place in leaves(tree) if type(at(tree, place)) is type(value)]
        holder[key] = copy.deepcopy(at(tree, data.draw(draw.sampled_from(alike), "from")))
    elif kind == "left out":
        del holder[key]
    elif kind == "renamed":
        holder[f"{key}{data.draw(draw.sampled_from(['s', '_', '2', ' ']), 'more')}"] = holder.pop(key)
    elif kind == "added":
        value.insert(0, data.draw(draw.sampled_from(ODD), "value"))
    elif kind == "scaled":
        holder[key] = value * data.draw(draw.sampled_from([-1, 0.1, 0.5, 2, 3, 1000]), "factor")
    else:
        value.reverse()
    return tree, where


@contextlib.contextmanager
def written(suite, text):
    before = file_of(suite).read_text()
    file_of(suite).write_text(text)
    try:
        yield
    finally:
        file_of(suite).write_text(before)


def check_sentence(said, where, suite):
    """One line, that names a key of the place, or what stands there, and is no dump."""
    assert "\n" not in said and len(said) < 1500, said
    keys = [str(key) for key in where if not isinstance(key, int)]
    assert any(key in said for key in keys) or str(file_of(suite)) in said, (said, where)


@pytest.mark.parametrize("suite", ALL)
@given(data=draw.data())
def test_an_edit_is_refused_with_its_key_or_trains(suite, place, data):
    original = yaml.safe_load(file_of(suite).read_text())
    tree, where = edited(data, original)
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    note(f"{suite}: {where}")
    with written(suite, text):
        try:
            found = resolve.everything(suite)
        except errors.UserError as refused:
            event("refused")
            return check_sentence(str(refused), where, suite)
        if suite != "rooms":
            return event("accepted")
        changed = differing(found)
        event(f"accepted, {'a run' if changed else 'no run'} changed")
        if changed:
            step_of(changed)


def differing(found):
    """The first training row that is not as `trained` has it; None where only other things are."""
    for name, now in found.items():
        file = pathlib.Path("out/rooms/rows") / name
        if name.startswith("train/") and (not file.exists() or yaml.safe_load(file.read_text()) != now):
            return name, now
    return None


def step_of(changed):
    """One training step of a row, on the prepared data; teachers that no longer fit are told."""
    name, now = changed
    if now["data"] != yaml.safe_load(pathlib.Path("out/rooms/rows/prepare/data.yaml").read_text())["data"]:
        return event("other data")
    torch.manual_seed(0)
    try:
        run = Run(now, pathlib.Path(name).stem)
        batch = next(epoch.batches(run, 0))
        sums = Sums(1)
        sums.add(0, *epoch.train_step(run, batch, run.lr(0, 0), 0.0, Record(run.tasks)))
        assert sums.last.isfinite().all() or "lr" in name
    except errors.UserError as refused:
        event("told at the start of the run")
        assert "\n" not in str(refused)
