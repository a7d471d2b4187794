"""`reference.gramian` on the GPU: T x T inner products in one read of the tasks' gradients, no concatenation.

    G_ij = sum over parameters p of <g_ip, g_jp>

A program takes a chunk of one parameter and holds T (T + 1) / 2 running sums in its lanes, none longer than
CHUNK / BLOCK products. Products and sums are float64 (`reference.GRAMIAN_ERROR`), and programs are added in a fixed
order: two launches give equal bits.
More than 8 tasks are cut into tiles of 4 x 4 tasks, which read a chunk again, from the cache.
"""

import torch
import triton
import triton.language as tl

from kernels.gpu.chunks import NAMES, base, chunk, launches
from kernels.gradients import check_gradients, columns

MOST = 8                   # tasks of which one program holds every pair
TILE = 4                   # tasks of a tile's side, beyond that


@triton.jit
def gramian_kernel(
    addresses_ptr, chunks_ptr, zeros_ptr, partial_ptr, ROWS: tl.constexpr, TILE: tl.constexpr,
    BLOCK: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """One chunk and one tile of pairs: rows i0.. of the Gramian against rows j0.., j0 <= i0."""
    program = tl.program_id(0)
    TILES: tl.constexpr = (ROWS + TILE - 1) // TILE
    i0, j0 = program * 0, program * 0
    if TILES > 1:                                    # tiles of the lower triangle, row by row
        pair = program % (TILES * (TILES + 1) // 2)
        program = program // (TILES * (TILES + 1) // 2)
        for _ in tl.static_range(TILES):
            over = pair > i0
            pair = tl.where(over, pair - i0 - 1, pair)
            i0 = tl.where(over, i0 + 1, i0)
        j0 = pair
    tensor, first, length = chunk(chunks_ptr, program)
    rows, others, sums = (), (), ()
    for t in tl.static_range(TILE):
        i, j = tl.minimum(i0 * TILE + t, ROWS - 1), tl.minimum(j0 * TILE + t, ROWS - 1)
        rows = rows + (base(addresses_ptr, zeros_ptr, tensor * ROWS + i, first, ALIGNED),)
        others = others + (base(addresses_ptr, zeros_ptr, tensor * ROWS + j, first, ALIGNED),)
    for _ in tl.static_range(TILE * (TILE + 1) // 2 if TILES == 1 else TILE * TILE):
        sums = sums + (tl.zeros([BLOCK], tl.float64),)
    lane = tl.arange(0, BLOCK)
    whole = length // BLOCK * BLOCK
    for start in tl.range(0, whole, BLOCK):
        sums = add_products(rows, others, sums, start + lane, None, TILE, TILES)
    if whole < length:
        sums = add_products(rows, others, sums, whole + lane, whole + lane < length, TILE, TILES)
    for i in tl.static_range(TILE):
        for j in tl.static_range(i + 1 if TILES == 1 else TILE):
            row, column = i0 * TILE + i, j0 * TILE + j
            cell = partial_ptr + program.to(tl.int64) * ROWS * ROWS
            value = tl.sum(sums[i * (i + 1) // 2 + j if TILES == 1 else i * TILE + j], 0)
            inside = (row < ROWS) & (column < ROWS)
            tl.store(cell + row * ROWS + column, value, mask=inside)


@triton.jit
def add_products(rows, others, sums, place, mask, TILE: tl.constexpr, TILES: tl.constexpr):
    left, right, new = (), (), ()
    for t in tl.static_range(TILE):
        left = left + (tl.load(rows[t] + place, mask=mask, other=None if mask is None else 0.0).to(tl.float64),)
        if TILES > 1:
            right = right + (tl.load(others[t] + place, mask=mask, other=None if mask is None else 0.0).to(tl.float64),)
    for i in tl.static_range(TILE):
        for j in tl.static_range(i + 1 if TILES == 1 else TILE):
            new = new + (sums[len(new)] + left[i] * (left[j] if TILES == 1 else right[j]),)
    return new


def gramian(gradients):
    """As the reference; any floating type."""
    check_gradients(gradients)
    tasks, held = len(gradients), columns(gradients)
    total = 0
    for _, aligned, addresses, chunks, zeros in launches(held):
        partial = torch.empty(len(chunks), tasks, tasks, dtype=torch.float64, device=chunks.device)
        constants, options = settings(tasks, aligned)
        programs = len(chunks) * pairs_of_tiles(tasks)
        gramian_kernel[(programs,)](addresses, chunks, zeros, partial, **constants, **options)
        total = total + partial.sum(0)
    return total.tril() + total.tril(-1).T


def pairs_of_tiles(tasks):
    tiles = 1 if tasks <= MOST else triton.cdiv(tasks, TILE)
    return tiles * (tiles + 1) // 2


def settings(tasks, aligned):
    """Constants and launch options of `gramian_kernel`."""
    tile = tasks if tasks <= MOST else TILE
    return dict(ROWS=tasks, TILE=tile, BLOCK=512 if tasks <= 4 else 256, ALIGNED=aligned), dict(num_warps=4)


def builds(case):
    """What one launch of a `cases.Gradients` compiles to: (kernel, argument types, constants, options)."""
    arguments = {"addresses_ptr": "*i64:16", "chunks_ptr": "*i64:16", "zeros_ptr": f"*{NAMES[case.dtype]}:16",
                 "partial_ptr": "*fp64:16"}
    yield gramian_kernel, arguments, *settings(case.tasks, True)
