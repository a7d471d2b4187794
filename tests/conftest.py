"""Working folders for tests: suites' params.yaml at smoke size, rows written from them, verbs run on those."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

os.environ["OMP_NUM_THREADS"] = "1"      # before torch: tiny networks lose more by waiting than two threads gain

import hypothesis  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402

if not torch.cuda.is_available():        # before a kernel is defined: Triton's interpreter runs it on the CPU
    os.environ["TRITON_INTERPRET"] = "1"

# `make test` draws the same few examples each time, `make test-faults` many new ones: tests/test_faults_*.py.
EXAMPLES = {"max_examples": 12, "deadline": None, "database": None, "suppress_health_check": list(
    hypothesis.HealthCheck)}
hypothesis.settings.register_profile("few", derandomize=True, **EXAMPLES)
hypothesis.settings.register_profile("many", **EXAMPLES | {"max_examples": 250})
hypothesis.settings.load_profile("few")

ROOT = pathlib.Path(__file__).resolve().parent.parent
SUITES = sorted(path.parent.name for path in (ROOT / "pipeline/suites").glob("*/params.yaml"))


def pytest_addoption(parser):
    parser.addoption("--shard", metavar="I/N", help="every N-th test from the I-th on: for a machine without xdist")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    if shard := config.getoption("--shard"):
        first, of = map(int, shard.split("/"))
        items[:] = items[first::of]


def pytest_runtest_setup(item):
    """What the mark `native` says needs the compiled kernels; nothing is compiled for tests that are not run."""
    if item.get_closest_marker("native"):
        from kernels.native import build

        if reason := build.why_not():
            pytest.skip(reason)


def shipped(suite):
    """A suite's params.yaml as the project has it."""
    return (ROOT / file_of(suite)).read_text()


def file_of(suite):
    return pathlib.Path("params.yaml" if suite == "rooms" else f"pipeline/suites/{suite}/params.yaml")


def smoke(text):
    """A suite's parameters at their smallest, of rooms one baseline."""
    text = re.sub(r"^protocol: \w+", "protocol: smoke", text, flags=re.M)
    return text.replace("rows: [uniform, uncert, dwa, mgda, gradnorm, gs]", "rows: [uniform]")


def heads(channels):
    """{task: width of its head} -> as a network takes its tasks, with their activations."""
    from models.network import Head
    from pipeline import tasks

    return {task: Head(width, tasks.load(task).activate) for task, width in channels.items()}


@pytest.fixture(autouse=True)
def verbs_leave_no_determinism_behind():
    """A verb switches torch's deterministic mode on for its process; a test's process runs many."""
    yield
    torch.set_deterministic_debug_mode(0)


@pytest.fixture
def params_text():
    return shipped("rooms")


def enter(place, patches):
    """Make `place` the working folder, with nothing chosen in the environment."""
    patches.chdir(place)
    for name in ("DEVICE", "FEATURES", "KERNELS"):
        patches.delenv(name, raising=False)


def lay(place):
    """Every suite's smoke parameters, and what the papers print, in a folder."""
    for suite in ("rooms", *SUITES):
        (place / file_of(suite)).parent.mkdir(parents=True, exist_ok=True)
        (place / file_of(suite)).write_text(smoke(shipped(suite)))
    for paper in (ROOT / "pipeline").rglob("paper.yaml"):
        (place / paper.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(paper, place / paper.relative_to(ROOT))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder with the suites' smoke parameters; nothing has run."""
    enter(tmp_path, monkeypatch)
    lay(tmp_path)
    return tmp_path


def change(*pairs, suite="rooms"):
    """Replace words in a suite's params.yaml in the working folder; each must be there."""
    text = file_of(suite).read_text()
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new, 1)
    file_of(suite).write_text(text)


def method(name, **changes):
    """Make a method of the rooms the only student, with some of its keys changed."""
    tree = yaml.safe_load(pathlib.Path("params.yaml").read_text())
    tree["student"]["rows"] = [name]
    tree["methods"][name] |= {key: yaml.safe_load(str(value)) for key, value in changes.items()}
    pathlib.Path("params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))


def row_of(suite, group, model, name, seed="0"):
    """A run's resolved row, from the parameters in the working folder."""
    from pipeline.config import params, resolve

    return resolve.train(params.load(suite), group, model, name, int(seed))


def folder_of(suite, model, name, seed=0):
    """Where a run leaves its results; its group is that of its row."""
    row = next(pathlib.Path(f"out/{suite}/rows/train").glob(f"*/{model}-{name}-s{seed}.yaml"))
    return pathlib.Path(f"out/{suite}/{row.parent.name}/{row.stem}")


def run(verb, suite, *words):
    """A verb's `main` on a suite, after its rows were written from the parameters in the working folder."""
    from pipeline import rows

    rows.main(suite)
    return verb.main(suite, *words)


def run_all(suite, model, tasks, rows):
    """Every stage but the tables of one suite, network and seed, in the working folder."""
    from pipeline import evaluate, features, prepare, train

    run(prepare, suite)
    for task in tasks:
        train.main(suite, "teacher", model, task, "0")
        features.main(suite, "teacher", model, task, "0")
        evaluate.main(suite, "teacher", model, task, "0")
    for group, name in rows:
        train.main(suite, group, model, name, "0")
        evaluate.main(suite, group, model, name, "0")


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder in which every stage but the table has run once at smoke size; tests copy it, never write to it."""
    place, before = tmp_path_factory.mktemp("trained"), os.getcwd()
    os.chdir(place)
    try:
        lay(place)
        run_all("rooms", "segnet", ("semantic", "depth", "normal"), (("baseline", "uniform"), ("student", "ours")))
    finally:
        os.chdir(before)
        torch.set_deterministic_debug_mode(0)
    return place


@pytest.fixture
def copy(trained, tmp_path, monkeypatch):
    """A copy of `trained` as the working folder."""
    shutil.copytree(trained, tmp_path / "copy")
    enter(tmp_path / "copy", monkeypatch)
    return tmp_path / "copy"


def command(*words, cwd=None, code=None, **environment):
    """Run `python -m words` (or `python -c code words`) as a user would; the finished process."""
    what = ["-c", code] if code else ["-m"]
    return subprocess.run([sys.executable, *what, *words], cwd=cwd, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT)} | environment)


def use_dvc(folder):
    """DVC in a folder, as the project has it, without Git."""
    (folder / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc/config", folder / ".dvc")
    (folder / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
    shutil.copy(ROOT / ".dvcignore", folder)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A copy of the project, without its tests, as the working folder."""
    for name in ("pipeline", "models", "kernels"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "dvc.lock"))
    if (ROOT / ".work/kernels").is_dir():            # what is compiled already need not be compiled again
        shutil.copytree(ROOT / ".work/kernels", tmp_path / ".work/kernels")
    for name in ("params.yaml", "dvc.yaml", "Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    enter(tmp_path, monkeypatch)
    return tmp_path
