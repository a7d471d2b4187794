"""`make bench-dag`: DVC's own cost, every suite's stages with stub commands in a folder of its own.

    python -m pipeline.bench.dag [SUITE ...]           all suites, or these

Each stub hashes what its stage depends on into what it writes, so that DVC does all that it does in earnest and nothing
is trained; the rows are written by the real `pipeline.rows`. Prints the seconds a stage that `dvc repro -P` took, and
that of a second `dvc repro -P` which finds nothing to do.
"""

import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

import yaml

from pipeline.runtime.errors import UserError, run
from pipeline.runtime.files import PROJECT

STUB = '''
import hashlib, os, pathlib, sys
lists = {"-d": [], "-o": []}
for word in sys.argv[1:]:
    if word in lists:
        current = lists[word]
    else:
        current.append(word)
if os.environ.get("STUB_FAILS", "nothing") in " ".join(lists["-o"]):
    sys.exit("told to fail")
digest = hashlib.sha256()
for dep in sorted(lists["-d"]):
    files = [dep] if pathlib.Path(dep).is_file() else sorted(p for p in pathlib.Path(dep).rglob("*") if p.is_file())
    for file in files:
        digest.update(str(file).encode() + pathlib.Path(file).read_bytes())
for out in lists["-o"]:
    path = pathlib.Path(out)
    if path.suffix:
        path.parent.mkdir(parents=True, exist_ok=True)
    else:
        path.mkdir(parents=True, exist_ok=True)
        path /= "content"
    path.write_text("epoch,x" + chr(10) + "1," + digest.hexdigest() if out.endswith("csv") else
                    '{"x": "' + digest.hexdigest() + '"}')
'''


def main(*suites):
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place)
        lay(folder, suites)
        took, said = timed(folder)
        ran = len(re.findall(r"Running stage '", said))
        again, _ = timed(folder)
    print(f"{ran} stages with stub commands: {took:.1f} s, {took / ran:.3f} s a stage; once more, with nothing to do: "
          f"{again:.1f} s")


def lay(folder, suites=()):
    """A copy of the project over stubs, with these suites, or all: the top one is always there."""
    for name in ("pipeline", "models", "kernels"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "dvc.lock", "out"))
    shutil.copy(PROJECT / "params.yaml", folder)
    shutil.copy(PROJECT / ".dvcignore", folder)
    (folder / ".dvc").mkdir()
    shutil.copy(PROJECT / ".dvc/config", folder / ".dvc")
    (folder / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
    (folder / "stub.py").write_text(STUB)
    text = stubbed((PROJECT / "dvc.yaml").read_text())
    for suite in sorted((folder / "pipeline/suites").iterdir()):
        if suites and suite.name not in suites:
            shutil.rmtree(suite)
        elif suite.is_dir():
            (suite / "dvc.yaml").write_text(text)
    (folder / "dvc.yaml").write_text(text)
    shutil.rmtree(folder / "pipeline/config/toy")


def stubbed(text):
    """dvc.yaml with a stub in place of every command but that of `rows`."""
    tree = yaml.safe_load(text)
    for name, stage in tree["stages"].items():
        outs = [next(iter(entry)) if isinstance(entry, dict) else entry
                for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])]
        stage["cmd"] = (f"{sys.executable} -m pipeline.rows ${{suite}}" if name == "rows" else
                        " ".join([sys.executable, "stub.py", "-d", *stage["deps"], "-o", *outs]))
    return yaml.safe_dump(tree, sort_keys=False)


def timed(folder):
    """(seconds, what DVC said) of `dvc repro -P`."""
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "dvc", "repro", "-P"], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"dvc repro failed: {' '.join((done.stdout + done.stderr).split())[-500:]}")
    return time.monotonic() - begun, done.stdout


if __name__ == "__main__":
    run(main, *sys.argv[1:])
