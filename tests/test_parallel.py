"""`make -jN`: jobs and their GPUs; what they run is told by tests/test_dag.py."""

import pytest

from pipeline import parallel
from pipeline.runtime.errors import UserError


def test_jobs_have_gpus_of_their_own():
    assert parallel.places(3, [], 1) == [None] * 3
    assert parallel.places(3, ["0", "1"], 1) == ["0", "1", "0"]
    assert parallel.places(2, ["0", "1", "2", "3", "4"], 2) == ["0,1", "2,3"]
    with pytest.raises(UserError, match="NPROC is 4 but there are 2 GPUs"):
        parallel.places(1, ["0", "1"], 4)


@pytest.mark.parametrize("asked", ["0", "many"])
def test_jobs_are_a_number(asked):
    with pytest.raises(UserError, match=f"'{asked}' jobs"):
        parallel.main(asked)
