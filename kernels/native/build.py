"""Compile the C++ beside for this machine's CPU, once, and load it: a shared library with a C interface, by ctypes.

The compiler is CXX of the environment, else c++, g++ or clang++. The library lies in .work/kernels under the project's
root, named after the digest of sources, flags, compiler and CPU, so that whatever changes is compiled anew. It is
written beside and renamed; of processes that want it at the same time one compiles, and the others wait for it.
"""

import ctypes
import fcntl
import functools
import hashlib
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile

DECIDES_NUMBERS = False    # beyond rounding; the C++ does, which counts as a file of this package
HERE = pathlib.Path(__file__).resolve().parent
PLACE = HERE.parent.parent / ".work/kernels"
# no -ffast-math: gradients that are not finite have to arrive as what they are
FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-pthread", "-fno-math-errno",
         "-ffp-contract=fast")
SECONDS = 300              # that a compiler may take


class Missing(RuntimeError):
    """There is no library; the text says why in a few words."""


def library():
    """The loaded library (ctypes.CDLL), compiled first where that is needed; `Missing` says why there is none."""
    found = attempt()
    if isinstance(found, str):
        raise Missing(found)
    return found


def why_not():
    """None, or in a few words why the compiled operations cannot run here."""
    found = attempt()
    return found if isinstance(found, str) else None


@functools.cache
def attempt():
    """The library, or why there is none: tried once a process."""
    try:
        return ctypes.CDLL(str(built()))
    except Missing as reason:
        return str(reason)
    except OSError as reason:
        return f"the compiled library cannot be written or loaded, {reason.strerror or reason}"


def built():
    """Path of the library, compiled if it is not there yet; `Missing` or OSError otherwise."""
    compiler = find_compiler()
    target = PLACE / f"{digest(compiler)}.so"
    if not target.exists():
        PLACE.mkdir(parents=True, exist_ok=True)
        with open(PLACE.with_suffix(".lock"), "w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            if not target.exists():
                compile_to(target, compiler)
    return target


def compile_to(target, compiler):
    print("compiling kernels for this CPU", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=PLACE) as folder:
        beside = pathlib.Path(folder) / target.name
        run(*compiler, *FLAGS, *map(str, sources(".cpp")), "-o", str(beside))
        beside.replace(target)


def find_compiler():
    """The compiler's command as a tuple of words."""
    asked = shlex.split(os.environ.get("CXX", ""))
    for words in [asked] if asked else [["c++"], ["g++"], ["clang++"]]:
        if shutil.which(words[0]):
            return tuple(words)
    raise Missing(f"CXX is {asked[0]!r}, which is not there" if asked else "there is no C++ compiler")


def sources(*suffixes):
    return sorted(path for path in HERE.iterdir() if path.suffix in suffixes)


@functools.cache
def digest(compiler):
    """Of everything that decides what the library holds."""
    parts = [*FLAGS, *compiler, run(*compiler, "--version"), platform.machine(), cpu()]
    parts += [path.name + path.read_text() for path in sources(".cpp", ".h")]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]


def cpu():
    """What this CPU can do, since a folder may be read by another machine."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def run(*words):
    """What the compiler prints; `Missing` if it fails."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise Missing(f"{words[0]} did not end within {SECONDS} seconds") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["nothing"]
        raise Missing(f"{words[0]} failed: {said[0].strip()[:120]}")
    return done.stdout


def describe():
    """Lines about the library: what compiles it, with which flags, where it lies."""
    reason = why_not()
    if reason:
        return [f"no compiled kernels for this CPU: {reason}; torch runs instead"]
    compiler = find_compiler()
    return [f"kernels for this CPU: {run(*compiler, '--version').splitlines()[0]}",
            f"    {shlex.join((*compiler, *FLAGS))}", f"    {os.path.relpath(built())}"]
