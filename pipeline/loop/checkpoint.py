"""Files that survive kill -9: written beside, flushed, renamed; a digest tells a damaged one.

A run's state lives in `.work/<run>-<fingerprint>/`, outside DVC's outputs, and goes when the run is done. The
fingerprint holds everything that decides the result (the row, which has a digest of the code, all that it reads, torch,
threads), so a changed row never goes on from the wrong state and A -> B -> A may.
"""

import hashlib
import json
import os
import shutil
import sys

import torch

from pipeline.runtime import distributed, files, weights

DECIDES_NUMBERS = False          # beyond rounding; no run's digest of code holds this file
KEPT = ("last.state", "previous.state")


def fingerprint(*facts):
    """Digest of the facts (JSON-able), torch and the number of threads."""
    text = json.dumps([facts, torch.__version__, torch.get_num_threads()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Checkpoint:
    """The state of one unfinished run: `save(state)`, `load()` -> state or None, `done()`."""

    def __init__(self, name, fingerprint):
        self.folder = files.WORK / f"{name}-{fingerprint}"

    def save(self, state):
        if distributed.rank():
            return
        payload = weights.pack(state)
        last, previous = (self.folder / name for name in KEPT)
        if last.exists():
            os.replace(last, previous)
        files.write(last, self.digest(payload) + payload)

    def digest(self, payload):
        """Of a state of this run; another's, copied here, has another."""
        found = hashlib.sha256(self.folder.name.encode())
        found.update(payload)
        return found.digest()

    def load(self):
        """The newest whole state. A damaged one is named and passed over for the one before it."""
        for path in (self.folder / name for name in KEPT):
            if not path.exists():
                continue
            raw = path.read_bytes()
            if self.digest(raw[32:]) == raw[:32]:
                return weights.unpack(raw[32:])
            print(f"warning: {path} is damaged (checksum); going on from the state before it", file=sys.stderr)
        return None

    def done(self):
        if not distributed.rank():
            shutil.rmtree(self.folder, ignore_errors=True)
