"""Files that survive kill -9: written beside, flushed, renamed. No torch, so that a verb without it starts at once."""

import contextlib
import hashlib
import os
import pathlib
import shutil
import time

from pipeline.runtime.errors import UserError

WORK = pathlib.Path(".work")
PROJECT = pathlib.Path(__file__).resolve().parents[2]
RECENT = 2e9                # nanoseconds: what was written so lately may change again within a tick of its clock
_DIGESTS = {}


def write(path, payload):
    """Replace `path` by `payload` (bytes) atomically: readers and a kill see the old file or the new one.

    Of several processes that torchrun started, rank 0 writes. `UserError` where the disk is full or refuses; what was
    written beside goes, so that it does not keep the disk full.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    path = pathlib.Path(path)
    beside = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as mistake:
        with contextlib.suppress(OSError):
            beside.unlink()
        there = next(folder for folder in path.resolve().parents if folder.exists())
        raise UserError(f"{path} cannot be written ({mistake.strerror}): it needs {len(payload):,} bytes, "
                        f"{shutil.disk_usage(there).free:,} are free; make room, or allow writing there, and give the "
                        "same command again") from None


def digest(path):
    """Hex sha256 of a file, which is read once a process while its time and size stay what they are."""
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        key = os.path.abspath(path), status.st_ino, status.st_size, status.st_mtime_ns
        if key not in _DIGESTS or time.time_ns() - status.st_mtime_ns < RECENT:
            _DIGESTS[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _DIGESTS[key]
