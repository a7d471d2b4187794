"""Stage `table`: every run's metrics -> out/tables/<name>.{md,csv,json,tex}, one source for the four.

    python -m pipeline.table rooms table2          the table `table2` of the suite rooms

A row a method, in the order of the table's row file (out/<suite>/rows/table/<name>.yaml), which has the suite's groups
in the order that `printed` of its params.yaml names; per metric the mean over seeds and the sample standard deviation,
and where the data are the paper's, its number and the difference, under the definition that its code measured by
(`definition` of the table in params.yaml; `definitions` of its paper.yaml, of networks with another). Delta_MTL is
against our own single-task rows of the same seed. Rendered data are named in the caption and never set beside the
paper's numbers.
"""

import csv
import io
import json
import math
import pathlib
import statistics
import sys

from pipeline.config.caption import RULES
from pipeline.runtime import documents, files
from pipeline.runtime.errors import UserError, run
from pipeline.runtime.row import of_suite, redo
from pipeline.runtime.row import read as read_row
from pipeline.tasks import metrics
from pipeline.tasks.metrics import METRICS, delta_m

OUT = pathlib.Path("out/tables")
DELTA, AVERAGE = "delta_pct", "average_pct"
TITLES = {DELTA: "Delta_MTL", AVERAGE: "Avg"}
PROTOCOLS = {"official": "official protocol (per image and per batch, as KD4MTL)",
             "masked": "masked protocol (per image, void pixels masked, as XTasC-Net)",
             "dataset": "dataset protocol (one confusion matrix, all pixels pooled)"}
COSTS = ("parameters", "seconds_per_step", "peak_memory_mb", "backward_passes", "inference_ms")
METRICS_FILE = {"run": str, "rules": {rule: dict.fromkeys(PROTOCOLS, dict) for rule in RULES},
                "cost": dict.fromkeys(COSTS, documents.NUMBER), "commit": str, "device": str}


def main(suite, name):
    table = read_row("table", suite, name)
    results = read_all(suite, ["teacher", *dict.fromkeys(row["group"] for row in table["rows"])])
    blocks = {model: rows_of(model, table, results) for model in table["models"]}
    rows = [row for block in blocks.values() for row in block]
    if not any(row["runs"] for row in rows):
        raise UserError(f"out/{suite}/metrics has none of the rows of {name}; run `make "
                        f"{table['word']}`")
    cells = [cell for row in rows for cell in cells_of(row, *printed(table, row), protocols(table))]
    look = {(c["model"], c["method"], c["rule"], c["protocol"], c["metric"]): c for c in cells}
    said = caption(table, rows, any(cell["paper"] is not None for cell in cells))
    parts = [part for model, block in blocks.items() for part in grids(table["models"][model], block, look, table)]
    write(name, table["heading"], said, parts, cells, {
        "heading": table["heading"], "selection": table["selection"], "definition": table["definition"], "models": {
            model: table["models"][model] for model in blocks}})


def caption(table, rows, beside_paper):
    """The sentences of the row file, those that the runs ask for, and where the numbers come from."""
    done, told = [run for row in rows for runs in row["runs"].values() for run in runs], table["caption"]
    asked = {"energy": any("energy" in run for run in done), "note": beside_paper and told["note"]}
    said = [sentence for about, sentence in told.items() if asked.get(about, True)]
    said.append(origin(done))
    if missing := [stem for row in rows for stem in row["missing"]]:
        said.append(f"Not run or failed, shown as -: {', '.join(missing)}.")
    return said


def origin(runs):
    return (f"Commit {', '.join(sorted({run['commit'] for run in runs}))}; "
            f"{'; '.join(sorted({run['device'] for run in runs}))}.")


def write(name, heading, said, parts, cells, more=None):
    """The four formats of one table: what is said of it, its printed parts, its cells in long form."""
    document = {"table": name, "caption": said, **(more or {}), "cells": cells}
    for suffix, text in (("json", json.dumps(document, indent=1) + "\n"), ("csv", as_csv(cells)),
                         ("md", as_markdown(heading, said, parts)), ("tex", as_tex(said, parts))):
        files.write(OUT / f"{name}.{suffix}", text.encode())
    print(f"{OUT}/{name}.md, .csv, .json, .tex")


def read_all(suite, groups):
    """{(group, run): its metrics} of a suite, each read when it is asked for: those of rows gone by are not."""
    return Results({(group, file.stem): file for group in groups
                    for file in sorted(pathlib.Path(f"out/{suite}/metrics/{group}").glob("*.json"))})


class Results(dict):
    def __getitem__(self, key):
        found = super().__getitem__(key)
        if isinstance(found, pathlib.Path):
            found = self[key] = read(found)
        return found


def read(file):
    suite, _, group, _ = file.parts[1:]
    stage = of_suite(suite, f"evaluate-{group}@{'-'.join(file.stem.rsplit('-s', 1))}")
    return documents.read(file, lambda: redo(file, stage), METRICS_FILE)


def protocols(table):
    """Those of a table, in the order of their blocks: first the one that its paper measured by."""
    return dict.fromkeys((table["definition"], "official", "dataset"))


def printed(table, row):
    """{(protocol, metric): number} as the paper prints it of a row, where its numbers may stand beside ours; whether
    the definition that it was measured by is known, without which there is no difference."""
    paper = table["paper"] or {"models": {}, "metrics": [], "definitions": {}}
    numbers = paper["models"].get(row["model"], {}).get(row["key"], [])
    definition = paper["definitions"].get(row["model"], table["definition"])
    return {(definition or table["definition"], name): value
            for name, value in zip(paper["metrics"], numbers, strict=bool(numbers))
            if name == AVERAGE or METRICS[name].task in paper["tasks"]}, definition is not None


def rows_of(model, table, results):
    """STL and every method of the table on one network: {"model", "key", "title", "tasks", "runs": {seed: [results]},
    "single", "missing"}."""
    wanted = [("stl", "STL", [("teacher", task) for task in table["tasks"]])] if model in table["single"] else []
    wanted += [(row["key"], row["title"], [(row["group"], row["name"])]) for row in table["rows"]
               if model in row["models"]]
    rows = []
    for key, title, names in wanted:
        stems = {seed: [(group, f"{model}-{name}-s{seed}") for group, name in names] for seed in table["seeds"]}
        runs = {seed: [results[stem] for stem in stems[seed]] for seed in table["seeds"]
                if all(stem in results for stem in stems[seed])}
        rows.append({"model": model, "key": key, "title": title, "tasks": table["tasks"], "flat": table["flat"],
                     "runs": runs, "missing": [stem for seed in stems for group, stem in stems[seed]
                                               if (group, stem) not in results]})
    for row in rows:
        row["single"] = rows[0]["runs"] if rows[0]["key"] == "stl" else {}
    return rows


def merged(runs, rule, protocol):
    """One seed's metrics: of the one run, or of the three single-task runs together."""
    return {name: value for run in runs for of in ("official", protocol)        # `masked` has what differs
            for name, value in run["rules"][rule][of].items()}


def beside_single(results, table, model, row, seed, rule, protocol="official"):
    """One student's {metric: number}, with its Delta_MTL over the single-task runs of the same seed; `UserError` if one
    is missing. results: `read_all` of the suite."""
    stems = [(group, f"{model}-{name}-s{seed}") for group, name in [("student", row), *(
        ("teacher", task) for task in table["tasks"])]]
    if missing := [stem for group, stem in stems if (group, stem) not in results]:
        raise UserError(f"out/{table['suite']}/metrics has no {', '.join(missing)}; run `make {table['word']}`")
    ours, single = merged([results[stems[0]]], rule, protocol), merged([results[s] for s in stems[1:]], rule, protocol)
    return {**ours, DELTA: delta_m(ours, single)}


def cells_of(row, printed, defined=True, protocols=("official", "dataset")):
    """Long form: a record per rule, protocol and metric, with mean, sample standard deviation (null for n = 1), n."""
    for rule in RULES:
        for protocol in protocols:
            seeds = {seed: merged(runs, rule, protocol) for seed, runs in row["runs"].items()}
            values = {name: [one[name] for one in seeds.values() if name in one] for name in metrics.of(row["tasks"])}
            values |= {AVERAGE: [statistics.fmean(one.values()) for one in seeds.values()]} if row["flat"] else {}
            values[DELTA] = [delta_m(one, merged(row["single"][seed], rule, protocol))
                             for seed, one in seeds.items() if row["key"] != "stl" and seed in row["single"]]
            for name, numbers in values.items():
                theirs = printed.get((protocol, name))
                mean = statistics.fmean(numbers) if numbers else None
                yield {"model": row["model"], "method": row["key"], "title": row["title"], "rule": rule,
                       "protocol": protocol, "metric": name, "mean": mean,
                       "std": deviation(numbers), "n": len(numbers),
                       "paper": theirs,
                       "difference": mean - theirs if defined and None not in (mean, theirs) else None}


def deviation(numbers):
    """Sample standard deviation; None for one number, NaN where one is."""
    if len(numbers) < 2:
        return None
    return statistics.stdev(numbers) if all(number == number for number in numbers) else math.nan


def grids(title, block, look, table):
    """What is printed of one network: [(title, header, rows of text)], the chosen rule first."""
    model, chosen = block[0]["model"], table["selection"]
    names = [*metrics.of(table["tasks"]), *[AVERAGE] * table["flat"]]
    shown = {"official": "accuracy on each domain's own test images"} if table["flat"] else {
        protocol: PROTOCOLS[protocol] for protocol in protocols(table)}
    for protocol, told in shown.items():
        header, lines = ["Method", "", *map(title_of, (*names, DELTA)), "n"], []
        for row in block:
            found = [look[model, row["key"], chosen, protocol, name] for name in (*names, DELTA)]
            lines.append([row["title"], "ours", *map(spread, found), str(found[0]["n"])])
            if any(cell["paper"] is not None for cell in found):
                lines.append(["", "paper", *(number(c["metric"], c["paper"]) for c in found), ""])
                lines.append(["", "ours - paper", *(number(c["metric"], c["difference"], "+") for c in found), ""])
        yield f"{title}, {told}", header, lines
    firsts = [*map(metrics.first, table["tasks"]), DELTA]
    lines = [[row["title"], RULES[rule], *(spread(look[model, row["key"], rule, table["definition"], name])
              for name in firsts)]
             for row in block for rule in RULES]
    yield (f"{title}, every selection rule ({table['definition']})", ["Method", "Epoch", *map(title_of, firsts)], lines)
    energy = any("energy" in run for row in block for runs in row["runs"].values() for run in runs)
    yield (f"{title}, cost", ["Method", "Parameters", "s/step", "Peak memory MB", "Backward passes", "Inference ms",
                              *["Consistency energy"] * energy],
           [[row["title"], *cost(row), *[energy_of(row, chosen)] * energy] for row in block])


def title_of(name):
    return METRICS[name].title if name in METRICS else TITLES[name]


def cost(row):
    """Sums over the runs of a row (STL is one network a task), means over seeds; memory is the largest."""
    if not row["runs"]:
        return ["-"] * 5
    costs = [[run["cost"] for run in runs] for runs in row["runs"].values()]
    def summed(key):
        return statistics.fmean(sum(one[key] for one in run) for run in costs)
    return [f"{summed('parameters'):,.0f}", f"{summed('seconds_per_step'):.3f}",
            f"{max(one['peak_memory_mb'] for run in costs for one in run):,.0f}", f"{summed('backward_passes'):.0f}",
            f"{summed('inference_ms'):.1f}"]


def energy_of(row, rule):
    """How far the transferred predictions are from the direct ones, on the test images, mean over seeds."""
    found = [run["energy"][rule] for runs in row["runs"].values() for run in runs if "energy" in run]
    return f"{statistics.fmean(found):.4f}" if found else "-"


def number(metric, value, sign=""):
    """As many digits as the metric's task states, as in the paper."""
    if value is None or value != value:
        return "-" if value is None else "nan"
    digits = METRICS[metric].digits if metric in METRICS and abs(value) < 5 else 2
    return f"{value:{sign or ('+' if metric == DELTA else '')}.{digits}f}"


def spread(cell, sign=""):
    return number(cell["metric"], cell["mean"], sign) + (
        f" ± {number(cell['metric'], cell['std']).lstrip('+')}" if cell["std"] is not None else "")


def as_csv(cells):
    text = io.StringIO()
    writer = csv.DictWriter(text, cells[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(cells)
    return text.getvalue()


def as_markdown(heading, said, parts):
    """Columns are padded, so that the file reads in a terminal as well."""
    lines = [f"# {heading}", "", *(f"{sentence}  " for sentence in said)]
    for title, header, rows in parts:
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        def joined(row, widths=widths):
            return "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |"
        lines += ["", f"## {title}", "", joined(header), "|" + "|".join("-" * (w + 2) for w in widths) + "|",
                  *map(joined, rows)]
    return "\n".join(lines) + "\n"


def as_tex(said, parts):
    def plain(text):
        for mark, tex in (("\\", "/"), ("_", r"\_"), ("%", r"\%"), ("±", r"$\pm$"), ("<", "$<$"), ("`", "")):
            text = text.replace(mark, tex)
        return text
    lines = [f"% {sentence}" for sentence in said]
    for title, header, rows in parts:
        body = [" & ".join(map(plain, row)) + r" \\" for row in rows]
        lines += ["", r"\begin{table}\centering", rf"\caption{{{plain(title)}. {plain(said[0])}}}",
                  rf"\begin{{tabular}}{{ll{'r' * (len(header) - 2)}}}", r"\toprule",
                  " & ".join(map(plain, header)) + r" \\", r"\midrule", *body, r"\bottomrule", r"\end{tabular}",
                  r"\end{table}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main, *sys.argv[1:])
