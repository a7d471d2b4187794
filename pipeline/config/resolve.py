"""A checked suite -> what decides each of its runs, one plain dict per run and verb, with the digest of its code.

`pipeline.rows` writes them to out/<suite>/rows/<verb>/...; every other verb reads its own there and nothing else of the
parameters. Nothing volatile is in them (no device, no commit), so that a row changes when its numbers may.
"""

import itertools
import pathlib

from pipeline import tasks
from pipeline.config import caption, checks, params
from pipeline.config.reading import read
from pipeline.data import readers
from pipeline.options import code
from pipeline.options.mistakes import resolved
from pipeline.runtime.errors import UserError
from pipeline.tasks.metrics import PROTOCOLS

SEARCHED = "searched"      # the group and the row that a search's lambda trains


def everything(name, protocol=None):
    """{path below out/<suite>/rows: row} of a suite, under another protocol than the file's if one is named."""
    chosen = params.load(name, protocol)
    found = {"prepare/data.yaml": prepare(chosen)}
    for group, model, row, seed in runs(chosen):
        file = f"{group}/{model}-{row}-s{seed}.yaml"
        found[f"train/{file}"] = trained = train(chosen, group, model, row, seed)
        found[f"evaluate/{file}"] = evaluate(trained)
        if group == "teacher":
            found[f"features/{file}"] = features(chosen, trained)
    for kind, names in chosen.tables.items():
        verb = "quirks" if kind == "quirks" else "table"
        found |= {f"{verb}/{table}.yaml": printed(chosen, verb, table) for table in names}
    if chosen.search:
        found |= {f"search/{part}.yaml": search(chosen) for part in ("pick", "report")}
    return found


def runs(chosen):
    """(group, model, row, seed) of every training of a suite."""
    for name, group in chosen.groups().items():
        yield from itertools.product([name], group.models, group.rows, chosen.seeds)
    if chosen.search:
        yield from itertools.product([SEARCHED], chosen.student.models, [SEARCHED], chosen.seeds)


def folder(chosen, group, model, row, seed):
    """Where a run leaves its results."""
    return f"out/{chosen.suite}/{group}/{model}-{row}-s{seed}"


def dvc(chosen):
    """What stands before the names of a suite's stages where DVC is given one."""
    file = pathlib.Path(chosen.params_file)
    return "" if file == params.TOP else f"{file.parent}/dvc.yaml:"


def data(chosen):
    """The data a suite's runs are trained on, resolved."""
    images = chosen.protocol_in_force.data
    options = resolved(readers.reader(chosen.data).Options, chosen.datasets[chosen.data], "").model_dump()
    return {"folder": f"out/{chosen.suite}/data", "reader": chosen.data, "options": options} | images.model_dump()


def prepare(chosen):
    read = {kind for facts in map(tasks.facts, chosen.tasks) for kind in (facts.target, *facts.reads)}
    kinds = {kind: list(facts.behind) for kind, facts in tasks.of_kinds(readers.reader(chosen.data).KINDS).items()
             if kind in read}
    row = {"suite": chosen.suite, "protocol": chosen.protocol, "data": data(chosen), "targets": kinds}
    if chosen.search:
        row["held_out"] = {"of": f"out/{chosen.searches[0]}/data", "share": chosen.search.hold_out,
                           "seed": chosen.search.seed}
    return row | {"code": code.digest(["pipeline.prepare", f"pipeline.data.{chosen.data}"])}


def train(chosen, group, model, name, seed):
    """One run: everything that it is trained by. A teacher's row is a task, a search's a trial."""
    protocol, source = chosen.protocol_in_force, chosen.searches[0] if group == SEARCHED else chosen.suite
    method = method_of(chosen, group, name)
    switches = chosen.switches.model_dump() | {
        key: value for key, value in method.pop("switches", {}).items() if value is not None}
    augment = method.pop("augment", None)
    row = {"suite": chosen.suite, "dvc": dvc(chosen), "group": group, "model": model, "name": name, "seed": seed,
           "folder": folder(chosen, group, model, name, seed),
           "tasks": [name] if group == "teacher" else list(chosen.tasks), "protocol": chosen.protocol,
           "data": data(chosen) | {"folder": f"out/{source}/data"},
           "architecture": checks.architecture(chosen, model),
           "train": protocol.train[model].model_dump() | ({"augment": augment} if augment else {}),
           "method": method, "switches": switches | {"official_batch": chosen.official_batch}}
    if "lambda" in method:
        own, teacher = method.pop("adaptor_training"), method.pop("teacher")
        kept = chosen.features.model_dump()
        of = chosen.model_copy(update={"suite": source})
        row |= {"adaptor": own or protocol.adaptor.model_dump(),
                "features": kept | ({"teacher": teacher} if teacher else {}),
                "cacheable": teacher in (None, kept["teacher"]),
                "teachers": {task: train(of, "teacher", model, task, seed) for task in chosen.tasks}}
    if group in ("derived", "refined"):
        row["parent"] = parent(chosen, group, model, name, seed)
    return row | {"code": code.digest([
        "pipeline.train", f"models.{model}", f"pipeline.objectives.{method['objective']}",
        f"pipeline.balancers.{method['balancer']}", *(f"pipeline.tasks.{task}" for task in row["tasks"])])}


def method_of(chosen, group, name):
    """A row's method as a plain dict; of a search's trial, the method searched with the trial's lambda."""
    if group == "teacher":
        return {"objective": "supervised", "balancer": "uniform", "options": {}}
    searched = chosen.search is not None
    key = chosen.search.method if searched else name
    changes = getattr(getattr(chosen, group, None), "changes", {})
    method = params.changed(chosen.methods[key], changes).model_dump(by_alias=True)
    del method["title"]                             # of tables; no number depends on it
    method["balancer"] = checks.balancer_files()[method["balancer"]]
    if group == SEARCHED:
        return method | {"lambda": {"from": f"out/{chosen.suite}/lambda.json"}}
    if searched:
        return method | {"lambda": trial(chosen, name)}
    return method


def trial(chosen, name):
    return dict(zip(chosen.tasks, map(float, name.split("-")), strict=True))


def parent(chosen, group, model, name, seed):
    """The row that a chained run begins from."""
    after = getattr(chosen, group).after
    above, row = (after, name) if isinstance(after, str) else (after.group, after.row)
    return train(chosen, above, model, row, seed)


def evaluate(trained):
    """What the measurement of a finished run depends on beside its weights."""
    keys = ("suite", "dvc", "group", "model", "name", "seed", "folder", "tasks", "data", "architecture")
    row = {key: trained[key] for key in keys} | {
        "train": {"width": trained["train"]["width"]}, "switches": {
            "official_batch": trained["switches"]["official_batch"]}}
    return row | {"code": code.digest(["pipeline.evaluate", f"models.{row['model']}",
                                       *(f"pipeline.tasks.{task}" for task in row["tasks"])])}


def features(chosen, trained):
    """What a teacher's stored features depend on."""
    row = {key: value for key, value in trained.items() if key not in ("method", "switches", "protocol")}
    return row | {"features": chosen.features.model_dump(), "code": code.digest(
        ["pipeline.features", f"models.{row['model']}", *(f"pipeline.tasks.{task}" for task in row["tasks"])])}


def printed(chosen, verb, name):
    """What a table shows, in its order, and all that stands above it."""
    shown = chosen.printed[name]
    groups = {group: chosen.groups()[group] for group in shown.rows}
    models = shown.models or list(dict.fromkeys(model for group in groups.values() for model in group.models))
    paper = read(pathlib.Path(chosen.paper))
    comparable = readers.comparable(chosen.data, data(chosen)["options"])
    table = {"suite": chosen.suite, "name": name, "word": word(name), "heading": shown.heading,
             "tasks": list(chosen.tasks), "definition": shown.definition,
             "flat": checks.is_flat(chosen), "seeds": chosen.seeds, "selection": chosen.selection,
             "single": [model for model in models if model in chosen.teacher.models],
             "models": {model: checks.fact(model, "TITLE") for model in models},
             "rows": [shown_row(chosen, group, row, [model for model in section.models if model in models])
                      for group, section in groups.items() for row in section.rows],
             "paper": {"metrics": paper["metrics"], "models": paper["models"],
                       "definitions": definitions(paper, chosen),
                       "tasks": [task for task in chosen.tasks if task in comparable]}
             if comparable and shown.paper else None,
             "caption": caption.sentences(chosen, paper, models, [row for group in groups.values()
                                                                  for row in group.rows], shown.definition)}
    return table | {"code": code.digest([f"pipeline.{verb}", *(f"pipeline.tasks.{task}" for task in chosen.tasks)])}


def definitions(paper, chosen):
    """{network: by what definition its printed numbers were measured, null where that is not known}, of those whose
    definition is not the table's."""
    found = paper.get("definitions") or {}
    for model, definition in found.items():
        if definition not in (None, *PROTOCOLS):
            raise UserError(f"{chosen.paper}: `definitions.{model}` is {definition!r}; it is one of "
                            f"{', '.join(PROTOCOLS)}, or null where it is not known")
    return found


def shown_row(chosen, group, name, models):
    """A row of a table; where a chain goes on from a row under its name, the key and the title tell the two apart."""
    chained, changes = group in checks.CHAINED, getattr(getattr(chosen, group), "changes", {})
    title = params.changed(chosen.methods[name], changes).title
    return {"group": group, "name": name, "models": models, "key": f"{group}/{name}" if chained else name,
            "title": f"{title}, {group}" if chained and "title" not in changes else title}


def word(table):
    """The make word of a table."""
    if table in ("search", "quirks"):
        return {"search": "search-lambda"}.get(table, table)
    return table if table.startswith("table") else f"table-{table}"


def search(chosen):
    """The trials, what they are scored by, and what the report says."""
    method = chosen.methods[chosen.search.method].model_dump(by_alias=True)
    return {"suite": chosen.suite, "word": word("search"), "searched": chosen.searches[0],
            "method": chosen.search.method,
            "tasks": list(chosen.tasks), "seeds": chosen.seeds, "selection": chosen.selection,
            "models": {model: checks.fact(model, "TITLE") for model in chosen.student.models},
            "trials": {name: trial(chosen, name) for name in chosen.student.rows}, "lambda": method["lambda"],
            "caption": caption.search(chosen), "code": code.digest(["pipeline.search"])}
