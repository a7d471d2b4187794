"""The hot loop of five methods, run on the CPU: how often a step reads a tensor's values on the host, which would wait
for a device. Copies to a device, and the methods that are solved on the host, are not looked at."""

import pytest
import torch
from conftest import change, file_of, run
from torch.utils._python_dispatch import TorchDispatchMode

from kernels import reference
from pipeline import balancers, train

CONSISTENT = """  consistent:
    title: consistent
    objective: consistency
    balancer: uncertainty
    consistency: {lambda: {semantic: 0.1, depth: 0.2, normal: 0.3}}
"""
READS = ("_local_scalar_dense", "nonzero", "equal")


class Reads(TorchDispatchMode):
    """Counts what reads a tensor's values on the host."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.count = 0
        for name in ("tolist", "cpu", "numpy"):
            monkeypatch.setattr(torch.Tensor, name, self.counted(getattr(torch.Tensor, name)))

    def counted(self, original):
        def call(tensor, *arguments, **named):
            self.count += 1
            return original(tensor, *arguments, **named)
        return call

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        self.count += function.overloadpacket.__name__ in READS
        return function(*arguments, **(named or {}))


def reads(monkeypatch, batch, *words):
    """How often a training whose epochs have 8 / batch steps reads a tensor on the host."""
    text = file_of("rooms").read_text()
    change(("rows: [uniform]", "rows: [uniform, consistent]"), ("\nmethods:\n", f"\nmethods:\n{CONSISTENT}"),
           ("epochs: 2, batch: 4", f"epochs: 2, batch: {batch}"))
    with monkeypatch.context() as patches, Reads(patches) as counter:
        run(train, "rooms", *words, "0")
    file_of("rooms").write_text(text)
    return counter.count


@pytest.mark.parametrize("words", [("baseline", "segnet", "uniform"), ("student", "segnet", "ours"),
                                   ("wide", "segnet", "famo"), ("wide", "segnet", "aligned-ub"),
                                   ("baseline", "segnet", "consistent")])
def test_more_steps_read_nothing_more(copy, monkeypatch, words):
    """Twice the steps an epoch, as many reads: of the epoch's sums, the measurement and the checkpoint."""
    monkeypatch.setenv("KERNELS", "reference")
    # it reads the lambdas, but only where they lie on the host
    monkeypatch.setattr(reference, "check_distance", lambda *_: None)
    assert reads(monkeypatch, 4, *words) == reads(monkeypatch, 2, *words) > 0


def test_a_read_in_the_loop_is_seen(copy, monkeypatch):
    original = balancers.backward

    def peeks(*arguments):
        weights, gramian = original(*arguments)
        weights[0].item()
        return weights, gramian
    monkeypatch.setattr(balancers, "backward", peeks)
    few, many = (reads(monkeypatch, batch, "baseline", "segnet", "uniform") for batch in (4, 2))
    assert many - few == 4              # two more steps in each of two epochs
