"""Stage `table`: every run's metrics -> out/tables/<name>.{md,csv,json,tex}, one source for the four.

    python -m pipeline.table table2          KD4MTL's Table 2: STL, `baselines`, `students` of the suite rooms
    python -m pipeline.table balancers       the same and `wide.rows`, on `wide.models`
    python -m pipeline.table table4          STL, `students` and `ablation.rows`, on `ablation.models`
    python -m pipeline.table table3          as table2, of the suite streets; table1: of domains
    python -m pipeline.table xtask-cityscapes       XTasC-Net's, of the suite xtask_streets; xtask-nyuv2: of xtask_rooms

A row a method, in the paper's order; per metric the mean over seeds and the sample standard deviation, and where the
data are the paper's, its number and the difference. Delta_MTL is against our own single-task rows of the same seed.
Rendered data are named in the caption and never set beside the paper's numbers.
"""

import csv
import io
import json
import math
import pathlib
import statistics
import sys

import yaml

from pipeline.config import caption, params
from pipeline.config.caption import NETWORKS, RULES
from pipeline.config.metrics import METRICS, delta_m
from pipeline.config.schema import PAIR
from pipeline.runtime.errors import UserError, run

OUT = pathlib.Path("out/tables")
TABLES = {          # heading, suite, groups of rows behind STL
    "table1": ("Table 1", "domains", ("baseline", "student")),
    "table2": ("Table 2", "rooms", ("baseline", "student")),
    "table3": ("Table 3", "streets", ("baseline", "student")),
    "table4": ("Table 4", "rooms", ("student", "ablation")),
    "balancers": ("Balancers", "rooms", ("baseline", "wide", "student")),
    "xtask-cityscapes": ("XTasC-Net, Cityscapes", "xtask_streets", ("baseline", "student", "wide")),
    "xtask-nyuv2": ("XTasC-Net, NYUv2", "xtask_rooms", ("baseline", "student", "wide"))}
DELTA, AVERAGE = "delta_pct", "average_pct"
TITLES = NETWORKS | {DELTA: "Delta_MTL", AVERAGE: "Avg"}
PROTOCOLS = {"official": "official protocol (per image and per batch, as the paper)",
             "dataset": "dataset protocol (one confusion matrix, all pixels pooled)"}


def main(name="table2"):
    chosen = params.load()
    if name not in TABLES:
        raise UserError(f"{name!r} is no table; there are {', '.join(TABLES)}")
    heading, suite, groups = TABLES[name]
    part = chosen.suite(suite)
    results = read_all(suite, groups)
    listed = part.groups()
    methods = [row for group in groups for row in listed[group][2]]
    models = models_of(suite, [listed[group][1] for group in groups])
    blocks = {model: rows_of(model, [row for group in groups for row in listed[group][2]
                                     if model in listed[group][1]], chosen, part, results) for model in models}
    rows = [row for block in blocks.values() for row in block]
    if not any(row["runs"] for row in rows):
        raise UserError(f"out/{suite}/metrics has none of the rows in {params.FILE}; run `make "
                      f"{'table-' * (not name.startswith('table'))}{name}`")
    cells = [cell for row in rows for cell in cells_of(row, paper(chosen, suite))]
    look = {(c["model"], c["method"], c["rule"], c["protocol"], c["metric"]): c for c in cells}
    done = [run for row in rows for runs in row["runs"].values() for run in runs]
    said = caption.sentences(chosen, suite, models, methods, rows, done, any(c["paper"] is not None for c in cells))
    parts = [part_ for model, block in blocks.items() for part_ in grids(model, block, look, part)]
    write(name, heading, said, parts, cells, {"selection": part.selection})


def models_of(suite, groups):
    """Networks with a block of their own: those that all groups of rows have; in XTasC-Net's tables, that one has."""
    if suite.startswith("xtask"):
        return list(dict.fromkeys(model for models in groups for model in models))
    return min(groups, key=len)


def write(name, heading, said, parts, cells, more=None):
    """The four formats of one table: what is said of it, its printed parts, its cells in long form."""
    OUT.mkdir(parents=True, exist_ok=True)
    document = {"table": name, "caption": said, **(more or {}), "cells": cells}
    for suffix, text in (("json", json.dumps(document, indent=1) + "\n"), ("csv", as_csv(cells)),
                         ("md", as_markdown(heading, said, parts)), ("tex", as_tex(said, parts))):
        (OUT / f"{name}.{suffix}").write_text(text)
    print(f"{OUT}/{name}.md, .csv, .json, .tex")


def read_all(suite, groups):
    """{run: its metrics} of a suite's teachers and groups."""
    return {file.stem: read(file) for group in ("teacher", *groups)
            for file in sorted(pathlib.Path(f"out/{suite}/metrics/{group}").glob("*.json"))}


def read(file):
    try:
        return json.loads(file.read_text())
    except ValueError as mistake:
        raise UserError(f"{file} is damaged ({mistake}); remove it and run the same make word again") from None


def paper(chosen, suite):
    """{model: {method: {metric: number}}} as printed, only for the paper's own data; fitted normals stay out."""
    data, sets = chosen.suite(suite).data, chosen.datasets
    if not (data == "nyuv2" or data == "cityscapes" and sets.cityscapes.classes == 7
            or data == "svhn_omniglot" and sets.svhn_omniglot.digits == "svhn"):
        return {}
    printed = yaml.safe_load((pathlib.Path(__file__).parent / "config/papers.yaml").read_text())[suite]
    hidden = "normal" if data == "nyuv2" and sets.nyuv2.normals == "derived" else None
    return {model: {method: {name: value for name, value in zip(printed["metrics"], values, strict=True)
                             if name == AVERAGE or METRICS[name].task != hidden} for method, values in methods.items()}
            for model, methods in printed["models"].items()}


def rows_of(model, methods, chosen, part, results):
    """STL and every method of the table: {"model", "key", "title", "runs": {seed: [results]}, "single", "missing"}."""
    wanted = ({"stl": ("STL", part.tasks)} if model in part.models else {}) | {
        name: (chosen.methods[name].title, [name]) for name in methods}
    rows = []
    for key, (title, names) in wanted.items():
        stems = {seed: [f"{model}-{name}-s{seed}" for name in names] for seed in part.seeds}
        runs = {seed: [results[stem] for stem in stems[seed]] for seed in part.seeds
                if all(stem in results for stem in stems[seed])}
        rows.append({"model": model, "key": key, "title": title, "runs": runs,
                     "missing": [stem for seed in stems for stem in stems[seed] if stem not in results]})
    for row in rows:
        row["single"] = rows[0]["runs"] if rows[0]["key"] == "stl" else {}
    return rows


def merged(runs, rule, protocol):
    """One seed's metrics: of the one run, or of the three single-task runs together."""
    return {name: value for run in runs for name, value in run["rules"][rule][protocol].items()}


def beside_single(results, suite, model, row, tasks, seed, rule, protocol="official"):
    """One run's {metric: number}, with its Delta_MTL over the single-task runs of the same seed; `UserError` if one is
    missing. results: `read_all` of the suite."""
    stems = [f"{model}-{name}-s{seed}" for name in (row, *tasks)]
    if missing := [stem for stem in stems if stem not in results]:
        word = "search-lambda" if suite == "search" else suite
        raise UserError(f"out/{suite}/metrics has no {', '.join(missing)}; run `make {word}`")
    ours, single = merged([results[stems[0]]], rule, protocol), merged([results[s] for s in stems[1:]], rule, protocol)
    return {**ours, DELTA: delta_m(ours, single)}


def cells_of(row, printed):
    """Long form: a record per rule, protocol and metric, with mean, sample standard deviation (null for n = 1), n."""
    for rule in RULES:
        for protocol in PROTOCOLS:
            seeds = {seed: merged(runs, rule, protocol) for seed, runs in row["runs"].items()}
            values = {name: [metrics[name] for metrics in seeds.values() if name in metrics] for name in METRICS}
            values[AVERAGE] = [statistics.fmean(metrics.values()) for metrics in seeds.values()
                               if all(METRICS[name].task in PAIR for name in metrics)]
            values[DELTA] = [delta_m(metrics, merged(row["single"][seed], rule, protocol))
                             for seed, metrics in seeds.items() if row["key"] != "stl" and seed in row["single"]]
            for name, numbers in values.items():
                theirs = printed.get(row["model"], {}).get(row["key"], {}).get(name) if protocol == "official" else None
                mean = statistics.fmean(numbers) if numbers else None
                yield {"model": row["model"], "method": row["key"], "title": row["title"], "rule": rule,
                       "protocol": protocol, "metric": name, "mean": mean,
                       "std": deviation(numbers), "n": len(numbers),
                       "paper": theirs,
                       "difference": mean - theirs if mean is not None and theirs is not None else None}


def deviation(numbers):
    """Sample standard deviation; None for one number, NaN where one is."""
    if len(numbers) < 2:
        return None
    return statistics.stdev(numbers) if all(number == number for number in numbers) else math.nan


def grids(model, block, look, part):
    """What is printed of one model: [(title, header, rows of text)], the chosen rule first."""
    title = TITLES.get(model, model)
    names = [name for name, metric in METRICS.items() if metric.task in part.tasks]
    names += [AVERAGE] if set(part.tasks) == set(PAIR) else []
    protocols = PROTOCOLS if AVERAGE not in names else {"official": "accuracy on each domain's own test images"}
    for protocol, told in protocols.items():
        header, lines = ["Method", "", *map(title_of, (*names, DELTA)), "n"], []
        for row in block:
            found = [look[model, row["key"], part.selection, protocol, name] for name in (*names, DELTA)]
            lines.append([row["title"], "ours", *map(spread, found), str(found[0]["n"])])
            if any(cell["paper"] is not None for cell in found):
                lines.append(["", "paper", *(number(c["metric"], c["paper"]) for c in found), ""])
                lines.append(["", "ours - paper", *(number(c["metric"], c["difference"], "+") for c in found), ""])
        yield f"{title}, {told}", header, lines
    firsts = [next(name for name in names if METRICS[name].task == task) for task in part.tasks] + [DELTA]
    lines = [[row["title"], RULES[rule], *(spread(look[model, row["key"], rule, "official", name]) for name in firsts)]
             for row in block for rule in RULES]
    yield (f"{title}, every selection rule (official)",
           ["Method", "Epoch", *map(title_of, firsts)], lines)
    energy = any("energy" in run for row in block for runs in row["runs"].values() for run in runs)
    yield (f"{title}, cost", ["Method", "Parameters", "s/step", "Peak memory MB", "Backward passes", "Inference ms",
                              *["Consistency energy"] * energy],
           [[row["title"], *cost(row), *[energy_of(row, part.selection)] * energy] for row in block])


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
    """Digits as in the paper: four for depth below 5, two for the others."""
    if value is None or value != value:
        return "-" if value is None else "nan"
    digits = 4 if metric in METRICS and METRICS[metric].task == "depth" and abs(value) < 5 else 2
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
