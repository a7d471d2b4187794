"""What each edit reruns: real DVC and real rows over stub commands that hash what they depend on."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from conftest import file_of, shipped

from pipeline.bench import dag

SMALL = {          # suite: what of its params.yaml is smaller here; DVC takes a third of a second a stage
    "rooms": [("  rows: [semantic, depth, normal]", "  rows: [semantic, depth]"),
              ("rows: [uniform, uncert, dwa, mgda, gradnorm, gs]", "rows: [uniform, gradnorm]"),
              ("rows: [si, rlw, gls, stch, famo, mgda-full, graddrop, gradvac, imtl, cagrad, nash, fairgrad, upgrad, "
               "config,\n         db-mtl, aligned, aligned-ub]", "rows: [si]"),
              ("rows: [ours-last, ours-nonlinear, ours-none]", "rows: [ours-last]")],
    "domains": [("rows: [uniform, uncert, mgda, gradnorm]", "rows: [uniform]"),
                ("rows: [bam-domains, ours-domains]", "rows: [ours-domains]")]}
DOMAINS_FILE = "pipeline/suites/domains/dvc.yaml:"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of two suites over stubs, run once; each test edits a file, repros and puts it back."""
    folder = tmp_path_factory.mktemp("dag")
    dag.lay(folder, SMALL)
    for suite, pairs in SMALL.items():
        text = shipped(suite)
        for old, new in pairs:
            assert old in text, old
            text = text.replace(old, new)
        (folder / file_of(suite)).write_text(text)
    assert repro(folder) == EVERYTHING
    return folder


def dvc(folder, *words, **environment):
    done = subprocess.run([sys.executable, "-m", "dvc", *words], cwd=folder, capture_output=True, text=True,
                          env=os.environ | environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def repro(folder):
    """Stages that `dvc repro -P` ran (not those it took from the run cache), without those that write rows."""
    return without_rows(re.findall(r"Running stage '([^']+)'", dvc(folder, "repro", "-P")))


def without_rows(stages):
    return {stage for stage in stages if stage.rpartition(":")[2] != "rows"}


def planned(folder):
    """Stages that `make plan` says would run, without those that write rows."""
    code = "import json; from pipeline import plan; print(json.dumps(plan.outdated()[0]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return without_rows(json.loads(done.stdout))


def both(group, *rows, model="segnet", seed=0):
    """A group's stages and their evaluation."""
    return {f"{stage}@{model}-{row}-{seed}" for row in rows for stage in (group, f"evaluate-{group}")}


TEACHERS = both("teacher", "semantic", "depth") | {f"features@segnet-{task}-0" for task in ("semantic", "depth")}
BASELINES, STUDENT = both("baseline", "uniform", "gradnorm"), both("student", "ours")
WIDE, ABLATION = both("wide", "si"), both("ablation", "ours-last")
TABLES = {"table-main@table2", "table-ablation@table4", "table-wide@balancers"}
RUNS = TEACHERS | BASELINES | STUDENT | WIDE | ABLATION
ROOMS = {"prepare@data"} | RUNS | TABLES
PAIR = {f"features@lenet-{task}-0" for task in ("digits", "characters")}
DOMAINS = {DOMAINS_FILE + stage for stage in both("teacher", "digits", "characters", model="lenet") | PAIR | both(
    "baseline", "uniform", model="lenet") | both("student", "ours-domains", model="lenet") | {
        "prepare@data", "table-main@table1"}}
EVERYTHING = ROOMS | DOMAINS
OURS = {"table-main@table2", "table-ablation@table4", "table-wide@balancers"}       # the tables that have the row ours
P, D = "params.yaml", "pipeline/suites/domains/params.yaml"
EDITS = {
    "lambda": (P, "lambda: {semantic: 1.0, depth: 1.0, normal: 2.0}\n    teacher_bn",
               "lambda: {semantic: 1.0, depth: 3.0, normal: 2.0}\n    teacher_bn", STUDENT | ABLATION | OURS),
    "epochs": (P, "epochs: 11", "epochs: 12", RUNS | TABLES),
    "data-size": (P, "train: 256, test", "train: 257, test", ROOMS),
    "epochs-of-domains": (D, "epochs: 24", "epochs: 25", DOMAINS - {DOMAINS_FILE + "prepare@data"}),
    "method-of-another-suite": (D, "lambda: {digits: 4.0", "lambda: {digits: 5.0", {
        DOMAINS_FILE + stage for stage in both("student", "ours-domains", model="lenet") | {"table-main@table1"}}),
    "method-added": (P, "rows: [uniform, gradnorm]", "rows: [uniform, gradnorm, dwa]",
                     both("baseline", "dwa") | {"table-main@table2", "table-wide@balancers"}),
    "method-reordered": (P, "rows: [uniform, gradnorm]", "rows: [gradnorm, uniform]",
                         {"table-main@table2", "table-wide@balancers"}),
    # the order of the teachers is the order of tasks and losses
    "tasks-reordered": (P, "  rows: [semantic, depth]", "  rows: [depth, semantic]",
                        BASELINES | STUDENT | WIDE | ABLATION | TABLES),
    "seed-added": (P, "seeds: [0]", "seeds: [0, 1]", {stage.replace("-0", "-1") for stage in RUNS} | TABLES),
    "selection": (P, "selection: train_loss", "selection: last", TABLES),
    "adaptor-rate": (P, "adaptor: {lr: 1.0e-2,", "adaptor: {lr: 2.0e-2,", STUDENT | ABLATION),
    "wide-row": (P, "rows: [si]", "rows: [si, gls]", both("wide", "gls") | {"table-wide@balancers"}),
    "ablation-row": (P, "rows: [ours-last]", "rows: [ours-last, ours-none]",
                     both("ablation", "ours-none") | {"table-ablation@table4"}),
    "balancer-option": (P, "balancer: gradnorm}", "balancer: gradnorm, options: {alpha: 1.0}}",
                        both("baseline", "gradnorm") | {"table-main@table2", "table-wide@balancers"}),
    "student-only-switch": (P, "adaptor: linear", "adaptor: nonlinear", STUDENT | ABLATION | OURS),
    "title": (P, "title: GradNorm", "title: Grad Norm", {"table-main@table2", "table-wide@balancers"}),
    "heading": (P, "heading: Table 4", "heading: The fourth", {"table-ablation@table4"}),
    # code
    "balancer-edited": ("pipeline/balancers/gradnorm.py", "plain = gramian.diagonal()",
                        "plain = 1 * gramian.diagonal()", both("baseline", "gradnorm")),
    "helper-of-a-network": ("models/network.py", "return max(8, round", "return max(8, 0 + round",
                            (RUNS | DOMAINS) - {DOMAINS_FILE + "prepare@data"}),
    "network": ("models/segnet.py", "CONVOLUTIONS = (2, 2, 3, 3, 3)", "CONVOLUTIONS = (2, 2, 3, 3, 1 + 2)", RUNS),
    "reader": ("pipeline/data/scenes.py", "BASELINE_M = 0.075", "BASELINE_M = 0.0750", ROOMS),
    "task": ("pipeline/tasks/depth.py", "METRICS = {", "MORE = 1\nMETRICS = {",
             (RUNS | TABLES) - both("teacher", "semantic") - {"features@segnet-semantic-0"}),
}

NOTHING = [          # file, edit: what is not in force, what says things, what is no code
    (P, "c: 0.4", "c: 0.3"), (P, "epochs: 200", "epochs: 100"), (P, "# Everything that decides", "# All that decides"),
    ("pipeline/balancers/gradnorm.py", "plain = gramian", "# said again\n        plain = gramian"),
    ("pipeline/balancers/__init__.py", '"""Balancers turn', '"""All balancers turn'),
    ("models/network.py", "\nclass Network", "\n\n\nclass Network"),
    ("models/adamt.py", "DROPOUT = 0.5", "DROPOUT = 0.25"), ("pipeline/runtime/progress.py", "eta ", "left "),
    ("pipeline/balancers/novel.py", None, "from pipeline.balancers.uniform import Balancer as Balancer\n")]
REVERTED = ("lambda", "balancer-edited", "method-added", "method-reordered", "tasks-reordered", "seed-added",
            "wide-row", "ablation-row")        # the others stay, one on top of another
# another edit of the list reruns as much by the same way: in make test-slow alone
ALIKE = ("epochs", "network", "reader", "heading", "ablation-row", "epochs-of-domains")


def after(stages):
    """The stages and the tables that wait for them: a stub's results change whenever it runs."""
    waiting = {"table-main@table2": ("teacher", "baseline", "student"), "table-ablation@table4": (
        "teacher", "student", "ablation"), "table-wide@balancers": ("teacher", "baseline", "wide", "student")}
    found = {table for table, groups in waiting.items() if any(
        stage.startswith(f"evaluate-{group}@") for stage in stages for group in groups)}
    domains = any(stage.startswith(f"{DOMAINS_FILE}evaluate-") for stage in stages)
    return stages | found | ({f"{DOMAINS_FILE}table-main@table1"} if domains else set())


def edited(folder, file, old, new):
    """Edit a file, or make it where `old` is None; what it held."""
    before = (folder / file).read_text() if old else None
    assert old is None or old in before, old
    (folder / file).write_text(before.replace(old, new, 1) if old else new)
    return before


@pytest.mark.parametrize("edit", [
    pytest.param(name, marks=[pytest.mark.slow] if name in ALIKE else []) for name in EDITS])
def test_edit_reruns_exactly(project, edit):
    file, old, new, stages = EDITS[edit]
    expected, before = after(stages), edited(project, file, old, new)
    assert planned(project) == expected                     # told before anything runs
    assert repro(project) == expected
    if edit in REVERTED:
        (project / file).write_text(before)
        # A -> B -> A: everything comes back from the run cache, but a new row's metrics stay in out/, which only the
        # tables depend on
        added = {"method-added", "seed-added", "wide-row", "ablation-row"}
        assert repro(project) <= (TABLES if edit in added else set())
        assert planned(project) == set()


def test_what_decides_no_number_reruns_nothing(project):
    """A new balancer and a new suite too, which only add what nobody had."""
    for edit in NOTHING:
        edited(project, *edit)
    lanes = project / "pipeline/suites/lanes"
    lanes.mkdir()
    (lanes / "params.yaml").write_text((project / D).read_text().replace("suites/domains/params", "suites/lanes/params")
                                       .replace("suite: domains", "suite: lanes").replace("table1", "table9"))
    (lanes / "dvc.yaml").write_bytes((project / "dvc.yaml").read_bytes())
    prefix = "pipeline/suites/lanes/dvc.yaml:"
    assert {name for name in planned(project) if not name.startswith(prefix)} == set()
    ran = repro(project)
    assert ran and all(name.startswith(prefix) for name in ran)
    shutil.rmtree(lanes)
    assert repro(project) == set()


def test_several_at_a_time_leave_nothing_to_do_and_a_failing_branch_stops_only_itself(project, monkeypatch, capsys):
    environment = {"PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": ""}

    def parallel(*words, **more):
        return subprocess.run([sys.executable, "-m", "pipeline.parallel", *words], cwd=project, capture_output=True,
                              text=True, env=os.environ | environment | more)
    before = edited(project, P, "balancer: gradnorm", "switches: {drop_last: false}, balancer: gradnorm")
    edited(project, P, "rows: [ours]", "rows: [bam]")
    done = parallel("3", STUB_FAILS="baseline/segnet-gradnorm-s0/weights.pt")
    assert done.returncode == 2 and "baseline@segnet-gradnorm-0 (see .work/logs/baseline@segnet-gradnorm-0.log)" in (
        done.stderr)
    assert "told to fail" in (project / ".work/logs/baseline@segnet-gradnorm-0.log").read_text()
    assert "evaluate-student@segnet-bam-0  done" in done.stdout and "table-main@table2  done" not in done.stdout
    done = parallel("2", "table-main@table2")
    assert done.returncode == 0, done.stderr
    assert "a plain `dvc repro` finds nothing left to do" in done.stdout
    assert repro(project) == {"table-wide@balancers"}                # not asked for; the first run made Table 4
    (project / P).write_text(before)
