"""Three checklists of pipeline/README.md, followed: a balancer's, a data set's and a network's. Their code and their
lines of params.yaml are taken from the page and put into a copy of the project; what the steps say is done there, and
what they promise is looked for. tests/test_new_task.py and tests/test_new_suite.py follow the others.
"""

import ast
import importlib.util
import json
import pathlib
import re

import numpy as np
import pytest
import torch
import yaml
from checklists import (
    added,
    blocks,
    commands,
    counted,
    files,
    listed,
    put,
    resolved,
    runs,
    steps,
    told,
    touched,
    under,
    written,
)
from conftest import command, shipped, smoke

from models.network import Head
from pipeline.loop.curve import read

KINDS = ("balancer", "data set", "network")

# In one process, since one that imports torch takes seconds: params.yaml after each kind, then lines as of a shell.
FOLLOW = '''
import pathlib
import runpy
import shutil
import sys


def python(line):
    """`python -m <line>`, in this process."""
    sys.argv = line.split()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


lines = sys.argv[1:]
for file in sorted(pathlib.Path("edits").iterdir()):
    shutil.copy(file, "params.yaml")
    try:
        python("pipeline.config")
    except SystemExit:
        print("refused:", file.stem)
        continue
    python("pipeline.rows rooms")
    shutil.copytree("out/rooms/rows", f"edits/{file.stem}")
print("torch was imported:", "torch" in sys.modules)
for line in lines:
    python(line)
'''


def balancer(text):
    """The checklist's file, and params.yaml after it."""
    first, second, *_ = steps("balancer")
    row, = blocks(second)
    name = row.partition(":")[0]
    assert "`baseline.rows`" in second
    return name, blocks(first)[0], [listed(under(text, "methods:", row.strip()), "baseline", "rows", name)]


def data_set(text):
    first, second, *_ = steps("data set")
    section, data = told(second, r"to `datasets`, such as `([^`]+)`"), told(second, r"set `(data: \w+)`")
    text = put(under(text, "datasets:", section), r"^data: \w+", data)
    own = ast.literal_eval(re.search(r"^TASKS = (.*\))", blocks(first)[0], re.M)[1])
    fitting = put(text, r"^(teacher:.*\n  models: .*\n  rows: ).*", rf"\1[{', '.join(own)}]")
    return section.partition(":")[0], blocks(first)[0], [text, fitting]        # the page: the tasks of TASKS alone


def network(text):
    first, second, third, *_ = steps("network")
    options, training = (told(second, pattern) for pattern in (
        r"into `architectures`, such as `([^`]+)`", r"into the `train` of the protocol, such as `([^`]+)`"))
    name = options.partition(":")[0]
    for group in ("teacher", "baseline", "student"):
        text = listed(text, group, "models", name)
    text = under(text, "architectures:", options)
    text = put(text, r"^(  smoke:\n    data: .*\n    train:\n)", rf"\1      {training}\n")
    fitting = put(text, r"^(  ours:.*\n(?:    .*\n)*?    )taps: \[mid, last\]", rf"\1{told(third, 'Here `([^`]+)`')}")
    return name, blocks(first)[0], [text, fitting]                             # the page: taps that every network has


def test_a_balancer_a_data_set_and_a_network(checkout):
    """One test, since the run behind it takes seconds."""
    text = smoke(shipped("rooms"))
    (checkout / "params.yaml").write_text(text)
    before, untouched = files(checkout), resolved("rooms")
    (checkout / "edits").mkdir()
    names, new = {}, set()
    for place, (kind, follow) in enumerate(zip(KINDS, (balancer, data_set, network), strict=True)):
        names[kind], code, texts = follow(text)
        file, = added(kind)
        new.add(file := file.replace("<name>", names[kind]))
        assert file not in before
        (checkout / file).write_text(code)
        counted(kind, code, text, texts[-1])
        for part, text in enumerate(texts, 1 - len(texts)):
            (checkout / f"edits/{place}{'b' if part == 0 else 'a'} {kind}.yaml").write_text(text)

    # -- what the page says to call, and what the distilling row and the table need beside it
    trained = runs("balancer") + runs("network")
    shallow = names["network"]
    teachers = [("teacher", shallow, task, "0") for task in ("semantic", "depth")]
    lines = [line for line in commands("data set") if "pipeline.rows" not in line]
    assert lines == ["pipeline.prepare rooms", "pipeline.prepare montage rooms"]
    for run in (*teachers, *trained, ("student", shallow, "ours", "0")):
        lines.append(f"pipeline.train rooms {' '.join(run)}")
        lines += [f"pipeline.features rooms {' '.join(run)}"] * (run in teachers)
        lines.append(f"pipeline.evaluate rooms {' '.join(run)}")
    done = command(*lines, "pipeline.table rooms table2", code=FOLLOW, cwd=checkout, PYTHONPATH=str(checkout))
    assert done.returncode == 0, done.stdout + done.stderr

    # -- a file each, and params.yaml
    assert touched(before, files(checkout)) == new | {"params.yaml"}
    # -- torch-free as far as the rows; what does not fit together is refused, with the reason
    assert "torch was imported: False" in done.stdout
    assert re.findall("refused: (.*)", done.stdout) == ["1a data set", "2a network"]
    assert "`teacher.rows` has 'normal', but `data: plain` has semantic, depth" in done.stderr
    assert "but shallow has only `last`" in done.stderr

    # -- new rows are the balancer's and the network's own, and no other run changes but for its taps
    after = [written(checkout / f"edits/{place}b {kind}") for place, kind in enumerate(KINDS)]
    assert after[0].keys() - untouched.keys() == {
        f"{verb}/baseline/segnet-{names['balancer']}-s0.yaml" for verb in ("train", "evaluate")}
    assert touched(untouched, after[0]) - (after[0].keys() - untouched.keys()) == {
        "table/table2.yaml", "table/balancers.yaml"}
    more = after[2].keys() - after[1].keys()
    assert more and all(path.split("/")[-1].startswith(f"{shallow}-") for path in more)
    changed = touched(after[1], after[2]) - more
    assert changed and {path.rpartition("/")[0] for path in changed} <= {"table", "train/student", "train/ablation"}
    # -- the runs that the page names for DVC are rows
    assert trained == [("baseline", "segnet", names["balancer"], "0"), ("baseline", shallow, "uniform", "0")]

    of_balancer(names["balancer"])
    of_data_set(names["data set"])
    of_network(shallow)
    of_table(names)


def of_balancer(name):
    """It trained by its own weights: of its equation with power 1/2, the squares of two weights have inverses that add
    up to 2, in each step."""
    folder = pathlib.Path(f"out/rooms/baseline/segnet-{name}-s0")
    method = yaml.safe_load((folder / "run.yaml").read_text())["method"]
    assert method["balancer"] == name and method["options"] == {"power": 0.5}
    curve, _ = read(folder, "")
    losses = [[line[f"loss_{task}"] for task in ("semantic", "depth")] for line in curve]
    assert len(losses) == 2 and np.isfinite(losses).all()
    lines = (folder / "balance.csv").read_text().splitlines()
    for line in lines[1:]:
        values = dict(zip(lines[0].split(","), map(float, line.split(",")), strict=True))
        weights = np.array([values["weight_semantic"], values["weight_depth"]])
        assert abs(weights - 1).min() > 0.01 and (weights ** -2).sum() == pytest.approx(2, rel=0.02)


def of_data_set(name):
    """Its images and targets are stored, listed and drawn."""
    folder = pathlib.Path("out/rooms/data")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["data"], manifest["options"]) == (name, {"seed": 0})
    assert manifest["classes"] == {"semantic": ["dark", "bright"]}
    assert manifest["stored"] == {"image": "uint8", "label": "int8", "depth": "float16"}
    for split, number in (("train", 8), ("test", 4)):
        image, label, depth = (np.load(folder / split / f"{kind}.npy") for kind in ("image", "label", "depth"))
        assert len(image) == len(manifest["ids"][split]) == number and image.std() > 50
        assert ((image[..., 0] > 127) == label).all()
        assert np.allclose(depth.squeeze(), 1 + image[..., 1] / 255, atol=0.01)
    assert len(np.unique(np.load(folder / "train/image.npy"), axis=0)) == 8
    assert pathlib.Path("out/rooms/montage.png").read_bytes()[:4] == b"\x89PNG"


def of_network(name):
    """Runs of it have its options and their layers, with and without teachers."""
    for group, row in (("baseline", "uniform"), ("student", "ours")):
        folder = pathlib.Path(f"out/rooms/{group}/{name}-{row}-s0")
        run = yaml.safe_load((folder / "run.yaml").read_text())
        assert (run["model"], run["architecture"], run["train"]["epochs"]) == (name, {"layers": 3}, 2)
        states = torch.load(folder / "weights.pt", weights_only=True)["last"]
        assert len([key for key in states if re.fullmatch(r"trunk\.\d\.0\.weight", key)]) == 3
        assert {key.split(".")[1] for key in states if key.startswith("heads.")} == {"semantic", "depth"}
        curve, _ = read(folder, "")
        for task in ("semantic", "depth"):
            assert curve[1][f"loss_{task}"] < curve[0][f"loss_{task}"]
            assert group == "baseline" or run["method"]["taps"] == ["last"] and curve[1][f"distance_{task}"] > 0

    # -- what other balancers and distillation ask of it
    spec = importlib.util.spec_from_file_location(name, f"models/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.Model({"a": Head(2), "b": Head(1)}, 0.25)
    shared, own = model.shared_parameters(), {task: model.task_parameters(task) for task in "ab"}
    places = [id(one) for part in (shared, *own.values()) for one in part]
    assert sorted(places) == sorted(map(id, model.parameters())) and len(set(places)) == len(places)
    assert all(id(one) in map(id, shared) for one in model.last_shared()) and model.last_shared()[0].dim() == 4
    assert all(model.first_own(task) is own[task][0] for task in "ab")
    predictions, features = model(torch.rand(2, 3, module.SMALLEST, 16))
    assert {task: tuple(one.shape) for task, one in predictions.items()} == {"a": (2, 2, 8, 16), "b": (2, 1, 8, 16)}
    assert all({tap: one.shape[1] for tap, one in features[task].items()} == model.tap_channels for task in "ab")
    assert tuple(model.tap_channels) == module.TAPS
    with pytest.raises(ValueError, match=f"at least {module.SMALLEST}"):
        model(torch.rand(2, 3, module.SMALLEST - 1, 16))


def of_table(names):
    """The table has the balancer's row, the data set's title and the network's block; the runs that it lacks are those
    that were not trained here."""
    text = pathlib.Path("out/tables/table2.md").read_text()
    caption, *parts = text.split("\n## ")
    assert "Data: plain walls (`plain`), 8 training and 4 test images of 32x64; not NYUv2, so" in caption
    assert re.search(r"Protocol `smoke`: .*; Shallow 2 epochs of batch 4, .*\(layers 3\)", caption)
    assert "Steady: power 0.5" in caption
    assert any(part.startswith("Shallow, official protocol") for part in parts)
    cells = json.loads(pathlib.Path("out/tables/table2.json").read_text())["cells"]
    shown = {(cell["model"], cell["method"]) for cell in cells if cell["metric"] == "miou_pct" and cell["n"] == 1
             and 0 <= cell["mean"] <= 100}
    shallow = names["network"]
    assert shown == {("segnet", names["balancer"]), (shallow, "stl"), (shallow, "uniform"), (shallow, "ours")}
