"""A search for lambda (KD4MTL, section 4: a share of the training images is held out, the best lambda trained on all).

    python -m pipeline.search pick search      out/search/lambda.json, out/search/trace.csv
    python -m pipeline.search report search    out/tables/search.{md,csv,json,tex}: the trace, and the final row on test

A search is a suite: trials, their teachers and their measurement are stages like any other, and its test images are
those held out of the suite that it searches; no image of the real test set decides anything. A trial's score is its
Delta_MTL over the trials' own single-task networks under the suite's selection rule, the mean over seeds.
"""

import math
import pathlib
import statistics
import sys

from pipeline import table
from pipeline.loop.curve import text
from pipeline.runtime import documents, files
from pipeline.runtime.errors import UserError, run
from pipeline.runtime.row import found, read
from pipeline.tasks import metrics


def main(what, suite):
    if what not in ("pick", "report"):
        raise UserError(f"{what!r} is not pick or report")
    (pick if what == "pick" else report)(read("search", suite, what))


def pick(row):
    lines, folder = trace(row), pathlib.Path(f"out/{row['suite']}")
    best = {model: max((line for line in lines if line["model"] == model), key=score)["trial"]
            for model in row["models"]}
    files.write(folder / "trace.csv", text(lines).encode())
    documents.write(folder / "lambda.json", best)
    for model, trial in best.items():
        print(f"{model}: lambda {told(row['trials'][trial])} of {len(row['trials'])} trials")


def score(line):
    """A network that is at 0 in a metric has no relative gain: such trials come last."""
    return -math.inf if math.isnan(line["delta"]) else line["delta"]


def trace(row):
    """A line a network and trial, in their order: score, its deviation, and the metrics, means over seeds."""
    runs, lines = table.read_all(row["suite"], ("teacher", "student")), []
    for model in row["models"]:
        for trial in row["trials"]:
            seen = [table.beside_single(runs, row, model, trial, seed, row["selection"]) for seed in row["seeds"]]
            deltas = [one.pop(table.DELTA) for one in seen]
            lines.append({"model": model, "trial": trial, "delta": statistics.fmean(deltas),
                          "deviation": table.deviation(deltas), "n": len(deltas),
                          **{key: statistics.fmean(one[key] for one in seen) for key in seen[0]}})
    return lines


def told(values):
    return ", ".join(f"{task} {value:g}" for task, value in values.items())


def report(row):
    """The trace and, on the test set, the row that was trained with what it found, beside the method's own lambda."""
    lines, names = trace(row), list(metrics.of(row["tasks"]))
    picked = {model: found(f"out/{row['suite']}/lambda.json", model) for model in row["models"]}
    tried = [[line["model"], line["trial"], *(table.number(name, line[name]) for name in names),
              table.number(table.DELTA, line["delta"]), "picked" if picked[line["model"]] == line["trial"] else ""]
             for line in lines]
    header = [table.title_of(name) for name in (*names, table.DELTA)]
    parts = [("Trials, on the images held out", ["Network", "lambda", *header, ""], tried)]
    results = table.read_all(row["searched"], ("teacher", "student"))
    results.update(table.read_all(row["suite"], ("searched",)))
    cells, rows = [], []
    for model in row["models"]:
        stl = {seed: [results[stem] for task in row["tasks"]
                      if (stem := ("teacher", f"{model}-{task}-s{seed}")) in results] for seed in row["seeds"]}
        for group, key, values in (("searched", "searched", row["trials"][picked[model]]),
                                   ("student", row["method"], row["lambda"])):
            runs = {seed: [results[stem]] for seed in row["seeds"]
                    if (stem := (group, f"{model}-{key}-s{seed}")) in results}
            one = {"model": model, "key": key, "title": key, "tasks": row["tasks"], "flat": False, "runs": runs,
                   "single": stl}
            own = [cell for cell in table.cells_of(one, {}) if (cell["rule"], cell["protocol"]) == (
                row["selection"], "official")]
            cells += own
            rows.append([model, key, " ".join(f"{value:g}" for value in values.values()), *map(table.spread, own),
                         str(len(runs))])
    parts.append(("Trained on all images, on the test set", ["Network", "Row", "lambda", *header, "n"], rows))
    table.write("search", "Search for lambda", row["caption"], parts, cells, {"trace": lines})


if __name__ == "__main__":
    run(main, *sys.argv[1:])
