"""XTasC-Net's direct network: released sizes, torchvision's encoder and its weights, the note's decoder."""

import urllib.error

import pytest
import torch
import torch.nn.functional as F
import torchvision
from conftest import heads

import models
from models.resnet import Encoder
from models.transfer import TransferNet

CITY = {"semantic": 7, "depth": 1}
PARAMETERS = {  # encoder -> its own; with decoders and both transfer nets for 7, 13 and 19 classes
    18: (11_176_512, (21_445_184, 21_449_792, 21_454_400)), 34: (21_284_672, (31_553_344, 31_557_952, 31_562_560)),
    50: (23_508_032, (40_412_224, 40_416_832, 40_421_440)), 101: (42_500_160, (59_404_352, 59_408_960, 59_413_568)),
    152: (58_143_808, (75_048_000, 75_052_608, 75_057_216)),
}  # fmt: skip


def build(tasks=CITY, width=0.125, **options):
    torch.manual_seed(0)
    return models.load("resnet", heads(tasks), width, **options)


def image(batch=2, height=32, width=64):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def count(*parts):
    return sum(p.numel() for part in parts for p in part.parameters())


@pytest.mark.parametrize("encoder", PARAMETERS)
def test_parameters_count_as_released(encoder):
    alone, totals = PARAMETERS[encoder]
    with torch.device("meta"):
        model = models.load("resnet", heads(CITY), encoder=encoder)
        assert count(model.encoder) == alone
        for classes, total in zip((7, 13, 19), totals, strict=True):
            model.heads["semantic"] = torch.nn.Conv2d(128, classes, 1, bias=False)
            assert count(model, TransferNet(classes, 1), TransferNet(1, classes)) == total
    assert model.tap_channels == {"mid": 512 if encoder < 50 else 2048, "last": 128}


@pytest.mark.parametrize("tasks, expected", [
    ({"semantic": 7}, 24_535_360), ({"semantic": 13}, 24_536_128), ({"depth": 1}, 24_534_592),
    (CITY, 27_785_280), ({"semantic": 13, "depth": 1}, 27_786_048), ({"semantic": 19, "depth": 1}, 27_786_816)])
def test_single_and_direct_networks_count_as_released(tasks, expected):
    with torch.device("meta"):
        assert count(models.load("resnet", heads(tasks))) == expected


@pytest.mark.parametrize("encoder, decoders", [
    (34, {"depth": {1: 3_249_920}, "semantic": {7: 3_250_688, 13: 3_251_456, 19: 3_252_224}}),
    (50, {"depth": {1: 6_567_680}, "semantic": {7: 6_568_448, 13: 6_569_216, 19: 6_569_984}})])
def test_decoders_count_as_released(encoder, decoders):
    for task, sizes in decoders.items():
        for channels, expected in sizes.items():
            with torch.device("meta"):
                model = models.load("resnet", heads({task: channels}), encoder=encoder)
            assert sum(p.numel() for p in model.task_parameters(task)) == expected


@pytest.mark.parametrize("encoder", [34, 50])
@pytest.mark.parametrize("training", [True, False])
def test_encoder_is_torchvisions(encoder, training):
    torch.manual_seed(0)
    theirs, ours = torchvision.models.get_model(f"resnet{encoder}", weights=None), Encoder(encoder, 1.0)
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    assert [*ours.state_dict()] == [*state] and not ours.load_state_dict(state).missing_keys
    x, expected = image(), []
    ours.train(training), theirs.train(training)
    with torch.no_grad():
        found = ours(x)
        x = theirs.relu(theirs.bn1(theirs.conv1(x)))
        expected.append(x)
        x = theirs.maxpool(x)
        for stage in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
            x = stage(x)
            expected.append(x)
    torch.testing.assert_close(list(found), expected, rtol=0, atol=0)
    assert ours.channels == [x.shape[1] for x in found]


@pytest.mark.parametrize("encoder", [18, 50])
def test_wiring_is_that_of_the_method_note(encoder):
    model = build({"depth": 1}, encoder=encoder)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    e0, e1, e2, e3, e4 = model.encoder((image() - mean[:, None, None]) / deviation[:, None, None])
    blocks, skips, d = model.decoders["depth"].blocks, (None, e3, e2, e1, e0), e4
    for block, e in zip(blocks, skips, strict=True):  # section 1.2 in its own letters
        d = d if e is None else torch.cat((d, e), 1)
        for convolution, norm, relu in block:
            assert (convolution.stride, convolution.padding) == ((1, 1), (1, 1))
            assert isinstance(relu, torch.nn.ReLU)
            d = F.relu(norm(convolution(d)))
        d = F.interpolate(d, scale_factor=2, mode="bilinear", align_corners=True)
    predictions, features = model(image())
    torch.testing.assert_close(features["depth"], {"mid": e4, "last": d})
    torch.testing.assert_close(predictions["depth"], F.conv2d(d, model.heads["depth"].weight))
    assert model.heads["depth"].bias is None and (predictions["depth"] < 0).any() != (predictions["depth"] < 0).all()


@pytest.mark.parametrize("encoder, before_the_end", [(18, 1), (50, 2)])
def test_last_shared_is_the_last_3x3_convolution_of_the_encoder(encoder, before_the_end):
    model, called = build(encoder=encoder), []
    for part in model.encoder.modules():
        if isinstance(part, torch.nn.Conv2d):
            part.register_forward_hook(lambda part, *_: called.append(part.weight))
    model.features(image())
    assert model.last_shared() == [called[-before_the_end]] and called[-before_the_end].shape == (64, 64, 3, 3)


def test_images_are_normalised_as_asked():
    model, seen = build(normalise="none"), []
    for each in (model, build()):
        each.encoder.register_forward_pre_hook(lambda part, args: seen.append(args[0]))
        each(image())
        assert not {"mean", "deviation"} & each.state_dict().keys()
    assert torch.equal(seen[0], image())
    expected = torchvision.transforms.functional.normalize(image(), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    torch.testing.assert_close(seen[1], expected)


@pytest.mark.parametrize("encoder, width", [(18, 0.125), (50, 0.25)])
def test_width_scales_every_layer(encoder, width):
    with torch.device("meta"):
        whole, narrow = (models.load("resnet", heads(CITY), w, encoder=encoder) for w in (1.0, width))
    free = {"encoder.conv1.weight", *(f"heads.{task}.weight" for task in CITY)}
    for (key, p), q in zip(whole.named_parameters(), narrow.parameters(), strict=True):
        by = (width,) if p.dim() == 1 or key in free else (width, width)
        assert q.numel() == p.numel() * torch.tensor(by).prod(), key


def test_initialisation_is_torchvisions_and_xavier_and_follows_the_seed():
    one, two = (build({"semantic": 64, "depth": 1}, 0.25) for _ in range(2))        # a head large enough to tell
    for (key, p), q in zip(one.named_parameters(), two.parameters(), strict=True):
        assert torch.equal(p, q)
        if p.dim() == 1:
            assert (p == (0 if key.endswith("bias") else 1)).all(), key
        elif p.numel() > 1000:
            fan_in, fan_out = (p.shape[i] * p[0, 0].numel() for i in (1, 0))
            of = fan_out if key.startswith("encoder") else (fan_in + fan_out)
            assert abs(p.std() * (of / 2) ** 0.5 - 1) < 0.1, key


def test_pretrained_starts_with_torchvisions_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    state = torchvision.models.resnet18(weights=None).state_dict()
    (tmp_path / "checkpoints").mkdir()
    torch.save(state, tmp_path / "checkpoints" / weights.url.split("/")[-1])
    model = models.load("resnet", heads(CITY), encoder=18, pretrained=True)
    assert all(torch.equal(value, state[key]) for key, value in model.encoder.state_dict().items())


def test_failed_download_is_said_and_nothing_else_taken(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise urllib.error.URLError("no route")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(ValueError, match=f"ResNet-18 .*no route.*/resnet18-f37072fd.pth into {tmp_path}/checkpoints"):
        models.load("resnet", heads(CITY), encoder=18, pretrained=True)


@pytest.mark.parametrize("call, sentence", [
    (lambda: build(encoder=35), "18, 34, 50, 101, 152. Found `encoder = 35`"),
    (lambda: build(pretrained=True, encoder=20), "Found `encoder = 20`"),
    (lambda: build(pretrained=True, width=0.5), "Found `width = 0.5`"),
    (lambda: build(normalise="mean"), "imagenet, none, bgr. Found `normalise = mean`"),
    (lambda: build()(image(2, 31, 64)), r"at least 32. Found \(2, 3, 31, 64\)"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_with_its_value(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
