"""What a finished run leaves in its folder: weights, curves, its row and what it cost."""

import pathlib

import yaml

from pipeline import balancers
from pipeline.loop.curve import text, work_of
from pipeline.runtime import device, documents, weights


def write_results(run):
    """weights.pt, curve.csv, balance.csv (not of a teacher), run.yaml and cost.json."""
    results, folder = run.results, pathlib.Path(run.row["folder"])
    states = {"last": weights.copy_of(run.model), "train_loss": results.best["weights"]}
    if results.by_batch:
        states["last_batch"] = results.by_batch["weights"]
    parts = {"weights.pt": weights.pack(states), "curve.csv": text(results.curve).encode()}
    if run.row["group"] != "teacher":
        parts["balance.csv"] = text(results.balance).encode()
    parts["run.yaml"] = yaml.safe_dump(run.row, sort_keys=False).encode()
    documents.write_run(folder, parts, cost(run))


def cost(run):
    steps = run.steps * run.epochs
    return {"parameters": run.parameters(), "steps": steps, "seconds_per_step": run.results.seconds / steps,
            "peak_memory_mb": run.results.memory,
            "backward_passes": balancers.passes(run.balancer, run.objective.terms),
            "device": device.describe(run.device), "group": run.row["group"],
            "work": work_of(run.training, *run.train.size)}
