"""What a suite's params.yaml may hold: its sections and their types; `pipeline.config.params` reads it.

What a data set, a network, a balancer or an objective takes stands in its own file; here is what all suites have.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.options.types import Batch, BelowOne, Count, Name, Natural, NonNegative, Positive, Section, Share, once

Augment = Literal["none", "crop", "rotate"]             # but for none ways of `pipeline.data.augment`
Rule = Literal["last", "last10", "median20", "train_loss", "best_test"]
Seeds = Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1)]
TRIAL = re.compile(r"\d+(\.\d+)?(-\d+(\.\d+)?)*")
SETS = {          # the sets of groups whose metrics a table stage of dvc.yaml waits for, beside the teachers'
    "main": ("baseline", "student"), "ablation": ("student", "ablation"), "wide": ("baseline", "wide", "student"),
    "chain": ("baseline", "derived", "refined"), "all": ("baseline", "wide", "student", "ablation"),
    "quirks": ("student",)}


class Images(Section):
    """Sizes and numbers of images; null: all there are. Where an image has a label of one task only, {task: number}."""
    height: Count
    width: Count
    train: Count | dict[Name, Count | None] | None
    test: Count | dict[Name, Count | None] | None
    target_stride: Count = 1                             # 8: a target for every eighth pixel of a row and of a column


class Training(Section):
    epochs: Count
    batch: Batch
    lr: Positive
    beta2: BelowOne = 0.999                              # Adam's
    schedule: Literal["constant", "step", "onecycle"]
    step_every: Count | None = None
    step_factor: Annotated[float, Field(gt=0, le=1)] | None = None
    step_from: Count | None = None                       # no step after an epoch before this one; null: from the first
    width: Annotated[float, Field(gt=0, le=4)]
    precision: Literal["float32", "bfloat16"] = "float32"
    augment: Augment = "none"

    @model_validator(mode="after")
    def step_is_told(self):
        if (self.schedule == "step") != (self.step_every is not None and self.step_factor is not None):
            raise ValueError("`schedule: step` and the keys `step_every` and `step_factor` go together, "
                             f"found schedule {self.schedule!r}, step_every {self.step_every}, "
                             f"step_factor {self.step_factor}")
        if self.schedule != "step" and self.step_from is not None:
            raise ValueError(f"`step_from` is {self.step_from}, but schedule {self.schedule!r} has no steps; set it to "
                             "null")
        return self


class AdaptorTraining(Section):
    lr: Positive
    l2: NonNegative
    schedule: Literal["constant", "cosine"] = "constant"


class Protocol(Section):
    """How the suite is trained under one protocol; `train` has a section a network, over its `default`."""
    data: Images
    train: dict[Name, Training]
    adaptor: AdaptorTraining

    @model_validator(mode="after")
    def a_batch_fits(self):
        for model, training in self.train.items():
            if isinstance(self.data.train, int) and training.batch > self.data.train:
                raise ValueError(f"`train.{model}.batch` is {training.batch} but `data.train` has {self.data.train} "
                                 "images")
        return self


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


class Group(Section):
    """A group of rows, trained by the stage of its name: every row on every network."""
    models: list[Name]
    rows: list[str]

    @model_validator(mode="after")
    def nothing_twice(self):
        once("models", self.models)
        once("rows", self.rows)
        return self


class Parent(Section):
    group: Name
    row: Name


class Derived(Group):
    """Rows that all begin from the weights of one run."""
    after: Parent
    changes: Annotated[dict[str, Any], Field(alias="with")] = {}


class Refined(Group):
    """Rows that begin from the weights of the run of the same name in another group."""
    after: Name
    changes: Annotated[dict[str, Any], Field(alias="with")] = {}


class Printed(Section):
    """What a table shows: its heading, the groups of its rows in their order, and its networks (null: all of those)."""
    heading: str
    rows: list[Name]
    models: list[Name] | None = None
    paper: bool = True                      # whether the numbers of the file `paper` may stand beside ours
    definition: Literal["official", "masked", "dataset"] = "official"       # of the metrics, which the paper's code had


class Search(Section):
    """A search for lambda on images held out of a suite's training set; its trials are the rows of `student`."""
    method: Name
    hold_out: Share
    seed: Natural


class Suite(Section):
    """One params.yaml. The first keys are dvc.yaml's: the same file serves every suite."""
    suite: Name
    root: str
    params_file: str
    reads: str
    paper: str
    prepare: list[Literal["data"]]
    searches: list[Name]
    protocol: Name
    data: Name
    seeds: Seeds
    selection: Rule
    official_batch: Batch
    teacher: Group
    baseline: Group
    wide: Group
    student: Group
    ablation: Group
    derived: Derived
    refined: Refined
    tables: dict[Literal["main", "ablation", "wide", "chain", "all", "quirks"], list[Name]]
    printed: dict[Name, Printed]
    datasets: dict[Name, Any]
    protocols: dict[Name, Protocol]
    architectures: dict[Name, Any]
    features: Features
    methods: dict[Name, Any]
    switches: Switches
    search: Search | None = None

    @model_validator(mode="after")
    def nothing_twice(self):
        once("seeds", self.seeds)
        return self
