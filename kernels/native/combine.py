"""`reference.combine` on the CPU, compiled: in place, in the memory of .grad or of the first gradient."""

import ctypes

from kernels.gradients import accumulated, check_gradients
from kernels.native.lists import entry, tables


def combine(parameters, gradients, weights):
    """As the reference; sums of 16-bit gradients run in float32."""
    check_gradients(gradients, weights, parameters)
    factors, held = [1.0, *weights.tolist()], accumulated(parameters, gradients)
    *lists, threads = tables(held)
    if entry("combine")(*lists, len(held), len(factors), (ctypes.c_double * len(factors))(*factors), threads):
        raise MemoryError(f"combine of {len(gradients)} tasks: no memory for its lists")
