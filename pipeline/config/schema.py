"""What params.yaml may hold: its sections, their types and how names hold together; `config.params` reads it."""

import pathlib
import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from pipeline.config.mistakes import one_of

# What the released codes call their balancers, and the files there are.
ALIASES = {"ls": "uniform", "ew": "uniform", "equal": "uniform", "uw": "uncertainty", "uncert": "uncertainty",
           "mgdaub": "mgda_ub", "gs": "pcgrad", "nash": "nash_mtl", "nashmtl": "nash_mtl", "amtl": "aligned_mtl",
           "amtlub": "aligned_mtl_ub", "imtl_g": "imtl", "scaleinvls": "si", "dbmtl": "db_mtl"}
FOLDER = pathlib.Path(__file__).parent.parent
BALANCERS = sorted([file.stem for file in FOLDER.glob("balancers/[a-z]*.py")] + [*ALIASES])
# The tasks that a data set has labels for, and the networks that a task's images go through.
DENSE, PAIR = ("semantic", "depth", "normal"), ("digits", "characters")
TASKS_OF = {"scenes": DENSE, "nyuv2": DENSE, "streets": DENSE[:2], "cityscapes": DENSE[:2], "glyphs": PAIR,
            "svhn_omniglot": PAIR}
MODELS_OF = {DENSE: ("segnet", "mtan", "resnet", "adamt"), PAIR: ("lenet",)}
SMALLEST = dict.fromkeys(MODELS_OF[DENSE], 32)       # sides of images; the others take those that `Images` takes
TRIAL = re.compile(r"\d+(\.\d+)?(-\d+(\.\d+)?)*")

# Row names become parts of file and stage names.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*(-[a-z0-9_]+)*$")]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=1)]
Task = Literal["semantic", "depth", "normal", "digits", "characters"]
Tap = Literal["mid", "last"]
Rule = Literal["last", "last10", "median20", "train_loss", "best_test"]
Seeds = Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=False)


def once(key, values):
    if len(set(values)) < len(values):
        raise ValueError(f"`{key}` names something twice: {values}")


class Scenes(Section):
    seed: Natural
    noise: Annotated[float, Field(ge=0, le=1)]
    holes: Annotated[float, Field(ge=0, le=0.9)]


class Streets(Scenes):
    classes: Literal[7, 19]


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


class Cityscapes(Section):
    layout: Literal["auto", "mtan", "original"]
    root: str
    classes: Literal[7, 19]
    seven: Literal["categories", "train_ids"]
    disparity: Literal["p/65535", "(p-1)/65536"]
    image: Literal["bilinear", "nearest"]


class Glyphs(Section):
    seed: Natural
    alphabet: Annotated[int, Field(ge=2, le=10_000)]


class SvhnOmniglot(Section):
    digits: Literal["svhn", "mnist"]
    svhn_root: str
    mnist_root: str
    omniglot_root: str
    seed: Natural


class Datasets(Section):
    scenes: Scenes
    nyuv2: Nyuv2
    streets: Streets
    cityscapes: Cityscapes
    glyphs: Glyphs
    svhn_omniglot: SvhnOmniglot


class Pair(Section):
    """Images of each domain; null: all there are."""
    digits: Count | None
    characters: Count | None


class Images(Section):
    height: Annotated[int, Field(ge=28)]
    width: Annotated[int, Field(ge=28)]
    train: Count | Pair
    test: Count | Pair


class Training(Section):
    epochs: Count
    batch: Count
    lr: Positive
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999         # Adam's
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
    schedule: Literal["constant", "cosine"] = "constant"


class Protocol(Section):
    """How one suite is trained under one protocol."""
    data: Images
    train: dict[Name, Training]
    adaptor: AdaptorTraining

    @model_validator(mode="after")
    def a_batch_fits(self):
        images = self.data.train
        for model, training in self.train.items():
            for side in ("height", "width"):
                if getattr(self.data, side) < SMALLEST.get(model, 0):
                    raise ValueError(f"`data.{side}` is {getattr(self.data, side)}; {model} takes images of "
                                     f"{SMALLEST[model]} pixels a side or more")
            if isinstance(images, int) and training.batch > images:
                raise ValueError(f"`train.{model}.batch` is {training.batch} but `data.train` has {images} images")
        return self


class SegNet(Section):
    type: Literal["standard", "wide", "deep"]


class ResNet(Section):
    encoder: Literal[18, 34, 50, 101, 152]
    pretrained: bool
    normalise: Literal["imagenet", "none"]


class AdaMT(Section):
    attention: Literal["shared", "per_sample"]


class Plain(Section):
    pass


class Architectures(Section):
    segnet: SegNet
    mtan: Plain
    lenet: Plain
    resnet: ResNet
    adamt: AdaMT


class Features(Section):
    dtype: Literal["float32", "float16", "uint8"]
    teacher: Literal["train_loss", "last", "last_batch"]


class Switches(Section):
    normal_mask: Literal["own", "depth"]
    drop_last: bool
    step_first: bool
    crop_masks: bool
    zoom_depth: bool


class SomeSwitches(Section):
    """Those of a method that differ from the file's."""
    normal_mask: Literal["own", "depth"] | None = None
    drop_last: bool | None = None
    step_first: bool | None = None
    crop_masks: bool | None = None
    zoom_depth: bool | None = None


# The objectives there are: those that learn from the labels alone, and those that need teachers.
LABELLED = ("supervised", "consistency")
CONSISTENT = ("consistency", "consistent_distillation")
DISTILLING = ("feature_distillation", "prediction_distillation", "consistent_distillation")


class Rows(Section):
    models: list[Name] = []
    rows: list[Name] = []


class Suite(Section):
    """A data set, the networks and methods trained on it, and the tables' epoch rule."""
    data: Literal["scenes", "nyuv2", "streets", "cityscapes", "glyphs", "svhn_omniglot"]
    seeds: Seeds
    selection: Rule
    official_batch: Count
    models: Annotated[list[Name], Field(min_length=1)]
    tasks: Annotated[list[Task], Field(min_length=1)]
    baselines: list[Name]
    students: list[Name]
    wide: Rows = Rows()
    ablation: Rows = Rows()

    def groups(self):
        """{stage: (key of its rows, models, rows, objectives they may have)}."""
        return {"baseline": ("baselines", self.models, self.baselines, LABELLED),
                "student": ("students", self.models, self.students, DISTILLING),
                "wide": ("wide.rows", self.wide.models, self.wide.rows, LABELLED),
                "ablation": ("ablation.rows", self.ablation.models, self.ablation.rows, DISTILLING)}

    @model_validator(mode="after")
    def data_tasks_and_models_fit(self):
        listed = {"seeds": self.seeds, "models": self.models, "tasks": self.tasks, "wide.models": self.wide.models,
                  "ablation.models": self.ablation.models} | {key: rows for key, _, rows, _ in self.groups().values()}
        for key, values in listed.items():
            once(key, values)
        for task in self.tasks:
            if task not in TASKS_OF[self.data]:
                raise ValueError(f"`tasks` has {task!r}, but `data: {self.data}` has {', '.join(TASKS_OF[self.data])}")
        fit = next(models for tasks, models in MODELS_OF.items() if set(self.tasks) <= set(tasks))
        for key, models in (("models", self.models), ("wide.models", self.wide.models)):
            for model in models:
                one_of(model, key, fit)
        return self


class Suites(Section):
    rooms: Suite
    streets: Suite
    domains: Suite
    quirks: Suite
    xtask_streets: Suite
    xtask_rooms: Suite

    @model_validator(mode="after")
    def every_row_has_a_stage(self):
        for name, suite in self:
            keys = ("wide",) * (name in ("streets", "domains", "quirks")) + ("ablation",) * (name != "rooms")
            for key in keys + ("baselines",) * (name == "quirks"):
                if (listed := getattr(suite, key)) not in (Rows(), []):
                    raise ValueError(f"`{name}.{key}` has {listed if isinstance(listed, list) else listed.rows}, but "
                                     f"no stage trains {key} of {name}; leave it out")
        for name, suite in self:
            table = {"rooms": ("baselines", "students", "wide.rows", "ablation.rows"), "quirks": ()}.get(
                name, ("baselines", "students") + ("wide.rows",) * name.startswith("xtask"))
            for key, models, rows, _ in suite.groups().values():
                if key in table and models and not rows:
                    raise ValueError(f"`{name}.{key}` is empty, but a table waits for its results; leave a row in it")
        for key in ("wide", "ablation"):
            for model in getattr(self.rooms, key).models:
                if model not in self.rooms.models:
                    raise ValueError(f"`rooms.{key}.models` has {model!r}, which is not in `models` "
                                     f"({', '.join(self.rooms.models)}): its table holds their rows too")
        if not self.quirks.students:
            raise ValueError("`quirks.students` is empty; its first row is the clean one")
        return self


class Search(Section):
    """A search for lambda on images held out of a suite's training set."""
    suite: Literal["rooms", "streets", "domains"]
    method: Name
    hold_out: Share
    seed: Natural
    seeds: Seeds
    models: Annotated[list[Name], Field(min_length=1)]
    tasks: Annotated[list[Task], Field(min_length=1)]
    trials: Annotated[list[str], Field(min_length=1)]

    @model_validator(mode="after")
    def nothing_twice(self):
        for key in ("seeds", "models", "tasks", "trials"):
            once(key, getattr(self, key))
        for trial in self.trials:
            if not TRIAL.fullmatch(trial) or trial.count("-") + 1 != len(self.tasks):
                raise ValueError(f"`trials` has {trial!r}; a trial is a lambda for each of {', '.join(self.tasks)}, as "
                                 f"in '{'-'.join(['1'] * len(self.tasks))}'")
        return self
