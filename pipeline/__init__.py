"""The verbs of the pipeline, one file each: `python -m pipeline.train ...`.

A verb imports torch before it can catch anything, which takes seconds: what goes wrong until then is a sentence too.
"""

import os
import signal
import sys

from pipeline.runtime import starter

DECIDES_NUMBERS = False
INTERRUPTED = "\ninterrupted; the same command goes on from the last finished epoch\n"
NO_MEMORY = ("failed to map segment", "annot allocate memory", "an't allocate memory")


def tell(kind, mistake, trace):
    """`sys.excepthook` of a verb: too little memory in one line, all else as Python does."""
    if issubclass(kind, MemoryError) or any(words in str(mistake) for words in NO_MEMORY):
        print(f"error: there is too little memory ({kind.__name__}: {mistake}); close programs, lower `batch`, or "
              "raise the limit that `ulimit -v` shows", file=sys.stderr)
    else:
        sys.__excepthook__(kind, mistake, trace)


def leave(*_):
    """Ctrl-C until `runtime.errors.run` takes it over: torch's C++ start cannot bear an exception, it aborts."""
    os.write(2, INTERRUPTED.encode())
    os._exit(130)


if sys.argv[:1] == ["-m"]:           # what Python says while it imports a program that it was asked to run
    sys.excepthook = tell
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:         # not where a shell has it ignored
        signal.signal(signal.SIGINT, leave)
    starter.hand_over(sys.orig_argv, os.environ)
