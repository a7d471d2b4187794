"""What is damaged, edited or another run's: the verb that reads it ends with a sentence that names it, or with the same
numbers; never with a traceback, never with other numbers.

`corruptions` gives the damage of each kind of file, `READERS` the verb that meets it. Each file has some of it here,
the same every time; `make test-faults` does all that it gives.
"""

import csv
import io
import json
import pathlib
import pickle
import random
import re
import shutil

import hypothesis
import numpy as np
import pytest
import torch
import yaml
from conftest import change, enter

from pipeline import data, evaluate, features, rows, table, train
from pipeline.loop import checkpoint
from pipeline.runtime import documents, row
from pipeline.runtime.errors import UserError
from pipeline.teachers import store

BASELINE, STUDENT = ("baseline", "segnet", "uniform", "0"), ("student", "segnet", "ours", "0")
TEACHER = ("teacher", "segnet", "depth", "0")
# a file, the verb that reads it, its words, and the same file of another run
READERS = {
    "rows/train/baseline/segnet-uniform-s0.yaml": (train, BASELINE, "rows/train/student/segnet-ours-s0.yaml"),
    "rows/features/teacher/segnet-depth-s0.yaml": (features, TEACHER, "rows/train/teacher/segnet-depth-s0.yaml"),
    "rows/evaluate/baseline/segnet-uniform-s0.yaml": (evaluate, BASELINE, "rows/evaluate/student/segnet-ours-s0.yaml"),
    "rows/table/table2.yaml": (table, ("table2",), "rows/table/table4.yaml"),
    "data/manifest.json": (train, BASELINE, "teacher/segnet-depth-s0/cost.json"),
    "data/train/image.npy": (train, BASELINE, "data/test/image.npy"),
    "data/test/depth.npy": (evaluate, BASELINE, "data/train/depth.npy"),
    "teacher/segnet-depth-s0/weights.pt": (features, TEACHER, "teacher/segnet-semantic-s0/weights.pt"),
    "baseline/segnet-uniform-s0/weights.pt": (evaluate, BASELINE, "student/segnet-ours-s0/weights.pt"),
    "baseline/segnet-uniform-s0/curve.csv": (evaluate, BASELINE, "student/segnet-ours-s0/curve.csv"),
    "baseline/segnet-uniform-s0/balance.csv": (evaluate, BASELINE, "student/segnet-ours-s0/balance.csv"),
    "baseline/segnet-uniform-s0/run.yaml": (evaluate, BASELINE, "student/segnet-ours-s0/run.yaml"),
    "baseline/segnet-uniform-s0/cost.json": (evaluate, BASELINE, "student/segnet-ours-s0/cost.json"),
    "features/segnet-s0/depth.json": (train, STUDENT, "features/segnet-s0/normal.json"),
    "bulk/manifest.json": (train, STUDENT, "other/manifest.json"),
    "bulk/last.npy": (train, STUDENT, "other/last.npy"),
    "metrics/baseline/segnet-uniform-s0.json": (table, ("table2",), "metrics/student/segnet-ours-s0.json")}
RESULTS = {train: ("{0}/{1}-{2}-s{3}/weights.pt", "{0}/{1}-{2}-s{3}/curve.csv"), table: ("../tables/{0}.csv",),
           features: ("features/{1}-s{3}/{2}.json",), evaluate: ()}


def corruptions(file, payload, other, draw):
    """(what was done, bytes) of a file's damaged forms. payload, other: its bytes and another run's; draw: a Random."""
    yield from {"empty": b"", "cut in half": payload[:len(payload) // 2], "cut by one": payload[:-1],
                "zeros": bytes(len(payload)), "another run's": other, "no text": b"\xff\xfe" + payload}.items()
    for place in sorted({0, len(payload) - 1, *(draw.randrange(len(payload)) for _ in range(6))}):
        flipped = bytearray(payload)
        flipped[place] ^= 1 << draw.randrange(8)
        yield f"byte {place} flipped", bytes(flipped)
    yield from {".json": of_document, ".yaml": of_document, ".csv": of_curve, ".npy": of_array, ".pt": of_weights}[
        pathlib.Path(file).suffix](file, payload)


def of_document(file, payload):
    load, dump = (json.loads, json.dumps) if file.endswith(".json") else (yaml.safe_load, yaml.safe_dump)
    for value in ({}, [], None, "", 0, [{}], {"seal": "0"}):
        yield f"holds {value!r}", dump(value).encode()
    for path, value in leaves(load(payload)):
        where = ".".join(map(str, path))
        yield f"{where} is missing", dump(put(load(payload), path)).encode()
        for wrong in (None, [], {}, "../../..", -1, float("nan"), True):
            if type(wrong) is not type(value) or wrong != value:
                yield f"{where} is {wrong!r}", dump(put(load(payload), path, wrong)).encode()


def leaves(tree, above=(), depth=2):
    """(path, value) of the keys of a tree, of each list's first item too, as deep as `depth`."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree[:1]):
        yield (*above, key), value
        if isinstance(value, dict | list) and depth > 1:
            yield from leaves(value, (*above, key), depth - 1)


def put(tree, path, *value):
    """The tree with another value at a path, or without that key."""
    inner = tree
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    if value:
        inner.insert(path[-1], *value) if isinstance(inner, list) else inner.update({path[-1]: value[0]})
    return tree


def of_curve(_, payload):
    lines = list(csv.DictReader(io.StringIO(payload.decode())))
    def text(rows):
        out = io.StringIO()
        writer = csv.DictWriter(out, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue().encode()
    for column in lines[0]:
        yield f"without {column}", text([{key: x for key, x in line.items() if key != column} for line in lines])
        for value in ("nan", "", "x", "inf", "1e-9"):
            yield f"{column} is {value!r}", text([lines[0] | {column: value}, *lines[1:]])
    yield "without a row", text(lines[:-1])
    yield "rows the other way", text(lines[::-1])
    yield "without rows", payload.splitlines(keepends=True)[0]


def of_array(_, payload):
    array = np.load(io.BytesIO(payload))
    for what, changed in {"other shape": array.reshape(-1), "turned": array.swapaxes(1, 2), "one less": array[:-1],
                          "other type": array.astype(np.float64), "nan": np.full(array.shape, np.nan, np.float16),
                          "one value": np.where(np.arange(array.size).reshape(array.shape) == 7, 0.5, array).astype(
                              array.dtype), "shuffled": array[::-1], "objects": np.array([{}], object)}.items():
        out = io.BytesIO()
        np.save(out, changed)
        yield what, out.getvalue()
    for old, new in ((b"'descr'", b"'de'cr'"), (b"(", b"(("), (b"False", b"True "), (b"NUMPY", b"NUMPX")):
        yield f"header {old} {new}", payload.replace(old, new, 1)


class Code:
    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path("touched"),)


def of_weights(_, payload):
    states = torch.load(io.BytesIO(payload), weights_only=True)
    def changed(change):
        return {name: {key: change(x) if i == 0 else x for i, (key, x) in enumerate(state.items())}
                for name, state in states.items()}
    for what, value in {"{}": {}, "[]": [], "None": None, "text": "", "empty states": dict.fromkeys(states, {}),
                        "other shape": changed(lambda x: x[:1]), "nan": changed(lambda x: x * torch.nan),
                        "other type": changed(torch.Tensor.double), "scaled": changed(lambda x: x * 1.01),
                        "lists": changed(torch.Tensor.tolist)}.items():
        out = io.BytesIO()
        torch.save(value, out)
        yield what, out.getvalue()
    for name in states:
        out = io.BytesIO()
        torch.save({key: state for key, state in states.items() if key != name}, out)
        yield f"without {name}", out.getvalue()
    yield "code", pickle.dumps(Code())


@pytest.fixture(scope="module")
def whole(trained, tmp_path_factory):
    """A copy of `trained` that is whole before and after each test: they put back what they damage."""
    place = tmp_path_factory.mktemp("faults") / "copy"
    shutil.copytree(trained, place)
    with pytest.MonkeyPatch.context() as patches:
        enter(place, patches)
        rows.main("rooms")
        table.main("rooms", "table2")
        yield place


def place_of(file):
    chosen = row.read("train", "rooms", "student", "segnet-ours-s0")
    for name, task in (("bulk/", "depth"), ("other/", "normal")):
        if file.startswith(name):
            return store.BULK / store.identity(chosen, task) / file.removeprefix(name)
    return pathlib.Path("out/rooms", file)


def results(verb, words):
    """What a verb's numbers are, timings apart."""
    if verb is evaluate:
        return documents.read(place_of(f"metrics/{words[0]}/{words[1]}-{words[2]}-s{words[3]}.json"), str)["rules"]
    return [place_of(name.format(*words)).read_bytes() for name in RESULTS[verb]]


def damage(file, draw):
    """All that `corruptions` does to one of `READERS` in the working folder."""
    return list(corruptions(file, place_of(file).read_bytes(), place_of(READERS[file][2]).read_bytes(), draw))


def told_or_harmless(file, what, damaged):
    """The sentence in which a file's reader ends with these bytes; None where its results are as before."""
    verb, words, _ = READERS[file]
    path, before = place_of(file), results(verb, words)
    payload = path.read_bytes()
    path.write_bytes(damaged)
    try:
        verb.main("rooms", *words)
    except UserError as mistake:
        said = str(mistake)
        assert re.search(rf"^{re.escape(str(path))} .*; (run `|remove .* and run the same)", said), (file, what, said)
        return said
    except Exception as mistake:
        raise AssertionError(f"{file}, {what}: a traceback") from mistake
    finally:
        path.write_bytes(payload)
    assert results(verb, words) == before, (file, what)


@pytest.mark.parametrize("file", READERS)
def test_damage_is_a_sentence_or_changes_nothing(whole, file):
    some = hypothesis.settings().max_examples
    draw = random.Random(file if some < 100 else None)
    found = damage(file, draw)
    said = {what: told_or_harmless(file, what, damaged) for what, damaged in draw.sample(found, min(some, len(found)))}
    assert len(harmless := [what for what, told in said.items() if not told]) <= 2, harmless
    assert not pathlib.Path("touched").exists()
    assert told_or_harmless(file, "nothing", place_of(file).read_bytes()) is None


def test_what_an_older_version_sealed_is_told_by_its_keys(whole):
    for file, wanted in {"data/manifest.json": data.MANIFEST, "features/segnet-s0/depth.json": store.TRACKED,
                         "bulk/manifest.json": store.MANIFEST, "baseline/segnet-uniform-s0/cost.json": documents.COST,
                         "metrics/baseline/segnet-uniform-s0.json": table.METRICS_FILE}.items():
        path = place_of(file)
        payload, document = path.read_bytes(), documents.read(path, str)
        for key in wanted:
            for changed in ({name: value for name, value in document.items() if name != key}, document | {key: None}):
                documents.write(path, changed)
                with pytest.raises(UserError, match=rf"^{path} is damaged \(it(s| has no) `{key}`.*\); remedy$"):
                    documents.read(path, lambda: "remedy", wanted)
        path.write_bytes(payload)


@pytest.mark.parametrize("taken, place", [
    ("student/segnet-ours-s0", "baseline/segnet-uniform-s0"), ("other", "bulk")])
def test_another_runs_folder_is_told_whole_as_it_is(whole, taken, place):
    """Its files are of one another, but not of this place."""
    file = "bulk/manifest.json" if place == "bulk" else f"{place}/cost.json"
    folder = place_of(file).parent
    kept = shutil.move(folder, f"{folder}.kept")
    shutil.copytree(place_of(f"{taken}/manifest.json").parent, folder)
    verb, words, _ = READERS[file]
    with pytest.raises(UserError, match=f"^{folder}/.*json is damaged .*or belongs elsewhere.*{folder}"):
        verb.main("rooms", *words)
    shutil.rmtree(folder)
    verb.main("rooms", *words) if place == "bulk" else shutil.move(kept, folder)       # the remedy; the same bits
    if place == "bulk":
        assert [(folder / f"{tap}.npy").read_bytes() for tap in ("mid", "last")] == [
            (pathlib.Path(kept) / f"{tap}.npy").read_bytes() for tap in ("mid", "last")]


@pytest.mark.parametrize("progress", ["{}", "[]", "null", '{"images": 4, "crc32": {}, "energy": {}, "seal": "0"}'])
def test_features_begin_anew_where_their_progress_is_damaged(whole, progress):
    folder = place_of("bulk/manifest.json").parent
    before = (folder / "last.npy").read_bytes()
    partial = folder.rename(f"{folder}.partial")
    (partial / "manifest.json").unlink()
    (partial / "progress.json").write_text(progress)
    (partial / "last.npy").write_bytes(before[:100])
    features.main("rooms", *TEACHER)
    assert (folder / "last.npy").read_bytes() == before and not partial.exists()


def test_data_prepared_otherwise_are_not_trained_on(whole):
    before = pathlib.Path("params.yaml").read_text()
    change(("noise: 0.01", "noise: 0.04"))
    rows.main("rooms")
    for verb, words in ((train, BASELINE), (evaluate, BASELINE), (features, TEACHER)):
        with pytest.raises(UserError, match="out/rooms/data was prepared with the options .*0.01.*0.04.*repro prepare"):
            verb.main("rooms", *words)
    pathlib.Path("params.yaml").write_text(before)
    rows.main("rooms")


def test_metrics_that_no_row_asks_for_stop_no_table(whole):
    old = place_of("metrics/baseline/segnet-gone-s0.json")
    old.write_text("{}")
    table.main("rooms", "table2")
    old.unlink()


def test_another_runs_state_is_passed_over(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    mine, theirs = (checkpoint.Checkpoint(name, "f") for name in ("mine", "theirs"))
    theirs.save({"epoch": 7})
    mine.save({"epoch": 1})
    shutil.copy(theirs.folder / "last.state", mine.folder)
    assert mine.load() is None and "last.state is damaged" in capsys.readouterr().err


def test_a_damaged_lambda_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = pathlib.Path("out/search/lambda.json")
    documents.write(file, {"lenet": "4-4"})
    for what, damaged in corruptions(str(file), file.read_bytes(), b'{"lenet": "1-1"}', random.Random(0)):
        file.write_bytes(damaged)
        try:
            assert row.found(file, "lenet") == "4-4", what
        except UserError as told:
            assert re.search("^out/search/lambda.json is damaged .*; run `make search-lambda`$", str(told)), what
