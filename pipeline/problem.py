"""A mistake the user can mend, told in one sentence and never as a traceback."""

import sys


class Problem(Exception):
    """One sentence that holds the offending value and names the key, file or make target that mends it."""


def run(main, *arguments):
    """Call a verb's `main`; a `Problem`, or a refusal of the file system, is one line on stderr and exit code 2."""
    try:
        main(*arguments)
    except (Problem, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from the last finished epoch", file=sys.stderr)
        sys.exit(130)
