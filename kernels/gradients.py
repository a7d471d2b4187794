"""T tasks' gradients over a list of parameters, as memory: what fits together, and one storage order a parameter.

A column is one parameter's gradients, a tensor a task or None where the task's loss does not reach the parameter.
"""

from collections import Counter

import torch

NUMBERS = 1 << 19          # of a run, all tasks together: what a core's cache holds


def check_gradients(gradients, weights=None, parameters=None):
    """ValueError, with what was found in it, unless the T lists fit each other, the parameters and T weights."""
    if not gradients:
        raise ValueError("there are no tasks: 0 lists of gradients")
    sizes = {len(task) for task in gradients} | (set() if parameters is None else {len(parameters)})
    if len(sizes) > 1:
        raise ValueError(f"lists of {', '.join(str(len(task)) for task in gradients)} gradients"
                         f"{'' if parameters is None else f' for {len(parameters)} parameters'}; each task needs one "
                         "gradient, or None, for each parameter")
    if weights is not None and weights.shape != (len(gradients),):
        raise ValueError(f"weights of shape {tuple(weights.shape)} for {len(gradients)} tasks; each task needs "
                         "one")
    devices = set()
    for i, column in enumerate(zip(*([] if parameters is None else [parameters]), *gradients, strict=True)):
        kinds = {(g.shape, g.dtype) for g in column if g is not None}
        if len(kinds) > 1:
            raise ValueError(f"gradients of parameter {i} differ in shape or type: "
                             f"{', '.join(f'{tuple(shape)} {dtype}' for shape, dtype in sorted(kinds, key=str))}")
        if not all(dtype.is_floating_point for _, dtype in kinds):
            raise ValueError(f"gradients of parameter {i} are {next(iter(kinds))[1]}; they should be floating point")
        devices |= {g.device for g in column if g is not None}
    if not devices:
        raise ValueError(f"none of the {len(gradients)} tasks reaches any parameter: every gradient is None")
    if len(devices) > 1:
        raise ValueError(f"gradients lie on {', '.join(sorted(map(str, devices)))}; they should lie on one device")


def columns(gradients):
    """T lists -> the columns that some task reaches, `alike`."""
    return [alike(column) for column in zip(*gradients, strict=True) if any(g is not None for g in column)]


def alike(column):
    """Tensors of one shape and type, or None, in one dense storage order: flat offset i is one element of all.

    The first leads. What lies otherwise is copied, so a tensor of the result may be new.
    """
    held = [x for x in column if x is not None]
    if all(x.is_contiguous() for x in held):
        return list(column)
    like = torch.empty_like(held[0], device="meta")          # dense, in the order of its strides
    return [x if x is None or x.stride() == like.stride() else torch.empty_like(like, device=x.device).copy_(x)
            for x in column]


def destinations(parameters, gradients):
    """What `combine` adds up: (parameter, [its .grad or None, a gradient or None a task], alike) where one is reached.

    The first that is there takes the sum: the present .grad, or else a gradient's own memory. Where that is shared it
    is copied first, since autograd may hand out one tensor twice.
    """
    owners = Counter(g.untyped_storage().data_ptr() for task in gradients for g in task if g is not None)
    for parameter, *parts in zip(parameters, *gradients, strict=True):
        if any(g is not None for g in parts):
            column = alike([parameter.grad, *parts])
            first = next(i for i, x in enumerate(column) if x is not None)
            if first and owners[column[first].untyped_storage().data_ptr()] > 1:
                column[first] = column[first].clone()
            yield parameter, column


def accumulated(parameters, gradients):
    """The columns of `destinations`, after every parameter reached has the tensor that takes the sum for its .grad."""
    held = []
    for parameter, column in destinations(parameters, gradients):
        parameter.grad = next(x for x in column if x is not None)
        held.append(column)
    return held


def runs(columns, size, alone):
    """Columns as runs of at most `size` numbers: (rows that are there, and of each a list of tensors).

    A column of `alone` numbers or more has runs of its own, in flat pieces if it is longer than `size`; smaller ones
    with the same rows share one.
    """
    shared = {}
    for column in columns:
        there = tuple(i for i, x in enumerate(column) if x is not None)
        tensors = [column[i] for i in there]
        numbers = tensors[0].numel()
        if numbers > size:
            for pieces in zip(*(flat(x).split(size) for x in tensors), strict=True):
                yield there, [[x] for x in pieces]
            continue
        if numbers >= alone:
            yield there, [[x] for x in tensors]
            continue
        key = there, tensors[0].dtype
        held, count = shared.get(key, ([], 0))
        if count + numbers > size:
            yield there, list(zip(*held, strict=True))
            held, count = [], 0
        held.append(tensors)
        shared[key] = held, count + numbers
    for (there, _), (held, _) in shared.items():
        yield there, list(zip(*held, strict=True))


def flat(tensor):
    """A dense tensor in storage order, a view."""
    return tensor.view(-1) if tensor.is_contiguous() else tensor.as_strided((tensor.numel(),), (1,))
