"""`reference.gramian` on the CPU, compiled: products and sums in float64, every gradient read from memory once."""

import ctypes

import torch

from kernels.gradients import check_gradients, columns
from kernels.native.lists import entry, tables


def gramian(gradients):
    """As the reference; any floating type of 16, 32 or 64 bits."""
    check_gradients(gradients)
    tasks, held = len(gradients), columns(gradients)
    total = torch.empty(tasks, tasks, dtype=torch.float64)
    *lists, threads = tables(held)
    if entry("gramian")(*lists, len(held), tasks, threads, ctypes.c_void_p(total.data_ptr())):
        raise MemoryError(f"gramian of {tasks} tasks: no memory for its sums")
    return total.tril() + total.tril(-1).T
