"""`make leftovers`: outputs of rows and suites that no params.yaml names; `make leftovers REMOVE=1` removes them.

    python -m pipeline.leftovers [remove]

Tables, reports and figures read the rows in force alone, so what is listed here is only disk space.
"""

import pathlib
import shutil
import sys

from pipeline.config import params, resolve
from pipeline.runtime.errors import UserError, run

OUT = pathlib.Path("out")
SHARED = ("tables", "figures", "toy", "report")              # folders of out/ that belong to no one suite


def main(what="list"):
    if what not in ("list", "remove"):
        raise UserError(f"{what!r} is not remove, the only word there is")
    found = leftovers()
    for path in found:
        print(path)
        if what == "remove":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    print(f"{len(found)} leftovers{' removed' if what == 'remove' else '; `make leftovers REMOVE=1` removes them'}"
          if found else "nothing is left over")


def leftovers():
    """Paths under out/ that belong to no row in force."""
    suites = params.files()
    found = [folder for folder in folders(OUT) if folder.name not in (*suites, *SHARED)]
    tables = {path.stem for suite in suites for path in map(pathlib.Path, resolve.everything(suite))
              if path.parts[0] in ("table", "quirks")} | {"search"}
    found += [path for path in files(OUT / "tables") if path.stem not in tables]
    for suite in suites:
        chosen = params.load(suite)
        runs = {(group, f"{model}-{row}-s{seed}") for group, model, row, seed in resolve.runs(chosen)}
        kept = {f"{model}-s{seed}" for model in chosen.teacher.models for seed in chosen.seeds}
        for group in (*params.GROUPS, resolve.SEARCHED):
            results = [*folders(OUT / suite / group), *files(OUT / suite / "metrics" / group)]
            found += [path for path in results if (group, path.name.removesuffix(".json")) not in runs]
        found += [path for path in folders(OUT / suite / "features") if path.name not in kept]
        known = (*params.GROUPS, resolve.SEARCHED, "data", "features", "metrics", "rows")
        found += [path for path in folders(OUT / suite) if path.name not in known]
        found += [path for path in files(OUT / "figures") if path.stem.startswith(f"{suite}-") and not any(
            path.stem == f"{suite}-{name}" for _, name in runs)]
    return found


def folders(path):
    return sorted(one for one in path.glob("*") if one.is_dir())


def files(path):
    return sorted(one for one in path.glob("*") if one.is_file() and not one.name.startswith("."))


if __name__ == "__main__":
    run(main, *sys.argv[1:])
