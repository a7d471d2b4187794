"""Networks for a run's row, and frozen single-task teachers read back from their finished runs."""

import pathlib

import torch

import models
from pipeline.runtime import distributed, files, row, weights
from pipeline.runtime.errors import UserError
from pipeline.tasks import heads


def network(run, tasks, classes, device, begin=False):
    """The row's architecture with one head a task, channels last (convolutions are faster so, CPU and GPU).

    begin: with the weights that a training begins from, which `pretrained` fetches; else a file's replace them.
    """
    options = {key: value for key, value in run["architecture"].items() if begin or key != "pretrained"}
    try:
        built = models.load(run["model"], heads(tasks, classes), run["train"]["width"], **options)
    except ValueError as mistake:
        raise UserError(f"`architectures.{run['model']}`: {mistake}") from None
    return distributed.synchronised(built.to(device, memory_format=torch.channels_last), device)


def begin_from_parent(model, run):
    """Give a network the last weights of the run that its own begins from, if it begins from one."""
    if "parent" in run:
        parent, path = run["parent"], pathlib.Path(run["parent"]["folder"]) / "weights.pt"
        remedy = row.redo(path.parent, row.address(parent, parent["group"]))
        weights.put(model, weights.read(path, remedy), "last", path, remedy)


def digests(run):
    """Checksums of the weights that a run depends on: its teachers' and its parent's."""
    above = [*run.get("teachers", {}).values(), *([run["parent"]] if "parent" in run else [])]
    return [files.digest(pathlib.Path(one["folder"]) / "weights.pt") for one in above]


def row_of(run, task):
    """The teacher's own row: a student's row has those of its teachers, and a teacher is its own."""
    return run["teachers"][task] if "teachers" in run else run


def weights_file(run, task):
    return pathlib.Path(row_of(run, task)["folder"]) / "weights.pt"


def load(run, task, classes, device):
    """One task's frozen teacher in eval mode, at the epoch that `features.teacher` names."""
    own, path = row_of(run, task), weights_file(run, task)
    remedy = row.redo(path.parent, row.address(own, "teacher"))
    states, teacher = weights.read(path, remedy), network(own, [task], classes, device)
    weights.put(teacher, states, run["features"]["teacher"], path, remedy)
    return teacher.requires_grad_(False).eval()
