"""`make kernels-versions`: `kernels.compile` with every version of Triton that is tried, beside the installed torch.

    python -m kernels.versions [ARCHITECTURE ...]      90, say; all of them otherwise

Each version is installed from PyPI once, into .work/triton/<version>, and what the compiler said is kept beside it.
Prints a line a version and the faults; exits with 1 if there are any.
"""

import os
import pathlib
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from kernels.compile import TRIED

PLACE = pathlib.Path(".work/triton")


def main(*architectures):
    clean = True
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for verdict, faults in pool.map(lambda version: attempt(version, architectures), TRIED):
            print("\n    ".join([verdict, *faults]), flush=True)
            clean = clean and not faults
    sys.exit(0 if clean else 1)


def attempt(version, architectures):
    """(what is to be said of one version in a line, its faults)"""
    folder = PLACE / version
    done = install(version, folder)
    if done:
        return f"triton {version}: cannot be installed", done.splitlines()
    paths = [str(folder.resolve()), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run([sys.executable, "-m", "kernels.compile", *architectures], capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)})
    folder.with_suffix(f"{folder.suffix}.txt").write_text(done.stdout + done.stderr)
    return judge(version, done.returncode, done.stdout, done.stderr.splitlines())


def judge(version, code, said, faults):
    """As `attempt`, of what `kernels.compile` printed."""
    lines = said.splitlines() or ["nothing printed"]
    if not lines[0].startswith(f"triton {version}."):
        return f"triton {version}: another compiler ran, {lines[0]}", faults or ["its folder was not imported"]
    if code and not faults:
        faults = [f"exit code {code}"]
    pixel = re.findall(r"([\d.]+) instructions a pixel", said)
    return f"{lines[0]}: {lines[-1]}; {' and '.join(pixel) or 'no'} instructions a pixel", faults


def install(version, folder):
    """Unless it is there: pip's complaint, or nothing."""
    if folder.exists():
        return ""
    unfinished = folder.with_name(f"unfinished-{version}")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--upgrade"]
    done = subprocess.run([*pip, "--target", unfinished, f"triton=={version}.*"], capture_output=True, text=True)
    if done.returncode:
        return done.stderr or f"pip ended with {done.returncode}"
    unfinished.rename(folder)
    return ""


if __name__ == "__main__":
    main(*sys.argv[1:])
