"""Files of tensors and plain values, as `weights.pt` is one: packing, reading, and a network's state to put in."""

import io
import pathlib

import torch

from pipeline.runtime import documents
from pipeline.runtime.errors import UserError


def pack(value):
    """The bytes of a file that holds `value`."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def unpack(payload):
    """What `pack` made bytes of, on the host; code in it is refused."""
    return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)


def read(path, remedy):
    """A finished run's states by their names; `UserError` with the remedy unless the file is as the run wrote it."""
    documents.check_run(pathlib.Path(path).parent, lambda: remedy, pathlib.Path(path).name)
    return torch.load(path, map_location="cpu", weights_only=True)


def put(network, states, name, path, remedy):
    """Give a network one of the states of the file `path`; `UserError` where it is not there or does not fit."""
    try:
        network.load_state_dict(states[name])
    except (KeyError, RuntimeError, TypeError, AttributeError) as mistake:
        raise UserError(f"{path} has no state {name!r} that fits the network of this row "
                        f"({' '.join(str(mistake).split())[:200]}); {remedy}") from None


def copy_of(network):
    """A network's state dict as it is now, copied to the host."""
    return {key: value.detach().cpu().clone() for key, value in network.state_dict().items()}
