"""What one stage writes and another reads: documents with a seal, and checksums of the files that lie beside them.

A document is a mapping in JSON or YAML. Its last key, `seal`, is a digest of its other keys and of the place where it
lies. So one that was cut, edited or copied from another run is told from the one that its stage wrote. No torch.
"""

import hashlib
import json
import pathlib

import yaml

from pipeline.runtime import files
from pipeline.runtime.errors import UserError

SEAL, NUMBER = "seal", (int, float)
ROOTS = ("out", ".work")           # a document's place is its path from such a folder on, wherever the project lies


class Missing(UserError):
    """The file is not there, which some readers take for an answer."""


def seal(path, document):
    """Digest of a document without its seal that lies at `path`; ValueError or TypeError where it is none."""
    parts = pathlib.Path(path).parts
    place = parts[max((i for i, part in enumerate(parts) if part in ROOTS), default=0):]
    return hashlib.sha256(json.dumps([place, document]).encode()).hexdigest()[:16]


def sealed(path, document):
    return {**document, SEAL: seal(path, document)}


def write(path, document):
    """Write a document as JSON, with its seal."""
    files.write(path, (json.dumps(sealed(path, document), indent=1) + "\n").encode())


def read(path, redo, wanted=None, parse=json.loads):
    """The document at `path` without its seal; else a `UserError` that names the file, what is wrong, and the remedy.

    redo: gives the remedy, and is asked for it only then. wanted: {key: type, or {key: ...}} that it must have.
    """
    path = pathlib.Path(path)
    try:
        document = parse(path.read_text())
        mistake = unlike(document, {**(wanted or {}), SEAL: str})
        if not mistake and document.pop(SEAL) != seal(path, document):
            mistake = "it was changed or belongs elsewhere: its `seal` is not that of its keys and place"
    except FileNotFoundError:
        raise Missing(f"{path} is not there; {redo()}") from None
    except (OSError, ValueError, TypeError, RecursionError) as wrong:
        mistake = " ".join(str(wrong).split())
    if mistake:
        raise UserError(f"{path} is damaged ({mistake}); {redo()}")
    return document


def unlike(found, wanted, above=""):
    """What is wrong with a value, in a few words; "" if nothing is. wanted: a type, several, or {key: wanted}."""
    where = f"its `{above}` is" if above else "it is"
    if not isinstance(wanted, dict):
        return "" if isinstance(found, wanted) else f"{where} {repr(found)[:40]}"
    if not isinstance(found, dict):
        return f"{where} {repr(found)[:40]} and has no keys"
    for key, kind in wanted.items():
        name = f"{above}.{key}" if above else key
        if mistake := unlike(found[key], kind, name) if key in found else f"it has no `{name}`":
            return mistake
    return ""


def from_yaml(text):
    try:
        return yaml.load(text, yaml.CSafeLoader)
    except yaml.YAMLError as mistake:
        raise ValueError(mistake) from None


def check(path, digest, redo):
    """`UserError` unless the file at `path` has this sha256. `files.digest` reads it once a process."""
    try:
        found = files.digest(path)
    except FileNotFoundError:
        raise Missing(f"{path} is not there; {redo()}") from None
    except OSError as mistake:
        raise UserError(f"{path} cannot be read ({mistake.strerror}); {redo()}") from None
    if found != digest:
        raise UserError(f"{path} is damaged or belongs elsewhere (its checksum is not the one that was written down); "
                        f"{redo()}")


# -- a finished run's folder: cost.json is written last and has the checksums of the files beside it

COST = {"parameters": int, "steps": int, "seconds_per_step": NUMBER, "peak_memory_mb": NUMBER,
        "backward_passes": NUMBER, "device": str, "group": str, "work": NUMBER}


def write_run(folder, parts, cost):
    """A finished run: {name: bytes} and then cost.json."""
    for name, payload in parts.items():
        files.write(folder / name, payload)
    write(folder / "cost.json", {**cost, "sha256": {name: hashlib.sha256(payload).hexdigest()
                                                    for name, payload in parts.items()}})


def check_run(folder, redo, *names):
    """`UserError` unless these files of a finished run's folder, or all, are the ones that the run wrote."""
    folder = pathlib.Path(folder)
    for name in names:                     # named before cost.json is, which went with it
        if not (folder / name).exists():
            raise Missing(f"{folder / name} is not there; {redo()}")
    digests = read(folder / "cost.json", redo, {"sha256": dict.fromkeys(names, str)})["sha256"]
    for name in names or digests:
        check(folder / name, digests[name], redo)
