"""dvc.yaml as DVC reads it: the stages of every suite, and what each waits for."""

import itertools
import shutil

import yaml
from conftest import ROOT, use_dvc
from test_dag import STAGES, SUITES

from pipeline import plan
from pipeline.config import params


def test_stages_of_all_suites_are_those_of_rooms():
    """A suite takes a stage over by name; only what depends on the suite's own lists is written anew."""
    for stage, definition in STAGES.items():
        verb, _, suite = stage.rpartition("-")
        if suite in SUITES[1:] and f"{verb}-rooms" in STAGES and stage != "prepare-search":
            ours, other = ({key: yaml.safe_dump(one[key]).replace(name, "SUITE") for key in ("cmd", "deps")}
                           for one, name in ((STAGES[f"{verb}-rooms"], "rooms"), (definition, suite)))
            assert other == ours and definition["vars"][0]["suite"] == suite, stage
            listed = "search" if suite == "search" else f"suites.{suite}"
            assert all(f"{{{listed}." in axis for axis in definition.get("matrix", {}).values()), stage


def test_dvc_reads_the_file_with_the_shipped_parameters(folder, params_text):
    """Every stage of every suite, by name; no two write to one place, no circle."""
    use_dvc(folder)
    (folder / "params.yaml").write_text(params_text)
    shutil.copy(ROOT / "dvc.yaml", folder)
    stale, _, waiting = plan.outdated()
    assert {name.partition("@")[0] for name in stale} == set(STAGES)
    for suite, one in yaml.safe_load(params_text)["suites"].items():
        for verb, rows in (("teacher", one["tasks"]), ("baseline", one["baselines"]), ("student", one["students"])):
            for name in itertools.starmap("{}@{}-{}-{}".format, itertools.product(
                    [f"{verb}-{suite}"], one["models"], rows, one["seeds"])):
                assert set(waiting[f"evaluate-{name}"]) == {f"prepare-{suite}", name}
    chosen = params.load()
    assert {plan.seconds_of(chosen, name, {}) for name in filter(plan.trains, waiting)} == {(None, False)}
    features = {f"features-domains@lenet-{task}-0" for task in ("digits", "characters")}
    assert set(waiting["searched@lenet-searched-0"]) == {"prepare-domains", "search"} | features
