"""Networks and adaptors: released sizes, the contract of every dense family, exact and deterministic unpooling.

Sizes are those of the released classes (KD4MTL, MTAN) less the six or three scalars that nothing there reads.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import heads

import models
from models import segnet
from models.adaptor import Adaptor

NYU, CITY, SEMANTIC = {"semantic": 13, "depth": 1, "normal": 3}, {"semantic": 7, "depth": 1}, {"semantic": 13}
layouts = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
SEGNETS = ["segnet", "segnet-wide", "segnet-deep", "mtan"]
segnets = pytest.mark.parametrize("name", SEGNETS)
dense = pytest.mark.parametrize("name", [*SEGNETS, "resnet", "adamt", "pspnet"])
STAGES = {"pspnet": (8, 8), "adamt": (16, 1)}          # of how many pixels a side of "mid" and "last" is; else 32 and 1


@pytest.fixture(autouse=True, scope="module")
def one_thread():  # layers this small lose more to threads that wait for each other than they gain
    threads = torch.get_num_threads()
    yield torch.set_num_threads(1)
    torch.set_num_threads(threads)


def build(name, tasks=NYU, width=0.125, size=(32, 64)):
    family, *kind = name.split("-")
    torch.manual_seed(0)
    options = {"resnet": {"encoder": 18}, "adamt": {"size": size}}.get(family, {})
    return models.load(family, heads(tasks), width, **options, **({"type": kind[0]} if kind else {}))


def image(*shape):
    return torch.rand(shape or (2, 3, 32, 64), generator=torch.Generator().manual_seed(1))


def count(tensors):
    return sum(tensor.numel() for tensor in tensors)


def same_bits(a, b):  # tells -0.0 from 0.0
    return torch.equal(a.contiguous().view(torch.int32), b.contiguous().view(torch.int32))


@pytest.mark.parametrize("family, tasks, options, expected", [
    ("segnet", NYU, {}, 25_055_185), ("segnet", CITY, {}, 25_017_672), ("segnet", SEMANTIC, {}, 24_981_069),
    ("segnet", NYU, {"type": "wide"}, 43_934_167 - 6), ("segnet", NYU, {"type": "deep"}, 50_807_767 - 6),
    ("mtan", NYU, {}, 44_229_073), ("mtan", CITY, {}, 41_206_984), ("mtan", SEMANTIC, {}, 38_185_805),
    ("mtan", {"depth": 1}, {}, 38_185_025), ("mtan", {"normal": 3}, {}, 38_185_155),
])  # fmt: skip
def test_parameters_count_as_released(family, tasks, options, expected):
    with torch.device("meta"):
        assert count(models.load(family, heads(tasks), **options).parameters()) == expected


def test_parts_count_as_released_and_widths_are_multiples_of_eight():
    assert build("mtan", width=0.05).channels == [8, 8, 16, 24, 24]
    with torch.device("meta"):
        mtan, plain, city = (models.load(family, heads(tasks)) for family, tasks in (
            ("mtan", NYU), ("segnet", NYU), ("segnet", CITY)))
    own = [*(plain.task_parameters(t) for t in NYU), city.task_parameters("semantic")]
    assert [count(head) for head in own] == [37_773, 36_993, 37_123, 37_383]
    assert (count(plain.shared_parameters()), count(plain.buffers())) == (24_943_296, 14_362)
    parts = [*mtan.branches["depth"].children(), mtan.between_down, mtan.between_up]
    assert [count(part.parameters()) for part in parts] == [1_835_648, 1_148_928, 6_272_640, 3_947_520]


@dense
def test_output_follows_the_contract(name):
    model = build(name).train(name != "adamt")          # without its dropout
    c = {"mid": 128 if name in ("segnet-wide", "adamt", "pspnet") else 64,
         "last": {"resnet": 16, "adamt": 16, "pspnet": 256}.get(name, 8)}
    (predictions, features), alone = model(image()), model.features(image())
    assert {t: tuple(p.shape) for t, p in predictions.items()} == {t: (2, k, 32, 64) for t, k in NYU.items()}
    assert model.tap_channels == c and list(features) == list(alone) == list(NYU)
    for task, taps in features.items():
        assert [taps[tap].shape for tap in ("mid", "last")] == [
            (2, c[tap], 32 // n, 64 // n) for tap, n in zip(c, STAGES.get(name, (32, 1)), strict=True)]
        for tap, common in (("mid", name != "mtan"), ("last", name.startswith(("segnet", "pspnet")))):
            assert taps[tap].any() and torch.equal(taps[tap], alone[task][tap])
            assert (taps[tap] >= 0).all() == ((name, tap) != ("adamt", "mid"))
            if task != "depth":
                shared = taps[tap] is features["depth"][tap]
                assert shared == common == torch.equal(taps[tap], features["depth"][tap])
    torch.testing.assert_close(predictions["semantic"].exp().sum(1), torch.ones(2, 32, 64))
    torch.testing.assert_close(predictions["normal"].square().sum(1), torch.ones(2, 32, 64))
    assert torch.equal(predictions["depth"], model.heads["depth"](features["depth"]["last"]))


def calls(*parts):
    """A list that will hold the weights of these modules' convolutions, in the order in which they run."""
    called = []
    for part in torch.nn.ModuleList(parts).modules():
        if isinstance(part, torch.nn.Conv2d):
            part.register_forward_hook(lambda part, *_: called.append(part.weight))
    return called


@pytest.mark.parametrize("tasks", [NYU, {"depth": 1}], ids=len)
@dense
def test_parameters_are_partitioned_as_the_gradients_flow(name, tasks):
    model = build(name, tasks)
    ours, called = [model.shared_parameters()], calls(model)
    predictions = model(image())[0]
    for task in tasks:
        model.zero_grad()
        predictions[task].sum().backward(retain_graph=True)
        ours.append(model.task_parameters(task))
        reached = [id(p) for p in model.parameters() if p.grad is not None]
        assert set(reached) == {id(p) for p in ours[0] + ours[-1]}
        own = {id(p) for p in ours[-1]}
        assert model.first_own(task) is next(weight for weight in called if id(weight) in own)
        assert ours[-1] == [*model.attention_parameters(task), *model.head_parameters(task)]
        assert model.head_parameters(task) == list(model.heads[task].parameters())
    assert sorted(id(p) for group in ours for p in group) == sorted(map(id, model.parameters()))
    assert not [k for k in model.state_dict() for t in NYU if t not in tasks and t in k]


@segnets
def test_last_shared_is_the_last_convolution_of_the_trunk(name):
    model = build(name)
    called = calls(model.encoder, model.decoder)
    model.features(image())
    assert model.last_shared() == [called[-1]] and called[-1].shape == (8, 8, 3, 3)
    assert len(called) == (52 if name == "segnet-deep" else 26)


def test_mtan_wiring_is_that_of_the_method_note():
    model, indices, e = build("mtan", {"depth": 1}), [], []
    gates, v = model.branches["depth"], image()
    for i in range(5):  # section 2.4 in its own letters
        p = model.encoder[i].first(v)
        u = model.encoder[i].rest(p)
        mask = gates.encoder[i](torch.cat((p, *e[-1:]), 1))
        e.append(F.max_pool2d(model.between_down[i](mask * u), 2))
        v, index = F.max_pool2d(u, 2, return_indices=True)
        indices.append(index)
    d = e[4]
    for j in range(5):
        r = F.max_unpool2d(v, indices.pop(), 2)
        v = model.decoder[j](r)
        g = model.between_up[j](F.interpolate(d, scale_factor=2, mode="bilinear", align_corners=True))
        d = gates.decoder[j](torch.cat((r, g), 1)) * v
    torch.testing.assert_close(model.features(image())["depth"], {"mid": e[4], "last": d})


@segnets
def test_initialisation_is_xavier_and_follows_the_seed(name):
    a, b = build(name, width=0.25), build(name, width=0.25)
    for (key, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q)
        if p.dim() == 1:
            assert (p == (0 if key.endswith("bias") else 1)).all(), key
        elif p.numel() > 1000:
            fans = (p.shape[0] + p.shape[1]) * p.shape[2] * p.shape[3]
            assert abs(p.std() * (fans / 2) ** 0.5 - 1) < 0.1, key


@layouts
@pytest.mark.parametrize("compare", [False, True, None])
@pytest.mark.parametrize("size", [(12, 6), (13, 6), (12, 7), (3, 5)], ids=str)
@pytest.mark.parametrize("scale", [1e3, 1.0, 0.0])  # no ties, ties, and only zeros of both signs
def test_unpool_equals_torch_bit_for_bit(layout, compare, scale, size):
    x = image(2, 5, *size).sub(0.5).mul(scale).round().contiguous(memory_format=layout)
    pooled, indices = F.max_pool2d(x, 2, return_indices=True)
    ours, theirs = (pooled.clone().requires_grad_() for _ in range(2))
    y, expected = segnet.unpool(ours, indices, size, compare), F.max_unpool2d(theirs, indices, 2, output_size=size)
    assert same_bits(y, expected) and y.is_contiguous(memory_format=layout)
    for result in (y, expected):
        result.backward(image(2, 5, *size))
    assert same_bits(ours.grad, theirs.grad)


@dense
@layouts
def test_step_repeats_bit_for_bit_in_deterministic_mode(name, layout):
    def step():
        model = build(name).to(memory_format=layout)
        predictions, features = model(image().contiguous(memory_format=layout))
        sum(p.square().mean() for p in predictions.values()).backward()
        return [p.grad for p in model.parameters()] + [features["depth"]["last"].detach()]

    torch.use_deterministic_algorithms(True)
    try:
        pairs = list(zip(step(), step(), strict=True))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(same_bits(a, b) and a.isfinite().all() for a, b in pairs)


@pytest.mark.parametrize("kind, pair", [("linear", 266_240), ("nonlinear", 1_064_960), ("none", 0)])
def test_adaptor_is_its_last_map_after_what_precedes_it(kind, pair):
    c, d = 6, 6 if kind == "none" else 10
    assert sum(count(Adaptor(kind, n, n).parameters()) for n in (512, 64)) == pair
    adaptor, x = Adaptor(kind, c, d), torch.randn(2, c, 3, 4)
    y, prepared = adaptor(x), adaptor.prepare(x)
    weight = torch.eye(c) if kind == "none" else adaptor.weight
    torch.testing.assert_close(y, torch.einsum("dc,bchw->bdhw", weight, prepared))
    assert (prepared is x) == (kind != "nonlinear") and (prepared >= 0).all() == (kind == "nonlinear")
    assert (adaptor.weight is None) == (kind == "none") and y.shape == (2, d, 3, 4)
    torch.testing.assert_close(adaptor(x[:, :, 1, 2]), y[:, :, 1, 2])


@dense
@pytest.mark.parametrize("size", [(48, 64), (33, 71)], ids=str)
def test_any_size_from_32_on_goes_through(name, size):
    sides = build(name).sides
    size = tuple(n // sides * sides for n in size)
    predictions, features = build(name, size=size)(image(2, 3, *size))
    middle, last = STAGES.get(name, (32, 1))
    for task, prediction in predictions.items():
        assert prediction.shape[2:] == size and features[task]["last"].shape[2:] == tuple(n // last for n in size)
        assert features[task]["mid"].shape[2:] == tuple(
            math.ceil(n / middle) if name == "resnet" else n // middle for n in size)


@dense
@layouts
def test_predictions_are_float32_under_autocast(name, layout):
    model = build(name).to(memory_format=layout)
    with torch.autocast("cpu", torch.bfloat16):
        predictions, features = model(image().contiguous(memory_format=layout))
    assert {x.dtype for taps in features.values() for x in taps.values()} == {torch.bfloat16}
    assert {p.dtype for p in predictions.values()} == {torch.float32}
    sum(p.square().mean() for p in predictions.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("call, sentence", [
    (lambda: models.load("resnet9", heads(NYU)), "`resnet9` .* Those that exist: adamt, lenet, mtan, pspnet, resnet"),
    (lambda: models.load("resnet", {}), r"one or more. Found \{\}"),
    (lambda: models.load("segnet", heads(NYU), 0), "Found `width = 0`"),
    (lambda: models.load("segnet", heads(NYU), type="tall"), "standard, wide, deep. Found `type = tall`"),
    (lambda: build("segnet")(image(2, 3, 64, 31)), r"at least 32. Found \(2, 3, 64, 31\)"),
    (lambda: build("mtan").features(image(2, 1, 64, 64)), r"Found \(2, 1, 64, 64\)"),
    (lambda: Adaptor("cubic", 8, 8), "linear, nonlinear, none. Found `kind = cubic`"),
    (lambda: Adaptor("none", 8, 16), "Found 8 and 16"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_with_its_value(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
