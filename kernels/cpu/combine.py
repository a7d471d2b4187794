"""`reference.combine` on the CPU: in place, in the memory of .grad or of the first gradient."""

import torch

from kernels.gradients import NUMBERS, check_gradients, destinations, runs


def combine(parameters, gradients, weights):
    """As the reference; sums run in the gradients' own type."""
    check_gradients(gradients, weights, parameters)
    factors, sums = [1.0, *weights.tolist()], []
    for parameter, column in destinations(parameters, gradients):
        parameter.grad = next(x for x in column if x is not None)
        sums.append(column)
    for there, rows in runs(sums, NUMBERS // len(gradients), NUMBERS):
        (first, *others), (target, *parts) = there, rows
        if first:
            torch._foreach_mul_(target, factors[first])
        for i, part in zip(others, parts, strict=True):
            torch._foreach_add_(target, part, alpha=factors[i])
