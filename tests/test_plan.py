"""make plan: hours from what has been timed, bytes from what is written; which stages is told by tests/test_dag.py."""

import json
import pathlib

import pytest

from pipeline import plan
from pipeline.config import params


def change(**pairs):
    text = open("params.yaml").read()
    for old, new in pairs.values():
        assert old in text, old
        text = text.replace(old, new)
    open("params.yaml", "w").write(text)
    return params.load()


def test_a_run_that_was_timed_costs_what_it_cost(copy):
    cost = json.loads(pathlib.Path("out/rooms/runs/segnet-ours-s0/cost.json").read_text())
    seconds, scaled = plan.seconds_of(params.load(), "student-rooms@segnet-ours-0")
    assert seconds == pytest.approx(cost["seconds_per_step"] * cost["steps"]) and not scaled


def test_another_size_is_scaled_from_runs_of_its_kind(copy):
    cost = json.loads(pathlib.Path("out/rooms/runs/segnet-depth-s0/cost.json").read_text())
    for task in ("semantic", "normal"):
        pathlib.Path(f"out/rooms/runs/segnet-{task}-s0/cost.json").unlink()
    chosen = change(size=("data: {height: 32, width: 64, train: 8, test: 4}",
                          "data: {height: 64, width: 64, train: 16, test: 4}"))
    seconds, scaled = plan.seconds_of(chosen, "teacher-rooms@segnet-semantic-0")
    assert scaled and seconds == pytest.approx(2 * cost["seconds_per_step"] * 2 * cost["steps"])


def test_what_never_ran_has_no_time(copy):
    chosen = change(model=("models: [segnet]", "models: [segnet, mtan]"))
    assert plan.seconds_of(chosen, "baseline-rooms@mtan-uniform-0") == (None, False)
    assert plan.recorded(pathlib.Path("out/rooms/runs/nowhere")) is None


def test_names_with_hyphens_are_rows(copy):
    assert plan.seconds_of(params.load(), "wide-rooms@segnet-mgda-full-0")[0] > 0


def test_features_take_what_the_store_writes(copy):
    written = sum(json.loads(file.read_text())["bytes"] for file in pathlib.Path("out/rooms/features").rglob("*.json"))
    chosen = params.load()
    rooms = chosen.model_copy(update={"suites": [("rooms", chosen.suites.rooms)]})
    assert plan.feature_bytes(rooms) == pytest.approx(written, rel=0.02)
    assert plan.feature_bytes(chosen) > plan.feature_bytes(rooms)


def test_features_are_those_of_the_network_chosen(copy):
    """SegNet's wide type has 1024 channels at its bottleneck, not 512; 32x64 pixels have two there."""
    plain, wide = (plan.feature_bytes(change(type=("type: standard", f"type: {kind}")))
                   for kind in ("standard", "wide"))
    smoke = params.load().protocols["smoke"]
    suites = [suite for name, suite in params.load().suites if "segnet" in suite.models]
    runs = sum(len(suite.tasks) * len(suite.seeds) for suite in suites)
    assert wide - plain == runs * smoke["rooms"].data.train * 2 * 512 * smoke["rooms"].train["segnet"].width * 2


def test_reasons_are_a_few_words():
    assert plan.why([{"changed deps": {"params.yaml": {"methods.ours": "modified"}}}]) == "params methods.ours"
    assert plan.why([{"changed deps": {"a.py": "modified", "b.py": "new"}}]) == "a.py, b.py"
    assert plan.why([{"changed deps": {"params.yaml": "new", "a.py": "modified"}}]) == "never ran"
    assert plan.why([{"changed outs": {"out/x": "deleted"}}]) == "its results are not there"


def test_several_devices_share_what_does_not_wait():
    """Two chains of 3 + 2 and 3 s and four single seconds; on two devices the long chain begins first."""
    took = {"a": 3.0, "b": 2.0, "c": 3.0} | {f"s{i}": 1.0 for i in range(4)}
    waiting = {name: [] for name in took} | {"b": ["a"]}
    assert plan.makespan(took, waiting, 1) == 12.0
    assert plan.makespan(took, waiting, 2) == 6.0
    assert plan.makespan(took, waiting, 64) == 5.0


def test_the_paper_is_costed_from_recorded_steps(copy):
    waiting = {"prepare": [], "teacher-rooms@segnet-depth-0": ["prepare"],
               "student-rooms@segnet-ours-0": ["teacher-rooms@segnet-depth-0"]}
    chosen = params.load().model_copy(update={"protocol": "paper"})
    one, other = (plan.seconds_of(chosen, name)[0] for name in list(waiting)[1:])
    line = plan.cost_of_paper(chosen, waiting, plan.records())
    assert line.startswith(f"the paper's protocol, everything: 1 device {plan.clock(one + other)}; 8 devices "
                           f"{plan.clock(one + other)}; 64 devices") and "by steps on cpu" in line
