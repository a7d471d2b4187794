"""Stage `quirks`: what each behaviour of the released code that moves numbers is worth.

    python -m pipeline.quirks quirks quirks        out/tables/quirks.{md,csv,json,tex}, of the suite quirks

The first of the suite's students is the clean row; every other is trained with one behaviour changed, and the table has
the difference of the two under the same seed, its mean and sample standard deviation. Behaviours that only change what
is reported (which epoch, which definition of a metric) are read off the clean runs.
"""

import statistics
import sys

from pipeline import table
from pipeline.config.caption import RULES
from pipeline.runtime.errors import run
from pipeline.runtime.row import read
from pipeline.tasks import metrics


def main(suite, name):
    chosen = read("quirks", suite, name)
    runs, names = table.read_all(suite, ("teacher", "student")), list(metrics.of(chosen["tasks"]))
    cells, parts = [], []
    for model, title in chosen["models"].items():
        own, shown = of_model(chosen, runs, model, title, names)
        cells, parts = cells + own, parts + shown
    done = [runs["student", f"{model}-{row['name']}-s{seed}"] for model in chosen["models"] for row in chosen["rows"]
            for seed in chosen["seeds"]]
    told = chosen["caption"]
    said = [told["data"], "Below the first row: differences from it under the same seed, mean ± sample standard "
            "deviation. Teachers and the single-task rows that Delta_MTL refers to are the clean ones.",
            *(told[about] for about in ("protocol", "selection", "delta", "switches")), table.origin(done)]
    table.write(name, chosen["heading"], said, parts, cells)


def of_model(chosen, runs, model, title, names):
    """(cells, parts) of one network."""
    clean, *others = chosen["rows"]

    def numbers(row, rule=chosen["selection"], protocol="official"):
        """{seed: {metric: number}} of one row."""
        return {seed: table.beside_single(runs, chosen, model, row["name"], seed, rule, protocol)
                for seed in chosen["seeds"]}
    reference = numbers(clean)
    changed = {row["title"]: numbers(row) for row in others}
    told = {f"epoch: {words}": numbers(clean, rule) for rule, words in RULES.items() if rule != chosen["selection"]}
    told["metrics: dataset protocol"] = numbers(clean, protocol="dataset")
    cells, lines = [], [[f"{clean['title']}, clean", *line(reference, names, "")]]
    for behaviour, values in (changed | told).items():
        apart = {seed: {name: value - reference[seed][name] for name, value in found.items()}
                 for seed, found in values.items()}
        lines.append([behaviour, *line(apart, names, "+")])
        cells += [{"model": model, "quirk": behaviour, **summary(apart, name)} for name in (*names, table.DELTA)]
    header = ["Behaviour", *map(table.title_of, (*names, table.DELTA))]
    return cells, [(f"{title}: trained otherwise", header, lines[:len(changed) + 1]),
                   (f"{title}: the clean runs, reported otherwise", header, [lines[0], *lines[len(changed) + 1:]])]


def summary(values, name):
    numbers = [found[name] for found in values.values()]
    return {"metric": name, "mean": statistics.fmean(numbers), "std": table.deviation(numbers), "n": len(numbers)}


def line(values, names, sign):
    return [table.spread(summary(values, name), sign) for name in (*names, table.DELTA)]


if __name__ == "__main__":
    run(main, *sys.argv[1:])
