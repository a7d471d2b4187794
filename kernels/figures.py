"""What a benchmark measures, for programs, beside what it prints for people."""

import json
import os


def note(kind, **values):
    """Append {"kind": kind, **values} as a line of JSON to the file that the environment's FIGURES names, if it does.

    A line is written as soon as it is known, so that a benchmark cut short leaves what it had.
    """
    if file := os.environ.get("FIGURES"):
        with open(file, "a") as out:
            out.write(json.dumps({"kind": kind, **values}) + "\n")
