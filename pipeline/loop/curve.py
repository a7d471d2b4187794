"""curve.csv, an epoch a row, and cost.json: what a run leaves beside its weights."""

import csv
import io
import json

from pipeline.runtime.errors import UserError


def text(lines):
    """Rows {column: value} as a .csv in full precision, so that equal runs give equal files."""
    out = io.StringIO()
    writer = csv.DictWriter(out, dict.fromkeys(key for line in lines for key in line), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def read(folder, redo):
    """(curve.csv as a list of {column: number}, cost.json) of a run's folder; `UserError` with the remedy."""
    try:
        with open(folder / "curve.csv", newline="") as file:
            curve = [{key: float(value) for key, value in line.items()} for line in csv.DictReader(file)]
        if not curve:
            raise ValueError("curve.csv has no rows")
        return curve, json.loads((folder / "cost.json").read_text())
    except (OSError, ValueError, TypeError) as mistake:
        raise UserError(f"{folder} has no readable curve.csv and cost.json ({mistake}); {redo}") from None


def work_of(training, height, width):
    """What a step's time is taken to grow with: pixels, batch, and the square of the network's width."""
    return height * width * training["batch"] * training["width"] ** 2
