"""A mistake the user can mend, told in one sentence and never as a traceback."""

import inspect
import os
import sys
import time


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
    try:
        main(*arguments)
    except (UserError, OSError) as problem:
        # of several processes the others wait, to be ended by torchrun if rank 0 says the same
        time.sleep(10 if os.environ.get("RANK", "0") != "0" else 0)
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from the last finished epoch", file=sys.stderr)
        sys.exit(130)
