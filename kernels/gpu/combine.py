"""`reference.combine` on the GPU: the weighted sum of T gradients into `.grad`, each number read once and written once.

The weights are read on the device. A parameter without .grad gets its first gradient's memory, so nothing is allocated.
"""

import torch
import triton
import triton.language as tl

from kernels.gpu.chunks import NAMES, base, chunk, launches
from kernels.gradients import accumulated, check_gradients


@triton.jit
def combine_kernel(
    addresses_ptr, chunks_ptr, zeros_ptr, weights_ptr, TASKS: tl.constexpr, SUM: tl.constexpr, BLOCK: tl.constexpr,
    ALIGNED: tl.constexpr,
):  # fmt: skip
    """Rows of the table: what .grad holds, if anything; the tasks' gradients; where the sum goes, one of the former."""
    tensor, first, length = chunk(chunks_ptr, tl.program_id(0))
    row = tensor * (TASKS + 2)
    target = base(addresses_ptr, zeros_ptr, row + TASKS + 1, first, ALIGNED)
    parts, weights = (base(addresses_ptr, zeros_ptr, row, first, ALIGNED),), (1.0,)
    for t in tl.static_range(TASKS):
        parts = parts + (base(addresses_ptr, zeros_ptr, row + 1 + t, first, ALIGNED),)
        # a gradient that is not there counts for nothing, whatever its weight
        there = tl.load(addresses_ptr + row + 1 + t) != 0
        weights = weights + (tl.where(there, tl.load(weights_ptr + t), 0.0).to(SUM),)
    lane = tl.arange(0, BLOCK)
    whole = length // BLOCK * BLOCK
    for start in tl.range(0, whole, BLOCK):
        add_up(target, parts, weights, start + lane, None, TASKS, SUM)
    if whole < length:
        add_up(target, parts, weights, whole + lane, whole + lane < length, TASKS, SUM)


@triton.jit
def add_up(target, parts, weights, place, mask, TASKS: tl.constexpr, SUM: tl.constexpr):
    total = tl.zeros(place.shape, SUM)
    for t in tl.static_range(TASKS + 1):
        value = tl.load(parts[t] + place, mask=mask, other=None if mask is None else 0.0).to(SUM)
        total += weights[t] * value
    tl.store(target + place, total.to(target.dtype.element_ty), mask=mask)


def combine(parameters, gradients, weights):
    """As the reference; the sum runs in float32 (float64 for float64) and is rounded once."""
    check_gradients(gradients, weights, parameters)
    weights = weights.double()
    held = [[*column, next(x for x in column if x is not None)] for column in accumulated(parameters, gradients)]
    for dtype, aligned, addresses, chunks, zeros in launches(held):
        constants, options = settings(len(gradients), dtype, aligned)
        combine_kernel[(len(chunks),)](addresses, chunks, zeros, weights, **constants, **options)


def settings(tasks, dtype, aligned):
    """Constants and launch options of `combine_kernel`."""
    return dict(TASKS=tasks, SUM=tl.float64 if dtype == torch.float64 else tl.float32,
                BLOCK=1024 if tasks <= 8 else 512, ALIGNED=aligned), dict(num_warps=4)


def builds(case):
    """What one launch of a `cases.Gradients` compiles to: (kernel, argument types, constants, options)."""
    arguments = {"addresses_ptr": "*i64:16", "chunks_ptr": "*i64:16", "zeros_ptr": f"*{NAMES[case.dtype]}:16",
                 "weights_ptr": "*fp64:16"}
    yield combine_kernel, arguments, *settings(case.tasks, case.dtype, True)
