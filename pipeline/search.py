"""A search for lambda (KD4MTL, section 4: a share of the training images is held out, the best lambda trained on all).

    python -m pipeline.search pick      out/search/lambda.json, out/search/trace.csv
    python -m pipeline.search report    out/tables/search.{md,csv,json,tex}: the trace, and the final row on test

Trials, their teachers and their measurement are stages like any other, of the suite "search", whose test images are
those held out; no image of the real test set decides anything. A trial's score is its Delta_MTL over the trials' own
single-task networks under the suite's selection rule, the mean over seeds.
"""

import json
import math
import pathlib
import statistics
import sys

from pipeline import table
from pipeline.config import caption, params
from pipeline.config.metrics import METRICS
from pipeline.loop.curve import text
from pipeline.runtime.errors import UserError, run

FOLDER = pathlib.Path("out/search")


def main(what="pick"):
    chosen = params.load()
    if what not in ("pick", "report"):
        raise UserError(f"{what!r} is not pick or report")
    (pick if what == "pick" else report)(chosen)


def pick(chosen):
    lines = trace(chosen)
    best = {model: max((line for line in lines if line["model"] == model), key=score)["trial"]
            for model in chosen.search.models}
    (FOLDER / "trace.csv").write_text(text(lines))
    (FOLDER / "lambda.json").write_text(json.dumps(best, indent=1) + "\n")
    for model, trial in best.items():
        print(f"{model}: lambda {told(chosen, trial)} of {len(chosen.search.trials)} trials")


def score(line):
    """A network that is at 0 in a metric has no relative gain: such trials come last."""
    return -math.inf if math.isnan(line["delta"]) else line["delta"]


def trace(chosen):
    """A line a network and trial, in their order: score, its deviation, and the metrics, means over seeds."""
    search, rule = chosen.search, chosen.suite("search").selection
    runs, lines = table.read_all("search", ("student",)), []
    for model in search.models:
        for trial in search.trials:
            found = [table.beside_single(runs, "search", model, trial, search.tasks, seed, rule)
                     for seed in search.seeds]
            deltas = [one.pop(table.DELTA) for one in found]
            lines.append({"model": model, "trial": trial, "delta": statistics.fmean(deltas),
                          "deviation": table.deviation(deltas), "n": len(deltas),
                          **{key: statistics.fmean(one[key] for one in found) for key in found[0]}})
    return lines


def told(chosen, trial):
    return ", ".join(f"{task} {value}" for task, value in zip(chosen.search.tasks, trial.split("-"), strict=True))


def report(chosen):
    """The trace and, on the test set, the row that was trained with what it found, beside the method's own lambda."""
    search, suite, lines = chosen.search, chosen.suite(chosen.search.suite), trace(chosen)
    names = [name for name, metric in METRICS.items() if metric.task in search.tasks]
    tried = [[line["model"], line["trial"], *(table.number(name, line[name]) for name in names),
              table.number(table.DELTA, line["delta"]),
              "picked" if params.found(line["model"]) == line["trial"] else ""] for line in lines]
    header = [table.title_of(name) for name in (*names, table.DELTA)]
    parts = [("Trials, on the images held out", ["Network", "lambda", *header, ""], tried)]
    results, cells, rows = table.read_all(search.suite, ("student", params.SEARCHED)), [], []
    for model in search.models:
        stl = {seed: [one for task in search.tasks if (one := results.get(f"{model}-{task}-s{seed}"))]
               for seed in search.seeds}
        for key in (params.SEARCHED, search.method):
            runs = {seed: [results[stem]] for seed in search.seeds if (stem := f"{model}-{key}-s{seed}") in results}
            row = {"model": model, "key": key, "title": key, "runs": runs, "single": stl}
            own = [cell for cell in table.cells_of(row, {}) if (cell["rule"], cell["protocol"]) == (
                suite.selection, "official") and cell["metric"] in (*names, table.DELTA)]
            cells += own
            values = chosen.method(search.suite, model, key)["lambda"]
            rows.append([model, key, " ".join(f"{values[task]:g}" for task in search.tasks), *map(table.spread, own),
                         str(len(runs))])
    parts.append(("Trained on all images, on the test set", ["Network", "Row", "lambda", *header, "n"], rows))
    said = [caption.data(chosen, search.suite),
            f"Search: {search.hold_out:.0%} of the training images held out (seed {search.seed}); lambda of "
            f"{', '.join(search.tasks)}, else `methods.{search.method}`; score: Delta_MTL on those images, "
            f"{caption.RULES[suite.selection]}, mean over seeds {', '.join(map(str, search.seeds))}.",
            f"Protocol `{chosen.protocol}`, suite {search.suite}."]
    table.write("search", "Search for lambda", said, parts, cells, {"trace": lines})


if __name__ == "__main__":
    run(main, *sys.argv[1:])
