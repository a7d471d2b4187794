"""Files of tensors and plain values, as `weights.pt` is one: packing, reading, and a network's state to put in."""

import io

import torch

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
    """The value in a file; `UserError` with the remedy if it is missing or damaged."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} is not there; {remedy}") from None
    except Exception as mistake:          # torch reports damage through many types, EOFError to UnpicklingError
        raise UserError(f"{path} is damaged ({type(mistake).__name__}); {remedy}") from None


def copy_of(network):
    """A network's state dict as it is now, copied to the host."""
    return {key: value.detach().cpu().clone() for key, value in network.state_dict().items()}
