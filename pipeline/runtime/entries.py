"""Some entries of a tensor along one axis or several, or of a list: taken out, and put back."""

import torch


def taken(value, there, axes=(0,)):
    """The entries at some positions, of a tensor along its `axes` or of a list; a copy. None of None."""
    if isinstance(value, list):
        return [value[i] for i in there]
    for axis in axes if value is not None else ():
        value = value.index_select(axis, torch.tensor(there, device=value.device))
    return value


def put(value, new, there, axes=(0,)):
    """The other way, in place: the entries at those positions become `new`."""
    if isinstance(value, list):
        for i, entry in zip(there, new, strict=True):
            value[i] = entry
        return
    places = torch.tensor(there, device=value.device)
    where = [slice(None)] * value.dim()
    for count, axis in enumerate(axes):
        where[axis] = places.view(-1, *[1] * (len(axes) - 1 - count))
    value[tuple(where)] = new
