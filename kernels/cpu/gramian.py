"""`reference.gramian` on the CPU: every gradient is read from memory once and multiplied from the cache."""

import torch

from kernels.gradients import NUMBERS, check_gradients, columns, flat, runs

LONGEST = 1 << 15          # numbers of one inner product, as `reference.GRAMIAN_ERROR` has it
SMALL = 1 << 13            # numbers of a gradient below which copying it costs less than its inner products' calls


def gramian(gradients):
    """As the reference; pieces are copied into float64, multiplied there from the cache and added."""
    check_gradients(gradients)
    tasks = len(gradients)
    total = torch.zeros(tasks, tasks, dtype=torch.float64)
    sums, scratch = total.numpy(), torch.empty(tasks, LONGEST, dtype=torch.float64)
    for there, rows in runs(columns(gradients), min(LONGEST, NUMBERS // tasks), SMALL):
        parts = [flat(x[0]) if len(x) == 1 else torch.cat([flat(piece) for piece in x]) for x in rows]
        parts = [wide[:len(x)].copy_(x) for wide, x in zip(scratch, parts, strict=False)]
        for i, row in enumerate(there):
            for j, column in enumerate(there[:i + 1]):
                sums[row, column] += torch.dot(parts[i], parts[j]).item()
    return total + total.tril(-1).T
