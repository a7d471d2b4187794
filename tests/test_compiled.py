"""COMPILE: the same step by torch.compile, and eager, loudly, where that does not work."""

import pytest
import torch
from conftest import heads

import models
from pipeline.loop import compiled
from pipeline.runtime.errors import UserError

IMAGE = torch.rand(2, 3, 32, 64).to(memory_format=torch.channels_last)


@pytest.fixture
def model():
    torch.manual_seed(0)
    built = models.load("segnet", heads({"depth": 1, "normal": 3}), width=0.125)
    return built.to(memory_format=torch.channels_last)


def test_off_is_the_network_itself(model, monkeypatch):
    monkeypatch.delenv("COMPILE", raising=False)
    assert compiled.trunk_of(model, IMAGE, "float32") == (model.features, "eager")


def test_what_cannot_be_compiled_goes_on_eager_and_says_so(model, monkeypatch, capsys):
    def fails(*_, **__):
        def call(_):
            raise RuntimeError("no C++ compiler\nin sight")
        return call
    monkeypatch.setattr(torch, "compile", fails)
    monkeypatch.setenv("COMPILE", "on")
    trunk, way = compiled.trunk_of(model, IMAGE, "float32")
    assert trunk == model.features and way == "eager, since COMPILE=on failed"
    assert capsys.readouterr().err == ("warning: COMPILE=on does not work here (RuntimeError: no C++ compiler in "
                                       "sight); going on eager\n")


def test_graphs_need_a_gpu(model, monkeypatch, capsys):
    monkeypatch.setenv("COMPILE", "graphs")
    assert compiled.trunk_of(model, IMAGE, "float32")[0] == model.features
    assert "CUDA graphs need a GPU" in capsys.readouterr().err


def test_unknown_word(model, monkeypatch):
    monkeypatch.setenv("COMPILE", "yes")
    with pytest.raises(UserError, match="COMPILE is 'yes'; it can be off, on, graphs"):
        compiled.trunk_of(model, IMAGE, "float32")


def test_trying_leaves_no_trace(model, monkeypatch):
    """The network's buffers are as before, and no parameter has a gradient; whatever the compiler is."""
    monkeypatch.setattr(torch, "compile", lambda function, mode: function)
    monkeypatch.setenv("COMPILE", "on")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trunk, way = compiled.trunk_of(model, IMAGE, "float32")
    assert way == "compiled (default)"
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    trunk(IMAGE)
    assert any(not torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.slow
def test_compiled_trunk_follows_the_eager_one(model, monkeypatch):
    """Predictions and every kind of gradient that a balancer takes: of the maps, and twice of the parameters."""
    monkeypatch.setenv("COMPILE", "on")
    image = IMAGE.double()                  # rounding alone moves a pooled maximum, and 3e-3 of the gradient with it
    trunk, way = compiled.trunk_of(model.double(), image, "float32")
    assert way == "compiled (default)"
    found = []
    for features in (trunk(image), model.features(image)):
        predictions = model.predict(features)
        losses = [p.square().mean() for p in predictions.values()]
        shared = model.shared_parameters()
        numbers = [*predictions.values(), *torch.autograd.grad(losses[0], features["depth"]["last"], retain_graph=True)]
        numbers += [g for loss in losses for g in torch.autograd.grad(loss, shared, retain_graph=True)]
        found.append(torch.cat([x.detach().flatten() for x in numbers]))
    assert (found[0] - found[1]).norm() < 1e-9 * found[1].norm()
