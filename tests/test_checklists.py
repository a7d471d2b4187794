"""The checklists at the end of pipeline/README.md, followed: their code and their lines of params.yaml are taken from
the page and put into a copy of the project; what the steps say is done there, and what they promise is looked for.

What each kind of addition costs, in files and lines, is counted, so that a growing cost is seen.
"""

import ast
import collections
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, command, enter, shipped, smoke, use_dvc
from test_new_task import SHADE

from models.network import Head
from pipeline import plan, rows, tasks
from pipeline.config import params, reading, resolve, targets
from pipeline.config import smoke as smallest
from pipeline.loop.curve import read
from pipeline.runtime.errors import UserError
from pipeline.tasks import base
from pipeline.tasks.metrics import Metric

PAGE = (ROOT / "pipeline/README.md").read_text()
# The most that an addition may cost: lines of code that are not blank, and lines of params.yaml, written or changed.
MOST = {"balancer": (13, 2), "data set": (18, 3), "network": (26, 6), "task": (25, 0), "suite": (0, 6)}
WHOLE_SUITE = 90         # lines of the whole params.yaml of a suite that is begun from the nearest, without blank ones
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


# -- the page

def steps(kind):
    """The numbered steps of a checklist, with what stands below the last."""
    section = PAGE.split(f"\n## Checklist: a {kind}\n")[1].split("\n## ")[0]
    return re.split(r"^\d+\. ", section, flags=re.M)[1:]


def blocks(step):
    """The indented blocks of a step."""
    return [textwrap.dedent(block) + "\n" for block in re.findall(r"^ {7}.*(?:\n+ {7}.*)*", step, re.M)]


def words(text):
    """A text in one line, however it is wrapped."""
    return " ".join(text.split())


def told(step, pattern):
    """What a step says where the pattern's group is."""
    found = re.search(pattern, words(step))
    assert found, f"the page's step no longer says {pattern}:\n{step}"
    return found[1]


def added(kind):
    """The files that a checklist says to add, tests apart."""
    return [file for step in steps(kind) for file in re.findall(r"Add `([^`]+)`", words(step))
            if not file.startswith("tests/")]


def runs(kind):
    """(group, model, row, seed) of what a checklist says to train."""
    return re.findall(r"`dvc repro (\w+)@(\w+)-([\w-]+)-(\d+)`", words("".join(steps(kind))))


def commands(kind):
    """The `python -m` commands of a checklist."""
    quoted = re.findall(r"`([^`]*python -m [^`]*)`", words("".join(steps(kind))))
    return [line.removeprefix("python -m ") for one in quoted for line in one.split(" && ")]


# -- the copy

@pytest.fixture
def project(tmp_path, monkeypatch):
    """A copy of the project, without its tests, as the working folder."""
    for name in ("pipeline", "models", "kernels"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "dvc.lock"))
    for name in ("params.yaml", "dvc.yaml", "Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    enter(tmp_path, monkeypatch)
    return tmp_path


def files(root):
    """{path: bytes} of what is no output."""
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()
            and file.suffix != ".pyc" and file.relative_to(root).parts[0] not in ("out", "edits", ".venv", ".work")}


def touched(before, after):
    return {name for name in before.keys() | after if before.get(name) != after.get(name)}


def resolved(suite):
    """{path: text} of a suite's rows, from the parameters in the working folder and the project's own code."""
    return {path: reading.text(row) for path, row in resolve.everything(suite).items()}


def written(folder):
    """{path: text} of the rows in a folder."""
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*.yaml")}


def put(text, pattern, new):
    """A text with the one place that fits the pattern replaced; `\\1` is its first group."""
    text, number = re.subn(pattern, new, text, flags=re.M)
    assert number == 1, f"{pattern} is there {number} times"
    return text


def listed(text, group, key, name):
    """params.yaml with a name more in a list of a group."""
    return put(text, rf"^({group}:.*\n(?:  .*\n)*?  {key}: \[[^]]*)", rf"\1, {name}")


def under(text, section, line, indent=2):
    """params.yaml with a line more at the top of a section, whose pattern is given."""
    return put(text, rf"^({section}\n)", rf"\1{' ' * indent}{line}\n")


def counted(kind, code, before, after):
    """Count the lines of an addition; more than `MOST` fails."""
    code = sum(bool(line.strip()) for line in code.splitlines())
    more = (collections.Counter(after.splitlines()) - collections.Counter(before.splitlines())).total()
    assert code <= MOST[kind][0] and more <= MOST[kind][1], (
        f"a {kind} now takes {code} lines of code and {more} of params.yaml; at most {MOST[kind]}")


# -- a balancer, a data set and a network, one after another in one copy

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


def test_a_balancer_a_data_set_and_a_network(project):
    """One test, since the run behind it takes seconds."""
    text = smoke(shipped("rooms"))
    (project / "params.yaml").write_text(text)
    before, untouched = files(project), resolved("rooms")
    (project / "edits").mkdir()
    names, new = {}, set()
    for place, (kind, follow) in enumerate(zip(KINDS, (balancer, data_set, network), strict=True)):
        names[kind], code, texts = follow(text)
        file, = added(kind)
        new.add(file := file.replace("<name>", names[kind]))
        assert file not in before
        (project / file).write_text(code)
        counted(kind, code, text, texts[-1])
        for part, text in enumerate(texts, 1 - len(texts)):
            (project / f"edits/{place}{'b' if part == 0 else 'a'} {kind}.yaml").write_text(text)

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
    done = command(*lines, "pipeline.table rooms table2", code=FOLLOW, cwd=project, PYTHONPATH=str(project))
    assert done.returncode == 0, done.stdout + done.stderr

    # -- a file each, and params.yaml
    assert touched(before, files(project)) == new | {"params.yaml"}
    # -- torch-free as far as the rows; what does not fit together is refused, with the reason
    assert "torch was imported: False" in done.stdout
    assert re.findall("refused: (.*)", done.stdout) == ["1a data set", "2a network"]
    assert "`teacher.rows` has 'normal', but `data: plain` has semantic, depth" in done.stderr
    assert "but shallow has only `last`" in done.stderr

    # -- new rows are the balancer's and the network's own, and no other run changes but for its taps
    after = [written(project / f"edits/{place}b {kind}") for place, kind in enumerate(KINDS)]
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
    assert model.last_shared().dim() == 4 and id(model.last_shared()) in map(id, shared)
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


# -- a task

def methods(code):
    """{name: its code} of the functions and methods of a module."""
    return {node.name: ast.unparse(node) for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef)}


def test_a_task():
    """Its block has the facts and the methods that a task needs, and measures what it says; tests/test_new_task.py
    takes the same task, with a costly metric more, as far as the table."""
    first = steps("task")[0]
    block, = blocks(first)
    counted("task", block, "", "")
    assert added("task") == ["pipeline/tasks/<name>.py"]
    assert "`tests/test_new_task.py` is this checklist as a test" in words(steps("task")[-1])

    # -- facts and methods: those that must be there, under their names, and those that may
    space = {}
    exec(compile(block, "the page's task", "exec"), space)
    stated = {name: value for name, value in space.items() if name.isupper()}
    assert {"TARGET", "METRICS", "COLOUR"} <= stated.keys() <= {field.upper() for field in tasks.Facts._fields}
    own = {name for name, value in vars(space["Task"]).items() if callable(value)}
    assert own == base.Task.__abstractmethods__ and len(own) == 4 and "These four methods must be there" in first
    offered = told(first, r"The others have a default in `pipeline/tasks/base.py`: (.*?)\. ")
    assert all(hasattr(base.Task, name) for name in re.findall(r"`(\w+)`", offered))
    page, whole = methods(block), methods(SHADE)
    assert page.keys() <= whole.keys() and all(page[name] == whole[name] for name in ("loss", "apart", "measure"))
    kept = {}
    exec(SHADE, kept)
    assert all(kept[name] == space[name] for name in ("TARGET", "COLOUR"))
    assert all(kept["METRICS"][key] == value for key, value in space["METRICS"].items())

    # -- loss and metrics, of five images in batches of two, the third batch without a valid pixel
    task = space["Task"](tasks.Facts("shade", **{name.lower(): value for name, value in stated.items()}))
    metric, = (Metric(task="shade", **value) for value in space["METRICS"].values())
    assert metric.better == -1 and task.channels({}) == 1
    draw = torch.Generator().manual_seed(0)
    target = torch.rand(5, 1, 4, 6, generator=draw) + 0.1
    target[torch.rand(target.shape, generator=draw) < 0.3] = 0
    target[4] = 0
    prediction = torch.rand(5, 1, 4, 6, generator=draw, requires_grad=True)
    valid, error = target != 0, (prediction - target).abs()
    loss = task.loss(prediction, {"shade": target}, "own")
    assert torch.allclose(loss, error[valid].mean())
    loss.backward()
    assert (prediction.grad[~valid] == 0).all() and (prediction.grad[valid] != 0).all()
    images, pooled = task.measure(prediction.detach(), {"shade": target}, 1, 2)
    official, dataset = task.summarise(images, pooled, 1, 2)
    means = [error[first:first + 2][valid[first:first + 2]].mean().item() for first in (0, 2)]
    assert official == pytest.approx([np.mean(means)], rel=1e-5)
    assert dataset == pytest.approx([error[valid].mean().item()], rel=1e-5)


# -- a suite

def made(*names, cwd):
    """`make names` in a copy, whose environment is this one."""
    (cwd / ".venv").mkdir(exist_ok=True)
    (cwd / ".venv/ready").touch()
    path = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE") and key != "MFLAGS"}
    return subprocess.run(["make", *names], cwd=cwd, capture_output=True, text=True, env=environment | {"PATH": path})


def test_a_suite(project, capsys):
    """In a copy with every suite, from the folder to the plan."""
    before, suites = files(project), list(params.files())
    others = {suite: resolved(suite) for suite in suites}
    first, second, third, _, fifth, sixth = steps("suite")
    subprocess.run(["sh", "-ec", *blocks(first)], check=True)
    name = told(blocks(first)[0], r"mkdir pipeline/suites/(\w+)")
    file = project / f"pipeline/suites/{name}/params.yaml"
    begun = text = file.read_text()
    for line in (blocks(second)[0] + blocks(third)[0]).splitlines():
        text = put(text, rf"^{line.partition(':')[0]}:.*", line)
    file.write_text(text)
    counted("suite", "", begun, text)
    whole = sum(bool(line.strip()) for line in text.splitlines())
    assert whole <= WHOLE_SUITE, f"a suite's params.yaml now has {whole} lines; at most {WHOLE_SUITE}"

    # -- what it lacks is said
    with pytest.raises(UserError, match=f"`paper` is pipeline/suites/{name}/paper.yaml, which is not there"):
        params.load(name)
    shutil.copy(told(fifth, r"`([^`]+/paper.yaml)` is a short one"), file.parent)
    params.load(name)
    with pytest.raises(UserError, match=f"{name}/dvc.yaml is not there.*`make suites`"):
        params.check_copies()

    # -- checked, listed, and its table is a make target
    target = told(sixth, r"`make tables`, which lists `([^`]+)`")
    done = made("suites", "params", "tables", cwd=project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"^{name} +laptop: streets, seeds \[0\]; .* baseline", done.stdout, re.M)
    assert re.search(rf"^  {target} +{name}$", done.stdout, re.M)
    assert targets.targets(target) == [f"pipeline/suites/{name}/dvc.yaml:table-main@{name}"]

    # -- its folder and no more: two files, and the paper's numbers
    assert touched(before, files(project)) == {
        f"pipeline/suites/{name}/{own}" for own in ("params.yaml", "dvc.yaml", "paper.yaml")}
    # -- it writes its rows, and those of the others stay
    rows.main(name)
    own = written(project / f"out/{name}/rows")
    assert own.keys() == {path.replace("table3", name) for path in others["streets"]}
    assert all(f"suite: {name}\n" in text for text in own.values()) and "heading: Yards" in own[f"table/{name}.yaml"]
    assert set(params.files()) == {*suites, name} and {suite: resolved(suite) for suite in suites} == others

    # -- DVC knows its stages
    use_dvc(project)
    capsys.readouterr()
    plan.main(name)
    planned = capsys.readouterr().out
    stages, of = map(int, re.match(r"(\d+) of (\d+) stages would run", planned).groups())
    assert stages == of > len(own) - 1 and f"{name}: table-main" in planned and "streets:" not in planned

    # -- without printed numbers
    real = put(file.read_text(), "^data: streets", "data: cityscapes")
    file.write_text(real)
    assert resolve.everything(name)[f"table/{name}.yaml"]["paper"]["models"]
    (file.parent / "paper.yaml").unlink()
    switch, = re.findall(r"put `(.*?)` beside the `heading`", words(fifth))
    real = put(real, "^paper: .*", "paper: pipeline/suites/streets/paper.yaml")
    file.write_text(put(real, r"heading: Yards,", rf"heading: Yards, {switch},"))
    assert resolve.everything(name)[f"table/{name}.yaml"]["paper"] is None
    assert {own.name for own in file.parent.iterdir()} == {"params.yaml", "dvc.yaml"}

    # -- `make smoke` takes it
    smallest.main()
    assert (params.load(name).protocol, params.load(name).data) == ("smoke", "streets")
