"""Stage `evaluate`: a finished run -> its metrics under each protocol and every selection rule.

    python -m pipeline.evaluate rooms student segnet ours 0      out/rooms/metrics/student/segnet-ours-s0.json

The selected weights are measured again from the file a user would take away; they must give what the training loop saw.
Of a run with transfer nets, which that file has not, each rule has its epochs' consistency energy too. `inference_ms`
is the median time of an image by itself, in float32.

Rules, all from one training: last epoch; last10, the mean of the last ten (MTAN); median20, the median of the last
twenty (KD4MTL's Table 1); train_loss, the epoch with the lowest mean training loss (KD4MTL); best_test, the epoch with
the best test metrics (optimistic: it has seen the answers).
"""

import math
import pathlib
import statistics
import subprocess
import sys
import time

import torch

from pipeline import data
from pipeline.data.split import Split
from pipeline.loop.curve import read
from pipeline.loop.measure import measure
from pipeline.runtime import device, documents, files, weights
from pipeline.runtime.errors import UserError, run
from pipeline.runtime.row import address, redo
from pipeline.runtime.row import read as read_row
from pipeline.tasks.metrics import METRICS, PROTOCOLS, delta_m, of, train_loss
from pipeline.teachers import networks

TAILS = {"last10": (statistics.fmean, 10), "median20": (statistics.median, 20)}
WARM_UPS, PASSES = {"cuda": 100, "cpu": 3}, 15
TOLERANCE = 1e-3      # relative; another device or batch size rounds differently, a wrong file is off by far more


def main(suite, group, model_name, name, seed):
    title = f"{model_name}-{name}-s{seed}"
    row = read_row("evaluate", suite, group, title)
    folder = pathlib.Path(row["folder"])
    remedy = redo(folder, address(row, group))
    where = device.pick()
    documents.check_run(folder, lambda: remedy)
    curve, cost = read(folder, remedy)
    states = weights.read(folder / "weights.pt", remedy)
    rules, epochs = selected(curve, row["tasks"])
    data.hold_to(row)
    split = Split(row["data"]["folder"], "test", where, row["tasks"])
    model = networks.network(row, row["tasks"], split.classes, where)
    seen = {}                                    # by epoch: often the two rules name the same one
    for rule in ("last", "train_loss"):
        epoch = epochs[rule]
        if epoch not in seen:
            weights.put(model, states, rule, folder / "weights.pt", remedy)
            seen[epoch] = measure(model, split, row["tasks"], row["switches"]["official_batch"], where, costly=True)
        compare(title, rule, seen[epoch], rules[rule], remedy)
        rules[rule] = seen[epoch]
    energy = {"energy": energies(curve, rules, epochs)} if "energy" in curve[0] else {}
    cost |= {"inference_ms": inference_ms(model, split, where)}
    result = {"run": title, "group": group, "model": model_name, "name": name, "seed": int(seed), "tasks": row["tasks"],
              "rules": rules, "epochs": epochs, **energy, "cost": cost, "commit": commit(),
              "device": device.describe(where)}
    documents.write(f"out/{suite}/metrics/{group}/{title}.json", result)
    shown = "  ".join(f"{METRICS[name].title} {value:.4g}" for name, value in rules["train_loss"]["official"].items())
    print(f"{title}: epoch {epochs['train_loss']} of {len(curve)}  {shown}")


def selected(curve, tasks):
    """Metrics and 1-based epochs by rule; `last10` and `median20` are of all rows if there are fewer."""
    rows = [{protocol: {name: line[f"{protocol}.{name}"] for name in of(tasks) if f"{protocol}.{name}" in line}
             for protocol in PROTOCOLS} for line in curve]
    losses = [train_loss(line, tasks) for line in curve]
    gains = [delta_m(row["official"], rows[-1]["official"]) for row in rows]
    gains = [-math.inf if math.isnan(gain) else gain for gain in gains]      # a metric of 0 has no relative gain
    picked = {"last": len(rows) - 1, "train_loss": losses.index(min(losses)), "best_test": gains.index(max(gains))}
    met = {rule: {protocol: {name: of([row[protocol][name] for row in rows[-epochs:]]) for name in values}
                  for protocol, values in rows[-1].items()} for rule, (of, epochs) in TAILS.items()}
    return ({**{rule: rows[at] for rule, at in picked.items()}, **met},
            {**{rule: at + 1 for rule, at in picked.items()}, **dict.fromkeys(met, len(rows))})


def energies(curve, rules, epochs):
    """{rule: consistency energy}, of the rule's epoch or of its tail."""
    found = [line["energy"] for line in curve]
    return {rule: TAILS[rule][0](found[-TAILS[rule][1]:]) if rule in TAILS else found[epochs[rule] - 1]
            for rule in rules}


@torch.no_grad()
def inference_ms(model, split, where):
    """Median milliseconds of a forward pass on one image, which lies on the device already."""
    image, warm_ups = split.batch([0])[0], WARM_UPS[where.type]
    torch.set_deterministic_debug_mode("default")      # in which bilinear resizing on CUDA takes another, slower way
    took = [timed(model, image, where) for _ in range(warm_ups + PASSES)]
    torch.set_deterministic_debug_mode("error")
    return statistics.median(took[warm_ups:])


def timed(model, image, where):
    """Milliseconds: between CUDA events, or on the wall."""
    if where.type != "cuda":
        begun = time.perf_counter()
        model(image)
        return 1e3 * (time.perf_counter() - begun)
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begun.record()
    model(image)
    ended.record()
    ended.synchronize()
    return begun.elapsed_time(ended)


def compare(title, rule, again, seen, remedy):
    """`UserError` where a metric that training saw is another now; the costly ones are new."""
    for protocol, values in again.items():
        for name, value in values.items():
            if METRICS[name].costly:
                continue
            if abs(value - seen[protocol][name]) > TOLERANCE * max(abs(seen[protocol][name]), 1):
                raise UserError(f"{title}: the {rule} weights give {protocol} {name} {value:.6g}, training saw "
                              f"{seen[protocol][name]:.6g}; weights.pt and curve.csv are not of one run; {remedy}")


def commit():
    """Short commit, with "+" when the tree has changes; "no git" outside a clone."""
    def git(*words):
        return subprocess.run(["git", *words], capture_output=True, text=True, cwd=files.PROJECT)
    try:
        head = git("rev-parse", "--short", "HEAD")
    except FileNotFoundError:
        return "no git"
    if head.returncode or pathlib.Path(git("rev-parse", "--show-toplevel").stdout.strip()) != files.PROJECT:
        return "no git"
    ours = ("pipeline", "models", "kernels", "params.yaml", "dvc.yaml", ":!*.lock")        # DVC itself writes the locks
    changed = git("status", "--porcelain", "--", *ours).stdout
    return head.stdout.strip() + ("+" if changed else "")


if __name__ == "__main__":
    run(main, *sys.argv[1:])
