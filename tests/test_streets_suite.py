"""The suite streets (KD4MTL's Table 3) at smoke size, from the images to the table."""

import json
import pathlib

import pytest
from conftest import change, folder_of, run

from pipeline import data, evaluate, features, prepare, table, train
from pipeline.loop.curve import read


@pytest.mark.parametrize("classes", [7, 19])
def test_from_the_images_to_the_table(folder, classes):
    change(("classes: 7           #", f"classes: {classes}           #"), suite="streets")
    run(prepare, "streets")
    manifest = data.load_manifest("out/streets/data")
    assert len(manifest["classes"]["semantic"]) == classes and set(manifest["stored"]) == {"image", "label", "depth"}
    assert manifest["stored"]["depth"] == "float32" and len(manifest["sha256"]) == 6
    for task in ("semantic", "depth"):
        run(train, "streets", "teacher", "segnet", task, "0")
        run(features, "streets", "teacher", "segnet", task, "0")
        run(evaluate, "streets", "teacher", "segnet", task, "0")
    run(train, "streets", "student", "segnet", "ours-streets", "0")
    run(evaluate, "streets", "student", "segnet", "ours-streets", "0")
    curve, _ = read(folder_of("streets", "segnet", "ours-streets", 0), "")
    assert all(0 < line[f"distance_{task}"] for line in curve for task in ("semantic", "depth"))
    assert "loss_normal" not in curve[0]
    found = json.loads(pathlib.Path("out/streets/metrics/student/segnet-ours-streets-s0.json").read_text())
    assert list(found["rules"]["last"]["official"]) == ["miou_pct", "pix_acc_pct", "abs_err", "rel_err"]
    run(table, "streets", "table3")
    text = pathlib.Path("out/tables/table3.md").read_text()
    assert "rendered streets" in text and "not Cityscapes" in text and "52.18" not in text
    assert "segnet-uniform-s0" in text                         # not run, and said to be missing
    assert "official_batch 8" in text and "lambda 2 6" in text
