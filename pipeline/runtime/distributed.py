"""One training as several processes: `NPROC=4 make table2`, by torchrun; more machines by torchrun's own variables
(PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR, PET_RDZV_ENDPOINT, PET_MAX_RESTARTS, ...).

A batch is split among the processes. Batch norm, losses, gradients, Gramians and counts are those of the whole batch,
so what a row gives does not depend on how many there are, beyond rounding. Rank 0 speaks and writes. Everything here is
the identity in a training of one process.
"""

import contextlib
import ctypes
import datetime
import logging
import os
import signal
import sys
import tempfile
import time

import torch
from torch import nn

from pipeline.runtime.errors import UserError

BUCKET = 1 << 25           # bytes of gradients that travel together
PATIENCE = datetime.timedelta(hours=6)      # while rank 0 rebuilds features, the others wait
DIES_WITH_PARENT = 1       # PR_SET_PDEATHSIG of Linux' prctl


# -- processes

def wanted():
    """NPROC from the environment: processes on this machine."""
    text = os.environ.get("NPROC", "1")
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"NPROC is {text!r}; it should be a number of processes, at least 1")
    return int(text)


def launched(module, *words):
    """Under NPROC > 1, `python -m module words` as that many processes, and True when they are done; else False."""
    several = "PET_NNODES" in os.environ
    if "RANK" in os.environ or (wanted() == 1 and not several):
        return False
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    gpus = torch.cuda.device_count() if os.environ.get("DEVICE") != "cpu" else 0
    if gpus and wanted() > gpus:
        raise UserError(f"NPROC is {wanted()} but there are {gpus} GPUs; lower it, or set DEVICE=cpu")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // wanted())))
    logging.disable(logging.ERROR)                          # what torchrun logs of a failure is said below
    options = [] if several else ["--standalone"]
    try:
        with tempfile.TemporaryDirectory() as logs:         # its own it would leave behind
            options += [] if "PET_LOG_DIR" in os.environ else ["--log-dir", logs]
            torchrun.run(torchrun.parse_args([*options, "--nproc-per-node", str(wanted()), "-m", module, *words]))
    except SignalException as stopped:
        sys.exit(128 + stopped.sigval)
    except ChildFailedError as failure:
        # what was killed says nothing; what ended by itself has said why
        for rank, end in failure.failures.items():
            if end.exitcode < 0 and -end.exitcode != signal.SIGTERM:        # by which torchrun ends the others
                raise UserError(f"process {rank} of {wanted()} was ended by {signal.Signals(-end.exitcode).name}; the "
                              "same command goes on from the last finished epoch") from None
        sys.exit(failure.get_first_failure()[1].exitcode)
    return True


def start(where):
    """Join the group that torchrun has prepared, if it has; ranks above 0 fall silent."""
    if "RANK" not in os.environ or torch.distributed.is_initialized():
        return
    if sys.platform == "linux":                             # no orphans train on after a kill -9 of torchrun
        ctypes.CDLL(None).prctl(DIES_WITH_PARENT, signal.SIGKILL)
    place = {}
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # torchrun keeps one store for all restarts; without names of its own a restart finds the dead group's addresses
        store = torch.distributed.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        place = {"store": torch.distributed.PrefixStore(f"start{os.environ['TORCHELASTIC_RESTART_COUNT']}", store),
                 "rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])}
    torch.distributed.init_process_group("nccl" if where.type == "cuda" else "gloo", timeout=PATIENCE, **place)
    if rank():
        sys.stdout = open(os.devnull, "w")


def running():
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def rank():
    return torch.distributed.get_rank() if running() else 0


def neighbours():
    """Processes on this machine, this one too."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def size():
    return torch.distributed.get_world_size() if running() else 1


@contextlib.contextmanager
def one_by_one():
    """Rank 0 does it first and the others after it, who find its files."""
    if running() and rank():
        torch.distributed.barrier()
    yield
    if running() and not rank():
        torch.distributed.barrier()


# -- the parts of a whole

def share(items):
    """This process's part of a list: all parts in the order of ranks are the list."""
    return items[len(items) * rank() // size():len(items) * (rank() + 1) // size()]


def total(value):
    """Sum of a tensor over the processes, without gradient."""
    if not running():
        return value
    return reduced(value.detach().clone())


def least(value):
    """Element-wise minimum of a tensor over the processes."""
    return reduced(value, torch.distributed.ReduceOp.MIN) if running() else value


def reduced(value, operation=torch.distributed.ReduceOp.SUM):
    """In place; where another process is gone, a `UserError`, unless torchrun ends this one too in time."""
    try:
        torch.distributed.all_reduce(value, operation)
    except RuntimeError as lost:
        time.sleep(10)
        raise UserError(f"process {rank()} of {size()} has lost another one ({str(lost).splitlines()[0][:200]}); the "
                      "same command goes on from the last finished epoch") from None
    return value


def totals(tensors):
    """`total` of each of a list, None where there is none, in few messages."""
    if not running():
        return tensors
    out, buckets = list(tensors), {}
    for i, x in enumerate(tensors):
        if x is not None:
            bucket = buckets.setdefault(x.dtype, [[]])
            if sum(tensors[k].nbytes for k in bucket[-1]) > BUCKET:
                bucket.append([])
            bucket[-1].append(i)
    for places in (places for bucket in buckets.values() for places in bucket):
        flat = reduced(torch.cat([out[i].reshape(-1) for i in places]))
        for i, piece in zip(places, flat.split([out[i].numel() for i in places]), strict=True):
            out[i] = torch.empty_like(out[i]).copy_(piece.view(out[i].shape))      # in its own storage order
    return out


def total_gradients(parameters):
    """Every `.grad` becomes its sum over the processes."""
    if running():
        held = [p for p in parameters if p.grad is not None]
        for parameter, gradient in zip(held, totals([p.grad for p in held]), strict=True):
            parameter.grad = gradient


# -- batch norm over the whole batch

class Sum(torch.autograd.Function):
    """Sum over the processes, each of whose losses depends on it: gradients add up likewise."""

    @staticmethod
    def forward(ctx, x):
        return total(x)

    @staticmethod
    def backward(ctx, gradient):
        return total(gradient)


class BatchNorm(nn.BatchNorm2d):
    """Batch norm with the statistics of all processes; torch's own does so on CUDA alone."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        pixels = total(torch.tensor(float(x.numel() // x.shape[1]), dtype=wide.dtype))
        mean = Sum.apply(wide.sum((0, 2, 3))) / pixels
        centred = wide - mean[:, None, None]
        variance = Sum.apply(centred.square().sum((0, 2, 3))) / pixels
        self.running_mean.lerp_(mean.detach(), self.momentum)
        self.running_var.lerp_(variance.detach() * (pixels / (pixels - 1)), self.momentum)
        self.num_batches_tracked += 1
        scale = (variance + self.eps).rsqrt() * self.weight
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def synchronised(network, where):
    """The network with its batch norm over all processes; parameters and their names stay."""
    if not running():
        return network
    if where.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = BatchNorm
    return network
