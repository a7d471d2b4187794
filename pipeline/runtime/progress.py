"""One live line on a terminal, plain lines in logs."""

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


def clock(seconds):
    seconds = round(seconds)
    hours, rest = divmod(seconds, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60:02d}:{rest % 60:02d}"
