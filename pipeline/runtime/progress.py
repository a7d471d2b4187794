"""One live line on a terminal, plain lines in logs."""

import shutil
import sys
import time


class Line:
    """`step(i, text)` rewrites the line on a terminal (at most ten times a second); `close(text)` ends it.

    `text` is called only when the line is redrawn, so that reading a loss does not make the host wait at every step.

    Not a terminal: only `close` prints, so a log holds one line an epoch.
    """

    def __init__(self, title, total, stream=None):
        self.title, self.total, self.stream = title, total, stream or sys.stdout
        self.live, self.begun, self.shown = self.stream.isatty(), time.monotonic(), 0.0

    def step(self, done, text=lambda: ""):
        now = time.monotonic()
        if self.live and (now - self.shown > 0.1 or done == self.total):
            self.shown, each = now, (now - self.begun) / done
            self.stream.write(f"\r\x1b[K{self.title}  {done}/{self.total}  {text()}  {each:.2f} s/it  "
                              f"eta {clock(each * (self.total - done))}")
            self.stream.flush()

    def close(self, text):
        took = time.monotonic() - self.begun
        self.stream.write(f"{chr(13) + chr(27) + '[K' if self.live else ''}{self.title}  {text}  ({clock(took)})\n")
        self.stream.flush()


class Status:
    """On a terminal one live line of what several processes do, from the ends of their logs; elsewhere nothing."""

    def __init__(self, stream):
        self.stream, self.live, self.begun, self.shown = stream, stream.isatty(), time.monotonic(), 0.0

    def show(self, logs, done, total):
        """logs: {name: its log}; so many of all are done, by which the end is guessed."""
        now = time.monotonic()
        if self.live and now - self.shown > 0.5:
            self.shown, took = now, now - self.begun
            left = f"eta {clock(took / done * (total - done))}" if done else f"{clock(took)}"
            text = f"{done}/{total} {left} | " + " | ".join(last_words(log) or name for name, log in logs.items())
            self.stream.write(f"\r\x1b[K{text[:shutil.get_terminal_size().columns - 1]}")
            self.stream.flush()

    def clear(self):
        if self.live:
            self.stream.write("\r\x1b[K")


def last_words(log):
    """The last line of a log that says something; "" while there is none."""
    try:
        with open(log, "rb") as file:
            file.seek(-min(2000, file.seek(0, 2)), 2)
            said = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((" ".join(line.split()) for line in reversed(said) if line.strip()), "")


def clock(seconds):
    seconds = round(seconds)
    hours, rest = divmod(seconds, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60:02d}:{rest % 60:02d}"
