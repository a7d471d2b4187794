"""The shape of the project: small files, one file per verb, and what make offers."""

import re

import yaml
from conftest import ROOT

from pipeline.config.schema import SETS

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
CODE = [path for package in ("pipeline", "models", "kernels") for path in (ROOT / package).rglob("*.py")]


def test_files_stay_small():
    assert not {str(path): lines for path in CODE if (lines := len(path.read_text().splitlines())) > 350}


def test_a_stage_runs_a_verb_that_is_one_file():
    for stage in STAGES.values():
        verb = re.search(r"-m pipeline\.(\w+) ", stage["cmd"])[1]
        assert (ROOT / f"pipeline/{verb}.py").exists()


def test_a_table_waits_for_the_groups_that_it_may_show():
    """`schema.SETS` says so to who writes a suite; dvc.yaml does it."""
    for kind, groups in SETS.items():
        stage = STAGES["quirks" if kind == "quirks" else f"table-{kind}"]
        waited = {dep.rpartition("/metrics/")[2] for dep in stage["deps"] if "/metrics" in dep}
        assert waited == {"teacher", *groups}, kind


def test_every_group_that_a_suite_may_have_is_a_make_target():
    words = set(re.findall(r"^([a-z0-9%-]+):.*## ", (ROOT / "Makefile").read_text(), re.M))
    groups = [stage.removeprefix("evaluate-") for stage in STAGES if stage.startswith("evaluate-")]
    assert {"table%", "prepare", "features", "evaluate", "search-lambda", "quirks", *groups} - {"searched"} <= words


def test_no_code_hangs_on_a_suites_name():
    """Suites are data. A name that is also a verb, a data set or a key of the manifest says nothing here."""
    suites = {"rooms", *(path.parent.name for path in (ROOT / "pipeline/suites").glob("*/params.yaml"))}
    suites -= {*(path.stem for path in CODE), "domains"}
    assert len(suites) > 2
    for path in CODE:
        text = re.sub(r'""".*?"""', "", path.read_text(), flags=re.S)
        named = [name for name in suites if re.search(rf"[\"'/]{name}[\"'/]", text)]
        assert "bench" in path.parts or not named, (path, named)
