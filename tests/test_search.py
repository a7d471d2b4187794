"""The search for lambda: what is held out, what is picked, what is trained with it; and the table of quirks."""

import json
import pathlib

import numpy as np
import pytest
import torch
import yaml
from conftest import file_of, row_of, run

from pipeline import data, prepare, quirks, rows, search
from pipeline.config import params
from pipeline.config.caption import RULES
from pipeline.data.split import Split
from pipeline.runtime import documents
from pipeline.runtime.errors import UserError
from pipeline.runtime.row import found, searched
from pipeline.tasks.metrics import of

TRIALS = ["1-1", "4-4", "10-10"]


def write(suite, group, name, seed, model="lenet", **values):
    """One run's metrics file, the same under every rule; `dataset` has them twice as large."""
    run = f"{model}-{name}-s{seed}"
    rules = {rule: {"official": values, "masked": {}, "dataset": {key: 2 * value for key, value in values.items()}}
             for rule in RULES}
    cost = {"parameters": 1, "seconds_per_step": 1.0, "peak_memory_mb": 1.0, "backward_passes": 1, "inference_ms": 1.0}
    documents.write(f"out/{suite}/metrics/{group}/{run}.json", {
        "run": run, "name": name, "seed": seed, "rules": rules, "commit": "abc1234", "device": "cpu", "cost": cost})


def alter(suite, **keys):
    """A suite's params.yaml with some keys changed; in a group or in `search`, some of that section's."""
    tree = yaml.safe_load(file_of(suite).read_text())
    for key, value in keys.items():
        tree[key] = tree[key] | value if isinstance(value, dict) else value
    file_of(suite).write_text(yaml.safe_dump(tree, sort_keys=False))


def tried(digits, seeds=(0,)):
    """The metrics of TRIALS, whose digits' accuracies on the held-out images are given, and of their teachers."""
    for suite in ("search", "domains"):
        alter(suite, seeds=list(seeds))
    alter("search", student={"rows": TRIALS})
    for seed in seeds:
        for suite in ("search", "domains"):
            write(suite, "teacher", "digits", seed, digits_acc_pct=80.0)
            write(suite, "teacher", "characters", seed, characters_acc_pct=50.0)
        for trial, values in zip(TRIALS, digits, strict=True):
            write("search", "student", trial, seed, digits_acc_pct=values[seed], characters_acc_pct=50.0)


def pick():
    rows.main("search")
    search.main("pick", "search")


def test_a_share_of_each_domain_is_held_out(folder):
    alter("search", search={"hold_out": 0.25})
    run(prepare, "domains")
    run(prepare, "search")
    whole, kept = data.load_manifest("out/domains/data"), data.load_manifest("out/search/data")
    assert (len(kept["ids"]["train"]), len(kept["ids"]["test"])) == (9 + 6, 3 + 2)
    assert sorted(kept["ids"]["train"] + kept["ids"]["test"]) == sorted(whole["ids"]["train"])
    assert not set(kept["ids"]["test"]) & set(whole["ids"]["test"])
    assert kept["domains"] == {"train": {"digits": [0, 9], "characters": [9, 15]},
                               "test": {"digits": [0, 3], "characters": [3, 5]}}
    cpu = torch.device("cpu")
    all_of, held = Split("out/domains/data", "train", cpu), Split("out/search/data", "test", cpu)
    for i, name in enumerate(held.ids):
        image, targets = held.batch([i])
        expected, truth = all_of.batch([all_of.ids.index(name)])
        assert torch.equal(image, expected) and all(torch.equal(targets[kind], truth[kind]) for kind in truth)
    before = (pathlib.Path("out/search/data") / "manifest.json").read_text()
    run(prepare, "search")
    assert (pathlib.Path("out/search/data") / "manifest.json").read_text() == before


def test_rooms_are_held_out_too_and_another_seed_draws_others(folder):
    run(prepare, "rooms")
    held = []
    for seed in (0, 1):
        alter("search", searches=["rooms"], reads="params.yaml", paper="pipeline/config/paper.yaml",
              search={"method": "ours", "seed": seed, "hold_out": 0.5},
              teacher={"models": ["segnet"], "rows": ["semantic", "depth", "normal"]},
              student={"models": ["segnet"], "rows": ["1-1-2"]})
        run(prepare, "search")
        held.append(data.load_manifest("out/search/data")["ids"]["test"])
        depth = np.load(pathlib.Path("out/search/data") / "test/depth.npy")
        assert depth.shape == (4, 32, 64) and depth.dtype == np.float16
    assert held[0] != held[1] and len(held[0]) == 4


def test_the_best_trial_over_seeds_is_picked_and_trained_with(folder):
    tried([{0: 90.0, 1: 60.0}, {0: 80.0, 1: 84.0}, {0: 70.0, 1: 70.0}], seeds=(0, 1))
    pick()
    assert found("out/search/lambda.json", "lenet") == "4-4"
    lines = pathlib.Path("out/search/trace.csv").read_text().splitlines()
    assert len(lines) == 4 and lines[2].startswith("lenet,4-4,1.25,")           # (0 % + 5 %) / 2, characters equal
    row = row_of("search", "searched", "lenet", "searched")
    assert row["method"]["lambda"] == {"from": "out/search/lambda.json"} and row["data"]["folder"] == "out/domains/data"
    assert searched(row)["method"]["lambda"] == {"digits": 4.0, "characters": 4.0}
    assert row["method"]["taps"] == ["last"] and row["folder"] == "out/search/searched/lenet-searched-s0"
    trial = row_of("search", "student", "lenet", "10-10", "1")
    assert trial["method"]["lambda"] == {"digits": 10.0, "characters": 10.0} and trial["suite"] == "search"
    assert trial["train"] == row["train"] and trial["data"]["folder"] == "out/search/data"


def test_a_trial_without_a_gain_comes_last_and_the_first_of_equals_wins(folder):
    tried([{0: float("nan")}, {0: 70.0}, {0: 70.0}])
    pick()
    assert found("out/search/lambda.json", "lenet") == "4-4"


def test_the_report_has_the_trace_and_both_rows(folder):
    tried([{0: 70.0}, {0: 90.0}, {0: 80.0}])
    pick()
    write("search", "searched", "searched", 0, digits_acc_pct=88.0, characters_acc_pct=55.0)
    write("domains", "student", "ours-domains", 0, digits_acc_pct=84.0, characters_acc_pct=50.0)
    search.main("report", "search")
    text = pathlib.Path("out/tables/search.md").read_text()
    words = [" ".join(line.split()) for line in text.splitlines()]
    assert "| lenet | 4-4 | 90.00 | 50.00 | +6.25 | picked |" in words and "drawn digits and characters" in text
    assert "| lenet | searched | 4 4 | 88.00 | 55.00 | +10.00 | 1 |" in words
    assert any(line.startswith("| lenet | ours-domains | 4 4 | 84.00") for line in words)


def test_what_is_missing_is_named(folder):
    with pytest.raises(UserError, match="out/search/lambda.json is not there; run `make search-lambda"):
        searched(row_of("search", "searched", "lenet", "searched"))
    tried([{0: 70.0}, {0: 90.0}, {0: 80.0}])
    pathlib.Path("out/search/metrics/student/lenet-4-4-s0.json").unlink()
    with pytest.raises(UserError, match="no lenet-4-4-s0; run `make search-lambda`"):
        pick()


@pytest.mark.parametrize("keys, words", [
    ({"student": {"rows": ["1"]}}, "`student.rows` has '1'; a trial is a lambda for each of digits, characters, as in "
     "'1-1'"),
    ({"student": {"rows": ["1-x"]}}, "`student.rows` has '1-x'"),
    ({"student": {"rows": ["1-1", "1-1"]}}, "names something twice"),
    ({"search": {"method": "uniform"}}, "`search.method` is 'uniform'"),
    ({"search": {"method": "ours"}}, "`search.method` has 'ours'"),
    ({"student": {"models": ["segnet"]}}, "`student.models` has 'segnet'"),
    ({"search": {"hold_out": 1.0}}, "search.hold_out"), ({"seeds": [3]}, "`seeds` has 3")])
def test_mistakes_in_the_search_are_sentences(folder, keys, words):
    alter("search", **keys)
    with pytest.raises(UserError) as caught:
        params.load("search")
    assert words in str(caught.value)


def test_a_domain_that_would_be_held_out_whole_is_a_sentence(folder):
    alter("search", search={"hold_out": 0.95})
    run(prepare, "domains")
    with pytest.raises(UserError, match="`search.hold_out` is 0.95, which leaves none of 12 images"):
        run(prepare, "search")
    assert not pathlib.Path("out/search/data").exists()


def test_quirks_are_differences_from_the_clean_row_of_the_same_seed(folder):
    alter("quirks", student={"rows": ["ours", "quirk-drop-last"]}, seeds=[0, 1])
    tasks = {task: list(of([task])) for task in ("semantic", "depth", "normal")}
    names = [name for listed in tasks.values() for name in listed]
    for seed in (0, 1):
        for task, listed in tasks.items():
            write("quirks", "teacher", task, seed, model="segnet", **dict.fromkeys(listed, 10.0))
        write("quirks", "student", "ours", seed, model="segnet", **dict.fromkeys(names, 10.0 + seed))
        write("quirks", "student", "quirk-drop-last", seed, model="segnet", **dict.fromkeys(names, 11.0 + 3 * seed))
    run(quirks, "quirks", "quirks")
    cells = {(cell["quirk"], cell["metric"]): cell for cell in json.loads(
        pathlib.Path("out/tables/quirks.json").read_text())["cells"]}
    one = cells["short last batch kept", "miou_pct"]
    assert (one["mean"], one["n"]) == (2.0, 2) and one["std"] == pytest.approx(2**0.5)
    assert cells["metrics: dataset protocol", "miou_pct"]["mean"] == pytest.approx(10.5)
    assert cells["epoch: last epoch", "miou_pct"]["mean"] == 0
    write("quirks", "teacher", "normal", 0, model="segnet", **dict.fromkeys(tasks["normal"], 0.0))
    run(quirks, "quirks", "quirks")                        # a network that is at 0 has no relative gain
    assert "nan ± nan" in pathlib.Path("out/tables/quirks.md").read_text()
    write("quirks", "teacher", "normal", 0, model="segnet", **dict.fromkeys(tasks["normal"], 10.0))
    run(quirks, "quirks", "quirks")
    text = pathlib.Path("out/tables/quirks.md").read_text()
    assert "| Ours, clean " in text and "+2.00 ± 1.41" in text and "rendered rooms" in text
    pathlib.Path("out/quirks/metrics/student/segnet-ours-s1.json").unlink()
    with pytest.raises(UserError, match="no segnet-ours-s1.*make quirks"):
        run(quirks, "quirks", "quirks")
