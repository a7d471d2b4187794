"""The benchmark: it times what passes its check, and nothing else."""

import pytest
import torch

from kernels import bench, cases
from kernels.cpu import gramian


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(cases, "DISTANCE_BENCH", [cases.Distance(2, 1, 16, 4, 8)])
    monkeypatch.setattr(cases, "GRADIENTS_BENCH", [cases.Gradients(2, ((8, 3), (5,)))])
    monkeypatch.setattr(cases, "GRADIENTS_BUILDS", [cases.Gradients(3, ((4,),))])
    monkeypatch.setattr(bench, "SECONDS", 0.0)
    monkeypatch.setattr(bench, "copy_bandwidth", lambda: 1e9)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setenv("KERNELS", "chunked")


def test_every_way_of_every_case_is_timed(small, capsys):
    with pytest.raises(SystemExit) as end:
        bench.main()
    out = capsys.readouterr().out
    assert end.value.code == 0 and out.count("check: passed") == 3
    timed = [line.split()[0] for line in out.splitlines() if " ms " in line]
    assert timed == ["reference", "fused", "one", "matrix", "reference", "fused", "-", "-",
                     "eager", "torch.compile", "reference", "fused"]


def test_words_choose_cases(small, capsys):
    with pytest.raises(SystemExit):
        bench.main("min_norm:", "T3")
    assert capsys.readouterr().out.count("check:") == 1


def test_no_speed_comes_from_a_wrong_result(small, capsys, monkeypatch):
    right = gramian.gramian
    monkeypatch.setattr(gramian, "gramian", lambda gradients: right(gradients) * 1.001)
    with pytest.raises(SystemExit) as end:
        bench.main("gramian,")
    out, err = capsys.readouterr()
    assert end.value.code == 1 and " ms " not in out
    assert "gramian is off by" in out and "gramian is off by" in err


def test_a_compiler_that_is_not_there_is_said(small, capsys, monkeypatch):
    def missing(function, **_):
        def call(*arguments):
            raise RuntimeError("no C++ compiler")
        return call
    monkeypatch.setattr(torch, "compile", missing)
    with pytest.raises(SystemExit) as end:
        bench.main("every gradient")
    assert end.value.code == 0 and "cannot run here: no C++ compiler" in capsys.readouterr().out
