"""What a make word stands for among DVC's stages, from what the suites themselves say.

    python -m pipeline.config.targets              every table with its suite
    python -m pipeline.config.targets table3       pipeline/suites/streets/dvc.yaml:table-main@table3
    python -m pipeline.config.targets all          every table's stage
    python -m pipeline.config.targets teacher      the stage `teacher` of every suite that has rows for it
"""

import sys

from pipeline.config import params
from pipeline.config.resolve import word
from pipeline.runtime.errors import UserError, run


def main(*words):
    if not words:
        for name, table in tables().items():
            print(f"  {word(name):26} {table[1]}")
        return
    print(" ".join(dict.fromkeys(target for one in words for target in targets(one))))


def stage(suite, name):
    """A stage of a suite as DVC takes it."""
    file = params.files()[suite]
    return name if file == params.TOP else f"{file.parent}/dvc.yaml:{name}"


def suites_of(targets):
    """The suites that some targets are of, and those that a search among them searches."""
    known = params.files()
    found = {suite for suite, file in known.items() for target in targets or ("",)
             if target.rpartition(":")[0] == ("" if file == params.TOP else f"{file.parent}/dvc.yaml")}
    return [suite for suite in known if suite in found or any(suite in params.load(one).searches for one in found)]


def tables():
    """{table: (its stage as DVC takes it, its suite)}."""
    found = {}
    for suite in params.files():
        chosen = params.load(suite)
        own = {name: f"{kind if kind == 'quirks' else f'table-{kind}'}@{name}"
               for kind, names in chosen.tables.items() for name in names}
        for name, target in (own | ({"search": "search-table"} if chosen.search else {})).items():
            if name in found:
                raise UserError(f"the suites {found[name][1]} and {suite} both have a table {name!r}; out/tables has "
                                "room for one: give one of them another name")
            found[name] = stage(suite, target), suite
    return found


def targets(asked):
    """Stages that a make word runs; `UserError` for a word that no suite has."""
    known = tables()
    if asked == "all":
        return [target for target, _ in known.values()]
    for table, (target, _) in known.items():
        if asked == word(table):
            return [target]
    if asked in (*params.GROUPS, "features", "prepare", "evaluate"):
        found = [stage(suite, name) for suite in params.files() for name in stages_of(asked, params.load(suite))]
        if not found:
            raise UserError(f"no suite has a row for `{asked}`; list one in its params.yaml")
        return found
    raise UserError(f"{asked!r} is no table and no group of rows; the tables are "
                    f"{', '.join(map(word, known))}, the groups {', '.join(params.GROUPS)}")


def stages_of(asked, chosen):
    """Stages of a verb or group that a suite has."""
    if asked == "prepare":
        return ["prepare"] if chosen.prepare else ["hold-out"]
    if asked == "evaluate":
        return [f"evaluate-{group}" for group in chosen.groups()]
    return [asked] if asked == "features" or asked in chosen.groups() else []


if __name__ == "__main__":
    run(main, *sys.argv[1:])
