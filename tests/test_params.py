"""params.yaml: every mistake is one sentence with the key, found before anything runs."""

import json
import shutil

import pytest
from conftest import ROOT, SUITES, change, command, file_of, row_of, shipped, smoke

from pipeline.config import checks, params, reading
from pipeline.runtime.errors import UserError

TRAIN = "protocols.laptop.train."
# suite, edit of its shipped file -> words the sentence must hold
MISTAKES = {
    "unknown-key": ("rooms", "default: {epochs: 11", "default: {epoch: 11", (TRAIN, ".epoch`", "`epochs`")),
    "unknown-top": ("rooms", "\nsearches:", "\nserches:", ("`serches`", "`searches`")),
    "unknown-in-group": ("rooms", "  models: [segnet]\n  rows: [si", "  model: [segnet]\n  rows: [si",
                         ("`wide.model`", "`models`")),
    "group-without-a-stage": ("rooms", "\nwide: ", "\nmore: {models: [segnet], rows: [uniform]}\nwide: ",
                              ("`more` is a group of rows that no stage of dvc.yaml trains", "ablation")),
    "unknown-in-method": ("rooms", "    taps: [mid, last]", "    tap: [mid, last]", ("methods.ours.tap`", "`taps`")),
    "missing": ("rooms", "    adaptor: linear      #", "    #", ("methods.ours.adaptor", "missing")),
    "text-number": ("rooms", "lr: 2.0e-3", "lr: '1e-4'", (TRAIN, "lr` is the text '1e-4'", "without quotes")),
    "wrong-type": ("rooms", "{epochs: 11", "{epochs: many", (TRAIN, "epochs", "'many'")),
    "float-epochs": ("rooms", "{epochs: 11", "{epochs: 12.5", (TRAIN, "epochs", "12.5")),
    "negative": ("rooms", "lr: 2.0e-3", "lr: -2.0e-3", (TRAIN, "lr", "-0.002", "greater than 0")),
    "not-finite": ("rooms", "lr: 2.0e-3", "lr: .inf", (TRAIN, "lr", "inf")),
    "size": ("rooms", "height: 48, width: 64", "height: 31, width: 64", ("protocols.laptop.data.height", "31", "32")),
    "size-of-any": ("domains", "height: 32, width: 32, train: {digits: 3000",
                    "height: 27, width: 32, train: {digits: 3000", ("protocols.laptop.data.height", "27", "28")),
    "holes": ("rooms", "holes: 0.08", "holes: 1.5", ("datasets.scenes.holes", "1.5", "0.9")),
    "nyuv2-source": ("rooms", "source: mtan", "source: mtn", ("datasets.nyuv2.source", "'mtn'", "'mat'")),
    "nyuv2-normals": ("rooms", "source: mtan", "source: mat",
                      ("`datasets.nyuv2`", "'published'", "`normals: derived`")),
    "nyuv2-depth": ("rooms", "depth: raw ", "depth: dense ", ("datasets.nyuv2.depth", "'dense'", "'filled'")),
    "nyuv2-crop": ("rooms", "crop: toolbox", "crop: 16", ("datasets.nyuv2.crop", "16", "'border16'")),
    "image": ("streets", "image: bilinear", "image: bicubic", ("datasets.cityscapes.image", "'bicubic'", "'nearest'")),
    "data": ("rooms", "data: scenes ", "data: scene ", ("`data` has 'scene'", "nyuv2", "`scenes`")),
    "data-set": ("rooms", "  nyuv2:\n", "  nyu:\n", ("`datasets` has 'nyu'", "`nyuv2`")),
    "protocol": ("rooms", "protocol: laptop", "protocol: latop", ("'latop'", "`laptop`")),
    "model": ("rooms", "models: [segnet]\n  rows: [sem", "models: [segnett]\n  rows: [sem", ("'segnett'", "`segnet`")),
    "method": ("rooms", "rows: [ours]", "rows: [our]", ("'our'", "`ours`")),
    "method-kind": ("rooms", "rows: [ours]", "rows: [dwa]", ("`student.rows`", "'dwa'", "supervised")),
    "method-twice": ("rooms", "rows: [si,", "rows: [uniform,", ("`wide.rows` has 'uniform'", "`baseline.rows`")),
    "tasks-of-data": ("streets", "rows: [semantic, depth]", "rows: [semantic, normal]", ("`teacher.rows`", "'normal'",
                                                                                         "semantic, depth")),
    "model-of-tasks": ("domains", "models: [lenet], rows: [digits", "models: [segnet], rows: [digits",
                       ("`teacher.models` has 'segnet'", "lenet")),
    "lambda-of-suite": ("streets", "lambda: {semantic: 2.0, depth: 6.0}", "lambda: {semantic: 2.0}",
                        ("methods.ours-streets.lambda", "depth")),
    "mid-of-lenet": ("domains", "taps: [last]", "taps: [mid, last]", ("methods.ours-domains.taps", "lenet", "`last`")),
    "odd-batch": ("domains", "epochs: 24, batch: 256", "epochs: 24, batch: 255", ("255", "2 should divide it")),
    "counts": ("domains", "train: {digits: 3000, characters: 1200}", "train: 3000",
               ("protocols.laptop.data.train", "3000", "{digits: a number, characters: a number}")),
    "pair of counts": ("rooms", "train: 256, test: 64", "train: {digits: 4, characters: 4}, test: 64",
                       ("protocols.laptop.data.train", "a number of images")),
    "augmented digits": ("domains", "default: {epochs: 24,", "default: {augment: crop, epochs: 24,",
                         ("protocols.laptop.train.lenet.augment", "other digits")),
    "no adaptor to another tap": ("rooms", "    towards: last ", "    adaptor: none\n    towards: last ",
                                  ("methods.ours-universal", "towards: last", "adaptor: linear")),
    "table-without-rows": ("streets", "tables: {main: [table3], ablation: []", "tables: {main: [], ablation: [table3]",
                           ("`tables.ablation` has 'table3'", "`ablation`", "no rows")),
    "table-unprinted": ("streets", "tables: {main: [table3]", "tables: {main: [table3, table9]",
                        ("`tables.main` has 'table9'", "table3")),
    "like": ("rooms", "{like: ours, title: \"Ours, last\"", "{like: our, title: \"Ours, last\"",
             ("methods.ours-last.like", "'our'", "`ours`")),
    "like-in-a-circle": ("rooms", "  ours:                  # KD4MTL", "  ours:\n    like: ours-last\n    # KD4MTL",
                         ("in a circle", "ours-last -> ours")),
    "anchor": ("rooms", "default: {epochs: 11", "default: &laptop {epochs: 11", ("`&laptop`", "like", "default")),
    "merge-key": ("rooms", "default: {epochs: 11", "default: {<<: {batch: 8}, epochs: 11", ("`<<`", "like", "default")),
    "no-parent": ("rooms", "derived: {models: [], rows: [], after: {group: baseline, row: none}}",
                  "derived: {models: [segnet], rows: [si], after: {group: baseline, row: none}}",
                  ("`derived` has no parent", "'none'", "uniform")),
    "no-parent-group": ("rooms", "refined: {models: [], rows: [], after: baseline}",
                        "refined: {models: [segnet], rows: [uniform], after: derived}",
                        ("`refined.after`", "'derived'", "trains nothing")),
    "after-in-a-circle": ("rooms", "derived: {models: [], rows: [], after: {group: baseline, row: none}}\n"
                          "refined: {models: [], rows: [], after: baseline}",
                          "derived: {models: [segnet], rows: [uniform], after: {group: refined, row: uniform}}\n"
                          "refined: {models: [segnet], rows: [uniform], after: derived}", ("a circle",)),
    "params-file": ("streets", "params_file: pipeline/suites/streets/params.yaml", "params_file: params.yaml",
                    ("`params_file` is 'params.yaml'", "pipeline/suites/streets/params.yaml")),
    "switch-of-a-method": ("quirks", "switches: {drop_last: false}", "switches: {drop_lost: false}",
                           ("methods.quirk-drop-last.switches.drop_lost", "`drop_last`")),
    "switch": ("rooms", "  crop_masks: true", "  crop_mask: true", ("`switches.crop_mask`", "`crop_masks`")),
    "objective": ("rooms", "objective: feature_distillation", "objective: distill",
                  ("methods.ours.objective", "'distill'")),
    "objective-nearly": ("xtask_rooms", "objective: consistency\n", "objective: consistensy\n",
                         ("`methods.direct.objective`", "'consistensy'", "`consistency`", "consistent_distillation")),
    "no-objective": ("xtask_rooms", "    objective: consistency\n", "", ("`methods.direct.objective` is missing",)),
    "consistency": ("xtask_rooms", "      group: source", "      group: sorce",
                    ("`methods.xtasc-rooms.consistency.group`", "'sorce'")),
    "consistency-key": ("xtask_rooms", "      wide: false", "      wyde: false",
                        ("`methods.xtasc-rooms.consistency.wyde`", "`wide`")),
    "balancer": ("rooms", "balancer: mgda}", "balancer: mdga}", ("methods.mgda-full.balancer", "'mdga'", "`mgda`")),
    "twice": ("rooms", "seeds: [0]", "seeds: [0, 0]", ("seeds", "[0, 0]")),
    "seed": ("rooms", "seeds: [0]", "seeds: [-1]", ("seeds.0", "-1")),
    "lambda": ("rooms", "lambda: {semantic: 1.0, depth: 1.0, normal: 2.0}", "lambda: {semantic: 1.0, depth: 1.0}",
               ("methods.ours.lambda", "normal")),
    "lambda-task": ("rooms", "lambda: {semantic: 1.0, depth: 1.0, normal: 2.0}",
                    "lambda: {semantics: 1.0, semantic: 1.0, depth: 1.0, normal: 2.0}",
                    ("methods.ours.lambda", "semantics")),
    "batch": ("rooms", "epochs: 11, batch: 4", "epochs: 11, batch: 800",
              ("`protocols.laptop`", "train.segnet.batch` is 800", "256")),
    "no-section": ("rooms", "      default: {epochs: 11", "      mtan: {epochs: 11", ("protocols.laptop.train",)),
    "step": ("rooms", "step_every: 100, step_factor: 0.5", "step_every: 100", ("step_factor", "step")),
    "step-from": ("rooms", "epochs: 11, batch: 4", "epochs: 11, step_from: 4, batch: 4", ("`step_from` is 4", "null")),
    "target-stride": ("rooms", "{height: 48, ", "{target_stride: 8, height: 48, ",
                      ("`protocols.laptop.data.target_stride` is 8; segnet predicts one pixel of 1 a side",)),
    "key-twice": ("rooms", "seeds: [0]", "seeds: [0]\nseeds: [1]", ("the key 'seeds' stands twice", "line 9")),
    "not-yaml": ("rooms", "seeds: [0]", "seeds: [0", ("not YAML",)),
    "no-bool": ("rooms", "drop_last: true", "drop_last: 'yes'", ("switches.drop_last", "'yes'")),
    "trial": ("search", "rows: [1-1, ", "rows: [1-1-1, ", ("`student.rows` has '1-1-1'", "'1-1'")),
    "searched": ("search", "method: ours-domains", "method: ours-domain", ("search.method", "`ours-domains`")),
    "searched-suite": ("search", "searches: [domains]", "searches: [domain]", ("`searches` is ['domain']", "domains")),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistake_is_a_sentence(case, folder):
    suite, old, new, words = MISTAKES[case]
    file_of(suite).write_text(shipped(suite))
    change((old, new), suite=suite)
    with pytest.raises(UserError) as caught:
        params.load(suite)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert all(word in sentence for word in words), sentence


def test_shipped_files_are_right_and_read_the_same_under_dvc():
    from dvc.utils.serialize import load_yaml

    for suite in ("rooms", *SUITES):
        assert load_yaml(ROOT / file_of(suite)) == reading.read(ROOT / file_of(suite))


REAL = {"rooms": ("scenes", "nyuv2"), "streets": ("streets", "cityscapes"), "domains": ("glyphs", "svhn_omniglot")}


def test_every_protocol_and_both_data_sets_of_a_suite_are_one_word_away(folder):
    for suite, sets in REAL.items():
        for data in sets:
            for protocol in ("laptop", "paper", "smoke"):
                file_of(suite).write_text(shipped(suite))
                change((f"data: {sets[0]} ", f"data: {data} "), ("protocol: laptop", f"protocol: {protocol}"),
                       suite=suite)
                chosen = params.load(suite)
                assert (chosen.data, chosen.protocol) == (data, protocol)
    for suite, batch in (("rooms", 2), ("streets", 8), ("quirks", 2)):
        paper = params.load(suite, "paper").protocol_in_force
        for train in paper.train.values():
            assert (train.epochs, train.batch, train.lr, train.width) == (200, batch, 1e-4, 1.0)
            assert (train.schedule, train.step_every, train.step_factor) == ("step", 100, 0.5)
        assert (paper.adaptor.lr, paper.adaptor.l2) == (0.1, 5e-4)
    rooms, streets, domains = (params.load(suite, "paper").protocol_in_force for suite in REAL)
    assert (rooms.data.height, rooms.data.width, rooms.data.train, rooms.data.test) == (288, 384, 795, 654)
    assert (streets.data.height, streets.data.width, streets.data.train, streets.data.test) == (128, 256, 2975, 500)
    lenet = domains.train["lenet"]
    assert (lenet.epochs, lenet.batch, lenet.width) == (300, 512, 1.0)


def test_the_command_line_says_one_line_and_exits_2(folder):
    change(("default: {epochs: 11", "default: {epoks: 11"))
    for words in (["pipeline.config"], ["pipeline.rows", "rooms"], ["pipeline.plan"]):
        done = command(*words, cwd=folder)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: params.yaml: unknown key"), done.stderr


def test_checking_starts_no_torch(folder):
    code = "import sys; from pipeline.config import params; params.load('rooms'); assert 'torch' not in sys.modules"
    done = command(cwd=folder, code=code)
    assert done.returncode == 0, done.stderr


OPTIONS = {
    "unknown": ("cagrad, options: {c: 0.4}", "cagrad, options: {cc: 0.4}", ("methods.cagrad.options.cc", "`c`")),
    "range": ("cagrad, options: {c: 0.4}", "cagrad, options: {c: 1.4}", ("methods.cagrad.options.c` is 1.4",)),
    "text-number": ("cagrad, options: {c: 0.4}", "cagrad, options: {c: '1e-1'}", ("options.c", "'1e-1'", "quotes")),
    "text": ("clip: 1.0}", "clip: wide}", ("methods.nash.options.clip", "'wide'")),
    "bool": ("clip: 1.0}", "clip: true}", ("methods.nash.options.clip", "True")),
    "whole": ("stch}", "stch, options: {warmup: 4.5}}", ("options.warmup` is 4.5",)),
    "whole or null": ("dwa}", "dwa, options: {window: 2.5}}", ("options.window` is 2.5",)),
    "infinite": ("cagrad, options: {c: 0.4}", "fairgrad, options: {exponent: .inf}", ("exponent` is inf", "finite")),
    "nan": ("cagrad, options: {c: 0.4}", "cagrad, options: {c: .nan}", ("options.c` is nan",)),
    "null": ("cagrad, options: {c: 0.4}", "cagrad, options: {c: null}", ("options.c` is None", "number")),
    "list": ("mgda}", "mgda, options: {normalise: [l2]}}", ("options.normalise` is ['l2']",)),
    "number": ("upgrad}", "upgrad, options: {preference: 2.0}}", ("options.preference` is 2.0",)),
    "in mapping": ("upgrad}", "upgrad, options: {preference: {depth: high}}}",
                   ("options.preference.depth` is 'high'",)),
    "choice": ("aligned_mtl}", "aligned_mtl, options: {mode: max}}", ("'min', 'median' or 'rmse'", "'max'")),
    "heads": ("upgrad}", "upgrad, options: {heads: all}}", ("methods.upgrad.options", "'own' or 'weighted'")),
    "task": ("upgrad}", "upgrad, options: {preference: {depht: 2.0}}}", ("depht", "depth, normal, semantic")),
    "db-mtl's period": ("db_mtl}", "db_mtl, options: {period: 2}}", ("methods.db-mtl.options.period` is 2",)),
}


@pytest.mark.parametrize("right", ["gradnorm, options: {lr: null}", "dwa, options: {window: 25, temperature: 1}",
                                   "si, options: {heads: null, preference: {depth: 2}}",
                                   "si, options: {offset: 1e-06}"])
def test_options_of_every_type_that_they_may_have(right, folder):
    change(("cagrad, options: {c: 0.4}", right))
    params.load("rooms")


@pytest.mark.parametrize("case", OPTIONS)
def test_options_of_balancers_are_checked_before_work(case, folder):
    old, new, words = OPTIONS[case]
    change((old, new))
    with pytest.raises(UserError) as caught:
        params.load("rooms")
    sentence = str(caught.value)
    assert "\n" not in sentence and all(word in sentence for word in words), sentence


def test_released_names_of_balancers_are_understood(folder):
    for alias, name in checks.balancer_files().items():
        file_of("rooms").write_text(smoke(shipped("rooms")))
        change(("balancer: upgrad}", f"balancer: {alias}}}"))
        assert row_of("rooms", "wide", "segnet", "upgrad")["method"]["balancer"] == name
    assert checks.balancer_files()["amtl"] == "aligned_mtl" and checks.balancer_files()["ls"] == "uniform"


def test_numbers_are_those_of_yaml_1_2(folder):
    """DVC writes 1e-06 for 0.000001, which YAML 1.1 has as text."""
    change(("lr: 2.0e-3", "lr: 1e-06"))
    assert params.load("rooms").protocols["laptop"].train["segnet"].lr == 1e-6


def bad_suite(place, **how):
    """A second copy of streets under another name, with one thing wrong."""
    suite = place / "pipeline/suites/lanes"
    suite.mkdir()
    if "params" not in how:
        (suite / "params.yaml").write_text(shipped("streets").replace("suites/streets", "suites/lanes").replace(
            "suite: streets", f"suite: {how.get('name', 'lanes')}"))
        shutil.copy(ROOT / "pipeline/suites/streets/paper.yaml", suite)
    return suite


def test_bad_folders_are_sentences(folder):
    shutil.copy(ROOT / "dvc.yaml", folder)
    for suite in SUITES:
        shutil.copy(ROOT / "dvc.yaml", folder / "pipeline/suites" / suite)
    suite = bad_suite(folder, params=None)
    with pytest.raises(UserError, match="pipeline/suites/lanes has no params.yaml"):
        params.files()
    shutil.rmtree(suite)
    suite = bad_suite(folder, name="rooms")
    with pytest.raises(UserError, match="are both the suite 'rooms'"):
        params.files()
    shutil.rmtree(suite)
    suite = bad_suite(folder, name="lane")
    with pytest.raises(UserError, match="`suite` is 'lane'; it should be 'lanes'"):
        params.files()
    shutil.rmtree(suite)
    suite = bad_suite(folder)
    with pytest.raises(UserError, match="lanes/dvc.yaml is not there.*make suites"):
        params.check_copies()
    (suite / "dvc.yaml").write_text("stages: {}\n")
    with pytest.raises(UserError, match="lanes/dvc.yaml differs"):
        params.check_copies()
    (suite / "dvc.yaml").unlink()
    (suite / "dvc.yaml").symlink_to("../../../dvc.yaml")
    with pytest.raises(UserError, match="lanes/dvc.yaml is a link"):
        params.check_copies()
    (suite / "dvc.yaml").unlink()
    shutil.copy(ROOT / "dvc.yaml", suite)
    params.check_copies()
    assert "lanes" in params.files() and params.load("lanes").tasks == ["semantic", "depth"]


def test_missing_file(folder):
    (folder / "params.yaml").unlink()
    with pytest.raises(UserError, match="params.yaml is not here"):
        params.files()


def test_unknown_suite(folder):
    with pytest.raises(UserError, match="'street' is no suite.*did you mean `streets`"):
        params.load("street")


def leaves(tree, above=()):
    """(path, value) of everything that is no section."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*above, key))
        else:
            yield (*above, key), value


def other(value):
    """A value of the same kind that is another one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return [*value, "more"] if isinstance(value, list) else "another"


@pytest.mark.parametrize("suite", ["rooms", *SUITES])
def test_every_value_can_be_set_by_dvc(suite, tmp_path):
    """DVC's own override, which `exp run -S` uses: what was set is read back, and nothing else has changed."""
    from dvc.utils.hydra import apply_overrides

    file, before = tmp_path / "params.yaml", reading.read(ROOT / file_of(suite))
    found = [(path, other(value)) for path, value in leaves(before) if not isinstance(value, dict)]
    assert len(found) > 10
    for chosen in (found[::2], found[1::2], found[-1:]):
        file.write_text(shipped(suite))
        apply_overrides(file, [f"{'.'.join(path)}={json.dumps(value)}" for path, value in chosen])
        after = dict(leaves(reading.read(file)))
        for path, value in leaves(before):
            assert after[path] == dict(chosen).get(path, value), path


def test_what_is_written_can_be_read_again(tmp_path):
    """A list that stands in two places becomes no alias, which reading refuses."""
    models = ["segnet"]
    tree = {"baseline": {"models": models}, "student": {"models": models}}
    (tmp_path / "params.yaml").write_text(reading.text(tree))
    assert reading.read(tmp_path / "params.yaml") == tree
