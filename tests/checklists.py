"""The checklists at the end of pipeline/README.md, read, and a copy of the project in which tests follow them.

What each kind of addition costs, in files and lines, is counted, so that a growing cost is seen.
"""

import collections
import re
import textwrap

from conftest import ROOT

from pipeline import rows
from pipeline.config import resolve

PAGE = (ROOT / "pipeline/README.md").read_text()
# The most that an addition may cost: lines of code that are not blank, and lines of params.yaml, written or changed.
MOST = {"balancer": (13, 2), "data set": (18, 3), "network": (26, 6), "task": (29, 0), "suite": (0, 6)}
WHOLE_SUITE = 90         # lines of the whole params.yaml of a suite that is begun from the nearest, without blank ones


# -- the page

def steps(kind):
    """The numbered steps of a checklist, with what stands below the last."""
    section = PAGE.split(f"\n## Checklist: a {kind}\n")[1].split("\n## ")[0]
    return re.split(r"^\d+\. ", section, flags=re.M)[1:]


def blocks(step):
    """The indented blocks of a step."""
    return [textwrap.dedent(block) + "\n" for block in re.findall(r"^ {7}.*(?:\n+ {7}.*)*", step, re.M)]


def words(text):
    """A text in one line, however it is wrapped."""
    return " ".join(text.split())


def told(step, pattern):
    """What a step says where the pattern's group is."""
    found = re.search(pattern, words(step))
    assert found, f"the page's step no longer says {pattern}:\n{step}"
    return found[1]


def added(kind):
    """The files that a checklist says to add, tests apart."""
    return [file for step in steps(kind) for file in re.findall(r"Add `([^`]+)`", words(step))
            if not file.startswith("tests/")]


def runs(kind):
    """(group, model, row, seed) of what a checklist says to train."""
    return re.findall(r"`dvc repro (\w+)@(\w+)-([\w-]+)-(\d+)`", words("".join(steps(kind))))


def commands(kind):
    """The `python -m` commands of a checklist."""
    quoted = re.findall(r"`([^`]*python -m [^`]*)`", words("".join(steps(kind))))
    return [line.removeprefix("python -m ") for one in quoted for line in one.split(" && ")]


# -- the copy

def files(root):
    """{path: bytes} of what is no output."""
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()
            and file.suffix != ".pyc" and file.relative_to(root).parts[0] not in ("out", "edits", ".venv", ".work")}


def touched(before, after):
    return {name for name in before.keys() | after if before.get(name) != after.get(name)}


def resolved(suite):
    """{path: text} of a suite's rows, from the parameters in the working folder and the project's own code."""
    return {path: rows.text(f"out/{suite}/rows/{path}", row) for path, row in resolve.everything(suite).items()}


def written(folder):
    """{path: text} of the rows in a folder."""
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*.yaml")}


def put(text, pattern, new):
    """A text with the one place that fits the pattern replaced; `\\1` is its first group."""
    text, number = re.subn(pattern, new, text, flags=re.M)
    assert number == 1, f"{pattern} is there {number} times"
    return text


def listed(text, group, key, name):
    """params.yaml with a name more in a list of a group."""
    return put(text, rf"^({group}:.*\n(?:  .*\n)*?  {key}: \[[^]]*)", rf"\1, {name}")


def under(text, section, line, indent=2):
    """params.yaml with a line more at the top of a section, whose pattern is given."""
    return put(text, rf"^({section}\n)", rf"\1{' ' * indent}{line}\n")


def counted(kind, code, before, after):
    """Count the lines of an addition; more than `MOST` fails."""
    code = sum(bool(line.strip()) for line in code.splitlines())
    more = (collections.Counter(after.splitlines()) - collections.Counter(before.splitlines())).total()
    assert code <= MOST[kind][0] and more <= MOST[kind][1], (
        f"a {kind} now takes {code} lines of code and {more} of params.yaml; at most {MOST[kind]}")
