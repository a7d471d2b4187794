"""Real stages under real DVC: a killed repro goes on, the run cache still works, a mistake stops with its sentence."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, smoke, use_dvc

pytestmark = pytest.mark.slow


def project_in(folder, epochs):
    for name in ("pipeline", "models", "kernels"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", folder)
    use_dvc(folder)
    text = smoke((ROOT / "params.yaml").read_text())
    (folder / "params.yaml").write_text(re.sub(r"(\n  smoke:.*?epochs: )2", rf"\g<1>{epochs}", text, flags=re.S))
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
            for path in folder.glob(f"out/rooms/runs/*/{name}")}


def test_repro_killed_again_and_again_ends_with_the_same_bits_and_the_run_cache_works(project):
    said, code = finish(project, "table2")
    assert code == 0, said
    expected = bits(project)
    for path in ("out", ".dvc/cache", ".dvc/tmp", ".work", "dvc.lock"):
        target = project / path
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    # kill the whole group once in a teacher, in the features and in the student, whenever its line appears
    for sign in ("segnet-depth-s0 epoch 7/", "features segnet-", "segnet-ours-s0 epoch 11/"):
        process = repro(project, "table2")
        for line in process.stdout:
            if sign in line:
                break
        else:
            pytest.fail(f"{sign!r} never appeared")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(0.5)
    said, code = finish(project, "table2")
    assert code == 0, said
    assert "going on from epoch" in said
    assert bits(project) == expected

    params = project / "params.yaml"
    before = params.read_text()
    params.write_text(before.replace("semantic: 1.0, depth: 1.0", "semantic: 1.0, depth: 2.0"))
    said, code = finish(project, "table2")
    assert code == 0 and "Running stage 'student-rooms@segnet-ours-0'" in said and "Running stage 'teacher" not in said
    params.write_text(before)
    said, code = finish(project, "table2")
    assert code == 0 and "Running stage" not in said
    assert bits(project) == expected


def test_a_mistake_stops_before_any_stage(project):
    params = project / "params.yaml"
    before = params.read_text()
    params.write_text(before.replace("  normal_mask:", "  normal_masc:"))
    try:
        said, code = finish(project, "-f", "prepare-rooms")
        assert code != 0 and "error: params.yaml: unknown key `switches.normal_masc`" in said
        assert "Traceback" not in said
    finally:
        params.write_text(before)


def test_two_stages_at_a_time_give_the_bits_of_one(tmp_path):
    serial, parallel = (project_in(tmp_path / name, 2) for name in ("serial", "parallel"))
    said, code = finish(serial, "table2")
    assert code == 0, said
    environment = os.environ | {"PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run([sys.executable, "-m", "pipeline.parallel", "2", "table2"], cwd=parallel, env=environment,
                          capture_output=True, text=True)
    assert done.returncode == 0 and "finds nothing left to do" in done.stdout, done.stdout + done.stderr
    assert len(bits(serial)) == 10 and bits(parallel) == bits(serial)
