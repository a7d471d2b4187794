"""The shape of the project: what dvc.yaml declares, which way imports flow, and what each edit reruns (real DVC)."""

import ast
import itertools
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT, use_dvc

from pipeline import parallel, plan
from pipeline.runtime.errors import UserError

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
PACKAGES = ("pipeline", "models", "kernels")
CODE = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

# A line may import only from lines above it.
LAYERS = [
    ["kernels.packing", "kernels.gradients", "kernels.dispatch", "kernels.cpu", "kernels.gpu", "kernels.gpu.chunks",
     "pipeline.problem", "pipeline.metrics", "pipeline.mistakes", "pipeline.ahead", "pipeline.data.augment"],
    ["kernels.reference", "kernels.cases", "pipeline.distributed", "pipeline.curve",
     "pipeline.data.raycast", "pipeline.data.files", "pipeline.schema"],
    ["kernels.autograd", "pipeline.methods", "pipeline.caption"],
    [f"kernels.{way}" for way in ("cpu.feature_distance", "cpu.gramian", "cpu.combine", "gpu.feature_distance",
                                  "gpu.gramian", "gpu.min_norm", "gpu.combine")],
    ["kernels", "pipeline.progress", "pipeline.device", "pipeline.checkpoint", "pipeline.config.params"],
    ["models", "models.adaptor", "models.network", "kernels.compile", "kernels.bench", "pipeline.compiled"],
    ["models.segnet", "models.lenet", "models.resnet", "models.adamt", "models.transfer", "kernels.versions"],
    ["models.mtan"],
    ["pipeline.data", "pipeline.data.nyuv2_mat", "pipeline.data.pair", "pipeline.tasks"],
    ["pipeline.data.scenes", "pipeline.data.streets", "pipeline.data.nyuv2", "pipeline.data.cityscapes",
     "pipeline.data.glyphs", "pipeline.data.svhn_omniglot",
     "pipeline.teachers", "pipeline.measure"],
    ["pipeline.sources", "pipeline.bench.recipe", "pipeline.balance", "pipeline.balancers", "pipeline.objectives",
     "pipeline.objectives.supervised"],
    ["pipeline.store", "pipeline.objectives.feature_losses", "pipeline.objectives.consistency_losses"],
    ["pipeline.objectives.feature_distillation", "pipeline.objectives.consistency",
     *(f"pipeline.balancers.{name}" for name in ("uniform", "si", "uncertainty", "gradnorm", "dwa", "rlw", "gls",
                                                 "stch", "famo", "mgda", "graddrop", "aligned_mtl", "pcgrad",
                                                 "adalsp"))],
    [f"pipeline.balancers.{name}" for name in ("mgda_ub", "aligned_mtl_ub", "imtl", "fairgrad", "cagrad", "config",
                                               "upgrad", "db_mtl", "gradvac")],
    ["pipeline.balancers.nash_mtl", "pipeline.objectives.prediction_distillation",
     "pipeline.objectives.consistent_distillation"],
    ["pipeline.prepare", "pipeline.train", "pipeline.features", "pipeline.evaluate", "pipeline.table",
     "pipeline.toy", "pipeline.plan", "pipeline.figures"],
    ["pipeline.parallel", "pipeline.bench.step", "pipeline.bench.store", "pipeline.bench.consistency",
     "pipeline.search", "pipeline.quirks"],
]
# Code that decides no number: messages, where and how things run and lie (beyond rounding), the check of params.yaml
# (whose sections DVC tracks).
NUMBERLESS = {"pipeline", "pipeline.ahead", "pipeline.distributed", "pipeline.compiled", "pipeline.problem",
               "pipeline.progress", "pipeline.device", "pipeline.checkpoint", "pipeline.config.params",
               "pipeline.schema",
              "pipeline.methods", "pipeline.mistakes", "pipeline.objectives", "kernels", "kernels.dispatch",
              "kernels.cpu", "kernels.gpu", "models"}
# What a stage imports by name at run time.
ROWS = ["pipeline.balancers.uniform", "pipeline.objectives.supervised"]
DISTANCE = ["kernels.reference", "kernels.cpu.feature_distance", "kernels.gpu.feature_distance"]
GRAMIAN = [*(f"pipeline.balancers.{file.stem}" for file in (ROOT / "pipeline/balancers").glob("[a-z]*.py")),
           "kernels.reference", "kernels.gpu.min_norm",
           *(f"kernels.{way}.{operation}" for way in ("cpu", "gpu") for operation in ("gramian", "combine"))]
CONSISTENCY = ["pipeline.objectives.consistency"]
STUDENTS = [*ROWS, *GRAMIAN, *CONSISTENCY, *DISTANCE,
            *(f"pipeline.objectives.{kind}_distillation" for kind in ("feature", "prediction", "consistent"))]
BY_VERB = {"teacher": ROWS, "baseline": [*ROWS, *GRAMIAN, *CONSISTENCY], "wide": [*ROWS, *GRAMIAN, *CONSISTENCY],
           "student": STUDENTS, "ablation": STUDENTS, "searched": STUDENTS}
SUITES = ("rooms", "streets", "domains", "quirks", "xtask_streets", "xtask_rooms", "search")
EMBEDDED = {"rooms": "scenes", "quirks": "scenes", "streets": "streets", "domains": "glyphs", "xtask_rooms": "scenes",
            "xtask_streets": "streets"}
BY_NAME = {f"{verb}-{suite}": modules for verb, modules in BY_VERB.items() for suite in SUITES} | {
    f"prepare-{suite}": [f"pipeline.data.{name}" for name in (reader, "nyuv2_mat", "raycast", "files", "pair")]
    for suite, reader in EMBEDDED.items()} | {"searched": STUDENTS}


def suite_of(stage):
    """The suite that a stage is of, "" if of none."""
    own = [entry["suite"] for entry in STAGES[stage].get("vars", []) if "suite" in entry]
    return own[0] if own else "search" if "search" in stage else ""


def name_of(path):
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in CODE}


def imports(module):
    """Project modules that `module` imports, at any depth of its source."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / MODULES[module]).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found & MODULES.keys() - {module}


def reached(start):
    seen, todo = set(), list(start)
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            todo += imports(module)
    return seen


def test_every_module_has_a_layer():
    assert sorted(itertools.chain(*LAYERS)) == sorted(MODULES.keys() - {"pipeline"})


def test_imports_flow_one_way():
    rank = {module: i for i, layer in enumerate(LAYERS) for module in layer}
    wrong = [f"{module} imports {other}" for module in rank for other in imports(module)
             if other != "pipeline" and rank[other] >= rank[module]]
    assert not wrong


@pytest.mark.parametrize("stage", STAGES)
def test_stage_declares_the_code_it_reaches(stage):
    definition = STAGES[stage]
    verb, suite = re.search(r"-m (pipeline\.\w+)", definition["cmd"])[1], suite_of(stage)
    start, model = [verb, *BY_NAME.get(stage, [])], "lenet" if suite in ("domains", "search") else "segnet"
    if "model" in definition.get("matrix", {}) and verb != "pipeline.figures":       # which makes no network
        start += ["models.segnet", f"models.{model}"]        # the first is MTAN's base, declared with every network
    wanted = {str(MODULES[m]) for m in reached(start) - NUMBERLESS}
    declared = {d.replace(f"${{suites.{suite}.data}}", EMBEDDED.get(suite, "")).replace("${item.model}", model)
                for d in definition["deps"] if d.endswith(".py")}
    whole = tuple(f"{d}/" for d in definition["deps"] if (ROOT / d).is_dir())         # all of a folder's code
    assert declared == {path for path in wanted if not path.startswith(whole)}


def test_the_other_models_and_readers_reach_nothing_undeclared():
    assert reached(["models.mtan"]) - NUMBERLESS == {"models.mtan", "models.segnet", "models.network"}
    for name in ("lenet", "resnet", "adamt"):
        assert reached([f"models.{name}"]) - NUMBERLESS == {f"models.{name}", "models.network"}
    # what `prepare` declares for every set
    declared = {f"pipeline.data{name}" for name in ("", ".nyuv2_mat", ".raycast", ".pair", ".files")}
    for name in ("nyuv2", "cityscapes", "streets", "glyphs", "svhn_omniglot"):
        reader = f"pipeline.data.{name}"
        assert reached([reader]) - NUMBERLESS - declared == {reader}


def test_files_stay_small():
    assert not [str(path) for path in CODE if len((ROOT / path).read_text().splitlines()) > 350]


def test_verbs_are_files_and_make_words():
    words = set(re.findall(r"^([a-z0-9-]+):.*## ", (ROOT / "Makefile").read_text(), re.M))
    inner = {"search", "searched"}                  # of `make search-lambda`
    assert {stage if stage in words else stage.split("-")[0] for stage in STAGES} - inner <= words
    assert all((ROOT / f"pipeline/{re.search(r'-m pipeline.(.+?)( |$)', stage['cmd'])[1]}.py").exists()
               for stage in STAGES.values())


# -- real DVC over stub commands: a stub hashes its dependencies and sections into its outputs

STUB = '''
import hashlib, os, pathlib, sys, yaml
lists = {"-d": [], "-o": [], "-p": []}
for word in sys.argv[1:]:
    if word in lists:
        current = lists[word]
    else:
        current.append(word)
if os.environ.get("STUB_FAILS", "nothing") in " ".join(lists["-o"]):
    sys.exit("told to fail")
digest = hashlib.sha256()
for dep in sorted(lists["-d"]):
    files = [dep] if pathlib.Path(dep).is_file() else sorted(p for p in pathlib.Path(dep).rglob("*") if p.is_file())
    for file in files:
        digest.update(str(file).encode() + pathlib.Path(file).read_bytes())
params = yaml.safe_load(open("params.yaml"))
for key in lists["-p"]:
    value = params
    for part in key.split("."):
        value = value[part]
    digest.update(f"{key}={value}".encode())
for out in lists["-o"]:
    path = pathlib.Path(out)
    if path.suffix:
        path.parent.mkdir(parents=True, exist_ok=True)
    else:
        path.mkdir(parents=True, exist_ok=True)
        path /= "content"
    path.write_text("epoch,x" + chr(10) + "1," + digest.hexdigest() if out.endswith("csv") else
                    '{"x": "' + digest.hexdigest() + '"}')
'''


def paths(entries):
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the DAG of two suites, run once; each test edits params.yaml, repros and puts it back."""
    folder = tmp_path_factory.mktemp("dag")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    use_dvc(folder)
    (folder / "stub.py").write_text(STUB)
    stages = {}
    for name, stage in STAGES.items():
        if name != "toy" and (suite_of(name) not in ("rooms", "domains") or name == "figures-domains"):
            continue
        outs = [path for kind in ("outs", "metrics", "plots") for path in paths(stage.get(kind, []))]
        stages[name] = stage | {"cmd": " ".join([sys.executable, "stub.py", "-d", *stage["deps"], "-o", *outs, "-p",
                                                 *stage.get("params", [])])}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    for path in ("rooms/metrics/wide", "rooms/metrics/ablation", "domains/metrics/baseline"):
        (folder / "out" / path).mkdir(parents=True)
    (folder / "params.yaml").write_text(small(yaml.safe_load((ROOT / "params.yaml").read_text())))
    assert repro(folder) == EVERYTHING
    return folder


def small(tree):
    """The shipped parameters, little of two suites: DVC takes a fifth of a second a stage, and parses all for each."""
    def of(section, *names):
        return {name: section[name] for name in names}
    suites = of(tree["suites"], "rooms", "domains")
    suites["rooms"] |= {"models": ["segnet"], "tasks": ["semantic", "depth"], "baselines": ["uniform", "other"],
                        **{group: {"models": ["segnet"], "rows": []} for group in ("wide", "ablation")}}
    suites["domains"] |= {"tasks": ["digits"], "baselines": [], "students": ["ours-domains"]}
    tree |= {"suites": suites, "datasets": of(tree["datasets"], "scenes", "glyphs"),
             "protocols": {name: of(tree["protocols"][name], "rooms", "domains") for name in ("laptop", "paper")},
             "methods": {"other": {"title": "other", "objective": "supervised", "balancer": "ls"},
                         **of(tree["methods"], "uniform", "si", "ours", "ours-last", "ours-domains")}}
    del tree["search"]
    return yaml.safe_dump(tree, sort_keys=False, default_flow_style=None, width=1000)


def repro(folder):
    """Stages that `dvc repro` ran (not those it took from the run cache)."""
    done = subprocess.run([sys.executable, "-m", "dvc", "repro"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return set(re.findall(r"Running stage '([^']+)'", done.stdout))


TEACHERS = {f"teacher-rooms@segnet-{task}-0" for task in ("semantic", "depth")}
FEATURES = {stage.replace("teacher", "features") for stage in TEACHERS}
JUDGED = {"evaluate-" + stage for stage in TEACHERS}
BASELINES = {f"{verb}-rooms@segnet-{row}-0" for verb in ("baseline", "evaluate-baseline")
             for row in ("uniform", "other")}
STUDENT = {f"{verb}-rooms@segnet-ours-0" for verb in ("student", "evaluate-student", "figures")}
TABLES = {"table2", "table4", "table-balancers"}
RUNS = TEACHERS | FEATURES | JUDGED | BASELINES | STUDENT
ROOMS = {"prepare-rooms"} | RUNS | TABLES
DOMAINS = {f"{verb}-domains@lenet-digits-0" for verb in ("teacher", "features", "evaluate-teacher")} | {
    f"{verb}-domains@lenet-ours-domains-0" for verb in ("student", "evaluate-student")} | {"table1"}
EVERYTHING = {"toy", "prepare-domains"} | ROOMS | DOMAINS
EVERY_TABLE = TABLES | {"table1"}                # what is in `methods` may be in any caption
ROW = "\n  {0}:\n    title: {0}\n    objective: supervised\n    balancer: uniform"
EDITS = {
    "lambda": ([("semantic: 1.0, depth: 1.0", "semantic: 1.0, depth: 3.0")], STUDENT | EVERY_TABLE),
    "epochs": ([("epochs: 11", "epochs: 12")], RUNS | TABLES),
    "data-size": ([("train: 256, test", "train: 257, test")], ROOMS),
    "epochs-of-domains": ([("lenet: {epochs: 24", "lenet: {epochs: 25")], DOMAINS),
    "method-added": ([("baselines: [", "baselines: [more, "), ("\nmethods:", "\nmethods:" + ROW.format("more"))],
                     {"baseline-rooms@segnet-more-0", "evaluate-baseline-rooms@segnet-more-0"} | EVERY_TABLE),
    "method-reordered": ([("baselines: [uniform, other]", "baselines: [other, uniform]")], TABLES),
    # the order of tasks is the order of the losses
    "tasks-reordered": ([("tasks: [semantic, depth]", "tasks: [depth, semantic]")], BASELINES | STUDENT | TABLES),
    "seed-added": ([("seeds: [0]", "seeds: [0, 1]")], {stage.replace("-0", "-1") for stage in RUNS} | TABLES),
    "selection": ([("selection: train_loss", "selection: last")], TABLES),
    "protocol-not-in-force": ([("epochs: 200", "epochs: 100")], set()),
    "adaptor-rate": ([("adaptor: {lr: 0.01,", "adaptor: {lr: 0.02,")], STUDENT | TABLES),
    "wide-row": ([("rows: []", "rows: [si]")],
                 {"wide-rooms@segnet-si-0", "evaluate-wide-rooms@segnet-si-0"} | TABLES),
    "ablation-row": ([("ablation:\n      models: [segnet]\n      rows: []", "ablation:\n      rows: [ours-last]\n"
                        "      models: [segnet]")],
                     {f"{verb}-rooms@segnet-ours-last-0" for verb in ("ablation", "evaluate-ablation")} | TABLES),
    "balancer-option": ([("balancer: uniform}", "balancer: uniform, options: {scale: mean}}")],
                        {f"{verb}-rooms@segnet-uniform-0" for verb in ("baseline", "evaluate-baseline")} | EVERY_TABLE),
    "student-only-switch": ([("adaptor: linear", "adaptor: nonlinear")], STUDENT | EVERY_TABLE),
}


@pytest.mark.parametrize("edit", EDITS)
def test_edit_reruns_exactly(project, edit, monkeypatch):
    monkeypatch.chdir(project)
    changes, expected = EDITS[edit]
    file = project / "params.yaml"
    before = text = file.read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    file.write_text(text)
    try:
        assert set(plan.outdated()[0]) == expected           # told before anything runs
        assert repro(project) == expected
        assert plan.outdated()[0] == [] and (edit != "lambda" or repro(project) == set())
    finally:
        file.write_text(before)
    # A -> B -> A: everything comes back from the run cache, but a new row's metrics stay in out/, which only the
    # tables read
    assert repro(project) <= (
        TABLES if edit in ("method-added", "seed-added", "wide-row", "ablation-row") else set())


def test_several_at_a_time_leave_nothing_to_do_and_a_failing_branch_stops_only_itself(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    monkeypatch.setenv("PATH", f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setattr(parallel, "gpus", lambda: [])
    file = project / "params.yaml"
    before = file.read_text()
    file.write_text(before.replace("baselines: [uniform, other]", "baselines: [uniform, other, extra]").replace(
        "\nmethods:", "\nmethods:" + ROW.format("extra")).replace("title: other", "title: another").replace(
            "depth: 1.0, normal", "depth: 4.0, normal"))
    try:
        monkeypatch.setenv("STUB_FAILS", "segnet-other-s0/weights.pt")
        with pytest.raises(UserError, match="rooms@segnet-other-0 .see .work/logs/baseline-rooms@segnet-other-0.log"):
            parallel.main("3")
        assert "told to fail" in parallel.log_of("baseline-rooms@segnet-other-0").read_text()
        out = capsys.readouterr().out
        assert "evaluate-student-rooms@segnet-ours-0  done" in out and (
            "evaluate-baseline-rooms@segnet-extra-0  done" in out)
        assert "table2  done" not in out and "table4  done" in out and "table1  done" in out
        monkeypatch.delenv("STUB_FAILS")
        parallel.main("2", "table2")
        assert "a plain `dvc repro` finds nothing left to do" in capsys.readouterr().out
        assert repro(project) == {"table-balancers"}                # not asked for
    finally:
        file.write_text(before)
