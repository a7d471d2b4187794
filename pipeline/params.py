"""params.yaml -> one frozen, fully checked tree. `python -m pipeline.params` checks and says what is in force.

Every verb loads the whole file through `load`, so that no stage starts under a file that has a mistake anywhere.
"""

import importlib
import math
import pathlib
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from pipeline.mistakes import is_number, nearest, one_of, sentence, with_point
from pipeline.problem import Problem, run

FILE = pathlib.Path("params.yaml")
# What the released codes call their balancers, and the files there are.
ALIASES = {"ls": "uniform", "ew": "uniform", "equal": "uniform", "uw": "uncertainty", "uncert": "uncertainty",
           "mgdaub": "mgda_ub", "gs": "pcgrad", "nash": "nash_mtl", "nashmtl": "nash_mtl", "amtl": "aligned_mtl",
           "amtlub": "aligned_mtl_ub", "imtl_g": "imtl", "scaleinvls": "si", "dbmtl": "db_mtl"}
BALANCERS = sorted([file.stem for file in pathlib.Path(__file__).parent.glob("balancers/[a-z]*.py")] + [*ALIASES])

KINDS = {int: "a whole number", float: "a finite number", str: "text", dict: "{task: finite number}",
         type(None): "null"}

# Row names become parts of file and stage names.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*(-[a-z0-9_]+)*$")]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Task = Literal["semantic", "depth", "normal"]
Tap = Literal["mid", "last"]
Rule = Literal["last", "last10", "train_loss", "best_test"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=False)


class Scenes(Section):
    seed: Annotated[int, Field(ge=0)]
    noise: Annotated[float, Field(ge=0, le=1)]
    holes: Annotated[float, Field(ge=0, le=0.9)]


class Nyuv2(Section):
    source: Literal["mtan", "mat"]
    root: str
    normals: Literal["published", "derived"]
    depth: Literal["raw", "filled"]
    crop: Literal["toolbox", "border16"]

    @model_validator(mode="after")
    def the_mat_has_no_normals(self):
        if (self.source, self.normals) == ("mat", "published"):
            raise ValueError("`normals` is 'published' but with `source: mat` there are none in the files; set "
                             "`normals: derived`, which fits them to the depth")
        return self


class Datasets(Section):
    scenes: Scenes
    nyuv2: Nyuv2


class Images(Section):
    height: Annotated[int, Field(ge=32)]
    width: Annotated[int, Field(ge=32)]
    train: Count
    test: Count


class Training(Section):
    epochs: Count
    batch: Count
    lr: Positive
    schedule: Literal["constant", "step", "onecycle"]
    step_every: Count | None = None
    step_factor: Annotated[float, Field(gt=0, le=1)] | None = None
    width: Annotated[float, Field(gt=0, le=4)]
    precision: Literal["float32", "bfloat16"] = "float32"
    augment: Literal["none", "crop"] = "none"

    @model_validator(mode="after")
    def step_is_told(self):
        if (self.schedule == "step") != (self.step_every is not None and self.step_factor is not None):
            raise ValueError("`schedule: step` and the keys `step_every` and `step_factor` go together, "
                             f"found schedule {self.schedule!r}, step_every {self.step_every}, "
                             f"step_factor {self.step_factor}")
        return self


class AdaptorTraining(Section):
    lr: Positive
    l2: NonNegative


class Protocol(Section):
    data: Images
    train: dict[Name, Training]
    adaptor: AdaptorTraining

    @model_validator(mode="after")
    def a_batch_fits(self):
        for model, training in self.train.items():
            if training.batch > self.data.train:
                raise ValueError(f"`train.{model}.batch` is {training.batch} but `data.train` has "
                                 f"{self.data.train} images")
        return self


class SegNet(Section):
    type: Literal["standard", "wide", "deep"]


class Mtan(Section):
    pass


class Architectures(Section):
    segnet: SegNet
    mtan: Mtan


class Features(Section):
    dtype: Literal["float32", "float16", "uint8"]
    teacher: Literal["train_loss", "last"]


class Balanced(Section):
    title: str
    balancer: Name
    options: dict[Name, Any] = {}          # of the balancer; its class has them, with their defaults


class Supervised(Balanced):
    objective: Literal["supervised"]


class FeatureDistillation(Balanced):
    objective: Literal["feature_distillation"]
    taps: Annotated[list[Tap], Field(min_length=1)]
    adaptor: Literal["linear", "nonlinear", "none"]
    lambda_: Annotated[dict[Task, NonNegative], Field(alias="lambda")]
    teacher_bn: Literal["running", "batch"]


class PredictionDistillation(FeatureDistillation):
    objective: Literal["prediction_distillation"]
    taps: list[Tap]
    temperature: Positive
    anneal: Literal["linear", "none"]


DISTILLING = ("feature_distillation", "prediction_distillation")
Method = Annotated[Supervised | FeatureDistillation | PredictionDistillation, Field(discriminator="objective")]


class Wide(Section):
    models: Annotated[list[Name], Field(min_length=1)]
    rows: list[Name]


class Switches(Section):
    normal_mask: Literal["own", "depth"]
    drop_last: bool
    official_batch: Count


class Params(Section):
    data: Literal["scenes", "nyuv2"]
    protocol: Name
    selection: Rule
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1)]
    models: Annotated[list[Name], Field(min_length=1)]
    tasks: Annotated[list[Task], Field(min_length=1)]
    baselines: list[Name]
    students: list[Name]
    wide: Wide
    datasets: Datasets
    protocols: dict[Name, Protocol]
    architectures: Architectures
    features: Features
    methods: dict[Name, Method]
    switches: Switches

    @model_validator(mode="after")
    def names_hold_together(self):
        runs = {"baselines": self.baselines, "students": self.students, "wide.rows": self.wide.rows}
        for key, listed in {"seeds": self.seeds, "models": self.models, "tasks": self.tasks,
                            "wide.models": self.wide.models, **runs}.items():
            if len(set(listed)) < len(listed):
                raise ValueError(f"`{key}` names something twice: {listed}")
        one_of(self.protocol, "protocol", self.protocols)
        for model in self.models:
            one_of(model, "models", type(self.architectures).model_fields)
            if model not in self.in_force.train:
                raise ValueError(f"`protocols.{self.protocol}.train` has no section for {model!r} of `models`")
        for model in self.wide.models:
            if model not in self.models:
                raise ValueError(f"`wide.models` has {model!r}, which is not in `models` ({', '.join(self.models)}): "
                                 "the table of balancers holds Table 2's rows too")
        for key, listed in runs.items():
            wanted = DISTILLING if key == "students" else ("supervised",)
            for method in listed:
                one_of(method, key, self.methods)
                if key == "wide.rows" and method in (*self.baselines, *self.students):
                    raise ValueError(f"`wide.rows` has {method!r}, which `baselines` or `students` have too; its table "
                                     "holds those anyway")
                if method in get_args(Task):
                    raise ValueError(f"`{key}` has {method!r}, which is a task's name; call the method otherwise")
                if self.methods[method].objective not in wanted:
                    raise ValueError(f"`{key}` has {method!r}, whose objective is {self.methods[method].objective!r}; "
                                     f"`{key}` take {' or '.join(map(repr, wanted))}")
        for name, method in self.methods.items():
            one_of(method.balancer, f"methods.{name}.balancer", BALANCERS)
            if method.objective in DISTILLING and not set(self.tasks) <= set(method.lambda_):
                missing = sorted(set(self.tasks) - set(method.lambda_))
                raise ValueError(f"`methods.{name}.lambda` has no value for {', '.join(missing)}")
        return self

    @property
    def in_force(self):
        """The protocol that `protocol` names."""
        return self.protocols[self.protocol]

    def options(self):
        """The chosen data set's own section, as a plain dict for its reader."""
        return getattr(self.datasets, self.data).model_dump()


    def resolve(self, stage, model, name, seed):
        """One run as a plain dict: everything that `stage` (teacher, baseline, wide, student) trains by, nothing else.

        `name` is a task for a teacher and a method otherwise. `Problem` if it is none of the listed.
        """
        listed = {"teacher": self.tasks, "baseline": self.baselines, "wide": self.wide.rows, "student": self.students}
        keys = {"teacher": "tasks", "baseline": "baselines", "wide": "wide.rows", "student": "students"}
        models = ("wide.models", self.wide.models) if stage == "wide" else ("models", self.models)
        for value, key, known in ((stage, "the stage", listed), (model, *models),
                                  (name, keys.get(stage), listed.get(stage, ())),
                                  (seed, "seeds", map(str, self.seeds))):
            known = list(known)
            if value not in known:
                raise Problem(f"{value!r} is not among {', '.join(known) or 'nothing'} ({key} in {FILE})"
                              f"{nearest(value, known)}")
        method = {"objective": "supervised", "balancer": "uniform", "options": {}, "title": "STL"}
        if stage != "teacher":
            method = self.methods[name].model_dump(by_alias=True)
            method["balancer"] = ALIASES.get(method["balancer"], method["balancer"])
        row = {"stage": stage, "model": model, "name": name, "seed": int(seed),
               "tasks": [name] if stage == "teacher" else list(self.tasks),
               "architecture": getattr(self.architectures, model).model_dump(),
               "train": self.in_force.train[model].model_dump(), "method": method,
               "switches": self.switches.model_dump()}
        if stage == "student":
            row |= {"adaptor": self.in_force.adaptor.model_dump(), "features": self.features.model_dump()}
        return row


def folder(model, name, seed):
    """Where a run leaves its results."""
    return pathlib.Path(f"out/runs/{model}-{name}-s{seed}")


def work(training, height, width):
    """What a step's time is taken to grow with: pixels, batch, and the square of the network's width."""
    return height * width * training["batch"] * training["width"] ** 2


def load(file=FILE):
    """The whole of params.yaml, checked. Raises `Problem` with the first mistake in one sentence."""
    try:
        text = pathlib.Path(file).read_text()
    except FileNotFoundError:
        raise Problem(f"{file} is not here; run from the root of the project") from None
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as mistake:
        raise Problem(f"{file} is not YAML: {' '.join(str(mistake).split())}") from None
    if not isinstance(tree, dict):
        raise Problem(f"{file} holds no keys; take the file from the repository again")
    try:
        return Params(**{str(key): value for key, value in tree.items()})
    except ValidationError as mistake:
        # a misspelt key is also a missing one: the unknown name is the better news
        first = min(mistake.errors(), key=lambda error: error["type"] != "extra_forbidden")
        raise Problem(f"{file}: {sentence(first, Params)}") from None


def fits(value, kind):
    """Whether an option that was read may stand where the type `kind` is wanted: an int is a float, a bool no int."""
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value < math.inf
    if kind is dict:
        return isinstance(value, dict) and all(fits(number, float) for number in value.values())
    return isinstance(value, kind) and not isinstance(value, bool)


def check_options(chosen):
    """Every balancer that has options is made once; `Problem` names the key and the nearest valid one."""
    balancers = importlib.import_module("pipeline.balancers")      # by name: they come after params
    for name, method in chosen.methods.items():
        if not method.options:
            continue
        where, known = f"methods.{name}.options", balancers.options(ALIASES.get(method.balancer, method.balancer))
        for key, value in method.options.items():
            if key not in known:
                raise Problem(f"{FILE}: unknown key `{where}.{key}`{nearest(key, known)} (known for {method.balancer}: "
                              f"{', '.join(known)})")
            if not any(fits(value, kind) for kind in known[key]):
                number = isinstance(value, str) and is_number(value) and float in known[key]
                hint = f"; write {with_point(value)} (with a point before the e)" if number else ""
                raise Problem(f"{FILE}: `{where}.{key}` is {value!r}; it should be "
                              f"{' or '.join(KINDS[kind] for kind in known[key])}{hint}")
        try:
            balancers.load(ALIASES.get(method.balancer, method.balancer), chosen.tasks, **method.options)
        except (TypeError, ValueError) as mistake:
            raise Problem(f"{FILE}: `{where}`: {mistake}") from None


def main():
    params = load()
    check_options(params)
    runs, wide = len(params.models) * len(params.seeds), len(params.wide.models) * len(params.seeds)
    print(f"{FILE}: data {params.data}, protocol {params.protocol}, seeds {params.seeds}; "
          f"{runs * len(params.tasks)} teachers, {runs * len(params.baselines)} baselines, "
          f"{runs * len(params.students)} students; {wide * len(params.wide.rows)} more for the table of balancers")


if __name__ == "__main__":
    run(main)
