"""Files that survive kill -9: written beside, flushed, renamed; a digest tells a damaged one.

A run's state lives in `.work/<run>-<fingerprint>/`, outside DVC's outputs, and goes when the run is done. The
fingerprint holds everything that decides the result (resolved row, inputs, the project's loaded code, torch), so a
changed row never goes on from the wrong state and A -> B -> A may.
"""

import hashlib
import io
import json
import os
import pathlib
import shutil
import sys

import torch

from pipeline import distributed
from pipeline.problem import Problem

WORK = pathlib.Path(".work")
PROJECT = pathlib.Path(__file__).resolve().parent.parent
KEPT = ("last.state", "previous.state")


def write(path, payload):
    """Replace `path` by `payload` (bytes) atomically: readers and a kill see the old file or the new one.

    Of several processes rank 0 writes.
    """
    if distributed.rank():
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


def pack(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def read_weights(path, remedy):
    """A file of tensors and plain values; `Problem` with the remedy if it is missing or damaged."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise Problem(f"{path} is not there; {remedy}") from None
    except Exception as mistake:          # torch reports damage through many types, EOFError to UnpicklingError
        raise Problem(f"{path} is damaged ({type(mistake).__name__}); {remedy}") from None


def fingerprint(*facts):
    """Digest of the facts (JSON-able) and of the project's own code as loaded now."""
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    code = {str(path.relative_to(PROJECT)): digest(path)
            for path in map(pathlib.Path, filter(None, files))
            if path.is_relative_to(PROJECT) and path.relative_to(PROJECT).parts[0] in ("pipeline", "models", "kernels")}
    text = json.dumps([facts, code, torch.__version__, torch.get_num_threads()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Run:
    """The state of one unfinished run: `save(state)`, `load()` -> state or None, `done()`."""

    def __init__(self, name, fingerprint):
        self.folder = WORK / f"{name}-{fingerprint}"

    def save(self, state):
        if distributed.rank():
            return
        payload = pack(state)
        last, previous = (self.folder / name for name in KEPT)
        if last.exists():
            os.replace(last, previous)
        write(last, hashlib.sha256(payload).digest() + payload)

    def load(self):
        """The newest whole state. A damaged one is named and passed over for the one before it."""
        for path in (self.folder / name for name in KEPT):
            if not path.exists():
                continue
            raw = path.read_bytes()
            if hashlib.sha256(raw[32:]).digest() == raw[:32]:
                return torch.load(io.BytesIO(raw[32:]), map_location="cpu", weights_only=True)
            print(f"warning: {path} is damaged (checksum); going on from the state before it", file=sys.stderr)
        return None

    def done(self):
        if not distributed.rank():
            shutil.rmtree(self.folder, ignore_errors=True)
