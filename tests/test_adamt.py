"""AdaMT-Net: sizes of the released object, the note's wiring, its learned tensors, dropout while it trains."""

import pytest
import torch
import torch.nn.functional as F
from conftest import heads

import models

CITY, SIZE = {"semantic": 7, "depth": 1}, (32, 64)


def build(tasks=CITY, width=0.125, size=SIZE, **options):
    torch.manual_seed(0)
    return models.load("adamt", heads(tasks), width, size=size, **options)


def image(batch=2, height=32, width=64):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def count(parameters):
    return sum(p.numel() for p in parameters)


@pytest.mark.parametrize("classes, batch, size, expected", [
    (7, 8, (128, 256), 49_136_064), (13, 4, (288, 384), 70_763_328)])
def test_parameters_count_as_released(classes, batch, size, expected):
    tasks, a_row = {"semantic": classes, "depth": 1}, 2 * 60 * size[0] * size[1]
    with torch.device("meta"):
        model = models.load("adamt", heads(tasks), size=size, batch=batch, attention="per_sample")
        shared = models.load("adamt", heads(tasks), size=size, batch=batch)
    assert count(model.parameters()) == expected
    assert count(p for decoder in model.decoders.values() for p in decoder.attention) == batch * a_row
    assert count(shared.parameters()) == expected - (batch - 1) * a_row
    assert [tuple(p.shape) for p in shared.decoders["depth"].attention] == [
        (1, 256 >> level, size[0] >> 3 - level, size[1] >> 3 - level) for level in range(4)]
    assert model.last_shared() == [model.bottleneck.weight] and model.bottleneck.weight.shape == (1024, 960, 1, 1)
    assert count(model.bottleneck.parameters()) == 1024 * 961 and model.tap_channels == {"mid": 1024, "last": 64}


def test_wiring_is_that_of_the_method_note_with_its_dropout():
    model = build({"depth": 1})
    enc, dec, pool = model.encoder, model.decoders["depth"], torch.nn.MaxPool2d(2)

    def up(x):
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)

    torch.manual_seed(2)
    b1 = enc[0](image())  # section 4.8 in its own letters
    b2 = enc[1](pool(F.dropout2d(b1, 0.5)))
    b3 = enc[2](torch.cat((pool(F.dropout2d(b2, 0.5)), pool(pool(b1))), 1))
    b4 = enc[3](torch.cat((pool(F.dropout2d(b3, 0.5)), pool(pool(b2)), pool(pool(pool(b1)))), 1))
    d = mid = model.bottleneck(torch.cat((pool(F.dropout2d(b4, 0.5)), pool(pool(b3)), pool(pool(pool(b2))),
                                          pool(pool(pool(pool(b1))))), 1))
    for i, b in enumerate((b4, b3, b2, b1)):
        l1 = dec.first[i](torch.cat((up(d), b), 1))
        l2 = dec.second[i](l1)
        assert 0 <= l1.min() and l1.max() <= 1
        d = F.dropout2d(torch.cat((l2, dec.attention[i] * l1 * l2), 1), 0.5)
    torch.manual_seed(2)
    torch.testing.assert_close(model.features(image())["depth"], {"mid": mid, "last": d})


@pytest.mark.parametrize("attention", ["shared", "per_sample"])
def test_image_takes_its_row(attention):
    model = build(batch=2, attention=attention).eval()
    for i in range(3):          # one image more than rows
        model.zero_grad()
        model(image(3))[0]["depth"][i].sum().backward()
        for p in model.decoders["depth"].attention:
            used = p.grad.flatten(1).any(1).tolist()
            assert used == ([True] if attention == "shared" else [i % 2 == 0, i % 2 == 1])
    rows = model.decoders["semantic"].attention[0]
    with torch.no_grad():
        rows[-1] += 1
    changed = (model(image(3))[0]["semantic"] != build(batch=2, attention=attention).eval()(image(3))[0]["semantic"])
    assert changed.flatten(1).any(1).tolist() == ([True] * 3 if attention == "shared" else [False, True, False])


def test_dropout_takes_whole_channels_while_it_trains_only():
    model = build(width=0.5)
    with torch.no_grad():
        first, second = (model.features(image())["depth"]["last"] for _ in range(2))
        gone = (first == 0).flatten(2).all(2)
        assert 0.2 < gone.float().mean() < 0.8 and (gone == (first == 0).flatten(2).any(2)).all()
        assert not torch.equal(first, second)
        model.eval()
        first, second = (model.features(image())["depth"]["last"] for _ in range(2))
    assert torch.equal(first, second) and (first > 0).all()


def test_first_weights_are_torchs_own_and_the_attention_uniform():
    for (key, p), q in zip(build(width=0.5).named_parameters(), build(width=0.5).parameters(), strict=True):
        assert torch.equal(p, q)
        if "attention" in key:
            assert 0 <= p.min() and p.max() < 1 and abs(p.mean() - 0.5) < 0.02 and abs(p.std() - 12**-0.5) < 0.02
        elif p.dim() == 4:
            bound = p[0].numel() ** -0.5            # uniform: variance a third of its square
            assert p.abs().max() <= bound and (p.numel() < 1000 or abs(p.std() / bound * 3**0.5 - 1) < 0.1), key


@pytest.mark.parametrize("call, sentence", [
    (lambda: build(attention="own"), "shared, per_sample. Found `attention = own`"),
    (lambda: build(batch=0, attention="per_sample"), "Found `batch = 0`"),
    (lambda: build()(image(2, 64, 32)), r"for images of \(32, 64\). Found \(64, 32\)"),
    (lambda: build(size=(16, 64))(image(2, 16, 64)), r"at least 32. Found \(2, 3, 16, 64\)"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_with_its_value(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
