"""Rows: what is in them, what of the code counts in their digest, and that it is all the code that a run loads."""

import ast
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT, SUITES, change, command, lay, row_of, run

from pipeline import rows, train
from pipeline.config import params, resolve
from pipeline.options import code, declared
from pipeline.runtime.errors import UserError
from pipeline.runtime.row import read

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
STUDENT = ["pipeline.train", "models.segnet", "pipeline.objectives.feature_distillation", "pipeline.balancers.uniform",
           *(f"pipeline.tasks.{task}" for task in ("semantic", "depth", "normal"))]


def test_no_stage_but_rows_lists_code():
    for name, stage in STAGES.items():
        listed = [dep for dep in stage.get("deps", []) if not dep.startswith("out/")]
        assert (name == "rows") == bool(listed), (name, listed)
        assert name == "rows" or "params" not in stage


def test_rows_depend_on_all_code_that_any_row_reaches():
    """Folders of code, and the verbs' files; without the suites, whose lock files DVC itself writes."""
    listed = [dep for dep in STAGES["rows"]["deps"] if not dep.startswith("$")]
    everything = [module for package in ("pipeline", "models", "kernels") for module in modules(package)]
    verbs = [f"pipeline.{word}" for word in ("evaluate", "features", "prepare", "quirks", "search", "table", "train")]
    start = verbs + [module for module in everything if module.split(".")[:2] in (
        ["pipeline", "balancers"], ["pipeline", "data"], ["pipeline", "objectives"], ["pipeline", "tasks"]) or (
            module.startswith("models."))]
    files = {str(code.path(module).relative_to(ROOT)) for module in code.reached(start) if module != "pipeline"}
    assert all(any(file == dep or file.startswith(f"{dep}/") for dep in listed) for file in files)
    assert "pipeline/rows.py" in listed and "pipeline/config" in listed
    assert not [dep for dep in listed if dep in ("pipeline", "pipeline/suites", "pipeline/bench")]


def modules(package):
    for file in sorted((ROOT / package).rglob("*.py")):
        yield ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_comments_docstrings_and_blank_lines_do_not_count():
    source = '''"""Words."""

import os      # a remark

TEXT = """kept

   whole  # even this
"""


class A:
    """More words."""

    def b(self):
        """And more,

        over lines."""
        return f"{os.name} # not a remark"
'''
    said = source.replace('"""Words."""', '"""Other words, in other\nlines."""').replace("  # a remark", "").replace(
        "\n\n\nclass", "\n\n# said\n\nclass").replace('"""More words."""\n', '"""More."""\n\n')
    counted = [code.counted(text, list(ast.walk(ast.parse(text)))) for text in (source, said)]
    assert counted[0] == counted[1] and "remark" in counted[0] and "kept\n\n   whole  # even this\n" in counted[0]
    for old, new in (("even this", "even that"), ("return f", "return F"), ("kept\n\n", "kept\n")):
        changed = source.replace(old, new)
        assert code.counted(changed, list(ast.walk(ast.parse(changed)))) != counted[0]


def test_the_digest_is_the_same_on_another_python():
    """`ast.dump` and `ast.unparse` differ between versions; what counts here is the text."""
    others = [python for python in map(shutil.which, ("python3.12", "python3.13", "python3.14")) if python]
    others += [str(path) for path in pathlib.Path(sys.executable).resolve().parents[2].glob("3.1[2-4]*/bin/python")]
    found = {python: done.stdout.strip() for python in others if not (done := subprocess.run(
        [python, "-c", PLAIN], cwd=ROOT, capture_output=True, text=True)).returncode}
    if not found:
        pytest.skip("there is no other Python here")
    own = subprocess.run([sys.executable, "-c", PLAIN], cwd=ROOT, capture_output=True, text=True)
    assert set(found.values()) == {own.stdout.strip()}, found


# what decides the digest, without pydantic, which another Python may lack
PLAIN = """
import ast, hashlib, pathlib, sys, types
sys.modules["pydantic"] = types.ModuleType("pydantic")
sys.modules["pydantic"].create_model = None
sys.modules["pipeline.config.schema"] = types.ModuleType("pipeline.config.schema")
import pipeline.config
pipeline.config.schema = sys.modules["pipeline.config.schema"]
from pipeline.options import code
whole = hashlib.sha256()
for package in ("pipeline", "models", "kernels"):
    for file in sorted(pathlib.Path(package).rglob("*.py")):
        source = file.read_text()
        whole.update(code.counted(source, list(ast.walk(ast.parse(source)))).encode())
print(whole.hexdigest(), code.digest(["pipeline.train", "models.mtan", "pipeline.balancers.mgda"]))
"""


def test_a_row_does_not_depend_on_the_order_of_hashes(folder):
    written = []
    for seed in ("1", "2"):
        assert command("pipeline.rows", "rooms", PYTHONHASHSEED=seed).returncode == 0
        written.append({str(path): path.read_text() for path in pathlib.Path("out/rooms/rows").rglob("*.yaml")})
    assert written[0] == written[1] and len(written[0]) > 50


LOADED = """
import importlib, sys
verb, *words = sys.argv[1:]
importlib.import_module(f"pipeline.{verb}").main(*words)
print("loaded:", *(name for name in sys.modules if name.split(".")[0] in ("pipeline", "models", "kernels")))
"""


@pytest.mark.parametrize("kernels", ["auto", "reference"])
@pytest.mark.parametrize("group, name", [("student", "ours"), ("baseline", "uniform"), ("wide", "mgda-full"),
                                         ("teacher", "depth")])
def test_the_digest_holds_all_code_that_a_training_loads(copy, group, name, kernels):
    """What a process has imported by its end, less what only says things."""
    rows.main("rooms")
    done = command("train", "rooms", group, "segnet", name, "0", code=LOADED, cwd=copy, KERNELS=kernels)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.partition("loaded: ")[2].split())
    row = read("train", "rooms", group, f"segnet-{name}-s0")
    reached = code.reached(["pipeline.train", "models.segnet", f"pipeline.objectives.{row['method']['objective']}",
                            f"pipeline.balancers.{row['method']['balancer']}",
                            *(f"pipeline.tasks.{task}" for task in row["tasks"])])
    assert not {name for name in loaded - reached if code.decides_numbers(name)}


def test_what_only_says_things_is_left_out():
    reached = code.reached(STUDENT)
    assert not [name for name in reached if name.startswith(("pipeline.runtime", "pipeline.config"))]
    assert {"kernels.gpu.feature_distance", "kernels.cpu.feature_distance",
            "kernels.native.feature_distance", "kernels.native", "kernels.reference"} <= reached
    assert "pipeline.tasks.digits" not in reached and "models.mtan" not in reached
    assert "pipeline.balancers.mgda" not in reached and "models.segnet" in code.reached(["models.mtan"])


def test_files_beside_the_code_count_by_content(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "kernels", tmp_path / "kernels")
    monkeypatch.setattr(declared, "ROOT", tmp_path)
    monkeypatch.setattr(code, "ROOT", tmp_path)
    caches = (declared.tree, declared.constants, code.nodes, code.imports, code.text, code.of_all)
    found = []
    for content in ("int a;", "int b;", None):
        if content:
            (tmp_path / "kernels/cpu/distance.cpp").write_text(content)
        else:
            (tmp_path / "kernels/cpu/distance.cpp").unlink()
        for cache in caches:
            cache.cache_clear()
        found.append(code.digest(["kernels.cpu.gramian"]))
    for cache in caches:
        cache.cache_clear()
    assert len(set(found)) == 3


def test_rows_are_there_for_every_run_of_every_suite(folder):
    for suite in ("rooms", *SUITES):
        rows.main(suite)
        chosen = params.load(suite)
        for group, model, name, seed in resolve.runs(chosen):
            for verb in ("train", "evaluate"):
                row = read(verb, suite, group, f"{model}-{name}-s{seed}")
                assert (row["suite"], row["group"], row["model"], row["name"]) == (suite, group, model, name)
        assert read("prepare", suite, "data")["suite"] == suite


def test_rows_that_are_gone_leave_no_file(folder):
    rows.main("rooms")
    assert pathlib.Path("out/rooms/rows/train/wide/segnet-si-s0.yaml").exists()
    change(("  rows: [si, rlw,", "  rows: [rlw,"))
    rows.main("rooms")
    assert not pathlib.Path("out/rooms/rows/train/wide/segnet-si-s0.yaml").exists()


def test_a_missing_or_damaged_row_is_a_sentence(folder):
    with pytest.raises(UserError, match="segnet-ours-s0.yaml is not there; `python -m pipeline.rows rooms` writes"):
        train.main("rooms", "student", "segnet", "ours", "0")
    rows.main("rooms")
    with pytest.raises(UserError, match="segnet-our-s0.yaml is not there.*there are segnet-ours-s0"):
        train.main("rooms", "student", "segnet", "our", "0")
    pathlib.Path("out/rooms/rows/train/student/segnet-ours-s0.yaml").write_text("a: [")
    with pytest.raises(UserError, match="segnet-ours-s0.yaml is damaged"):
        train.main("rooms", "student", "segnet", "ours", "0")


# -- chains

CHAIN = [("derived: {models: [], rows: [], after: {group: baseline, row: none}}",
          "derived: {models: [segnet], rows: [uniform, mgda], after: {group: baseline, row: uniform}}"),
         ("refined: {models: [], rows: [], after: baseline}",
          "refined: {models: [segnet], rows: [mgda], after: derived, with: {switches: {drop_last: false}}}")]


def test_a_chain_begins_from_its_parents_weights(copy, capsys):
    """Rows of `derived` from one run, a row of `refined` from the run of its own name; siblings stay as they are."""
    import torch

    from pipeline.runtime import documents, weights

    change(*CHAIN)
    run(train, "rooms", "derived", "segnet", "mgda", "0")
    run(train, "rooms", "derived", "segnet", "uniform", "0")
    run(train, "rooms", "refined", "segnet", "mgda", "0")
    row = row_of("rooms", "refined", "segnet", "mgda")
    assert row["parent"]["folder"] == "out/rooms/derived/segnet-mgda-s0" and row["switches"]["drop_last"] is False
    assert row["parent"]["parent"]["folder"] == "out/rooms/baseline/segnet-uniform-s0"
    kept = yaml.safe_load(pathlib.Path("out/rooms/refined/segnet-mgda-s0/run.yaml").read_text())
    assert kept == row and kept["parent"]["method"]["balancer"] == "mgda_ub"

    # other weights of the parent, other results; the sibling that came from the same parent has not changed
    before = {group: weights.read(f"out/rooms/{group}/segnet-mgda-s0/weights.pt", "")
              for group in ("derived", "refined")}
    path = pathlib.Path("out/rooms/baseline/segnet-uniform-s0/weights.pt")
    states = weights.read(path, "")
    for value in states["last"].values():
        if value.is_floating_point():
            value.mul_(1.1)
    cost = documents.read(path.parent / "cost.json", str)
    documents.write_run(path.parent, {"weights.pt": weights.pack(states)}, cost)      # as that run would have left it
    capsys.readouterr()
    run(train, "rooms", "derived", "segnet", "mgda", "0")
    run(train, "rooms", "refined", "segnet", "mgda", "0")
    assert "going on from" not in capsys.readouterr().out
    for group, states in before.items():
        found = weights.read(f"out/rooms/{group}/segnet-mgda-s0/weights.pt", "")["last"]
        assert not all(torch.equal(found[key], value) for key, value in states["last"].items())


def test_a_parents_weights_are_in_the_fingerprint(copy):
    """A run that was stopped does not go on when its parent has changed since."""
    from pipeline.teachers import networks

    change(*CHAIN)
    row = row_of("rooms", "derived", "segnet", "mgda")
    before = networks.digests(row)
    path = pathlib.Path("out/rooms/baseline/segnet-uniform-s0/weights.pt")
    path.write_bytes(path.read_bytes() + b"x")
    assert len(before) == 1 and networks.digests(row) != before
    path.unlink()
    with pytest.raises(UserError, match="weights.pt is not there; run `rm .*dvc repro -s baseline@segnet-uniform-0`"):
        run(train, "rooms", "derived", "segnet", "mgda", "0")


def test_dvc_knows_the_parents(folder):
    """The weights that a chain begins from are among its stages' dependencies."""
    from conftest import use_dvc
    from dvc.repo import Repo

    shutil.copy(ROOT / "dvc.yaml", folder)
    use_dvc(folder)
    change(*CHAIN)
    with Repo() as repo:
        stages = {stage.addressing: {str(dep) for dep in stage.deps} for stage in repo.index.stages}
    assert "out/rooms/baseline/segnet-uniform-s0/weights.pt" in stages["derived@segnet-mgda-0"]
    assert "out/rooms/derived/segnet-mgda-s0/weights.pt" in stages["refined@segnet-mgda-0"]


# -- the copies of dvc.yaml

def test_every_suite_has_the_one_dvc_yaml():
    for suite in SUITES:
        assert (ROOT / "pipeline/suites" / suite / "dvc.yaml").read_bytes() == (ROOT / "dvc.yaml").read_bytes()
    assert len((ROOT / "dvc.yaml").read_text().splitlines()) <= 170


def test_no_two_stages_of_any_suites_write_to_one_place(tmp_path):
    from conftest import use_dvc
    from dvc.repo import Repo

    lay(tmp_path)
    for suite in ("", *(f"pipeline/suites/{suite}" for suite in SUITES)):
        shutil.copy(ROOT / "dvc.yaml", tmp_path / suite)
    use_dvc(tmp_path)
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        with Repo() as repo:
            graph = repo.index.graph                      # refuses outputs that overlap, and circles
            waiting = {stage.addressing: {up.addressing for up in graph.successors(stage)} for stage in graph.nodes}
    finally:
        os.chdir(before)
    search = "pipeline/suites/search/dvc.yaml:"
    domains = "pipeline/suites/domains/dvc.yaml:"
    assert waiting[f"{search}searched@domains-lenet-searched-0"] == {
        f"{search}rows", f"{search}search@domains", f"{domains}prepare@data",
        *(f"{domains}features@lenet-{task}-0" for task in ("digits", "characters"))}
    assert {name for name, above in waiting.items() if not above} == {
        "rows", *(f"pipeline/suites/{suite}/dvc.yaml:rows" for suite in SUITES)}
