"""Where a run computes, and that it computes the same twice."""

import os
import resource
import sys

import torch

import kernels.dispatch
from pipeline.runtime import distributed
from pipeline.runtime.errors import UserError


def pick():
    """DEVICE = auto | cpu | cuda from the environment, with deterministic algorithms switched on."""
    name = os.environ.get("DEVICE", "auto")
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"DEVICE is {name!r}; it can be auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("DEVICE is 'cuda' but torch finds no GPU; set DEVICE=cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_deterministic_debug_mode("error")      # use_deterministic_algorithms would import the compiler: seconds
    # NaN-filling every fresh tensor is for debugging and costs a pass over memory
    torch.utils.deterministic.fill_uninitialized_memory = False
    cuda = name == "cuda" or (name == "auto" and torch.cuda.is_available())
    where = torch.device("cuda" if cuda else "cpu")
    if cuda and "LOCAL_RANK" in os.environ:                # one process a GPU
        where = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(where)
    distributed.start(where)
    try:
        kernels.dispatch.choose(where)
    except ValueError as mistake:
        raise UserError(str(mistake)) from None
    return where


def draws(where):
    """State of torch's own generators, which dropout draws from: the host's, and a GPU's."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(where)] if where.type == "cuda" else [])]


def draw_on(where, states):
    """Go on drawing where `draws` was taken."""
    host, *others = states
    torch.set_rng_state(host)
    for state in others:
        torch.cuda.set_rng_state(state, where)


def describe(where):
    """"NVIDIA H200, torch 2.11.0" or "cpu, 2 threads, torch 2.11.0"; before it "4 x " of four processes."""
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    return f"{f'{distributed.size()} x ' * (distributed.size() > 1)}{name}, torch {torch.__version__}"


def peak_memory(where):
    """Megabytes: of the GPU's allocator, or of this process."""
    if where.type == "cuda":
        return torch.cuda.max_memory_allocated(where) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
