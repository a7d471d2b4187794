"""params.yaml: every mistake is one sentence with the key, found before anything runs."""

import pytest
import yaml
from conftest import command

from pipeline.config import params
from pipeline.runtime.errors import UserError

LAPTOP = "protocols.laptop.rooms.train.segnet."
# edit of the shipped file -> words the sentence must hold
MISTAKES = {
    "unknown-key": (("        epochs: 11", "        epoch: 11"), (LAPTOP + "epoch", "`epochs`")),
    "unknown-top": (("\nsearch:", "\nserch:"), ("`serch`", "`search`")),
    "unknown-in-suite": (("seeds: [0]", "seed: [0]"), ("`suites.rooms.seed`", "`seeds`")),
    "unknown-suite": (("  streets:  ", "  street:  "), ("`suites.street`", "`streets`")),
    "unknown-in-method": (("    taps: [mid, last]", "    tap: [mid, last]"), ("methods.ours.tap`", "`taps`")),
    "missing": (("    adaptor: linear      #", "    #"), ("methods.ours.adaptor", "missing")),
    "text-number": (("lr: 2.0e-3", "lr: 1e-4"), (LAPTOP + "lr", "'1e-4'", "1.0e-4")),
    "text-power": (("lr: 2.0e-3", "lr: 1.5e4"), (LAPTOP + "lr", "'1.5e4'", "1.5e+4")),
    "wrong-type": (("        epochs: 11", "        epochs: many"), (LAPTOP + "epochs", "'many'")),
    "float-epochs": (("        epochs: 11", "        epochs: 12.5"), (LAPTOP + "epochs", "12.5")),
    "negative": (("lr: 2.0e-3", "lr: -2.0e-3"), (LAPTOP + "lr", "-0.002", "greater than 0")),
    "not-finite": (("lr: 2.0e-3", "lr: .inf"), (LAPTOP + "lr", "inf")),
    "size": (("height: 32, width: 64", "height: 31, width: 64"), ("smoke.rooms`", "`data.height`", "31", "32")),
    "size-of-any": (("height: 32, width: 32", "height: 27, width: 32"), ("protocols.laptop.domains.data.height", "27",
                                                                         "equal to 28")),
    "holes": (("holes: 0.08", "holes: 1.5"), ("datasets.scenes.holes", "1.5", "0.9")),
    "nyuv2-source": (("source: mtan", "source: mtn"), ("datasets.nyuv2.source", "'mtn'", "'mat'")),
    "nyuv2-normals": (("source: mtan", "source: mat"), ("`datasets.nyuv2`", "'published'", "`normals: derived`")),
    "nyuv2-depth": (("depth: raw ", "depth: dense "), ("datasets.nyuv2.depth", "'dense'", "'filled'")),
    "nyuv2-crop": (("crop: toolbox", "crop: 16"), ("datasets.nyuv2.crop", "16", "'border16'")),
    "image": (("image: bilinear", "image: bicubic"), ("datasets.cityscapes.image", "'bicubic'", "'nearest'")),
    "data": (("data: scenes ", "data: scene "), ("`suites.rooms.data`", "'scene'", "nyuv2")),
    "protocol": (("protocol: laptop", "protocol: latop"), ("'latop'", "`laptop`")),
    "model": (("models: [segnet", "models: [segnett"), ("'segnett'", "`segnet`")),
    "method": (("students: [ours]", "students: [our]"), ("'our'", "`ours`")),
    "method-kind": (("students: [ours]", "students: [si]"), ("suites.rooms.students", "'si'", "supervised")),
    "method-twice": (("students: [ours]", "students: [uniform]"), ("suites.rooms.students", "'uniform'", "baselines")),
    "tasks-of-data": (("data: streets ", "data: glyphs "), ("`suites.streets`", "'semantic'", "digits, characters")),
    "model-of-tasks": (("models: [lenet]", "models: [segnet]"), ("`suites.domains`", "'segnet'", "lenet")),
    "lambda-of-suite": (("students: [ours-streets]", "students: [ours-domains]"),
                        ("methods.ours-domains.lambda", "depth, semantic")),
    "mid-of-lenet": (("title: Ours, lambda: {digits", "taps: [mid, last], title: Ours, lambda: {digits"),
                     ("methods.ours-domains.taps", "lenet", "`last`")),
    "method-like-a-task": (("\nmethods:", "\nmethods:\n  depth: {title: D, objective: supervised, balancer: uniform}"),
                           ("`methods` has 'depth'", "a task")),
    "odd-batch": (("epochs: 24, batch: 256", "epochs: 24, batch: 255"), ("protocols.laptop.domains", "255", "even")),
    "trial": (("trials: [1-1, ", "trials: [1-1-1, "), ("`search`: `trials`", "'1-1-1'", "'1-1'")),
    "counts": (("train: {digits: 3000, characters: 1200}", "train: 3000"),
               ("protocols.laptop.domains.data.train", "3000", "{digits: a number, characters: a number}")),
    "pair of counts": (("train: 256, test: 64", "train: {digits: 4, characters: 4}, test: 64"),
                       ("protocols.laptop.rooms.data.train", "a number of images")),
    "augmented digits": (("schedule: step, step_every: 2,", "augment: crop, schedule: step, step_every: 2,"),
                         ("protocols.laptop.domains.train.lenet.augment", "other digits")),
    "no adaptor to another tap": (("    towards: last ", "    adaptor: none\n    towards: last "),
                                  ("methods.ours-universal", "towards: last", "adaptor: linear")),
    "stageless rows": (("    students: [ours-streets]",
                        "    students: [ours-streets]\n    wide: {models: [segnet], rows: [si]}"),
                       ("`streets.wide` has ['si']", "no stage")),
    "no suite": (("    streets: *smoke\n", ""), ("`protocols.smoke` has no section for the suite 'streets'",)),
    "searched": (("method: ours-domains", "method: ours-domain"), ("search.method", "`ours-domains`")),
    "switch-of-a-method": (("switches: {drop_last: false}", "switches: {drop_lost: false}"),
                           ("methods.quirk-drop-last.switches.drop_lost", "`drop_last`")),
    "switch": (("  crop_masks: true", "  crop_mask: true"), ("`switches.crop_mask`", "`crop_masks`")),
    "objective": (("objective: feature_distillation", "objective: distill"), ("methods.ours.objective", "'distill'")),
    "objective-nearly": (("objective: consistency\n", "objective: consistensy\n"),
                         ("`methods.direct.objective`", "'consistensy'", "`consistency`", "consistent_distillation")),
    "no-objective": (("    objective: consistency\n", ""), ("`methods.direct.objective` is missing",)),
    "consistency": (("      group: source", "      group: sorce"),
                    ("`methods.xtasc-rooms.consistency.group`", "'sorce'")),
    "consistency-key": (("      wide: false", "      wyde: false"),
                        ("`methods.xtasc-rooms.consistency.wyde`", "`wide`")),
    "balancer": (("balancer: mgda}", "balancer: mdga}"), ("methods.mgda-full.balancer", "'mdga'", "`mgda`")),
    "twice": (("seeds: [0]", "seeds: [0, 0]"), ("seeds", "[0, 0]")),
    "seed": (("seeds: [0]", "seeds: [-1]"), ("seeds.0", "-1")),
    "lambda": (("lambda: {semantic: 1.0, depth: 1.0, normal: 2.0}", "lambda: {semantic: 1.0, depth: 1.0}"),
               ("methods.ours.lambda", "normal")),
    "lambda-task": (("lambda: {semantic", "lambda: {semantics"), ("methods.ours.lambda.semantics",)),
    "batch": (("        batch: 8", "        batch: 800"), ("train.segnet.batch", "800", "256")),
    "no-section": (("      mtan: {<<: *laptop", "      mta: {<<: *laptop"), ("protocols.laptop.rooms.train", "'mtan'")),
    "step": (("          step_factor: 0.5\n", ""), ("step_factor", "step")),
    "not-yaml": (("seeds: [0]", "seeds: [0"), ("not YAML",)),
    "no-bool": (("drop_last: true", "drop_last: 'yes'"), ("switches.drop_last", "'yes'")),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistake_is_a_sentence(case, folder, params_text):
    (old, new), words = MISTAKES[case]
    assert old in params_text
    (folder / "params.yaml").write_text(params_text.replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        params.load()
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert all(word in sentence for word in words), sentence


def test_shipped_file_is_right_and_reads_the_same_under_dvc(folder, params_text):
    from dvc.utils.serialize import load_yaml

    (folder / "params.yaml").write_text(params_text)
    chosen = params.load()
    assert (chosen.suites.rooms.data, chosen.protocol) == ("scenes", "laptop")
    assert load_yaml(folder / "params.yaml") == yaml.safe_load(params_text)


REAL = {"rooms": ("scenes", "nyuv2"), "streets": ("streets", "cityscapes"), "domains": ("glyphs", "svhn_omniglot")}


def test_every_protocol_and_both_data_sets_of_a_suite_are_one_word_away(folder, params_text):
    for suite, sets in REAL.items():
        for data in sets:
            for protocol in ("laptop", "paper", "smoke"):
                text = params_text.replace(f"data: {sets[0]} ", f"data: {data} ")
                (folder / "params.yaml").write_text(text.replace("protocol: laptop", f"protocol: {protocol}"))
                chosen = params.load()
                assert (chosen.suite(suite).data, chosen.protocol) == (data, protocol)
                assert chosen.options(suite) == getattr(chosen.datasets, data).model_dump()
    paper = chosen.protocols["paper"]
    for suite, batch in (("rooms", 2), ("streets", 8), ("quirks", 2)):
        for train in paper[suite].train.values():
            assert (train.epochs, train.batch, train.lr, train.width) == (200, batch, 1e-4, 1.0)
            assert (train.schedule, train.step_every, train.step_factor) == ("step", 100, 0.5)
        assert (paper[suite].adaptor.lr, paper[suite].adaptor.l2) == (0.1, 5e-4)
    images, streets, lenet = paper["rooms"].data, paper["streets"].data, paper["domains"].train["lenet"]
    assert (images.height, images.width, images.train, images.test) == (288, 384, 795, 654)
    assert (streets.height, streets.width, streets.train, streets.test) == (128, 256, 2975, 500)
    assert (lenet.epochs, lenet.batch, lenet.width) == (300, 512, 1.0)


def test_command_line_says_one_line_and_exits_2(folder, params_text):
    (folder / "params.yaml").write_text(params_text.replace("        epochs: 11", "        epoks: 11"))
    for words in (["pipeline.config.params"], ["pipeline.prepare", "rooms"], ["pipeline.table"]):
        done = command(*words, cwd=folder)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: params.yaml: unknown key")


OPTIONS = {
    "unknown": ("cagrad, options: {c: 0.4}", "cagrad, options: {cc: 0.4}", ("methods.cagrad.options.cc", "`c`")),
    "range": ("cagrad, options: {c: 0.4}", "cagrad, options: {c: 1.4}", ("methods.cagrad.options", "`c` is 1.4")),
    "text-number": ("cagrad, options: {c: 0.4}", "cagrad, options: {c: 1e-1}", ("options.c", "'1e-1'", "1.0e-1")),
    "text": ("clip: 1.0}", "clip: wide}", ("methods.nash.options.clip", "'wide'")),
    "bool": ("clip: 1.0}", "clip: true}", ("methods.nash.options.clip", "True")),
    "whole": ("stch}", "stch, options: {warmup: 4.5}}", ("options.warmup` is 4.5", "a whole number")),
    "whole or null": ("dwa}", "dwa, options: {window: 2.5}}", ("options.window` is 2.5", "a whole number or null")),
    "infinite": ("cagrad, options: {c: 0.4}", "fairgrad, options: {exponent: .inf}", ("exponent` is inf", "finite")),
    "nan": ("cagrad, options: {c: 0.4}", "cagrad, options: {c: .nan}", ("options.c` is nan", "a finite number")),
    "null": ("cagrad, options: {c: 0.4}", "cagrad, options: {c: null}", ("options.c` is None", "a finite number")),
    "list": ("mgda}", "mgda, options: {normalise: [l2]}}", ("options.normalise` is ['l2']", "should be text")),
    "number": ("upgrad}", "upgrad, options: {preference: 2.0}}", ("options.preference` is 2.0", "{task: ")),
    "in mapping": ("upgrad}", "upgrad, options: {preference: {depth: high}}}", ("{'depth': 'high'}", "{task: finite")),
    "choice": ("aligned_mtl}", "aligned_mtl, options: {mode: max}}", ("min, median, rmse", "'max'")),
    "heads": ("upgrad}", "upgrad, options: {heads: all}}", ("methods.upgrad.options", "own, weighted")),
    "task": ("upgrad}", "upgrad, options: {preference: {depht: 2.0}}}", ("depht", "semantic, depth")),
}


@pytest.mark.parametrize("right", ["gradnorm, options: {lr: null}", "dwa, options: {window: 25, temperature: 1}",
                                   "si, options: {heads: null, preference: {depth: 2}}"])
def test_options_of_every_type_that_they_may_have(right, folder, params_text):
    (folder / "params.yaml").write_text(params_text.replace("cagrad, options: {c: 0.4}", right))
    params.check_options(params.load())


@pytest.mark.parametrize("case", OPTIONS)
def test_options_of_balancers_are_checked_before_work(case, folder, params_text):
    old, new, words = OPTIONS[case]
    assert old in params_text
    (folder / "params.yaml").write_text(params_text.replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        params.check_options(params.load())
    sentence = str(caught.value)
    assert "\n" not in sentence and all(word in sentence for word in words), sentence


def test_released_names_of_balancers_are_understood(folder, params_text):
    for alias, name in params.ALIASES.items():
        (folder / "params.yaml").write_text(params_text.replace("balancer: upgrad}", f"balancer: {alias}}}"))
        chosen = params.load()
        params.check_options(chosen)
        assert chosen.resolve("rooms", "wide", "segnet", "upgrad", "0")["method"]["balancer"] == name


def test_wide_rows_are_not_those_of_table_2(folder, params_text):
    (folder / "params.yaml").write_text(params_text.replace("  rows: [si,", "  rows: [uniform,"))
    with pytest.raises(UserError, match="`suites.rooms.wide.rows` has 'uniform', which `suites.rooms.baselines`"):
        params.load()
    (folder / "params.yaml").write_text(params_text.replace(
        "      models: [segnet]\n      rows", "      models: [mtann]\n      rows"))
    with pytest.raises(UserError, match="`wide.models` has 'mtann'"):
        params.load()


def test_missing_file(folder):
    (folder / "params.yaml").unlink()
    with pytest.raises(UserError, match="params.yaml is not here"):
        params.load()


def test_resolve_names_what_exists(folder):
    with pytest.raises(UserError, match="'seman' is not among semantic, depth, normal.*did you mean `semantic`"):
        params.load().resolve("rooms", "teacher", "segnet", "seman", "0")
    with pytest.raises(UserError, match="seeds in params.yaml"):
        params.load().resolve("rooms", "teacher", "segnet", "semantic", "7")
