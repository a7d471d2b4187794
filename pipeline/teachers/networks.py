"""Networks for a run's row, and frozen single-task teachers read back from their finished runs."""

import torch

import models
from pipeline.config import params
from pipeline.loop import checkpoint
from pipeline.runtime import distributed
from pipeline.runtime.errors import UserError
from pipeline.tasks import TASKS


def network(run, tasks, classes, device, begin=False):
    """The row's architecture with one head a task, channels last (convolutions are faster so, CPU and GPU).

    begin: with the weights that a training begins from, which `pretrained` fetches; else a file's replace them.
    """
    channels = {task: TASKS[task].channels(classes) for task in tasks}
    options = {key: value for key, value in run["architecture"].items() if begin or key != "pretrained"}
    try:
        built = models.load(run["model"], channels, run["train"]["width"], **options)
    except ValueError as mistake:
        raise UserError(f"`architectures.{run['model']}`: {mistake}") from None
    return distributed.synchronised(built.to(device, memory_format=torch.channels_last), device)


def weights_file(run, task):
    return params.folder(run["suite"], run["model"], task, run["seed"]) / "weights.pt"


def load(run, task, classes, device):
    """One task's frozen teacher in eval mode, at the epoch that `features.teacher` names."""
    path = weights_file(run, task)
    states = checkpoint.read_weights(path, f"run `dvc checkout --force {path}`, or `dvc repro --force -s "
                                           f"{params.stage_of(run, 'teacher', task)}`")
    teacher = network(run, [task], classes, device)
    teacher.load_state_dict(states[run["features"]["teacher"]])
    return teacher.requires_grad_(False).eval()
