"""Which images an epoch's steps see, in which order: a function of the row's seed and the epoch."""

import copy
import math

import torch

from pipeline.runtime import distributed
from pipeline.runtime.errors import UserError


def epoch_seed(seed, epoch):
    """One generator seed for the order of one epoch."""
    return seed * 1_000_003 + epoch


def epoch_of(split, row, epoch):
    """The images of an epoch in their order, a list of positions in the split for each step.

    Where images are labelled for one task only, an equal share of each batch is of each task's own, drawn from shuffled
    lists that begin again until the longest is through (KD4MTL's Table 1: 256 and 256 of 512); a teacher sees its own.
    """
    batch, draw = row["train"]["batch"], torch.Generator().manual_seed(epoch_seed(row["seed"], epoch))
    if split.domains:
        share, own = batch // len(split.domains), {task: split.domains[task] for task in row["tasks"]}
        orders = [[places[i] for i in torch.randperm(len(places), generator=draw).tolist()] for places in own.values()]
        return [[order[i % len(order)] for order in orders for i in range(k * share, (k + 1) * share)]
                for k in range(math.ceil(max(map(len, orders)) / share))]
    order = torch.randperm(len(split), generator=draw).tolist()
    steps = len(split) // batch if row["switches"]["drop_last"] else math.ceil(len(split) / batch)
    return [order[k * batch:(k + 1) * batch] for k in range(steps)]


def check_enough(batches, train, test, row, model):
    """`UserError` where an epoch has no step, or its batches or the test set cannot be shared by the processes."""
    if not batches:
        raise UserError(f"{len(train)} training images are less than a batch of {row['train']['batch']}; lower `batch` "
                      "of the protocol in force, or set `drop_last: false`")
    processes, smallest = distributed.size(), min(map(len, batches))
    if smallest == 1:
        check_alone(train, row, model)
    if processes > 1 and train.domains:
        raise UserError(f"NPROC is {processes}, but batches of {' and '.join(train.domains)} are not shared; "
                        "set NPROC=1")
    if processes > 1 and model.single_process:
        raise UserError(f"NPROC is {processes}, but {model.single_process}; set NPROC=1")
    if smallest < processes:
        raise UserError(f"{processes} processes share a batch of {smallest}; raise `batch` of the protocol in force"
                      f"{'' if row['switches']['drop_last'] else ', set `switches.drop_last: true`'}, or lower NPROC")
    chunks = math.ceil(len(test) / row["switches"]["official_batch"])
    if chunks < processes:
        raise UserError(f"{processes} processes share {chunks} batches of the test set; lower NPROC")


def check_alone(train, row, model):
    """`UserError` where the network cannot train on one image: batch norm has nothing to average over at 1x1."""
    with torch.random.fork_rng(), torch.no_grad():
        try:
            copy.deepcopy(model).train()(train.batch([0])[0])
        except ValueError as mistake:
            raise UserError(f"a batch of 1 image is too small for {row['model']} at {train.size[0]}x{train.size[1]} "
                            f"({mistake}); raise `batch` of the protocol in force, or set `switches.drop_last: true` "
                            "where only the last one is that small") from None
