"""LeNet: the models' contract with vectors as features, parameters to the unit, any size, bits that repeat."""

import pytest
import torch
import torch.nn.functional as F
from conftest import heads

import models
from models import lenet

TASKS, WIDTH = {"digits": 10, "characters": 100}, 0.25


def build(tasks=TASKS, width=WIDTH):
    torch.manual_seed(0)
    return models.load("lenet", heads(tasks), width)


def image(batch=4, height=32, width=32):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def count(parameters):
    return sum(p.numel() for p in parameters)


def test_parameters_count_to_the_unit():
    convolutions, connected = 32 * (3 * 25 + 1) + 64 * (32 * 25 + 1), 512 * (64 * 25 + 1)
    with torch.device("meta"):
        model = models.load("lenet", heads({"digits": 10, "characters": 1623}))
        alone = [models.load("lenet", heads({task: k})) for task, k in (("digits", 10), ("characters", 1623))]
    assert count(model.shared_parameters()) == convolutions + connected == 873_408
    assert [count(model.task_parameters(task)) for task in model.heads] == [5_130, 832_599]
    assert [count(each.parameters()) for each in (model, *alone)] == [1_711_137, 878_538, 1_706_007]
    assert not list(model.buffers())


def test_output_follows_the_contract():
    model = build()
    (predictions, features), alone = model(image()), model.features(image())
    assert {task: tuple(p.shape) for task, p in predictions.items()} == {"digits": (4, 10), "characters": (4, 100)}
    assert list(features) == list(alone) == list(TASKS) and model.tap_channels == {"last": 128}
    last = features["digits"]["last"]
    assert all(list(taps) == ["last"] and taps["last"] is last for taps in features.values())
    assert last.shape == (4, 128) and (last >= 0).all() and torch.equal(last, alone["characters"]["last"])
    for task, prediction in predictions.items():
        torch.testing.assert_close(prediction.exp().sum(1), torch.ones(4))
        assert torch.equal(prediction, F.log_softmax(model.heads[task](last), 1))
        assert torch.equal(prediction, model.predict(features)[task])


@pytest.mark.parametrize("tasks", [TASKS, {"characters": 100}], ids=len)
def test_parameters_are_partitioned_as_the_gradients_flow(tasks):
    model = build(tasks)
    predictions, ours = model(image())[0], [model.shared_parameters()]
    for task in tasks:
        model.zero_grad()
        predictions[task][:, 0].sum().backward(retain_graph=True)
        ours.append(model.task_parameters(task))
        assert ours[-1] == model.head_parameters(task) and model.attention_parameters(task) == []
        reached = {id(p) for p in model.parameters() if p.grad is not None}
        assert reached == {id(p) for p in ours[0] + ours[-1]}
        assert model.first_own(task) is model.heads[task].weight
    assert sorted(id(p) for group in ours for p in group) == sorted(map(id, model.parameters()))
    assert model.last_shared() == [ours[0][-2]] and ours[0][-2].shape == (128, 16 * 25)


def test_initialisation_is_xavier_and_follows_the_seed():
    for (key, p), q in zip(build(width=1).named_parameters(), build(width=1).parameters(), strict=True):
        assert torch.equal(p, q)
        if key.endswith("bias"):
            assert not p.any()
        else:
            fans = (p.shape[0] + p.shape[1]) * p[0, 0].numel()
            assert abs(p.std() * (fans / 2) ** 0.5 - 1) < 0.05, key


@pytest.mark.parametrize("size", [(28, 28), (31, 47), (64, 64), (105, 28)], ids=str)
def test_any_size_from_28_on_is_averaged_to_the_grid(size):
    model, x = build(), image(2, *size)
    for convolution in model.convolutions:
        x = F.max_pool2d(F.relu(convolution(x)), 2)
    h, w = x.shape[2:]
    fine = x.repeat_interleave(5, 2).repeat_interleave(5, 3)          # every fifth is whole pixels of this
    expected = F.relu(model.connected(F.avg_pool2d(fine, (h, w)).flatten(1)))
    torch.testing.assert_close(model.features(image(2, *size))["digits"]["last"], expected)


def test_the_grid_of_32_is_taken_as_it_is():
    assert torch.equal(lenet.fifths(5, "cpu"), torch.eye(5, dtype=torch.float64))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("size", [32, 40])
def test_step_repeats_bit_for_bit_in_deterministic_mode(size, layout):
    def step():
        model = build().to(memory_format=layout)
        predictions, features = model(image(4, size, size).contiguous(memory_format=layout))
        sum(p.square().mean() for p in predictions.values()).backward()
        return [p.grad for p in model.parameters()] + [features["digits"]["last"].detach()]

    torch.use_deterministic_algorithms(True)
    assert all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(step(), step(), strict=True))


def test_heads_speak_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        predictions, features = build()(image(2, 40, 40))
    assert features["digits"]["last"].dtype == torch.bfloat16
    assert {p.dtype for p in predictions.values()} == {torch.float32}


def test_it_learns_what_a_label_is():
    model, x, y = build({"digits": 2}), image(64), torch.arange(64) % 2
    x[y == 1, :, :16] += 0.5
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(30):
        optimiser.zero_grad()
        F.nll_loss(model(x)[0]["digits"], y).backward()
        optimiser.step()
    assert (model(x)[0]["digits"].argmax(1) == y).all()


@pytest.mark.parametrize("call, sentence", [
    (lambda: models.load("lenet", {}), r"Found \{\}"),
    (lambda: models.load("lenet", heads(TASKS), 0), "Found `width = 0`"),
    (lambda: build()(image(2, 27, 32)), r"at least 28. Found \(2, 3, 27, 32\)"),
    (lambda: build()(image()[:, :1]), r"Found \(4, 1, 32, 32\)"),
    (lambda: build()(image()[0]), r"Found \(3, 32, 32\)"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_with_its_value(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
