"""What a row of params.yaml's `methods` may hold, an objective a class."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.config.schema import AdaptorTraining, Augment, SomeSwitches
from pipeline.options.types import Name, NonNegative, Section, once


class Balanced(Section):
    title: str
    balancer: Name
    options: dict[Name, Any] = {}          # of the balancer; its class has them, with their defaults
    augment: Augment | None = None         # else the protocol's
    switches: SomeSwitches = SomeSwitches()


class Supervised(Balanced):
    objective: Literal["supervised"]


class Consistency(Section):
    lambda_: Annotated[dict[Name, Annotated[float, Field(ge=0, le=1)]], Field(alias="lambda")] = {}
    pairs: list[str] | None = None                     # null: every two of the suite's tasks
    targets: Literal["predictions", "labels"] = "predictions"
    group: Literal["source", "target"] = "source"
    semantic: Literal["cross", "kl"] = "cross"
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    depth: Literal["l1", "ssim"] = "l1"
    direct: Literal["l1", "mse", "log_l1", "smooth_l1"] = "l1"
    void: Literal["skip", "zero", "keep"] = "skip"
    holes: Literal["skip", "keep"] = "skip"
    batch_norm: bool = False                           # of the transfer nets
    wide: bool = False

    @model_validator(mode="after")
    def every_key_is_read(self):
        unread = ("smoothing",) if self.semantic == "kl" else ()
        if self.targets == "labels":
            unread = ("semantic", "smoothing", "depth", "void")
        for key in unread:
            if (value := getattr(self, key)) != type(self).model_fields[key].default:
                raise ValueError(f"`{key}` is {value!r}, which nothing reads with "
                                 f"`{'semantic: kl' if self.targets != 'labels' else 'targets: labels'}`; leave it out")
        return self

    @model_validator(mode="after")
    def pairs_are_two_tasks(self):
        once("pairs", ["-".join(sorted(pair.split("-"))) for pair in self.pairs or []])
        for pair in self.pairs or []:
            if len(set(pair.split("-"))) != 2 or pair.count("-") != 1:
                raise ValueError(f"`pairs` has {pair!r}; a pair is two tasks, as in 'semantic-depth'")
        return self


class Consistent(Balanced):
    objective: Literal["consistency"]
    consistency: Consistency


class FeatureDistillation(Balanced):
    objective: Literal["feature_distillation"]
    taps: Annotated[list[Name], Field(min_length=1)]
    adaptor: Literal["linear", "nonlinear", "none"]
    lambda_: Annotated[dict[Name, NonNegative], Field(alias="lambda")]
    teacher_bn: Literal["running", "batch"]
    teacher: Literal["train_loss", "last", "last_batch"] | None = None      # else that of `features`
    towards: Literal["own", "last"] = "own"
    loss: Literal["l2", "l1", "cosine", "cka"] = "l2"
    adaptor_init: Literal["xavier", "torch"] = "xavier"
    adaptor_training: AdaptorTraining | None = None                         # else the protocol's

    @model_validator(mode="after")
    def another_tap_needs_an_adaptor(self):
        if self.towards == "last" and "mid" in self.taps and self.adaptor == "none":
            raise ValueError("`towards: last` leads `mid` to another number of channels, which `adaptor: none` cannot; "
                             "set `adaptor: linear`")
        return self


class PredictionDistillation(FeatureDistillation):
    objective: Literal["prediction_distillation"]
    taps: list[Name]
    temperature: Annotated[float, Field(ge=1e-3, le=1e3)]
    anneal: Literal["linear", "none"]


class ConsistentDistillation(FeatureDistillation):
    objective: Literal["consistent_distillation"]
    consistency: Consistency


Method = Annotated[Supervised | Consistent | FeatureDistillation | PredictionDistillation | ConsistentDistillation,
                   Field(discriminator="objective")]
