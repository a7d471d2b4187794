"""XTasC-Net's suites: what a run leaves behind and goes on from, its tables, and mistakes in its sections."""

import json
import pathlib

import pytest
import torch
from conftest import change, folder_of, run, run_all

from pipeline import evaluate, prepare, table, train
from pipeline.bench import consistency
from pipeline.config import params
from pipeline.loop import checkpoint
from pipeline.loop.curve import read
from pipeline.runtime import distributed, documents
from pipeline.runtime.errors import UserError


@pytest.mark.parametrize("suite, word", [("xtask_streets", "xtask-cityscapes"), ("xtask_rooms", "xtask-nyuv2")])
def test_from_the_images_to_the_table(folder, suite, word):
    end = suite.removeprefix("xtask_")
    run_all(suite, "resnet", ("semantic", "depth"), (("baseline", "direct"), ("baseline", f"xtasc-{end}"),
                                                     ("student", f"xtasc-kd-{end}")))
    run(train, suite, "wide", "adamt", "adalsp", "0")
    run(evaluate, suite, "wide", "adamt", "adalsp", "0")
    curve, cost = read(folder_of(suite, "resnet", f"xtasc-kd-{end}", 0), "")
    assert all(line["distance"] > 0 and line["transfer_semantic_depth"] > 0 and line["energy"] > 0 for line in curve)
    run(table, suite, word)
    text = pathlib.Path(f"out/tables/{word}.md").read_text()
    assert "## ResNet, cost" in text and "## AdaMT-Net, cost" in text and "66.51" not in text and "30.31" not in text
    block = text.partition("## ResNet, cost")[2].partition("##")[0]
    header, _, *lines = [line for line in block.splitlines() if line.startswith("|")]
    assert header.split("|")[-3].strip() == "Inference ms" and "Consistency energy" in header
    rows = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines}
    assert rows["Direct only"][-1] == "-" and float(rows["XTasC"][-1]) > 0 and float(rows["XTasC"][-2]) > 0
    # a student is exported without the transfer nets
    assert rows["XTasC"][0] == rows["Direct only"][0] == rows["XTasC + KD4MTL"][0]
    stored = json.loads(pathlib.Path(f"out/{suite}/metrics/baseline/resnet-xtasc-{end}-s0.json").read_text())
    line = read(folder_of(suite, "resnet", f"xtasc-{end}", 0), "")[0][-1]
    assert stored["energy"]["last"] == line["energy"] == pytest.approx(
        (line["energy_semantic_depth"] + line["energy_depth_semantic"]) / 2)
    kept = [torch.load(folder_of(suite, "resnet", row) / "weights.pt")["last"].keys()
            for row in ("direct", f"xtasc-{end}", f"xtasc-kd-{end}")]
    assert kept[0] == kept[1] == kept[2]
    assert not [line for line in text.splitlines() if line.startswith("| STL") and "AdaMT" in line]


def stopped(words, monkeypatch):
    """The run once more, interrupted after its first epoch."""
    original = checkpoint.Checkpoint.save

    def stops(self, state):
        original(self, state)
        raise KeyboardInterrupt
    with monkeypatch.context() as patches:
        patches.setattr(checkpoint.Checkpoint, "save", stops)
        with pytest.raises(KeyboardInterrupt):
            run(train, *words)


def test_a_stopped_run_goes_on_to_the_same_bits(folder, monkeypatch):
    run(prepare, "xtask_rooms")
    words = ("xtask_rooms", "baseline", "resnet", "xtasc-rooms", "0")
    run(train, *words)
    place = folder_of("xtask_rooms", "resnet", "xtasc-rooms", 0)
    whole = [(place / name).read_bytes() for name in ("weights.pt", "curve.csv", "balance.csv")]
    stopped(words, monkeypatch)
    run(train, *words)
    assert [(place / name).read_bytes() for name in ("weights.pt", "curve.csv", "balance.csv")] == whole


def test_dropout_goes_on_where_it_was(folder, monkeypatch):
    """AdaMT-Net draws from torch's own generator."""
    run(prepare, "xtask_rooms")
    words = ("xtask_rooms", "wide", "adamt", "adalsp", "0")
    run(train, *words)
    place = folder_of("xtask_rooms", "adamt", "adalsp", 0) / "curve.csv"
    whole = place.read_bytes()
    stopped(words, monkeypatch)
    torch.manual_seed(99)
    run(train, *words)
    assert place.read_bytes() == whole
    monkeypatch.setattr(distributed, "size", lambda: 2)
    with pytest.raises(UserError, match="NPROC is 2, but the channels that AdaMT-Net drops"):
        run(train, *words)


def test_the_papers_numbers_stand_beside_real_data(folder):
    change(("data: streets ", "data: cityscapes "), suite="xtask_streets")
    rules = {rule: {protocol: {"miou_pct": value, "pix_acc_pct": 90.0} for protocol, value in (
        ("official", 50.0), ("masked", 60.0), ("dataset", 70.0))} for rule in table.RULES}
    cost = {"parameters": 1, "seconds_per_step": 1.0, "peak_memory_mb": 1.0, "backward_passes": 1, "inference_ms": 1.0}
    for group, name in (("baseline", "resnet-xtasc-streets"), ("baseline", "mtan-uniform"), ("wide", "adamt-adalsp")):
        documents.write(f"out/xtask_streets/metrics/{group}/{name}-s0.json", {
            "run": "", "rules": rules, "cost": cost, "commit": "", "device": "", "energy": dict.fromkeys(rules, 0.5)})
    run(table, "xtask_streets", "xtask-cityscapes")
    found = pathlib.Path("out/tables/xtask-cityscapes.md").read_text()
    assert "66.51" in found and "-6.51" in found and "the printed numbers" in found.lower() and "0.5000" in found
    assert "encoder 34" in found and "balancer uncertainty" in found and "void pixels masked" in found.split("\n## ")[0]
    # -- a number of the paper stands under the definition that its code had; where that is unknown, without difference
    cells = json.loads(pathlib.Path("out/tables/xtask-cityscapes.json").read_text())["cells"]
    beside = {(c["model"], c["protocol"]): (c["mean"], c["paper"], c["difference"]) for c in cells if c["metric"] ==
              "miou_pct" and c["rule"] == "last" and c["n"] and c["paper"]}
    assert beside == {("resnet", "masked"): (60, 66.51, 60 - 66.51), ("mtan", "official"): (50, 53.04, 50 - 53.04),
                      ("adamt", "masked"): (60, 62.53, None)}
    titles = [line.split(", ")[1].split(" (")[0] for line in found.splitlines() if line.startswith("## ResNet")]
    assert titles == ["masked protocol", "official protocol", "dataset protocol", "every selection rule", "cost"]
    assert "every selection rule (masked)" in found


def test_an_unknown_definition_is_a_sentence(folder):
    change(("data: streets ", "data: cityscapes "), suite="xtask_streets")
    paper = pathlib.Path("pipeline/suites/xtask_streets/paper.yaml")
    paper.write_text(paper.read_text().replace("mtan: official", "mtan: pooled"))
    with pytest.raises(UserError, match="`definitions.mtan` is 'pooled'; it is one of official, masked, dataset, or "):
        run(table, "xtask_streets", "xtask-cityscapes")
    paper.write_text(paper.read_text().replace("mtan: pooled", "mtan: official"))
    change(("definition: masked", "definition: mask"), suite="xtask_streets")
    with pytest.raises(UserError, match="printed.xtask-cityscapes.definition.*'mask'"):
        params.load("xtask_streets")


def test_the_benchmark_trains_both_variants(folder, monkeypatch):
    change(("encoder: 34", "encoder: 18"), suite="xtask_streets")
    monkeypatch.setattr(consistency, "SIZE", (32, 64))
    for precision in ("float32", "bfloat16"):
        ways = consistency.variants(7, precision, 1, torch.device("cpu"))
        took = consistency.medians(ways, torch.device("cpu"), 1)
        assert took["losses"] > 0 and took["bare"] > 0


def test_bfloat16_runs(folder):
    change(("width: 0.125", "width: 0.125, precision: bfloat16"), suite="xtask_rooms")
    run(prepare, "xtask_rooms")
    run(train, "xtask_rooms", "baseline", "resnet", "xtasc-rooms", "0")
    curve, _ = read(folder_of("xtask_rooms", "resnet", "xtasc-rooms", 0), "")
    assert all(0 < line["energy"] < 100 for line in curve)


@pytest.mark.parametrize("suite, edit, words", [
    ("xtask_streets", ("XTasC, consistency: {lambda: {semantic: 0.01, depth: 0.01}}}",
                       "XTasC, consistency: {lambda: {semantic: 0.01}}}"),
     ("methods.xtasc-streets.consistency.lambda", "depth")),
    ("xtask_streets", ("consistency: {lambda: {semantic: 0.01,", "consistency: {lambda: {semantic: 1.5,"),
     ("lambda.semantic", "1.5")),
    ("xtask_rooms", ("pairs: null ", "pairs: [semantic-depht] "), ("xtasc-rooms.consistency.pairs", "'depht'")),
    ("xtask_rooms", ("pairs: null ", "pairs: [semantic-depth, depth-semantic] "), ("twice",)),
    ("xtask_rooms", ("      semantic: cross      # cross: the likeliest class, with `smoothing` | kl\n"
                     "      smoothing: 0.0", "      semantic: kl\n      smoothing: 0.1"),
     ("`smoothing` is 0.1", "semantic: kl")),
    ("xtask_streets", ("XTasC, consistency: {lambda: {semantic: 0.01, depth: 0.01}}}",
                       "XTasC, consistency: {lambda: {semantic: 0.01, depth: 0.01}, targets: labels, void: keep}}"),
     ("`void` is 'keep'", "targets: labels")),
    ("xtask_streets", ("wide: {models: [adamt], rows: [adalsp]}", "wide: {models: [adamt], rows: []}"),
     ("`tables.wide`", "`wide`", "no rows")),
    ("xtask_rooms", ("pairs: null ", "pairs: [semantic-normal] "), ("xtasc-rooms.consistency.pairs", "'normal'")),
    ("xtask_rooms", ("wide: {models: [adamt], rows", "wide: {models: [lenet], rows"), ("wide.models", "'lenet'")),
    ("xtask_rooms", ("      group: source ", "      group: sauce "), ("sauce",)),
    ("xtask_rooms", ("pretrained: false", "pretrained: true"), ("architectures.resnet.pretrained", "width` is 0.125")),
])
def test_mistakes_are_sentences(folder, suite, edit, words):
    change(edit, suite=suite)
    with pytest.raises(UserError) as mistake:
        params.load(suite)
    assert all(word in str(mistake.value) for word in words), mistake.value


def test_digits_have_no_consistency_with_characters(folder):
    change(("rows: [uniform, uncert, mgda, gradnorm]", "rows: [uniform, agreeing]"),
           ("methods:\n", "methods:\n  agreeing: {title: A, objective: consistency, balancer: uniform, consistency: "
            "{lambda: {digits: 0.1, characters: 0.1}}}\n"), suite="domains")
    with pytest.raises(UserError, match="carries predictions of one task over to another's"):
        params.load("domains")
