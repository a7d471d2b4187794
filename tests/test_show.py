"""The screen that a table's word ends with: what stands on it, and that it fits."""

import itertools
import json

import pytest
from conftest import enter

from pipeline import show
from pipeline.runtime.errors import UserError
from pipeline.tasks.metrics import METRICS

ROOMS = ["miou_pct", "pix_acc_pct", "abs_err", "rel_err", "angle_mean_deg", "angle_median_deg", "within_11_25_pct",
         "within_22_5_pct", "within_30_pct", show.DELTA]


def table(methods, models=("segnet",), paper=False, seeds=3):
    """A table's document, its numbers in the order of the methods: the first is worst in what should be high."""
    cells = []
    for model, (place, method), metric in itertools.product(models, enumerate(methods), ROOMS):
        mean = None if method == "STL" and metric == show.DELTA else 10.0 + place
        cells += [{"model": model, "method": method.lower(), "title": method, "rule": rule, "protocol": protocol,
                   "metric": metric, "mean": mean if rule == "last" else 77.0, "std": 1.23 if seeds > 1 else None,
                   "n": seeds, "paper": 33.0 if paper else None, "difference": None}
                  for rule in ("last", "best_test") for protocol in ("official", "dataset")]
    return {"table": "table2", "heading": "Table 2", "caption": ["Data: " + "long " * 30, "Protocol `laptop`."],
            "selection": "last", "definition": "official", "models": dict.fromkeys(models, "SegNet"), "cells": cells}


def row(lines, name):
    return next(line for line in lines if line.startswith(name)).split()


def test_the_best_and_the_second_best_are_marked():
    lines = show.lines(table(["STL", "Uniform", "Ours"]))
    assert row(lines, "Ours")[1:4] == ["12.00*", "12.00*", "12.00"]            # of an error the last is worst
    assert row(lines, "Uniform")[1:4] == ["11.00'", "11.00'", "11.00'"] and row(lines, "STL")[3] == "10.00*"
    assert "+12.00 ± 1.23*  3" in next(line for line in lines if line.startswith("Ours"))
    assert METRICS["abs_err"].better == -1 and "77.00" not in "\n".join(lines)


def test_equal_rows_share_a_mark_and_one_row_has_none():
    whole = table(["STL", "A", "B"])
    for cell in whole["cells"]:
        cell["mean"] = cell["mean"] and 10.0
    assert "*" not in "\n".join(show.lines(whole)[:7])
    assert "*" not in "\n".join(show.lines(table(["Ours"]))[:5])


@pytest.mark.parametrize("methods, models, paper", [
    (["STL", "Uniform", "A method with a very long name indeed", "Ours"], ("segnet",), True),
    (["STL", *"ABCDEFG"], ("segnet", "mtan"), True), (["STL", *(f"M{i}" for i in range(24))], ("segnet",), False)],
    ids=["long", "two-networks", "balancers"])
def test_it_fits_a_screen(methods, models, paper):
    lines = show.lines(table(methods, models, paper))
    assert len(lines) <= show.LINES and max(map(len, lines)) <= show.WIDTH
    assert len(lines[4:]) >= len(methods) * len(models)


def test_the_paper_stands_beneath_where_there_is_room():
    assert row(show.lines(table(["STL", "Ours"], paper=True)), "  paper")[1] == "33.00"
    assert not any("paper" in line for line in show.lines(table(["STL", "Ours"])))


def test_the_best_is_bold_on_a_terminal_alone():
    assert "\033[1m12.00\033[0m*" in "\n".join(show.lines(table(["STL", "Uniform", "Ours"]), colours=True))
    assert "\033" not in "\n".join(show.lines(table(["STL", "Uniform", "Ours"])))


def test_a_table_that_was_never_made_is_told(tmp_path, monkeypatch, capsys):
    enter(tmp_path, monkeypatch)
    with pytest.raises(UserError, match="there is no out/tables/table2.json; `make tables` lists"):
        show.main("table2")
    (tmp_path / "out/tables").mkdir(parents=True)
    (tmp_path / "out/tables/table2.json").write_text(json.dumps(table(["STL", "Ours"])))
    show.main("table2")
    assert capsys.readouterr().out.startswith("Table 2: SegNet, official protocol\n")
