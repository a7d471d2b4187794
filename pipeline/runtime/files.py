"""Files that survive kill -9: written beside, flushed, renamed. No torch, so that a verb without it starts at once."""

import hashlib
import os
import pathlib

WORK = pathlib.Path(".work")
PROJECT = pathlib.Path(__file__).resolve().parents[2]


def write(path, payload):
    """Replace `path` by `payload` (bytes) atomically: readers and a kill see the old file or the new one.

    Of several processes that torchrun started, rank 0 writes.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".tmp")
    with open(beside, "wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def digest(path):
    """Hex sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
