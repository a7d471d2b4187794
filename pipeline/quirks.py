"""Stage `quirks`: what each behaviour of the released code that moves numbers is worth.

    python -m pipeline.quirks        out/tables/quirks.{md,csv,json,tex}

The first of `suites.quirks.students` is the clean row; every other is trained with one behaviour changed, and the table
has the difference of the two under the same seed, its mean and sample standard deviation. Behaviours that only change
what is reported (which epoch, which definition of a metric) are read off the clean runs.
"""

import statistics

from pipeline import table
from pipeline.config import caption, params
from pipeline.config.metrics import METRICS
from pipeline.runtime.errors import run


def main():
    chosen = params.load()
    suite, runs = chosen.suite("quirks"), table.read_all("quirks", ("student",))
    clean, *others = suite.students
    names, cells, parts = [name for name, metric in METRICS.items() if metric.task in suite.tasks], [], []
    for model in suite.models:
        def numbers(row, rule=suite.selection, protocol="official", model=model):
            """{seed: {metric: number}} of one row."""
            return {seed: table.beside_single(runs, "quirks", model, row, suite.tasks, seed, rule, protocol)
                    for seed in suite.seeds}
        reference = numbers(clean)
        changed = {chosen.methods[row].title: numbers(row) for row in others}
        told = {f"epoch: {words}": numbers(clean, rule) for rule, words in caption.RULES.items()
                if rule != suite.selection}
        told["metrics: dataset protocol"] = numbers(clean, protocol="dataset")
        lines = [[f"{chosen.methods[clean].title}, clean", *line(reference, names, "")]]
        for title, values in (changed | told).items():
            apart = {seed: {name: value - reference[seed][name] for name, value in found.items()}
                     for seed, found in values.items()}
            lines.append([title, *line(apart, names, "+")])
            cells += [{"model": model, "quirk": title, **summary(apart, name)}
                      for name in (*names, table.DELTA)]
        header = ["Behaviour", *map(table.title_of, (*names, table.DELTA))]
        parts += [(f"{table.TITLES[model]}: trained otherwise", header, lines[:len(changed) + 1]),
                  (f"{table.TITLES[model]}: the clean runs, reported otherwise", header,
                   [lines[0], *lines[len(changed) + 1:]])]
    done = [runs[f"{model}-{row}-s{seed}"] for model in suite.models for row in suite.students for seed in suite.seeds]
    said = caption.sentences(chosen, "quirks", suite.models, suite.students, [], done)
    said.insert(1, "Below the first row: differences from it under the same seed, mean ± sample standard deviation. "
                "Teachers and the single-task rows that Delta_MTL refers to are the clean ones.")
    table.write("quirks", "Quirks of the released code", said, parts, cells)


def summary(values, name):
    numbers = [found[name] for found in values.values()]
    return {"metric": name, "mean": statistics.fmean(numbers), "std": table.deviation(numbers), "n": len(numbers)}


def line(values, names, sign):
    return [table.spread(summary(values, name), sign) for name in (*names, table.DELTA)]


if __name__ == "__main__":
    run(main)
