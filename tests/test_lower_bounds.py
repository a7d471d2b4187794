"""The constraints of `make test-lower-bounds` come from pyproject.toml and name every package's oldest version."""

import pytest
from conftest import ROOT
from lower_bounds import constraints, lowest


@pytest.mark.parametrize("requirement, constraint", [
    ("torch>=2.11", "torch==2.11"), ("dvc>=3.67,<4", "dvc==3.67"),
    ("torchjd[quadprog-projector,cagrad]>=0.18", "torchjd==0.18"),
    ("triton>=3.6; platform_system == 'Linux'", "triton==3.6; platform_system == 'Linux'")])
def test_the_lowest_version_loses_extras_and_upper_bounds_and_keeps_its_condition(requirement, constraint):
    assert lowest(requirement) == constraint


@pytest.mark.parametrize("requirement", ["matplotlib", "numpy<3", "scipy==1.13"])
def test_a_requirement_without_a_lower_bound_is_refused(requirement):
    with pytest.raises(ValueError, match=f"'{requirement}' in pyproject.toml has no lower bound"):
        lowest(requirement)


def test_every_requirement_of_the_project_has_one_lower_bound():
    names = [line.split("==")[0] for line in constraints((ROOT / "pyproject.toml").read_text())]
    assert {"torch", "triton", "numpy", "dvc", "pydantic", "pytest"} <= set(names)
    assert len(names) == len(set(names))
