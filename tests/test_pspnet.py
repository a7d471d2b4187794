"""PSPNet: sizes of Aligned-MTL's note, torchvision's dilated encoder and its weights, the pyramid by torch's own."""

import pathlib

import pytest
import torch
import torch.nn.functional as F
import torchvision
from conftest import change, file_of, folder_of, heads, run_all

import models
from models import pspnet
from models.resnet import Encoder
from pipeline import balancers
from pipeline.config import params, resolve
from pipeline.loop.curve import read
from pipeline.runtime.errors import UserError

CITY, NYU = {"semantic": 19, "instance": 2, "disparity": 1}, {"semantic": 13, "depth": 1, "normal": 3}
HEADS = {19: 23_083_539, 13: 23_080_461, 3: 23_075_331, 2: 23_074_818, 1: 23_074_305}      # sections 2.1 and 2.3


def build(tasks=NYU, width=0.125, **options):
    torch.manual_seed(0)
    return models.load("pspnet", heads(tasks), width, **options)


def image(height=32, width=64):
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def count(parameters):
    return sum(p.numel() for p in parameters)


@pytest.mark.parametrize("channels", [NYU, CITY], ids=["nyuv2", "cityscapes"])
def test_parameters_count_as_released(channels):
    with torch.device("meta"):
        model = models.load("pspnet", heads(channels))
    shared = model.shared_parameters()
    assert (count(shared), len(shared), count(model.last_shared())) == (23_508_032, 159, 14_964_736)
    assert {t: count(model.task_parameters(t)) for t in channels} == {t: HEADS[c] for t, c in channels.items()}
    assert model.tap_channels == {"mid": 1024, "last": 2048}


@pytest.mark.parametrize("dilated", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_encoder_is_torchvisions(dilated, training):
    torch.manual_seed(0)
    theirs = torchvision.models.resnet50(weights=None, replace_stride_with_dilation=[False, dilated, dilated])
    ours, whole = Encoder(50, 1.0, 8 if dilated else 32), torchvision.models.resnet50(weights=None)
    state = whole.state_dict()                      # weights know no dilation
    theirs.load_state_dict(state)
    ours.load_state_dict({key: value for key, value in state.items() if not key.startswith("fc.")})
    x = image()
    for each in (ours, theirs, whole):
        each.train(training)
    with torch.no_grad():
        *early, late, last = ours(x)
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
        plain = whole.maxpool(whole.relu(whole.bn1(whole.conv1(image()))))
        for name in ("layer1", "layer2", "layer3", "layer4"):
            x, plain = getattr(theirs, name)(x), getattr(whole, name)(plain)
            found = {"layer1": early[1], "layer2": early[2], "layer3": late, "layer4": last}[name]
            assert torch.equal(found, x)
            assert torch.equal(found, plain) == (not dilated or name in ("layer1", "layer2"))
    assert last.shape == (2, 2048, *((4, 8) if dilated else (1, 2)))


def test_dilations_and_strides_are_those_of_the_method_note():
    with torch.device("meta"):
        encoder = Encoder(50, 1.0, 8)
    found = [[(block.conv2.stride[0], block.conv2.dilation[0]) for block in stage] for stage in (
        encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4)]
    assert found == [[(1, 1)] * 3, [(2, 1)] + [(1, 1)] * 3, [(1, 1)] + [(1, 2)] * 5, [(1, 2)] + [(1, 4)] * 2]
    for part in encoder.modules():
        if isinstance(part, torch.nn.Conv2d) and part.kernel_size == (1, 1):
            assert part.stride == (1, 1) or part.in_channels == 256     # the second stage's shortcut


@pytest.mark.parametrize("size", [(4, 8), (5, 7), (12, 16), (36, 48)], ids=str)
@pytest.mark.parametrize("bins", pspnet.BINS)
def test_pooling_and_its_return_are_torchs(size, bins):
    x = torch.rand(2, 3, *size, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    (h, w), cpu = size, "cpu"
    grid = pspnet.along(x, pspnet.means(h, bins, cpu), pspnet.means(w, bins, cpu))
    torch.testing.assert_close(grid, F.adaptive_avg_pool2d(x, bins), rtol=1e-6, atol=1e-6)
    back = pspnet.along(grid, pspnet.between(bins, h, cpu), pspnet.between(bins, w, cpu))
    torch.testing.assert_close(back, F.interpolate(grid, size, mode="bilinear"), rtol=1e-5, atol=1e-5)
    assert all(y.is_contiguous(memory_format=torch.channels_last) for y in (grid, back) if bins > 1)


@pytest.mark.parametrize("target_stride", [1, 8])
def test_wiring_is_that_of_the_method_note(target_stride):
    model = build(target_stride=target_stride).eval()
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    last = model.encoder((image() - mean[:, None, None]) / deviation[:, None, None])[-1]
    decoder = model.heads["depth"]
    parts = [F.interpolate(part(F.adaptive_avg_pool2d(last, n)), last.shape[2:], mode="bilinear")
             for part, n in zip(decoder.pooled, (1, 2, 3, 6), strict=True)]
    expected = decoder.out(decoder.joined(torch.cat([last, *parts], 1)))
    if target_stride == 1:
        expected = F.interpolate(expected, scale_factor=8, mode="nearest")
    predictions, features = model(image())
    assert all(torch.equal(features[task]["last"], last) for task in NYU)
    torch.testing.assert_close(predictions["depth"], expected, rtol=1e-4, atol=1e-5)
    shapes = {(convolution.kernel_size, convolution.bias is None) for convolution in (decoder.joined[0],
                                                                                      decoder.pooled[0][0])}
    assert shapes == {((3, 3), True), ((1, 1), True)} and decoder.out.bias is not None


def test_width_scales_every_layer():
    with torch.device("meta"):
        whole, narrow = (models.load("pspnet", heads(CITY), width) for width in (1.0, 0.25))
    for (key, p), q in zip(whole.named_parameters(), narrow.parameters(), strict=True):
        free = key == "encoder.conv1.weight" or ".out." in key
        by = 1 if ".out.bias" in key else 0.25 if p.dim() == 1 or free else 0.25**2
        assert q.numel() == p.numel() * by, key


def test_first_weights_are_torchvisions_and_torchs_and_follow_the_seed():
    one, two = build(width=0.25), build(width=0.25)
    for (key, p), q in zip(one.named_parameters(), two.parameters(), strict=True):
        assert torch.equal(p, q)
        if p.dim() == 4 and p.numel() > 1000:
            fan_in, fan_out = (p.shape[i] * p[0, 0].numel() for i in (1, 0))
            variance = 2 / fan_out if key.startswith("encoder") else 1 / (3 * fan_in)
            assert abs(p.std() * variance**-0.5 - 1) < 0.1, key
            assert key.startswith("encoder") or p.abs().max() <= fan_in**-0.5, key


def test_images_are_taken_as_asked():
    """On Cityscapes the released code turns RGB round and subtracts ImageNet's means as if it had not."""
    for how, mean in (("bgr", (123.675, 116.28, 103.53)), ("none", (0, 0, 0))):
        model, seen = build(normalise=how), []
        model.encoder.register_forward_pre_hook(lambda part, args, seen=seen: seen.append(args[0]))
        model(image())
        turned = image()[:, [2, 1, 0]] if how == "bgr" else image()
        torch.testing.assert_close(seen[0], (turned * 255 - torch.tensor(mean)[:, None, None]) / 255)


def test_pretrained_starts_with_torchvisions_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    weights = torchvision.models.ResNet50_Weights.IMAGENET1K_V1
    state = torchvision.models.resnet50(weights=None).state_dict()
    (tmp_path / "checkpoints").mkdir()
    torch.save(state, tmp_path / "checkpoints" / weights.url.split("/")[-1])
    model = models.load("pspnet", heads({"depth": 1}), pretrained=True)
    assert weights.url.endswith("resnet50-0676ba61.pth")
    assert all(torch.equal(value, state[key]) for key, value in model.encoder.state_dict().items())


@pytest.mark.parametrize("call, sentence", [
    (lambda: build(target_stride=4), "1 or 8. Found `target_stride = 4`"),
    (lambda: build(pretrained=True), "Found `width = 0.125`"),
    (lambda: build(normalise="rgb"), "imagenet, none, bgr. Found `normalise = rgb`"),
    (lambda: build()(image(24, 64)), r"at least 32 and multiples of 8. Found \(2, 3, 24, 64\)"),
    (lambda: build()(image(32, 60)), r"at least 32 and multiples of 8. Found \(2, 3, 32, 60\)"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_with_its_value(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


@pytest.mark.parametrize("method", ["mgda_ub", "aligned_mtl_ub", "graddrop", "gradnorm"])
def test_balancers_of_features_and_of_the_last_layer_see_every_task(method):
    """On one map and one stage gradients of different tasks have products; MTAN's maps have none."""
    model = build(width=0.0625)
    predictions, features = model(image())
    losses = [p.square().mean() + p.mean() for p in predictions.values()]
    _, gramian = balancers.backward(balancers.load(method, NYU), model, losses, {}, features)
    assert gramian.shape == (3, 3) and (gramian != 0).all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


EIGHTH = ("height: 32, ", "target_stride: 8, height: 32, ")


@pytest.mark.parametrize("edit, words", [
    (("height: 32, ", "height: 36, "), ("data.height` is 36; pspnet", "8 divides")),
    (("height: 32, ", "target_stride: 4, height: 32, "), ("target_stride` is 4; pspnet predicts one pixel of 1 or 8",)),
    (("architectures:", "architectures:\n  pspnet: {pretrained: true}"), ("pspnet.pretrained` takes", "of width 1")),
])  # fmt: skip
def test_params_refuse_what_it_cannot_take(folder, edit, words):
    file_of("rooms").write_text(file_of("rooms").read_text().replace("models: [segnet]", "models: [pspnet]"))
    change(edit)
    with pytest.raises(UserError) as mistake:
        params.load("rooms")
    assert all(word in str(mistake.value) for word in words), mistake.value


def test_rows_and_captions_say_at_what_size_and_from_which_weights(folder):
    file_of("rooms").write_text(file_of("rooms").read_text().replace("models: [segnet]", "models: [pspnet]"))
    change(EIGHTH)
    rows = resolve.everything("rooms")
    row, table = rows["train/baseline/pspnet-uniform-s0.yaml"], rows["table/table2.yaml"]
    assert row["architecture"] == {"target_stride": 8, "pretrained": False, "normalise": "imagenet"}
    assert "of 32x64, targets of every 8th pixel; not NYUv2" in table["caption"]["data"]
    assert "width 0.125 (first weights random)" in table["caption"]["protocol"]


def test_a_narrow_one_trains_on_targets_of_an_eighth(folder, capsys):
    """The whole loop at two sizes, images of 32x64 and targets of 4x8, with features of teachers."""
    file_of("rooms").write_text(file_of("rooms").read_text().replace("models: [segnet]", "models: [pspnet]"))
    change(EIGHTH, ("  rows: [semantic, depth, normal]", "  rows: [semantic, depth]"))
    run_all("rooms", "pspnet", ("semantic", "depth"), (("student", "ours"),))
    assert not pathlib.Path("out/rooms/data/train/normal.npy").exists()          # no task of the suite reads it
    assert "parameters from random weights, " in capsys.readouterr().out
    curve, _ = read(folder_of("rooms", "pspnet", "ours"), "")
    assert curve[1]["loss_depth"] < curve[0]["loss_depth"] and curve[1]["distance_depth"] > 0
