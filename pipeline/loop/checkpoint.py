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

from pipeline.runtime import distributed, files
from pipeline.runtime.errors import UserError

KEPT = ("last.state", "previous.state")


def pack(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def read_weights(path, remedy):
    """A file of tensors and plain values; `UserError` with the remedy if it is missing or damaged."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} is not there; {remedy}") from None
    except Exception as mistake:          # torch reports damage through many types, EOFError to UnpicklingError
        raise UserError(f"{path} is damaged ({type(mistake).__name__}); {remedy}") from None


def fingerprint(*facts):
    """Digest of the facts (JSON-able) and of the project's own code as loaded now."""
    loaded = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    code = {str(path.relative_to(files.PROJECT)): files.digest(path)
            for path in map(pathlib.Path, filter(None, loaded)) if path.is_relative_to(files.PROJECT)
            and path.relative_to(files.PROJECT).parts[0] in ("pipeline", "models", "kernels")}
    text = json.dumps([facts, code, torch.__version__, torch.get_num_threads()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Run:
    """The state of one unfinished run: `save(state)`, `load()` -> state or None, `done()`."""

    def __init__(self, name, fingerprint):
        self.folder = files.WORK / f"{name}-{fingerprint}"

    def save(self, state):
        if distributed.rank():
            return
        payload = pack(state)
        last, previous = (self.folder / name for name in KEPT)
        if last.exists():
            os.replace(last, previous)
        files.write(last, hashlib.sha256(payload).digest() + payload)

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
