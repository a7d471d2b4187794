"""Real stages under real DVC: a killed repro goes on, the run cache still works, a mistake stops with its sentence."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, shipped, smoke, use_dvc

pytestmark = pytest.mark.slow
TABLE = "table-main@table2"


def project_in(folder, epochs):
    for name in ("pipeline", "models", "kernels"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "suites"))
    shutil.copy(ROOT / "dvc.yaml", folder)
    use_dvc(folder)
    text = smoke(shipped("rooms"))
    assert "{epochs: 2," in text
    (folder / "params.yaml").write_text(text.replace("{epochs: 2,", f"{{epochs: {epochs},"))
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return project_in(tmp_path_factory.mktemp("dvc"), 40)        # long enough to be killed in the middle


def repro(folder, *words):
    environment = os.environ | {"PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.Popen([sys.executable, "-m", "dvc", "repro", *words], cwd=folder, text=True, env=environment,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)


def finish(folder, *words):
    process = repro(folder, *words)
    return process.communicate()[0], process.returncode


def bits(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for name in ("weights.pt", "curve.csv")
            for path in folder.glob(f"out/rooms/*/*/{name}")}


def test_repro_killed_again_and_again_ends_with_the_same_bits_and_the_run_cache_works(project):
    said, code = finish(project, TABLE)
    assert code == 0, said
    expected = bits(project)
    for path in ("out", ".dvc/cache", ".dvc/tmp", ".work", "dvc.lock"):
        target = project / path
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    # kill the whole group once in a teacher, in the features and in the student, whenever its line appears
    for sign in ("segnet-depth-s0 epoch 7/", "features segnet-", "segnet-ours-s0 epoch 11/"):
        process = repro(project, TABLE)
        for line in process.stdout:
            if sign in line:
                break
        else:
            pytest.fail(f"{sign!r} never appeared")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(0.5)
    said, code = finish(project, TABLE)
    assert code == 0, said
    assert "going on from epoch" in said
    assert bits(project) == expected

    params = project / "params.yaml"
    before = params.read_text()
    params.write_text(before.replace("semantic: 1.0, depth: 1.0", "semantic: 1.0, depth: 2.0"))
    said, code = finish(project, TABLE)
    assert code == 0 and "Running stage 'student@segnet-ours-0'" in said and "Running stage 'teacher" not in said
    params.write_text(before)
    said, code = finish(project, TABLE)
    assert code == 0 and re.findall("Running stage '(.+?)'", said) in ([], ["rows"])
    assert bits(project) == expected


def test_a_mistake_stops_before_any_stage(project):
    params = project / "params.yaml"
    before = params.read_text()
    params.write_text(before.replace("  normal_mask:", "  normal_masc:"))
    try:
        said, code = finish(project, TABLE)
        assert code != 0 and "error: params.yaml: unknown key `switches.normal_masc`" in said
        assert "Traceback" not in said
    finally:
        params.write_text(before)


def test_two_stages_at_a_time_give_the_bits_of_one(tmp_path):
    serial, parallel = (project_in(tmp_path / name, 2) for name in ("serial", "parallel"))
    said, code = finish(serial, TABLE)
    assert code == 0, said
    environment = os.environ | {"PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run([sys.executable, "-m", "pipeline.parallel", "2", TABLE], cwd=parallel, env=environment,
                          capture_output=True, text=True)
    assert done.returncode == 0 and "finds nothing left to do" in done.stdout, done.stdout + done.stderr
    assert len(bits(serial)) == 10 and bits(parallel) == bits(serial)


def test_an_experiment_trains_the_epochs_that_it_is_told(tmp_path):
    """`dvc exp run -S`, as the README has it, in a clone."""
    project = project_in(tmp_path, 2)
    (project / ".dvc/config.local").unlink()
    (project / ".gitignore").write_text((ROOT / ".gitignore").read_text() + "/.dvc/tmp\n/.dvc/cache\n")
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"]):
        subprocess.run(["git", *words], cwd=project, check=True)
    environment = os.environ | {"PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run([sys.executable, "-m", "dvc", "exp", "run", "-S", "protocols.smoke.train.default.epochs=3",
                           "baseline@segnet-uniform-0"], cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "epoch 3/3" in done.stdout
    assert len((project / "out/rooms/baseline/segnet-uniform-s0/curve.csv").read_text().splitlines()) == 1 + 3
    assert "      default: {epochs: 3," in (project / "params.yaml").read_text()


DAMAGED = {          # an output, the verb that meets the damage
    "data/train/depth.npy": ("train", "baseline", "segnet", "uniform", "0"),
    "data/manifest.json": ("train", "baseline", "segnet", "uniform", "0"),
    "teacher/segnet-depth-s0/weights.pt": ("features", "teacher", "segnet", "depth", "0"),
    "teacher/segnet-normal-s0/cost.json": ("train", "student", "segnet", "ours", "0"),
    "baseline/segnet-uniform-s0/weights.pt": ("evaluate", "baseline", "segnet", "uniform", "0"),
    "baseline/segnet-uniform-s0/curve.csv": ("evaluate", "baseline", "segnet", "uniform", "0"),
    "baseline/segnet-uniform-s0/cost.json": ("evaluate", "baseline", "segnet", "uniform", "0"),
    "features/segnet-s0/depth.json": ("train", "student", "segnet", "ours", "0"),
    "metrics/baseline/segnet-uniform-s0.json": ("table", "table2"),
    "rows/train/baseline/segnet-uniform-s0.yaml": ("train", "baseline", "segnet", "uniform", "0")}


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    folder = project_in(tmp_path_factory.mktemp("short"), 2)
    said, code = finish(folder, TABLE)
    assert code == 0, said
    return folder


@pytest.mark.parametrize("output", DAMAGED)
def test_the_remedy_that_a_message_names_mends_what_is_damaged(short, output):
    """The file is cut short with its time kept, so that DVC is not told; the remedy is taken from the message."""
    verb, *words = DAMAGED[output]
    file = short / "out/rooms" / output
    before, kept = file.read_bytes(), file.stat()
    os.chmod(file, 0o644)
    file.write_bytes(before[:len(before) // 2])
    os.utime(file, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    environment = os.environ | {"PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"}
    met = subprocess.run([sys.executable, "-m", f"pipeline.{verb}", "rooms", *words], cwd=short, text=True,
                         capture_output=True, env=environment)
    assert met.returncode == 2 and met.stderr.startswith("error: ") and "Traceback" not in met.stderr, met.stderr
    remedy = re.search(r"run `([^`]+)`", met.stderr)[1]
    mended = subprocess.run(remedy, shell=True, cwd=short, text=True, capture_output=True, env=environment)
    assert mended.returncode == 0, mended.stdout + mended.stderr
    after = file.read_bytes()
    timed = output.endswith(("cost.json", "metrics/baseline/segnet-uniform-s0.json"))          # seconds differ
    assert after == before or (timed and json.loads(after).keys() == json.loads(before).keys())
    said, code = finish(short, TABLE)
    assert code == 0, said
