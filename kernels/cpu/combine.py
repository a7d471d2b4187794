"""`reference.combine` on the CPU: in place, in the memory of .grad or of the first gradient."""

import torch

from kernels.gradients import NUMBERS, accumulated, check_gradients, runs


def combine(parameters, gradients, weights):
    """As the reference; sums run in the gradients' own type."""
    check_gradients(gradients, weights, parameters)
    factors = [1.0, *weights.tolist()]
    for there, rows in runs(accumulated(parameters, gradients), NUMBERS // len(gradients), NUMBERS):
        (first, *others), (target, *parts) = there, rows
        if first:
            torch._foreach_mul_(target, factors[first])
        for i, part in zip(others, parts, strict=True):
            torch._foreach_add_(target, part, alpha=factors[i])
