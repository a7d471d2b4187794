"""XTasC-Net's suites: what a run leaves behind and goes on from, its tables, and mistakes in its sections."""

import json
import pathlib

import pytest
import torch
from conftest import run_all

from pipeline import evaluate, prepare, table, train
from pipeline.bench import consistency
from pipeline.config import params
from pipeline.loop.curve import read
from pipeline.runtime.errors import UserError


@pytest.mark.parametrize("suite, word", [("xtask_streets", "xtask-cityscapes"), ("xtask_rooms", "xtask-nyuv2")])
def test_from_the_images_to_the_table(folder, suite, word):
    end = suite.removeprefix("xtask_")
    run_all(suite, "resnet", ("semantic", "depth"), (("baseline", "direct"), ("baseline", f"xtasc-{end}"),
                                                     ("student", f"xtasc-kd-{end}")))
    train.main(suite, "wide", "adamt", "adalsp", "0")
    evaluate.main(suite, "wide", "adamt", "adalsp", "0")
    curve, cost = read(params.folder(suite, "resnet", f"xtasc-kd-{end}", 0), "")
    assert all(line["distance"] > 0 and line["transfer_semantic_depth"] > 0 and line["energy"] > 0 for line in curve)
    table.main(word)
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
    line = read(params.folder(suite, "resnet", f"xtasc-{end}", 0), "")[0][-1]
    assert stored["energy"]["last"] == line["energy"] == pytest.approx(
        (line["energy_semantic_depth"] + line["energy_depth_semantic"]) / 2)
    kept = [torch.load(f"out/{suite}/runs/resnet-{row}-s0/weights.pt")["last"].keys()
            for row in ("direct", f"xtasc-{end}", f"xtasc-kd-{end}")]
    assert kept[0] == kept[1] == kept[2]
    assert not [line for line in text.splitlines() if line.startswith("| STL") and "AdaMT" in line]


def stopped(run, monkeypatch):
    """The run once more, interrupted after its first epoch."""
    original = train.checkpoint.Run.save

    def stops(self, state):
        original(self, state)
        raise KeyboardInterrupt
    with monkeypatch.context() as patches:
        patches.setattr(train.checkpoint.Run, "save", stops)
        with pytest.raises(KeyboardInterrupt):
            train.main(*run)


def test_a_stopped_run_goes_on_to_the_same_bits(folder, monkeypatch):
    prepare.main("xtask_rooms")
    run = ("xtask_rooms", "baseline", "resnet", "xtasc-rooms", "0")
    train.main(*run)
    place = params.folder("xtask_rooms", "resnet", "xtasc-rooms", 0)
    whole = [(place / name).read_bytes() for name in ("weights.pt", "curve.csv", "balance.csv")]
    stopped(run, monkeypatch)
    train.main(*run)
    assert [(place / name).read_bytes() for name in ("weights.pt", "curve.csv", "balance.csv")] == whole


def test_dropout_goes_on_where_it_was(folder, monkeypatch):
    """AdaMT-Net draws from torch's own generator."""
    prepare.main("xtask_rooms")
    run = ("xtask_rooms", "wide", "adamt", "adalsp", "0")
    train.main(*run)
    place = params.folder("xtask_rooms", "adamt", "adalsp", 0) / "curve.csv"
    whole = place.read_bytes()
    stopped(run, monkeypatch)
    torch.manual_seed(99)
    train.main(*run)
    assert place.read_bytes() == whole
    monkeypatch.setattr(train.distributed, "size", lambda: 2)
    with pytest.raises(UserError, match="NPROC is 2, but the channels that AdaMT-Net drops"):
        train.main(*run)


def test_the_papers_numbers_stand_beside_real_data(folder):
    text = pathlib.Path("params.yaml").read_text()
    pathlib.Path("params.yaml").write_text(text.replace("data: streets\n    seeds: [0]\n    selection: last",
                                                        "data: cityscapes\n    seeds: [0]\n    selection: last"))
    rules = {rule: {protocol: {"miou_pct": 60.0} for protocol in ("official", "dataset")} for rule in table.RULES}
    cost = {"parameters": 1, "seconds_per_step": 1.0, "peak_memory_mb": 1.0, "backward_passes": 1, "inference_ms": 1.0}
    place = pathlib.Path("out/xtask_streets/metrics/baseline")
    place.mkdir(parents=True)
    (place / "resnet-xtasc-streets-s0.json").write_text(json.dumps({
        "run": "", "rules": rules, "cost": cost, "commit": "", "device": "", "energy": dict.fromkeys(rules, 0.5)}))
    table.main("xtask-cityscapes")
    found = pathlib.Path("out/tables/xtask-cityscapes.md").read_text()
    assert "66.51" in found and "-6.51" in found and "the printed numbers" in found.lower() and "0.5000" in found
    assert "encoder 34" in found and "balancer uncertainty" in found


def test_the_benchmark_trains_both_variants(folder, monkeypatch, params_text):
    pathlib.Path("params.yaml").write_text(params_text.replace("encoder: 34", "encoder: 18"))
    monkeypatch.setattr(consistency, "SIZE", (32, 64))
    for precision in ("float32", "bfloat16"):
        ways = consistency.variants(7, precision, 1, torch.device("cpu"))
        took = consistency.medians(ways, torch.device("cpu"), 1)
        assert took["losses"] > 0 and took["bare"] > 0


def test_bfloat16_runs(folder):
    text = pathlib.Path("params.yaml").read_text()
    head, tail = text.split("  smoke:\n")
    pathlib.Path("params.yaml").write_text(head + "  smoke:\n" + tail.replace(
        "width: 0.125", "width: 0.125\n          precision: bfloat16", 1))
    prepare.main("xtask_rooms")
    train.main("xtask_rooms", "baseline", "resnet", "xtasc-rooms", "0")
    curve, _ = read(params.folder("xtask_rooms", "resnet", "xtasc-rooms", 0), "")
    assert all(0 < line["energy"] < 100 for line in curve)


@pytest.mark.parametrize("change, words", [
    (("consistency: {lambda: {semantic: 0.01, depth: 0.01}}}", "consistency: {lambda: {semantic: 0.01}}}"),
     ("methods.xtasc-streets.consistency.lambda", "depth")),
    (("consistency: {lambda: {semantic: 0.01,", "consistency: {lambda: {semantic: 1.5,"), ("lambda.semantic", "1.5")),
    (("pairs: null ", "pairs: [semantic-depht] "), ("`pairs` has 'semantic-depht'", "semantic-depth")),
    (("pairs: null ", "pairs: [semantic-depth, depth-semantic] "), ("twice",)),
    (("      semantic: cross      # cross: the likeliest class, with `smoothing` | kl\n      smoothing: 0.0",
      "      semantic: kl\n      smoothing: 0.1"), ("`smoothing` is 0.1", "semantic: kl")),
    (("consistency: {lambda: {semantic: 0.01, depth: 0.01}}}",
      "consistency: {lambda: {semantic: 0.01, depth: 0.01}, targets: labels, void: keep}}"),
     ("`void` is 'keep'", "targets: labels")),
    (("    wide: {models: [adamt], rows: [adalsp]}", "    wide: {models: [adamt], rows: []}"),
     ("xtask_streets.wide.rows` is empty",)),
    (("pairs: null ", "pairs: [semantic-normal] "), ("xtasc-rooms.consistency.pairs", "'normal'")),
    (("baselines: [uniform, uncert, mgda, gradnorm]", "baselines: [uniform, xtasc-streets]"),
     ("lambda", "characters, digits")),
    (("wide: {models: [adamt], rows", "wide: {models: [lenet], rows"), ("wide.models", "'lenet'")),
    (("      group: source ", "      group: sauce "), ("sauce",)),
    (("pretrained: false", "pretrained: true"), ("architectures.resnet.pretrained", "width` is 0.25")),
])
def test_mistakes_are_sentences(folder, params_text, change, words):
    assert change[0] in params_text
    pathlib.Path("params.yaml").write_text(params_text.replace(*change, 1))
    with pytest.raises(UserError) as mistake:
        params.load()
    assert all(word in str(mistake.value) for word in words), mistake.value
