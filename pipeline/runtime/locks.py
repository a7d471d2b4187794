"""DVC's list of what its commands read and write, .dvc/tmp/rwlock, where a killed one has left it cut.

DVC writes the list anew several times a stage, not atomically. Killed in between, it leaves a file that is empty or
ends too early, and every later command stops with "Unable to read RWLock-file". From a whole list DVC clears what is
gone itself.
"""

import fcntl
import json
import pathlib
import sys

FOLDER = pathlib.Path(".dvc/tmp")


def mend():
    """Remove a list that cannot be read and that no command is writing, and say so."""
    file, guard = FOLDER / "rwlock", FOLDER / "rwlock.lock"
    if not file.exists() or whole(file):
        return
    with open(guard, "a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:                  # a command is writing it at this moment
            return
        if not whole(file):
            file.unlink()
            print(f"warning: {file} was cut by a command that was killed, and blocked all others; removed",
                  file=sys.stderr)


def whole(file):
    try:
        json.loads(file.read_text())
    except ValueError:
        return False
    return True
