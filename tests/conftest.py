"""Working folders for tests: the verbs read params.yaml and write out/ and .work/ where they are started."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

os.environ["OMP_NUM_THREADS"] = "1"      # before torch: tiny networks lose more by waiting than two threads gain

import pytest  # noqa: E402
import torch  # noqa: E402

if not torch.cuda.is_available():        # before a kernel is defined: Triton's interpreter runs it on the CPU
    os.environ["TRITON_INTERPRET"] = "1"

ROOT = pathlib.Path(__file__).resolve().parent.parent


def smoke(text):
    """params.yaml at its smallest: the smoke protocol, of rooms one architecture and one baseline."""
    for key, value in (("    models", "[segnet]"), ("protocol", "smoke"), ("    baselines", "[uniform]"),
                       ("      models", "[segnet]")):
        text = re.sub(rf"^{key}: .*", f"{key}: {value}", text, count=0 if key == "      models" else 1, flags=re.M)
    return text


@pytest.fixture(autouse=True)
def verbs_leave_no_determinism_behind():
    """A verb switches torch's deterministic mode on for its process; a test's process runs many."""
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def params_text():
    return (ROOT / "params.yaml").read_text()


def enter(place, patches):
    """Make `place` the working folder, with nothing chosen in the environment."""
    patches.chdir(place)
    for name in ("DEVICE", "FEATURES", "KERNELS"):
        patches.delenv(name, raising=False)


@pytest.fixture
def folder(tmp_path, monkeypatch, params_text):
    """An empty working folder with the smoke params.yaml; nothing has run."""
    enter(tmp_path, monkeypatch)
    (tmp_path / "params.yaml").write_text(smoke(params_text))
    return tmp_path


def run_all(suite, model, tasks, rows):
    """Every stage but the tables of one suite, network and seed, in the working folder."""
    from pipeline import evaluate, features, prepare, train

    prepare.main(suite)
    for task in tasks:
        train.main(suite, "teacher", model, task, "0")
        features.main(suite, model, task, "0")
        evaluate.main(suite, "teacher", model, task, "0")
    for stage, name in rows:
        train.main(suite, stage, model, name, "0")
        evaluate.main(suite, stage, model, name, "0")


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder in which every stage but the table has run once at smoke size; tests copy it, never write to it."""
    place, before = tmp_path_factory.mktemp("trained"), os.getcwd()
    os.chdir(place)
    try:
        (place / "params.yaml").write_text(smoke((ROOT / "params.yaml").read_text()))
        run_all("rooms", "segnet", ("semantic", "depth", "normal"), (("baseline", "uniform"), ("student", "ours")))
    finally:
        os.chdir(before)
        torch.use_deterministic_algorithms(False)
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
