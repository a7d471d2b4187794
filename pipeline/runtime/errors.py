"""A mistake the user can mend, told in one sentence and never as a traceback."""

import inspect
import os
import signal
import sys
import time

from pipeline import INTERRUPTED, leave


class UserError(Exception):
    """One sentence that holds the offending value and names the key, file or make target that mends it."""


def run(main, *arguments):
    """Call a verb's `main`; a `UserError`, or a refusal of the file system, is one line on stderr and exit code 2."""
    try:
        inspect.signature(main).bind(*arguments)
    except TypeError:
        wanted = " ".join(f"<{name}>" for name in inspect.signature(main).parameters)
        print(f"error: {len(arguments)} words given; wanted are {wanted}, as at the top of the file", file=sys.stderr)
        sys.exit(2)
    raise_on_interrupt()
    try:
        main(*arguments)
    except (UserError, OSError) as problem:
        # of several processes the others wait, to be ended by torchrun if rank 0 says the same
        time.sleep(10 if os.environ.get("RANK", "0") != "0" else 0)
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write(INTERRUPTED)
        sys.exit(130)


def raise_on_interrupt():
    """From here on Ctrl-C is an exception, so that what was begun is put away."""
    if signal.getsignal(signal.SIGINT) is leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)
