"""Table 2 from written metrics: means, spreads, differences, honest captions, holes that say why."""

import csv
import json
import pathlib

import pytest
import yaml
from conftest import ROOT, SUITES, change, command, file_of, run, shipped

from pipeline import data as package
from pipeline import rows, table
from pipeline.config import caption, checks, params, resolve
from pipeline.data import readers
from pipeline.runtime import documents
from pipeline.runtime.errors import UserError
from pipeline.tasks.metrics import of

TASKS, PAIR = ("semantic", "depth", "normal"), ("digits", "characters")


def result(name, seed, scale=1.0, tasks=TASKS, model="segnet"):
    """One run's metrics: metric i is (i + 1) * scale + seed under every rule and protocol."""
    values = {key: (i + 1) * scale + seed for i, (key, metric) in enumerate(
        of((*TASKS, *PAIR)).items()) if metric.task in tasks}
    rules = {rule: {"official": values, "masked": {}, "dataset": {key: 2 * value for key, value in values.items()}}
             for rule in caption.RULES}
    cost = {"parameters": 1000, "seconds_per_step": 0.5, "peak_memory_mb": 300.0, "backward_passes": 1,
            "inference_ms": 2.5}
    return {"run": f"{model}-{name}-s{seed}", "name": name, "seed": seed, "rules": rules, "cost": cost,
            "commit": "abc1234", "device": "cpu"}


def write(*results, suite="rooms"):
    groups = {name: group for group, section in params.load(suite).groups().items() for name in section.rows}
    for one in results:
        documents.write(f"out/{suite}/metrics/{groups[one['name']]}/{one['run']}.json", one)


def make(name="table2", suite="rooms"):
    run(table, suite, name)
    cells = json.loads(pathlib.Path(f"out/tables/{name}.json").read_text())["cells"]
    found = {(c["method"], c["rule"], c["protocol"], c["metric"]): c for c in cells}
    return found, pathlib.Path(f"out/tables/{name}.md").read_text()


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
    for suite, name, word in (("rooms", "table2", "table2"), ("rooms", "balancers", "table-balancers"),
                              ("domains", "table1", "table1")):
        with pytest.raises(UserError, match=f"none of the rows of {name}; run `make {word}`"):
            run(table, suite, name)
    with pytest.raises(UserError, match="rows/table/table5.yaml is not there.*there are balancers, table2, table4"):
        run(table, "rooms", "table5")


def test_damaged_metrics_are_named(folder):
    write(*everything(0))
    pathlib.Path("out/rooms/metrics/student/segnet-ours-s0.json").write_text('{"run"')
    with pytest.raises(UserError, match="segnet-ours-s0.json is damaged"):
        run(table, "rooms", "table2")


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
    assert "crop_masks" not in text and "zoom_depth" not in text
    change(("crop_masks: true ", "crop_masks: false "),
           ("balancer: uniform}", "balancer: uniform, switches: {zoom_depth: false}}"))
    _, text = make()
    assert "step_first false, crop_masks false, official_batch 2" in text and "Uniform: zoom_depth False" in text


def test_the_papers_numbers_are_complete(folder):
    """Of every suite: the metrics of its tasks, in their order, and rows that it trains."""
    for suite in ("rooms", *SUITES):
        chosen = params.load(suite)
        papers = yaml.safe_load((ROOT / chosen.paper).read_text())
        tasks = params.load(suite).tasks
        assert papers["metrics"] == [*of(tasks), *["average_pct"] * (set(tasks) == set(PAIR))]
        if not chosen.printed or suite == "quirks":                # they show none of the paper's numbers
            continue
        file_of(suite).write_text(shipped(suite))
        groups = params.load(suite).groups()
        rows = {"stl"} | {row for name in groups for row in groups[name].rows}
        for model, methods in papers["models"].items():
            assert model in checks.families() and set(methods) <= rows
            assert all(len(values) == len(papers["metrics"]) for values in methods.values())


def test_table_4_is_the_students_and_the_ablation_on_its_models(folder):
    rows = ("ours-last", "ours-nonlinear", "ours-none")
    change(("data: scenes ", "data: nyuv2 "))
    write(*everything(0), *(result(name, 0) for name in rows[:2]))
    found, text = make("table4")
    assert list(dict.fromkeys(key[0] for key in found)) == ["stl", "ours", *rows]
    assert found["ours-last", "last", "official", "miou_pct"]["paper"] == 18.66
    assert "segnet-ours-none-s0" in text and "# Table 4" in text and "MTAN" not in text


def test_the_wide_table_has_table_2s_rows_and_its_own(folder):
    change(("  rows: [si, rlw, ", "  rows: [si, "))
    write(*everything(0), result("si", 0), result("cagrad", 0))
    found, text = make("balancers")
    methods = list(dict.fromkeys(key[0] for key in found))
    assert methods[:3] == ["stl", "uniform", "si"] and methods[-1] == "ours" and "rlw" not in methods
    assert found["cagrad", "last", "official", "miou_pct"]["n"] == 1 and "CAGrad: c 0.4" in text
    assert "cagrad" not in {key[0] for key in make()[0]}


def test_cityscapes_stands_beside_the_paper_with_its_7_classes_only(folder):
    change(("data: streets ", "data: cityscapes "), suite="streets")
    tasks = TASKS[:2]
    write(*(result(task, 0, tasks=(task,)) for task in tasks), result("ours-streets", 0, tasks=tasks), suite="streets")
    found, text = make("table3", "streets")
    assert found["ours-streets", "train_loss", "official", "abs_err"]["paper"] == 0.0140
    assert ("ours-streets", "train_loss", "official", "angle_mean_deg") not in found
    assert "Data: Cityscapes, 7 classes" in text and "image nearest" not in text
    assert "Abs Err" in text and "<11.25" not in text
    change(("classes: 7\n    seven", "classes: 19\n    seven"), ("image: bilinear ", "image: nearest "),
           suite="streets")
    found, text = make("table3", "streets")
    assert all(cell["paper"] is None for cell in found.values()) and "19 classes" in text and "52.18" not in text
    assert "disparity p/65535; image nearest; the paper has Cityscapes with 7 classes" in text


def test_two_domains_have_an_average_and_the_papers_numbers_for_svhn_only(folder):
    def domains(scale=1.0):
        return [*(result(task, 0, tasks=(task,), model="lenet") for task in PAIR),
                result("ours-domains", 0, scale, PAIR, "lenet")]
    write(*domains(1.1), suite="domains")
    found, text = make("table1", "domains")
    assert all(cell["paper"] is None for cell in found.values()) and "drawn digits and characters" in text
    change(("data: glyphs ", "data: svhn_omniglot "), suite="domains")
    found, text = make("table1", "domains")
    cell = found["ours-domains", "median20", "official", "average_pct"]
    assert cell["mean"] == pytest.approx(1.1 * 10.5) and cell["paper"] == 79.09
    assert found["ours-domains", "median20", "official", "delta_pct"]["mean"] == pytest.approx(10)
    assert found["stl", "median20", "official", "average_pct"]["paper"] is None and "88.84" in text
    assert "median of the last twenty epochs" in text and "one confusion matrix" not in text
    assert "Data: SVHN and Omniglot, 12 digits + 8 characters training" in text
    change(("digits: svhn ", "digits: mnist "), suite="domains")
    found, text = make("table1", "domains")
    assert all(cell["paper"] is None for cell in found.values()) and "88.84" not in text and "MNIST" in text


def test_the_table_needs_no_torch(folder):
    write(*everything(0))
    rows.main("rooms")
    code = "import sys; from pipeline import table; table.main('rooms', 'table2'); assert 'torch' not in sys.modules"
    done = command(cwd=folder, code=code)
    assert done.returncode == 0, done.stderr


READER = """
from pipeline.data import scenes
KINDS, TASKS, Options, classes, ids, read = (
    getattr(scenes, name) for name in ("KINDS", "TASKS", "Options", "classes", "ids", "read"))
"""


def test_a_reader_of_ones_own_is_called_by_its_name(folder, monkeypatch):
    """It says nothing of what it stands for: neither NYUv2's name nor its numbers stand in the table."""
    own = folder / "own"
    own.mkdir()
    (own / "attic.py").write_text(READER)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(own)])
    known = readers.names()
    monkeypatch.setattr(readers, "names", lambda: [*known, "attic"])
    change(("data: scenes ", "data: attic "),
           ("datasets:\n", "datasets:\n  attic: {seed: 1, noise: 0.0, holes: 0.0}\n"))
    monkeypatch.setattr(resolve.code, "digest", lambda modules: "")
    write(*everything(0))
    found, text = make()
    assert "Data: attic, 8 training and 4 test images of 32x64; the paper has NYUv2, so its numbers are not" in text
    assert all(cell["paper"] is None for cell in found.values()) and "18.75" not in text
