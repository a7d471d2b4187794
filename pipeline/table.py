"""Stage `table`: every run's metrics -> out/tables/<name>.{md,csv,json,tex}, one source for the four.

    python -m pipeline.table table2          KD4MTL's Table 2: STL, `baselines`, `students` on `models`
    python -m pipeline.table balancers       the same and `wide.rows`, on `wide.models`

A row a method, in the paper's order; per metric the mean over seeds and the sample standard deviation, and where the
data are the paper's, its number and the difference. Delta_MTL is against our own single-task rows of the same seed.
Rendered data are named in the caption and never set beside the paper's numbers.
"""

import csv
import io
import json
import pathlib
import statistics
import sys

import yaml

from pipeline import params
from pipeline.metrics import METRICS, delta_m
from pipeline.problem import Problem, run

OUT, SOURCE, WIDE = map(pathlib.Path, ("out/tables", "out/metrics", "out/wide"))
HEADINGS = {"table2": "Table 2", "balancers": "Balancers"}
DELTA = "delta_pct"
TITLES = {"segnet": "SegNet", "mtan": "MTAN", DELTA: "Delta_MTL"}
PROTOCOLS = {"official": "official protocol (per image and per batch, as the paper)",
             "dataset": "dataset protocol (one confusion matrix, all pixels pooled)"}
RULES = {"last": "last epoch", "last10": "mean of the last ten epochs", "train_loss": "lowest training loss",
         "best_test": "best on test (optimistic)"}


def main(name="table2"):
    chosen = params.load()
    if name not in HEADINGS:
        raise Problem(f"{name!r} is no table; there are {', '.join(HEADINGS)}")
    wide = chosen.wide.rows if name == "balancers" else []
    files = [*SOURCE.glob("*.json"), *(WIDE.glob("*.json") if wide else ())]
    results = {file.stem: read(file) for file in sorted(files)}
    methods = [*chosen.baselines, *wide, *chosen.students]
    models = chosen.wide.models if name == "balancers" else chosen.models
    blocks = {model: rows_of(model, methods, chosen, results) for model in models}
    rows = [row for block in blocks.values() for row in block]
    if not any(row["runs"] for row in rows):
        raise Problem(f"{SOURCE} has no metrics of the rows in {params.FILE}; run `make evaluate`")
    cells = [cell for row in rows for cell in cells_of(row, paper(chosen))]
    look = {(c["model"], c["method"], c["rule"], c["protocol"], c["metric"]): c for c in cells}
    done = [run for row in rows for runs in row["runs"].values() for run in runs]
    said = caption(chosen, models, methods, rows, done)
    parts = [part for model, block in blocks.items() for part in grids(model, block, look, chosen)]
    OUT.mkdir(parents=True, exist_ok=True)
    document = {"table": name, "caption": said, "selection": chosen.selection, "cells": cells}
    for suffix, text in (("json", json.dumps(document, indent=1) + "\n"), ("csv", as_csv(cells)),
                         ("md", as_markdown(HEADINGS[name], said, parts)), ("tex", as_tex(said, parts))):
        (OUT / f"{name}.{suffix}").write_text(text)
    print(f"{OUT}/{name}.md, .csv, .json, .tex")


def read(file):
    try:
        return json.loads(file.read_text())
    except ValueError as mistake:
        raise Problem(f"{file} is damaged ({mistake}); remove it and run `make evaluate`") from None


def paper(chosen):
    """{model: {method: {metric: number}}} as printed, only for the paper's own data; fitted normals stay out."""
    if chosen.data != "nyuv2":
        return {}
    printed = yaml.safe_load((pathlib.Path(__file__).parent / "paper.yaml").read_text())["table2"]
    hidden = "normal" if chosen.datasets.nyuv2.normals == "derived" else None
    return {model: {method: {name: value for name, value in zip(METRICS, values, strict=True)
                             if METRICS[name].task != hidden} for method, values in methods.items()}
            for model, methods in printed.items()}


def rows_of(model, methods, chosen, results):
    """STL and every method of the table: {"model", "key", "title", "runs": {seed: [results]}, "single", "missing"}."""
    wanted = {"stl": ("STL", chosen.tasks)} | {
        name: (chosen.methods[name].title, [name]) for name in methods}
    rows = []
    for key, (title, names) in wanted.items():
        stems = {seed: [f"{model}-{name}-s{seed}" for name in names] for seed in chosen.seeds}
        runs = {seed: [results[stem] for stem in stems[seed]] for seed in chosen.seeds
                if all(stem in results for stem in stems[seed])}
        rows.append({"model": model, "key": key, "title": title, "runs": runs,
                     "missing": [stem for seed in stems for stem in stems[seed] if stem not in results]})
    for row in rows:
        row["single"] = rows[0]["runs"]
    return rows


def merged(runs, rule, protocol):
    """One seed's metrics: of the one run, or of the three single-task runs together."""
    return {name: value for run in runs for name, value in run["rules"][rule][protocol].items()}


def cells_of(row, printed):
    """Long form: a record per rule, protocol and metric, with mean, sample standard deviation (null for n = 1), n."""
    for rule in RULES:
        for protocol in PROTOCOLS:
            seeds = {seed: merged(runs, rule, protocol) for seed, runs in row["runs"].items()}
            values = {name: [metrics[name] for metrics in seeds.values() if name in metrics] for name in METRICS}
            values[DELTA] = [delta_m(metrics, merged(row["single"][seed], rule, protocol))
                             for seed, metrics in seeds.items() if row["key"] != "stl" and seed in row["single"]]
            for name, numbers in values.items():
                theirs = printed.get(row["model"], {}).get(row["key"], {}).get(name) if protocol == "official" else None
                mean = statistics.fmean(numbers) if numbers else None
                yield {"model": row["model"], "method": row["key"], "title": row["title"], "rule": rule,
                       "protocol": protocol, "metric": name, "mean": mean,
                       "std": statistics.stdev(numbers) if len(numbers) > 1 else None, "n": len(numbers),
                       "paper": theirs,
                       "difference": mean - theirs if mean is not None and theirs is not None else None}


def grids(model, block, look, chosen):
    """What is printed of one model: [(title, header, rows of text)], the chosen rule first."""
    title = TITLES.get(model, model)
    names = [name for name, metric in METRICS.items() if metric.task in chosen.tasks]
    for protocol, told in PROTOCOLS.items():
        header, lines = ["Method", "", *(METRICS[name].title for name in names), TITLES[DELTA], "n"], []
        for row in block:
            found = [look[model, row["key"], chosen.selection, protocol, name] for name in (*names, DELTA)]
            lines.append([row["title"], "ours", *map(spread, found), str(found[0]["n"])])
            if any(cell["paper"] is not None for cell in found):
                lines.append(["", "paper", *(number(c["metric"], c["paper"]) for c in found), ""])
                lines.append(["", "ours - paper", *(number(c["metric"], c["difference"], "+") for c in found), ""])
        yield f"{title}, {told}", header, lines
    firsts = [next(name for name in names if METRICS[name].task == task) for task in chosen.tasks] + [DELTA]
    lines = [[row["title"], RULES[rule], *(spread(look[model, row["key"], rule, "official", name]) for name in firsts)]
             for row in block for rule in RULES]
    yield (f"{title}, every selection rule (official)",
           ["Method", "Epoch", *(METRICS[name].title if name in METRICS else TITLES[name] for name in firsts)], lines)
    yield (f"{title}, cost", ["Method", "Parameters", "s/step", "Peak memory MB", "Backward passes"],
           [[row["title"], *cost(row)] for row in block])


def cost(row):
    """Sums over the runs of a row (STL is one network a task), means over seeds; memory is the largest."""
    if not row["runs"]:
        return ["-"] * 4
    costs = [[run["cost"] for run in runs] for runs in row["runs"].values()]
    def summed(key):
        return statistics.fmean(sum(one[key] for one in run) for run in costs)
    return [f"{summed('parameters'):,.0f}", f"{summed('seconds_per_step'):.3f}",
            f"{max(one['peak_memory_mb'] for run in costs for one in run):,.0f}", f"{summed('backward_passes'):.0f}"]


def number(metric, value, sign=""):
    """Digits as in the paper: four for depth, two for the others."""
    if value is None:
        return "-"
    digits = 4 if metric in METRICS and METRICS[metric].task == "depth" else 2
    return f"{value:{sign or ('+' if metric == DELTA else '')}.{digits}f}"


def spread(cell):
    return number(cell["metric"], cell["mean"]) + (
        f" ± {number(cell['metric'], cell['std']).lstrip('+')}" if cell["std"] is not None else "")


def caption(chosen, models, methods, rows, runs):
    """What a reader has to know, a sentence each: data, protocol, selection, metric definitions, switches, origin."""
    switches, said = chosen.switches, [data_told(chosen)]
    said.append(f"Protocol `{chosen.protocol}`: " + "; ".join(
        f"{TITLES.get(model, model)} {one.epochs} epochs of batch {one.batch}, Adam {one.lr:g} ({one.schedule}), "
        f"width {one.width:g}" for model, one in chosen.in_force.train.items() if model in models) + (
            "." if chosen.protocol == "paper" else "; not the paper's 200 epochs of batch 2 at 288x384 and width 1."))
    said.append(f"Epoch: {RULES[chosen.selection]}. Seeds {', '.join(map(str, chosen.seeds))}; mean ± sample standard "
                "deviation over n seeds, none for n = 1.")
    said.append("Delta_MTL = mean over tasks of the mean over a task's metrics of the relative gain on our own STL of "
                "the same seed, in percent; positive is better. STL is one network a task, its cost their sum.")
    said.append(f"Switches: normal_mask {switches.normal_mask}, drop_last {str(switches.drop_last).lower()}, "
                f"official_batch {switches.official_batch}, features {chosen.features.dtype} of the teachers' "
                f"{chosen.features.teacher} epoch" + "".join(
                    f"; {chosen.methods[name].title}: teacher_bn {chosen.methods[name].teacher_bn}, "
                    f"{'+'.join(chosen.methods[name].taps)}, {chosen.methods[name].adaptor} adaptors"
                    for name in chosen.students) + "".join(
                        f"; {chosen.methods[name].title}: " + ", ".join(
                            f"{key} {value}" for key, value in chosen.methods[name].options.items())
                        for name in methods if chosen.methods[name].options) + ".")
    said.append(f"Commit {', '.join(sorted({run['commit'] for run in runs}))}; "
                f"{'; '.join(sorted({run['device'] for run in runs}))}.")
    missing = [stem for row in rows for stem in row["missing"]]
    if missing:
        said.append(f"Not run or failed, shown as -: {', '.join(missing)}.")
    return said


def data_told(chosen):
    images, nyuv2 = chosen.in_force.data, chosen.datasets.nyuv2
    size = f"{images.train} training and {images.test} test images of {images.height}x{images.width}"
    if chosen.data == "scenes":
        return f"Data: rendered rooms (`scenes`), {size}; not NYUv2, so the paper's numbers are not shown."
    made = (f", from its authors' .mat files ({nyuv2.depth} depth, window {nyuv2.crop}), not MTAN's arrays, the paper's"
            if nyuv2.source == "mat" else "")
    fitted = ("; normals fitted to the depth, not the published ones, so the paper's normal columns are not shown"
              if nyuv2.normals == "derived" else "")
    return f"Data: NYUv2, {size}{made}{fitted}."


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
