"""Types of options: of what params.yaml holds, and of a class's keyword-only parameters in their annotations."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

# Names of rows, networks and suites become parts of file and stage names.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*(-[a-z0-9_]+)*$")]
# The upper ends leave room for whatever can run, and out what cannot: float32 ends at 3e38, memory sooner.
Count = Annotated[int, Field(ge=1, le=10**8)]
Batch = Annotated[int, Field(ge=1, le=2**16)]
Natural = Annotated[int, Field(ge=0, lt=2**63)]
Finite = Annotated[float, Field(ge=-1e30, le=1e30, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, le=1e30, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, le=1e30, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Folder = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=False)


def once(key, values):
    if len(set(values)) < len(values):
        raise ValueError(f"`{key}` names something twice: {values}")
