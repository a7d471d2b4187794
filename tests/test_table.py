"""Table 2 from written metrics: means, spreads, differences, honest captions, holes that say why."""

import csv
import json
import pathlib

import pytest
import yaml
from conftest import ROOT, command

from pipeline import table
from pipeline.metrics import METRICS
from pipeline.problem import Problem

TASKS = ("semantic", "depth", "normal")


def result(name, seed, scale=1.0, tasks=TASKS, model="segnet"):
    """One run's metrics: metric i is (i + 1) * scale + seed under every rule and protocol."""
    values = {key: (i + 1) * scale + seed for i, (key, metric) in enumerate(METRICS.items()) if metric.task in tasks}
    rules = {rule: {"official": values, "dataset": {key: 2 * value for key, value in values.items()}}
             for rule in table.RULES}
    cost = {"parameters": 1000, "seconds_per_step": 0.5, "peak_memory_mb": 300.0, "backward_passes": 1}
    return {"run": f"{model}-{name}-s{seed}", "name": name, "seed": seed, "rules": rules, "cost": cost,
            "commit": "abc1234", "device": "cpu"}


def write(*results):
    pathlib.Path("out/metrics").mkdir(parents=True, exist_ok=True)
    for one in results:
        pathlib.Path(f"out/metrics/{one['run']}.json").write_text(json.dumps(one))


def change(*pairs):
    text = open("params.yaml").read()
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    open("params.yaml", "w").write(text)


def make():
    table.main("table2")
    cells = json.loads(pathlib.Path("out/tables/table2.json").read_text())["cells"]
    found = {(c["method"], c["rule"], c["protocol"], c["metric"]): c for c in cells}
    return found, pathlib.Path("out/tables/table2.md").read_text()


def everything(seed, ours=1.0, uniform=1.0):
    return [*(result(task, seed, tasks=(task,)) for task in TASKS), result("uniform", seed, uniform),
            result("ours", seed, ours)]


def test_mean_and_sample_standard_deviation_over_seeds(folder):
    change(("seeds: [0]", "seeds: [0, 1, 2]"))
    write(*everything(0), *everything(1), *everything(2))
    found, text = make()
    cell = found["ours", "train_loss", "official", "miou_pct"]
    assert (cell["mean"], cell["std"], cell["n"]) == (2.0, 1.0, 3)
    assert "2.00 ± 1.00" in text


def test_one_seed_has_no_spread(folder):
    write(*everything(0))
    found, text = make()
    assert found["ours", "last", "dataset", "rel_err"]["std"] is None
    assert "±" not in text.split("## ")[1]


def test_delta_is_against_our_own_single_task_rows(folder):
    write(*everything(0, ours=1.1))
    found, _ = make()
    # semantic +10 %; both depth errors 10 % worse; of the five normal metrics two are errors (-10 %), three are shares
    assert found["ours", "last", "official", "delta_pct"]["mean"] == pytest.approx((10 - 10 + (3 - 2) / 5 * 10) / 3)
    assert found["uniform", "last", "official", "delta_pct"]["mean"] == pytest.approx(0)
    assert found["stl", "last", "official", "delta_pct"]["n"] == 0


def test_rendered_data_are_named_and_stand_beside_no_paper_number(folder):
    write(*everything(0))
    found, text = make()
    assert all(cell["paper"] is None for cell in found.values())
    assert "rendered rooms" in text and "not NYUv2" in text and "18.75" not in text


def test_nyuv2_stands_beside_the_paper(folder):
    change(("data: scenes ", "data: nyuv2 "))
    write(*everything(0))
    found, text = make()
    cell = found["ours", "train_loss", "official", "miou_pct"]
    assert (cell["paper"], cell["difference"]) == (18.75, 1.0 - 18.75)
    assert found["ours", "train_loss", "dataset", "miou_pct"]["paper"] is None
    assert "| paper " in text and "Data: NYUv2" in text


def test_fitted_normals_stand_beside_no_paper_number(folder):
    change(("data: scenes ", "data: nyuv2 "), ("normals: published ", "normals: derived "))
    write(*everything(0))
    found, text = make()
    assert found["ours", "train_loss", "official", "angle_mean_deg"]["paper"] is None
    assert found["ours", "train_loss", "official", "miou_pct"]["paper"] == 18.75
    assert "normals fitted to the depth" in text and ".mat files" not in text
    change(("source: mtan", "source: mat"))
    assert "its authors' .mat files (raw depth, window toolbox), not MTAN's arrays, the paper's; normals" in make()[1]


def test_a_hole_says_which_run_is_missing(folder):
    write(*everything(0)[:-1])
    found, text = make()
    assert found["ours", "last", "official", "miou_pct"]["n"] == 0
    assert "Not run or failed, shown as -: segnet-ours-s0." in text


def test_nothing_to_show_is_a_sentence(folder):
    with pytest.raises(Problem, match="run `make evaluate`"):
        table.main("table2")


def test_damaged_metrics_are_named(folder):
    write(*everything(0))
    pathlib.Path("out/metrics/segnet-ours-s0.json").write_text('{"run"')
    with pytest.raises(Problem, match="segnet-ours-s0.json is damaged"):
        table.main("table2")


def test_four_formats_from_one_source(folder):
    write(*everything(0))
    found, text = make()
    with open("out/tables/table2.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(found)
    assert {float(line["mean"]) for line in lines if line["mean"]} == {
        cell["mean"] for cell in found.values() if cell["mean"] is not None}
    tex = pathlib.Path("out/tables/table2.tex").read_text()
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == text.count("\n## ") == 4
    assert "%" not in "".join(line.replace(r"\%", "") for line in tex.splitlines() if not line.startswith("%"))


def test_switches_in_force_are_in_the_caption(folder):
    change(("teacher_bn: running ", "teacher_bn: batch "), ("normal_mask: own ", "normal_mask: depth "))
    write(*everything(0))
    _, text = make()
    assert "teacher_bn batch" in text and "normal_mask depth" in text and "abc1234" in text


def test_the_papers_numbers_are_complete():
    printed = yaml.safe_load((ROOT / "pipeline/paper.yaml").read_text())["table2"]
    assert all(len(values) == len(METRICS) for methods in printed.values() for values in methods.values())


def test_the_table_needs_no_torch(folder):
    write(*everything(0))
    code = "import sys; from pipeline import table; table.main('table2'); assert 'torch' not in sys.modules"
    done = command(cwd=folder, code=code)
    assert done.returncode == 0, done.stderr
