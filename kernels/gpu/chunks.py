"""How `gramian` and `combine` reach lists of tensors: a table of addresses, a table of chunks, and 128-bit loads."""

import functools

import torch
import triton
import triton.language as tl

CHUNK = 16384              # numbers of one program
NAMES = {torch.float64: "fp64", torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}    # Triton's


@triton.jit
def chunk(chunks_ptr, program):
    """(tensor, first number, length) of one program's chunk."""
    row = chunks_ptr + 3 * program
    return tl.load(row), tl.load(row + 1), tl.load(row + 2).to(tl.int32)


@triton.jit
def base(addresses_ptr, zeros_ptr, place, first, ALIGNED: tl.constexpr):
    """Pointer to the chunk of one tensor, of zeros_ptr's type; to zeros where the table has none."""
    address = tl.load(addresses_ptr + place)
    pointer = tl.where(address != 0, address.to(zeros_ptr.dtype) + first, zeros_ptr)
    return tl.multiple_of(pointer, 16) if ALIGNED else pointer


def launches(columns):
    """What a kernel is launched on, for each type and alignment: (dtype, aligned, addresses, chunks, zeros).

    columns    lists of R tensors, None or alike (`kernels.gradients`), on one device; the caller holds them
    aligned    whether every tensor starts at a multiple of 16 bytes
    addresses  (tensors, R) int64, 0 for None: one copy from pinned memory, so the host does not wait
    chunks     (n, 3) int64
    zeros      a chunk of them
    """
    groups = {}
    for column in columns:
        leader = next(x for x in column if x is not None)
        addresses = [0 if x is None else x.data_ptr() for x in column]
        aligned = not any(address % 16 for address in addresses)
        sizes, rows = groups.setdefault((leader.dtype, aligned, leader.device), ([], []))
        sizes.append(leader.numel())
        rows.append(addresses)
    for (dtype, aligned, device), (sizes, rows) in groups.items():
        if any(sizes):
            table = torch.tensor(rows, dtype=torch.int64, pin_memory=device.type == "cuda")
            yield dtype, aligned, table.to(device, non_blocking=True), *constant(tuple(sizes), dtype, device)


@functools.lru_cache(maxsize=16)
def constant(sizes, dtype, device):
    """Chunk table and zeros, kept on the device: a network's shapes do not change."""
    table = [(i, first, min(CHUNK, size - first)) for i, size in enumerate(sizes) for first in range(0, size, CHUNK)]
    return torch.tensor(table, device=device), torch.zeros(CHUNK, dtype=dtype, device=device)
