"""Figures from curve.csv: every task named with its last value, the same bytes every time."""

import pathlib

import pytest
from conftest import folder_of, row_of, run

from pipeline import figures
from pipeline.loop.curve import read
from pipeline.runtime.errors import UserError


def test_both_files_are_drawn_from_the_curve(copy, capsys):
    drawn = []
    for _ in range(2):
        run(figures, "rooms")
        drawn.append([pathlib.Path(line).read_bytes() for line in capsys.readouterr().out.splitlines()
                      if line.startswith("out/figures/")])
    assert drawn[0] == drawn[1] and len(drawn[0]) == 2
    assert drawn[0][0].startswith(b"<?xml") and drawn[0][1].startswith(b"\x89PNG")


def test_names_stand_apart_and_carry_the_last_values(copy, monkeypatch):
    row = row_of("rooms", "student", "segnet", "ours", "0")
    curve, _ = read(folder_of("rooms", "segnet", "ours", 0), "")
    for line in curve:
        line |= {"loss_depth": 1.0, "loss_semantic": 1.001, "loss_normal": 1.002}
    seen = []
    original = figures.label
    monkeypatch.setattr(figures, "label", lambda panel, ends: (original(panel, ends), seen.append(panel)))
    figures.draw(curve, row)
    assert [panel.get_title(loc="left") for panel in seen] == ["task loss", "lambda x feature distance"]
    texts = {text.get_text(): text.get_position()[1] for text in seen[0].texts}
    assert set(texts) == {"depth 1.000", "semantic 1.001", "normal 1.002"}
    heights = sorted(texts.values())
    assert all(after - before > 0.05 for before, after in zip(heights, heights[1:], strict=False))


def test_a_student_that_has_not_run_is_a_sentence(folder):
    with pytest.raises(UserError, match="no student of rooms has run yet; run `make table2` first"):
        run(figures, "rooms")
