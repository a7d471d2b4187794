"""balance.csv: statistics of the Gramians, and what is kept of a step that broke."""

import csv
import json

import pytest
import torch
from conftest import folder_of, run

from pipeline import balancers, train
from pipeline.loop import record
from pipeline.runtime.errors import UserError

TASKS = ["a", "b", "c"]
ROWS = torch.tensor([[4, -1, 0, 2], [-1, 3, 1, 0.5], [0.5, -2, 1.5, -1]], dtype=torch.float64)
ALL = torch.ones(1, 3, dtype=torch.bool)


def test_statistics_of_a_fixed_matrix():
    """Values of the released code's log on these gradients."""
    found = {key: value.item() for key, value in record.statistics(
        TASKS, torch.ones(1, 3, dtype=torch.float64), (ROWS @ ROWS.T)[None], ALL).items()}
    assert found == {key: pytest.approx(value, abs=2e-4) for key, value in {
        "norm_a": 21**0.5, "norm_b": 11.25**0.5, "norm_c": 7.5**0.5,
        "cosine_a_b": -6 / (21 * 11.25) ** 0.5, "cosine_a_c": 2 / (21 * 7.5) ** 0.5,
        "cosine_b_c": -5.5 / (11.25 * 7.5) ** 0.5,
        "similarity_a_b": 0.9532, "similarity_a_c": 0.88069, "similarity_b_c": 0.9798,
        "conflict": 2 / 3, "condition": 2.73711, "update": 4.55522}.items()}


def test_a_line_is_the_mean_over_the_steps_that_have_a_value():
    seen = record.Record(TASKS)
    m = ROWS @ ROWS.T
    seen.add(torch.tensor([1.0, 2.0, 3.0]), m, torch.tensor(0.5))
    seen.add(torch.tensor([3.0, 2.0, 1.0]), None, None)
    seen.add(torch.tensor([2.0, 2.0, 2.0]), 4 * m, torch.tensor(1.5))
    line = seen.line()
    assert [line[f"weight_{task}"] for task in TASKS] == [2, 2, 2] and line["residual"] == 1
    assert line["norm_a"] == pytest.approx(1.5 * 21**0.5)
    seen.add(torch.ones(3), None, None)
    assert list(seen.line()) == ["weight_a", "weight_b", "weight_c"]


def test_a_step_without_a_label_counts_in_none_of_the_task_s_means():
    seen, m = record.Record(TASKS), ROWS @ ROWS.T
    seen.add(torch.tensor([1.0, 2.0, 3.0]), m, None)
    seen.add(torch.tensor([3.0, 0.0, 5.0]), m * torch.tensor([[1, 0, 1], [0, 0, 0], [1, 0, 1]]), None, (0, 2))
    seen.add(torch.zeros(3), None, None, ())
    line = seen.line()
    assert [line[f"weight_{task}"] for task in TASKS] == [2, 2, 4]
    assert (line["norm_b"], line["norm_c"]) == (pytest.approx(11.25**0.5), pytest.approx(7.5**0.5))
    assert line["cosine_a_b"] == pytest.approx(-6 / (21 * 11.25) ** 0.5)
    assert line["conflict"] == pytest.approx((2 / 3 + 0) / 2)            # of three pairs, then of one
    seen.add(torch.tensor([1.0, 0.0, 1.0]), None, None, (0, 2))
    assert list(seen.line()) == ["weight_a", "weight_c"]


def test_parallel_gradients_have_condition_one():
    m = torch.ones(1, 3, 3, dtype=torch.float64)
    found = record.statistics(TASKS, torch.ones(1, 3, dtype=torch.float64), m, ALL)
    assert found["condition"].item() == pytest.approx(1) and found["conflict"].item() == 0


def test_a_broken_step_is_named_and_its_gramian_kept(copy, monkeypatch):
    calls = []

    def breaks(gradients):
        calls.append(0)
        m = torch.eye(3, dtype=torch.float64)
        if len(calls) == 2:
            m[1, 1] = torch.inf
        return m
    monkeypatch.setattr(balancers.kernels.dispatch, "gramian", breaks)
    with pytest.raises(UserError, match=r"-s0: weight_depth is not finite at epoch 1, step 2 .*broken.json") as told:
        run(train, "rooms", "wide", "segnet", "cagrad", "0")
    file = next(word.rstrip(");") for word in str(told.value).split() if "broken.json" in word)
    kept = json.loads(open(file).read())
    assert (kept["run"], kept["epoch"], kept["step"]) == ("rooms-segnet-cagrad-s0", 1, 2)
    assert kept["tasks"] == ["semantic", "depth", "normal"] and kept["gramian"][1][1] == float("inf")


def test_runs_leave_a_line_an_epoch(copy):
    run(train, "rooms", "wide", "segnet", "nash", "0")
    lines = list(csv.DictReader(open(folder_of("rooms", "segnet", "nash", 0) / "balance.csv", newline="")))
    assert [line["epoch"] for line in lines] == ["1", "2"]
    assert float(lines[0]["residual"]) < 1e-8 and float(lines[0]["condition"]) >= 1
    assert 0 <= float(lines[0]["conflict"]) <= 1 and float(lines[0]["norm_depth"]) > 0
    # clipped to norm 1, and the same number by way of the heads' own losses is not in it
    assert float(lines[0]["update"]) == pytest.approx(1, abs=1e-6)
