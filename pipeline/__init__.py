"""The verbs of the pipeline, one file each: `python -m pipeline.train ...`.

A verb imports torch before it can catch anything, which takes seconds: what goes wrong until then is a sentence too.
"""

import sys

DECIDES_NUMBERS = False
NO_MEMORY = ("failed to map segment", "annot allocate memory", "an't allocate memory")


def tell(kind, mistake, trace):
    """`sys.excepthook` of a verb: Ctrl-C and too little memory in one line, all else as Python does."""
    if issubclass(kind, KeyboardInterrupt):
        print("\ninterrupted; the same command goes on from the last finished epoch", file=sys.stderr)
    elif issubclass(kind, MemoryError) or any(words in str(mistake) for words in NO_MEMORY):
        print(f"error: there is too little memory ({kind.__name__}: {mistake}); close programs, lower `batch`, or "
              "raise the limit that `ulimit -v` shows", file=sys.stderr)
    else:
        sys.__excepthook__(kind, mistake, trace)


if sys.argv[:1] == ["-m"]:           # what Python says while it imports a program that it was asked to run
    sys.excepthook = tell
