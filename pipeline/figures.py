"""`make figures`: task losses and feature distances over training (KD4MTL, Figures 3 and 4) of students that have run.

    python -m pipeline.figures [SUITE ...]       every suite that has run, or these

Writes out/figures/<suite>-<model>-<method>-s<seed>.svg and .png, from curve.csv alone; trains nothing, so that a suite
has the figures of what has run. Distances are weighted by their lambda, as they enter the loss; where predictions are
distilled their mismatch has a panel too.
"""

import io
import pathlib
import sys

from pipeline import tasks
from pipeline.loop.curve import read
from pipeline.runtime import files
from pipeline.runtime.errors import UserError, run
from pipeline.runtime.row import address, redo
from pipeline.runtime.row import read as read_row

KINDS = {"loss": "task loss", "distance": "lambda x feature distance", "match": "mismatch of predictions"}


def main(*suites):
    drawn = 0
    for file in sorted(pathlib.Path("out").glob("*/rows/train/*/*.yaml")):
        row = read_row("train", file.parts[1], *file.parts[4:-1], file.stem)
        folder = pathlib.Path(row["folder"])
        if (not suites or row["suite"] in suites) and "teachers" in row and (folder / "curve.csv").exists():
            curve, _ = read(folder, redo(folder, address(row, row["group"])))
            for suffix, payload in draw(curve, row).items():
                path = f"out/figures/{row['suite']}-{folder.name}.{suffix}"
                files.write(path, payload)
                print(path)
            drawn += 1
    if not drawn:
        raise UserError(f"no student of {' or '.join(suites) or 'any suite'} has run yet; run `make table2` first")


def draw(curve, row):
    """{"svg": bytes, "png": bytes}."""
    import matplotlib
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "figures"           # names in the file are the same every time
    import matplotlib.pyplot as plt
    from matplotlib import ticker
    kinds = [kind for kind in KINDS if any(f"{kind}_{task}" in curve[0] for task in row["tasks"])]
    figure, panels = plt.subplots(1, len(kinds), figsize=(4.6 * len(kinds), 3.4), squeeze=False, layout="constrained")
    epochs = [line["epoch"] for line in curve]
    for kind, panel in zip(kinds, panels[0], strict=True):
        ends = {}
        for task in row["tasks"]:
            # under prediction distillation loss_<task> is the mixture; what the labels say is what compares
            name = f"label_{task}" if kind == "loss" and f"label_{task}" in curve[0] else f"{kind}_{task}"
            values = [line[name] for line in curve]
            panel.plot(epochs, values, color=tasks.facts(task).colour, marker="o" if len(curve) < 30 else None,
                       markersize=3)
            ends[task] = values[-1]
        panel.set_title(KINDS[kind], fontsize=10, loc="left")
        panel.set_xlabel("epoch")
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_locator(ticker.NullLocator())
        panel.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        label(panel, ends)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25)
    figure.suptitle(f"{row['name']} on {row['model']}, {row['suite']}, training set, seed {row['seed']}",
                    fontsize=10)
    out = {}
    for suffix, how in (("svg", {"metadata": {"Date": None}}), ("png", {"dpi": 150})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, **how)
        out[suffix] = buffer.getvalue()
    plt.close(figure)
    return out


def label(panel, ends):
    """Names and last values beside the ends of the lines, no two on one another."""
    scale = panel.transData + panel.transAxes.inverted()
    lowest = -1.0
    for task, value in sorted(ends.items(), key=lambda pair: pair[1]):
        lowest = max(lowest + 0.07, scale.transform((1, value))[1])
        panel.text(1.02, lowest, f"{task} {value:.3f}", transform=panel.transAxes, va="center", fontsize=8,
                   color=tasks.facts(task).colour)


if __name__ == "__main__":
    run(main, *sys.argv[1:])
