"""curve.csv, an epoch a row, and cost.json: what a run leaves beside its weights."""

import csv
import io

from pipeline.runtime import documents


def text(lines):
    """Rows {column: value} as a .csv in full precision, so that equal runs give equal files."""
    out = io.StringIO()
    writer = csv.DictWriter(out, dict.fromkeys(key for line in lines for key in line), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def read(folder, redo):
    """(curve.csv as a list of {column: number}, cost.json without its checksums) of a run's folder; `UserError` with
    the remedy unless both are as the run wrote them."""
    documents.check_run(folder, lambda: redo, "curve.csv")
    cost = documents.read(folder / "cost.json", lambda: redo, documents.COST)
    with open(folder / "curve.csv", newline="") as file:
        curve = [{key: float(value) for key, value in line.items()} for line in csv.DictReader(file)]
    return curve, {key: value for key, value in cost.items() if key != "sha256"}


def work_of(training, height, width):
    """What a step's time is taken to grow with: pixels, batch, and the square of the network's width."""
    return height * width * training["batch"] * training["width"] ** 2
