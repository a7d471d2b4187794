"""How `gramian` and `combine` hand lists of tensors to gradients.cpp."""

import ctypes
import functools
import itertools

import torch

from kernels.native.build import library

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}     # as in gradients.cpp
SMALL = 1 << 17            # numbers below which a second thread costs more than it saves


@functools.cache
def entry(name):
    """A function of the library; its integers are C's long, which is what ctypes has to be told."""
    function = getattr(library(), name)
    table, long = ctypes.c_void_p, ctypes.c_long
    function.argtypes = {"gramian": [table] * 3 + [long] * 3 + [table],
                         "combine": [table] * 3 + [long] * 2 + [table, long]}[name]
    return function


def tables(columns):
    """Addresses (columns, rows), 0 for None, sizes and types a column as C arrays, and how many threads are worth it.

    columns: lists of tensors or None, `alike` (kernels.gradients). The caller holds the tensors.
    """
    leaders = [next(x for x in column if x is not None) for column in columns]
    addresses = [0 if x is None else x.data_ptr() for x in itertools.chain.from_iterable(columns)]
    sizes = [x.numel() for x in leaders]
    types = [TYPES[x.dtype] for x in leaders]
    return ((ctypes.c_void_p * len(addresses))(*addresses), (ctypes.c_long * len(sizes))(*sizes),
            (ctypes.c_long * len(types))(*types),
            torch.get_num_threads() if sum(sizes) * len(columns[0]) > SMALL else 1)
