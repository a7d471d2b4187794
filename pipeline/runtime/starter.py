"""One Python that has imported torch, and forks for every stage that asks: a start costs 0.1 s and not three.

`pipeline.parallel` keeps one while its stages run and names its socket in STARTER. `python -m pipeline.train ...` under
DVC is then a client: it hands its words, folder, environment and output over, waits, and ends as the fork ends, which
does what the command itself would have done. Without a starter, or where it is gone, the command runs as ever. No
number depends on it: the fork has imported, and has neither computed nor drawn.
"""

import contextlib
import gc
import importlib
import json
import os
import pathlib
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time

VARIABLE = "STARTER"
VERBS = tuple(f"pipeline.{verb}" for verb in ("prepare", "train", "features", "evaluate", "table", "quirks", "search"))
IMPORTS = ("torch", "pipeline.loop.state", "pipeline.loop.epoch", "pipeline.data.readers", "pipeline.config.resolve")
FIXED = ("OMP_NUM_THREADS", "TRITON_INTERPRET", "LD_LIBRARY_PATH", "PYTHONPATH")      # what an import has read


# -- the client, in a process that has imported nothing yet

def hand_over(words, environment):
    """Run `python -m <verb> ...` by the starter that the environment names and end as it ends; else return.

    words: the interpreter's own, `sys.orig_argv`.
    """
    place = environment.get(VARIABLE)
    if not place or "RANK" in environment or "-m" not in words:
        return
    verb, *arguments = words[words.index("-m") + 1:]
    with socket.socket(socket.AF_UNIX) as link:
        try:
            link.connect(place)
            asked = {"verb": verb, "words": arguments, "folder": os.getcwd(), "environment": dict(environment)}
            payload = json.dumps(asked).encode()
            socket.send_fds(link, [len(payload).to_bytes(4)], [0, 1, 2])
            link.sendall(payload)
            if link.recv(1) != b"+":                       # it cannot stand in for this command
                return
        except OSError:
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: link.sendall(bytes([number])))
        answer = link.recv(4)
        code = int.from_bytes(answer, signed=True) if len(answer) == 4 else -signal.SIGKILL
    sys.stdout.flush()
    if code < 0:                                           # as the fork was ended
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    os._exit(code)


# -- whoever keeps one

@contextlib.contextmanager
def kept(environment):
    """While the block runs: a call that waits until it is there and gives {STARTER: its socket}, for the environment of
    stages; {} where it did not start. It ends with its keeper, however that ends.
    """
    code = "from pipeline.runtime import starter; starter.serve()"
    with tempfile.TemporaryDirectory(prefix="starter-") as folder:
        place = pathlib.Path(folder, "socket")
        process = subprocess.Popen([sys.executable, "-c", code, place], stdin=subprocess.PIPE, env=environment,
                                   start_new_session=True)

        def ready():
            while not place.exists() and process.poll() is None:
                time.sleep(0.02)
            return {VARIABLE: str(place)} if place.exists() else {}
        try:
            yield ready
        finally:
            if not place.exists():                         # it still imports, and would end only after that
                process.kill()
            process.stdin.close()                          # the sign to end, which a kill gives too
            process.wait()


# -- the starter

def serve():
    """Import, then fork for each client until the keeper, at the other end of the standard input, is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for module in IMPORTS:
        importlib.import_module(module)
    gc.freeze()                                            # pages that forks share stay shared
    server = Server(sys.argv[-1])
    while server.turn():
        pass
    server.end()


class Server:
    def __init__(self, place):
        self.ready, self.links = selectors.DefaultSelector(), {}        # {process: its client}
        self.door = socket.socket(socket.AF_UNIX)
        self.door.bind(f"{place}.new")
        self.door.listen(64)
        pathlib.Path(f"{place}.new").rename(place)         # a client finds it when it listens
        self.ready.register(self.door, selectors.EVENT_READ)
        self.ready.register(0, selectors.EVENT_READ)

    def turn(self):
        """Wait a moment for clients and ends of forks; False once the keeper is gone."""
        for key, _ in self.ready.select(0.02 if self.links else None):
            if key.fileobj == 0:
                return False
            self.admit() if key.fileobj is self.door else self.pass_on(key.fileobj)
        for process in list(self.links):
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                link = self.links.pop(process)
                self.ready.unregister(link)
                with contextlib.suppress(OSError), link:
                    link.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, signed=True))
        return True

    def admit(self):
        link, _ = self.door.accept()
        length, files, _, _ = socket.recv_fds(link, 4, 3)
        payload = b""
        while len(payload) < int.from_bytes(length) and (part := link.recv(2**16)):
            payload += part
        whole = len(files) == 3 and length and len(payload) == int.from_bytes(length)    # or it was killed
        asked = json.loads(payload) if whole else {"verb": None}
        if asked["verb"] in VERBS and all(asked["environment"].get(name) == os.environ.get(name) for name in FIXED):
            with contextlib.suppress(OSError):             # of a client that was killed, the next turn ends the fork
                link.sendall(b"+")
            process = os.fork()
            if not process:
                become(asked, files, [self.door, self.ready, link, *self.links.values()])
            self.links[process] = link
            self.ready.register(link, selectors.EVENT_READ)
        else:
            link.close()
        for file in files:
            os.close(file)

    def pass_on(self, link):
        """A signal for a fork; a client that was killed takes its fork with it."""
        process = next(process for process, own in self.links.items() if own is link)
        with contextlib.suppress(ProcessLookupError):
            for number in link.recv(16) or [signal.SIGKILL]:
                os.kill(process, number)

    def end(self):
        for process in self.links:
            os.kill(process, signal.SIGKILL)


def become(asked, files, left):
    """In the fork: the command that was asked for. Does not return."""
    code = 1
    try:
        for thing in left:
            thing.close()
        os.setsid()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os.environ.clear()
        os.environ.update(asked["environment"])
        os.environ.pop(VARIABLE)
        os.chdir(asked["folder"])
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.stdin, sys.stdout, sys.stderr = (open(number, mode, encoding="utf-8", closefd=False)
                                             for number, mode in ((0, "r"), (1, "w"), (2, "w")))
        sys.argv = [asked["verb"], *asked["words"]]
        runpy.run_module(asked["verb"], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as mistake:
        sys.excepthook(type(mistake), mistake, mistake.__traceback__)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
