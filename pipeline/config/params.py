"""params.yaml -> one frozen, fully checked tree. `python -m pipeline.config.params` checks and says what is in force.

Every verb loads the whole file through `load`, so that no stage starts under a file that has a mistake anywhere.
"""

import importlib
import json
import math
import pathlib
from typing import get_args

import yaml
from pydantic import ValidationError, model_validator

from pipeline.config.methods import Method
from pipeline.config.mistakes import is_number, nearest, one_of, sentence, with_point
from pipeline.config.schema import (
    ALIASES,
    BALANCERS,
    CONSISTENT,
    DISTILLING,
    PAIR,
    Architectures,
    Datasets,
    Features,
    Name,
    Pair,
    Protocol,
    Rows,
    Search,
    Section,
    Suites,
    Switches,
    Task,
)
from pipeline.runtime.errors import UserError, run

FILE = pathlib.Path("params.yaml")
KINDS = {int: "a whole number", float: "a finite number", str: "text", dict: "{task: finite number}",
         type(None): "null"}
SEARCHED = "searched"      # the row that a search's lambda trains


class Params(Section):
    protocol: Name
    suites: Suites
    search: Search
    datasets: Datasets
    protocols: dict[Name, dict[Name, Protocol]]
    architectures: Architectures
    features: Features
    methods: dict[Name, Method]
    switches: Switches

    @model_validator(mode="after")
    def names_hold_together(self):
        one_of(self.protocol, "protocol", self.protocols)
        for name, suite in self.suites:
            for protocol, sections in self.protocols.items():
                if name not in sections:
                    raise ValueError(f"`protocols.{protocol}` has no section for the suite {name!r}")
            self.training_fits(name, suite)
            self.rows_are_methods(name, suite)
        for name, method in self.methods.items():
            one_of(method.balancer, f"methods.{name}.balancer", BALANCERS)
            if name == SEARCHED or name in get_args(Task):
                raise ValueError(f"`methods` has {name!r}, which is {'a search' if name == SEARCHED else 'a task'}'s "
                                 "own; call the method otherwise")
        self.search_fits()
        return self

    def training_fits(self, name, suite):
        """The protocol in force has what a suite's data and networks need."""
        training, where, pair = self.training_of(name), f"protocols.{self.protocol}.{name}", suite.tasks[0] in PAIR
        for model in (*suite.models, *suite.wide.models):
            if model not in training.train:
                raise ValueError(f"`{where}.train` has no section for {model!r} of `suites.{name}.models`")
        width = training.train["resnet"].width if "resnet" in suite.models else 1
        if self.architectures.resnet.pretrained and width != 1:
            raise ValueError(f"`{where}.train.resnet.width` is {width:g}, but the weights that "
                             "`architectures.resnet.pretrained` takes are of width 1; set one of the two")
        for split in ("train", "test"):
            images = getattr(training.data, split)
            if isinstance(images, Pair) != pair:
                raise ValueError(f"`{where}.data.{split}` is {images if not pair else repr(images)}; with `data: "
                                 f"{suite.data}` it should be "
                                 + ("{digits: a number, characters: a number}" if pair else "a number of images"))
        for model in suite.models:
            if pair and training.train[model].batch % 2:
                raise ValueError(f"`{where}.train.{model}.batch` is {training.train[model].batch}; half of a batch is "
                                 "of each domain, so it should be even")
        augmented = [f"{where}.train.{model}" for model in suite.models if training.train[model].augment != "none"]
        augmented += [f"methods.{row}" for _, _, rows, _ in suite.groups().values() for row in rows
                      if row in self.methods and self.methods[row].augment not in (None, "none")]
        if pair and augmented:
            raise ValueError(f"`{augmented[0]}.augment` scales, cuts and mirrors, which makes other digits and "
                             f"characters of those in `suites.{name}`; set it to none")

    def rows_are_methods(self, name, suite):
        seen = {}
        for key, _, rows, wanted in suite.groups().values():
            where = f"suites.{name}.{key}"
            for row in rows:
                one_of(row, where, self.methods)
                if row in seen:
                    raise ValueError(f"`{where}` has {row!r}, which `{seen[row]}` has too; one of them is enough")
                seen[row] = f"suites.{name}.{key}"
                method = self.methods[row]
                if method.objective not in wanted:
                    raise ValueError(f"`{where}` has {row!r}, whose objective is {method.objective!r}; `{key}` take "
                                     f"{' or '.join(map(repr, wanted))}")
                if method.objective in DISTILLING:
                    self.distils(row, method, suite)
                if method.objective in CONSISTENT:
                    self.agrees(row, method.consistency, suite)

    def distils(self, name, method, suite):
        if missing := sorted(set(suite.tasks) - set(method.lambda_)):
            raise ValueError(f"`methods.{name}.lambda` has no value for {', '.join(missing)}")
        if "lenet" in suite.models and "mid" in method.taps:
            raise ValueError(f"`methods.{name}.taps` are {method.taps}, but lenet has only `last`")

    def agrees(self, name, chosen, suite):
        """Two tasks or more that can be transferred, and a share for each."""
        where, pairs = f"methods.{name}.consistency", [task for pair in chosen.pairs or () for task in pair.split("-")]
        needed = set(suite.tasks if chosen.pairs is None else pairs)
        for task in pairs:
            one_of(task, f"{where}.pairs", suite.tasks)
        if missing := sorted(needed - set(chosen.lambda_)):
            raise ValueError(f"`{where}.lambda` has no value for {', '.join(missing)}")
        if chosen.pairs is None and (len(suite.tasks) < 2 or set(suite.tasks) & set(PAIR)):
            raise ValueError(f"`methods.{name}` carries predictions of one task over to another's, of the same image; "
                             f"the tasks {', '.join(suite.tasks)} have none")

    def search_fits(self):
        search, suite = self.search, getattr(self.suites, self.search.suite)
        one_of(search.method, "search.method", suite.students)
        self.distils(search.method, self.methods[search.method], suite)
        if search.tasks != suite.tasks:
            raise ValueError(f"`search.tasks` are {search.tasks}, those of `suites.{search.suite}` {suite.tasks}; they "
                             "should be the same")
        for model in search.models:
            one_of(model, "search.models", suite.models)
        for seed in search.seeds:
            if seed not in suite.seeds:
                raise ValueError(f"`search.seeds` has {seed}, which `suites.{search.suite}.seeds` {suite.seeds} has "
                                 "not: what is found is trained on that seed's teachers")

    def training_of(self, suite):
        """The protocol in force for a suite."""
        return self.protocols[self.protocol][self.search.suite if suite == "search" else suite]

    def suite(self, name):
        """A suite of the file; "search" is the one searched, on its own seeds and models, its students the trials."""
        known = [*type(self.suites).model_fields, "search"]
        if name not in known:
            raise UserError(f"{name!r} is no suite; there are {', '.join(known)}{nearest(name, known)}")
        if name != "search":
            return getattr(self.suites, name)
        search = self.search
        return getattr(self.suites, search.suite).model_copy(update={
            "seeds": search.seeds, "models": search.models, "baselines": [], "students": search.trials,
            "wide": Rows(), "ablation": Rows()})

    def options(self, suite):
        """The data set's own section, as a plain dict for its reader."""
        return getattr(self.datasets, self.suite(suite).data).model_dump()

    def method(self, suite, model, name):
        """A row's section of `methods` as a plain dict; a search's trials, and what it found, differ in lambda."""
        if suite == "search" or name == SEARCHED:
            trial = name if suite == "search" else found(model)
            values = dict(zip(self.search.tasks, map(float, trial.split("-")), strict=True))
            return self.method(self.search.suite, model, self.search.method) | {"lambda": values, "title": name}
        method = self.methods[name].model_dump(by_alias=True)
        return method | {"balancer": ALIASES.get(method["balancer"], method["balancer"])}

    def architecture(self, model, protocol):
        """A network's own options; AdaMT-Net's weights have the images' size."""
        chosen = getattr(self.architectures, model).model_dump()
        made_for = {"size": [protocol.data.height, protocol.data.width], "batch": protocol.train[model].batch}
        return chosen | (made_for if model == "adamt" else {})

    def resolve(self, suite, stage, model, name, seed):
        """One run as a plain dict: everything that `stage` trains by, nothing else.

        stage: teacher, baseline, wide, student, ablation, or searched for what a search found. `name` is a task for a
        teacher, a trial in the suite "search", "searched", a method otherwise. `UserError` if it is none of the listed.
        """
        chosen = self.suite(suite)
        groups = {"teacher": ("tasks", chosen.models, chosen.tasks)} | {
            group: listed[:3] for group, listed in chosen.groups().items()}
        if suite == self.search.suite:
            groups[SEARCHED] = ("", self.search.models, [SEARCHED])
        key, models, rows = groups.get(stage, ("", (), ()))
        place = "search" if suite == "search" or stage == SEARCHED else f"suites.{suite}"
        of = f"{place}.{key.partition('.')[0]}.models" if "." in key else f"{place}.models"
        key = f"{place}.{'trials' if (suite, key) == ('search', 'students') else key}" if key else "what a search found"
        for value, told, known in ((stage, "the stage", groups), (model, of, models), (name, key, rows),
                                   (seed, f"{place}.seeds", map(str, chosen.seeds))):
            known = list(known)
            if value not in known:
                raise UserError(f"{value!r} is not among {', '.join(known) or 'nothing'} ({told} in {FILE})"
                              f"{nearest(value, known)}")
        method = {"objective": "supervised", "balancer": "uniform", "options": {}, "title": "STL"}
        if stage != "teacher":
            method = self.method(suite, model, name)
        switches = {**self.switches.model_dump(), **{key: value for key, value in method.pop("switches", {}).items()
                                                     if value is not None}}
        protocol, augment = self.training_of(suite), method.pop("augment", None)
        row = {"suite": suite, "stage": stage, "model": model, "name": name, "seed": int(seed),
               "tasks": [name] if stage == "teacher" else list(chosen.tasks),
               "architecture": self.architecture(model, protocol),
               "train": protocol.train[model].model_dump() | ({"augment": augment} if augment else {}),
               "method": method, "switches": switches | {"official_batch": chosen.official_batch}}
        if method["objective"] in DISTILLING:
            own, teacher = method.pop("adaptor_training"), method.pop("teacher")
            row |= {"adaptor": own or protocol.adaptor.model_dump(),
                    "features": self.features.model_dump() | ({"teacher": teacher} if teacher else {})}
            row["cacheable"] = teacher in (None, self.features.teacher)
        return row


def found(model, file=pathlib.Path("out/search/lambda.json")):
    """The trial that a search picked for this network."""
    try:
        return json.loads(file.read_text())[model]
    except (OSError, ValueError, KeyError, TypeError) as mistake:
        raise UserError(f"{file} names no lambda of {model} ({mistake}); run `make search-lambda`") from None


def folder(suite, model, name, seed):
    """Where a run leaves its results."""
    return pathlib.Path(f"out/{suite}/runs/{model}-{name}-s{seed}")


def stage_of(run, verb, name):
    """The DVC stage of a verb about a row, on the suite, network and seed of `run`."""
    verb = verb if verb == SEARCHED else f"{verb}-{run['suite']}"
    return f"{verb}@{run['model']}-{name}-{run['seed']}"


def work(training, height, width):
    """What a step's time is taken to grow with: pixels, batch, and the square of the network's width."""
    return height * width * training["batch"] * training["width"] ** 2


def load(file=FILE):
    """The whole of params.yaml, checked. Raises `UserError` with the first mistake in one sentence."""
    try:
        text = pathlib.Path(file).read_text()
    except FileNotFoundError:
        raise UserError(f"{file} is not here; run from the root of the project") from None
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as mistake:
        raise UserError(f"{file} is not YAML: {' '.join(str(mistake).split())}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{file} holds no keys; take the file from the repository again")
    try:
        return Params(**{str(key): value for key, value in tree.items()})
    except ValidationError as mistake:
        # a misspelt key is also a missing one: the unknown name is the better news
        first = min(mistake.errors(), key=lambda error: error["type"] != "extra_forbidden")
        raise UserError(f"{file}: {sentence(first, Params)}") from None


def fits(value, kind):
    """Whether an option that was read may stand where the type `kind` is wanted: an int is a float, a bool no int."""
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value < math.inf
    if kind is dict:
        return isinstance(value, dict) and all(fits(number, float) for number in value.values())
    return isinstance(value, kind) and not isinstance(value, bool)


def check_options(chosen):
    """Every balancer that has options is made once; `UserError` names the key and the nearest valid one."""
    balancers = importlib.import_module("pipeline.balancers")      # by name: they come after params
    for name, method in chosen.methods.items():
        if not method.options:
            continue
        where, known = f"methods.{name}.options", balancers.options(ALIASES.get(method.balancer, method.balancer))
        for key, value in method.options.items():
            if key not in known:
                raise UserError(f"{FILE}: unknown key `{where}.{key}`{nearest(key, known)} (known for "
                              f"{method.balancer}: {', '.join(known)})")
            if not any(fits(value, kind) for kind in known[key]):
                number = isinstance(value, str) and is_number(value) and float in known[key]
                hint = f"; write {with_point(value)} (with a point before the e)" if number else ""
                raise UserError(f"{FILE}: `{where}.{key}` is {value!r}; it should be "
                              f"{' or '.join(KINDS[kind] for kind in known[key])}{hint}")
        tasks = next((suite.tasks for _, suite in chosen.suites if any(
            name in rows for _, _, rows, _ in suite.groups().values())), chosen.suites.rooms.tasks)
        try:
            balancers.load(ALIASES.get(method.balancer, method.balancer), tasks, **method.options)
        except (TypeError, ValueError) as mistake:
            raise UserError(f"{FILE}: `{where}`: {mistake}") from None


def main():
    params = load()
    check_options(params)
    said = [f"{name}: {suite.data}, seeds {suite.seeds}, {len(suite.models)} x {len(suite.tasks)} teachers, "
            + ", ".join(f"{len(models) * len(rows)} {group}" for group, (_, models, rows, _) in suite.groups().items()
                        if rows) for name, suite in params.suites]
    print(f"{FILE}: protocol {params.protocol}; " + "; ".join(said))


if __name__ == "__main__":
    run(main)
