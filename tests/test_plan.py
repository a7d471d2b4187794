"""make plan: hours from what has been timed; which stages would run is told by tests/test_dag.py."""

import json
import pathlib
import shutil

import pytest
import yaml
from conftest import ROOT, SUITES, change, command, folder_of, lay, row_of, use_dvc

from pipeline import plan


def cost_of(name):
    return json.loads((folder_of("rooms", "segnet", name) / "cost.json").read_text())


def test_a_run_that_was_timed_costs_what_it_cost(copy):
    seconds, scaled = plan.seconds_of(row_of("rooms", "student", "segnet", "ours"), plan.records())
    cost = cost_of("ours")
    assert seconds == pytest.approx(cost["seconds_per_step"] * cost["steps"]) and not scaled


def test_another_size_is_scaled_from_runs_of_its_kind(copy):
    cost = cost_of("depth")
    for task in ("semantic", "normal"):
        (folder_of("rooms", "segnet", task) / "cost.json").unlink()
    change(("data: {height: 32, width: 64, train: 8, test: 4}", "data: {height: 64, width: 64, train: 16, test: 4}"))
    seconds, scaled = plan.seconds_of(row_of("rooms", "teacher", "segnet", "semantic"), plan.records())
    assert scaled and seconds == pytest.approx(2 * cost["seconds_per_step"] * 2 * cost["steps"])


def test_what_never_ran_has_no_time(copy):
    change(("models: [segnet]", "models: [segnet, mtan]"))
    assert plan.seconds_of(row_of("rooms", "teacher", "mtan", "depth"), plan.records()) == (None, False)
    assert plan.recorded(pathlib.Path("out/rooms/baseline/nowhere/cost.json")) is None


@pytest.mark.parametrize("said, told", [
    ([{"changed deps": {"row": "modified"}}, {"changed outs": {"a": "deleted", "b": "deleted"}}], "never ran here"),
    ([{"changed deps": {"row": "modified", "code": "modified"}}, {"changed outs": {"a": "modified"}}],
     "row, code changed"),
    ([{"changed outs": {"a": "not in cache"}}], "its results are not there"),
    (["changed command"], "changed command")])
def test_a_reason_is_a_few_words(said, told):
    assert plan.why(said) == told


def test_a_devices_work_follows_its_longest_way():
    took, waiting = {"a": 3.0, "b": 1.0, "c": 2.0, "d": 1.0}, {"a": [], "b": [], "c": ["b"], "d": ["a", "c"]}
    assert plan.makespan(took, waiting, 1) == 7
    assert plan.makespan(took, waiting, 2) == 4 == plan.makespan(took, waiting, 64)


def lay_project(folder):
    lay(folder)
    for suite in ("", *(f"pipeline/suites/{suite}" for suite in SUITES)):
        shutil.copy(ROOT / "dvc.yaml", folder / suite)
    use_dvc(folder)


def test_a_fresh_clone_has_an_estimate_marked_as_another_machines(folder):
    """The code is the project's own, through PYTHONPATH; DVC finds none of it, and every stage has never run."""
    lay_project(folder)
    done = command("pipeline.plan", cwd=folder)
    assert done.returncode == 0, done.stderr
    shipped = yaml.safe_load(plan.SHIPPED.read_text())
    lines = done.stdout.splitlines()
    assert len(lines) <= 40 and lines[0].endswith("stages would run")
    assert f"by the step times shipped with the project, of {shipped['machine']}" in lines[-1]
    assert "paper" not in lines[-1]


def test_a_plan_of_one_suite_and_of_none(folder):
    lay_project(folder)
    done = command("pipeline.plan", "streets", cwd=folder)
    assert done.returncode == 0 and all(line.startswith("  streets: ") for line in done.stdout.splitlines()[1:-1])
    done = command("pipeline.plan", "street", cwd=folder)
    assert done.returncode == 2 and done.stderr.startswith("error: 'street' is no suite; there are rooms, ")


def test_what_changed_in_a_row_is_named(copy):
    from pipeline import rows

    rows.main("rooms")
    change(("lambda: {semantic: 1.0, depth: 1.0, normal: 2.0}", "lambda: {semantic: 1.0, depth: 3.0, normal: 2.0}"))
    file = pathlib.Path("out/rooms/rows/train/student/segnet-ours-s0.yaml")
    assert plan.difference(file, row_of("rooms", "student", "segnet", "ours")) == "row: method.lambda.depth"
    file.unlink()
    assert plan.difference(file, row_of("rooms", "student", "segnet", "ours")) == "its row is new"
