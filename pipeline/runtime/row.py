"""A run's row, as `pipeline.rows` wrote it: all that a verb knows of the parameters."""

import pathlib

from pipeline.runtime import documents
from pipeline.runtime.errors import UserError


def read(verb, suite, *place):
    """The row of a verb: `read("train", "rooms", "student", "segnet-ours-s0")`; `UserError` with the remedy."""
    path = pathlib.Path(f"out/{suite}/rows", verb, *place[:-1], f"{place[-1]}.yaml")
    try:
        return documents.read(path, lambda: f"run `python -m pipeline.rows {suite}`", {"code": str},
                              documents.from_yaml)
    except documents.Missing:
        raise UserError(f"{path} is not there; `python -m pipeline.rows {suite}` writes the rows that params.yaml "
                        f"names{there(path)}") from None


def there(path):
    """What stands where the row should, in a few words."""
    names = sorted(file.stem for file in path.parent.glob("*.yaml"))
    return f"; there are {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}" if names else ""


def redo(path, stage):
    """The remedy for an output that is missing or damaged: DVC restores it from its cache, or makes it again."""
    return f"run `rm -rf {path}; dvc repro -s {stage}`"


def of_suite(suite, stage):
    """A stage of a suite as DVC takes it."""
    folder = pathlib.Path("pipeline/suites", suite)
    return f"{folder}/dvc.yaml:{stage}" if folder.exists() else stage


def address(row, verb):
    """The DVC stage of a verb, or of a group, about a row."""
    return f"{row['dvc']}{verb}@{row['model']}-{row['name']}-{row['seed']}"


def found(file, model):
    """The trial that a search picked for a network."""
    return documents.read(file, lambda: "run `make search-lambda`", {model: str})[model]


def searched(row):
    """The row with the lambda that a search has found in place of the file that holds it."""
    if "from" not in row["method"].get("lambda", ()):
        return row
    trial = found(row["method"]["lambda"]["from"], row["model"])
    values = dict(zip(row["tasks"], map(float, trial.split("-")), strict=True))
    return row | {"method": row["method"] | {"lambda": values}}
