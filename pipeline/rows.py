"""Stage `rows`: a suite's params.yaml, resolved, as one file per run and verb, with a digest of the code it reaches.

    python -m pipeline.rows rooms        out/rooms/rows/{prepare,train,features,evaluate,table,...}/...yaml

Every other stage depends on its row's file, its data and its parents, and on nothing else: what changes no row reruns
nothing. No torch; about a second.
"""

import pathlib
import shutil
import sys

from pipeline.config import reading, resolve
from pipeline.runtime import documents, files
from pipeline.runtime.errors import run


def main(suite):
    rows = resolve.everything(suite)
    folder = pathlib.Path(f"out/{suite}/rows")
    shutil.rmtree(folder, ignore_errors=True)
    for name, row in rows.items():
        files.write(folder / name, text(folder / name, row).encode())
    print(f"{folder}: {len(rows)} rows")


def text(file, row):
    """A row as it lies at `file`."""
    return reading.text(documents.sealed(file, row))


if __name__ == "__main__":
    run(main, *sys.argv[1:])
