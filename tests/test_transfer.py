"""Task transfer nets: released sizes, the note's wiring, any size, what a step needs."""

import pytest
import torch
import torch.nn.functional as F

from models.transfer import TransferNet

layouts = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)


def build(c_in=7, c_out=1, width=0.125, **options):
    torch.manual_seed(0)
    return TransferNet(c_in, c_out, width, **options)


def image(*shape):
    return torch.rand(shape or (2, 7, 32, 64), generator=torch.Generator().manual_seed(1))


def count(*nets):
    return sum(p.numel() for net in nets for p in net.parameters())


@pytest.mark.parametrize("classes, to_depth, back", [
    (7, 1_885_568, 1_882_496), (13, 1_889_024, 1_882_880), (19, 1_892_480, 1_883_264)])
def test_parameters_count_as_released(classes, to_depth, back):
    with torch.device("meta"):
        assert [count(TransferNet(classes, 1)), count(TransferNet(1, classes))] == [to_depth, back]


@pytest.mark.parametrize("options, classes, both", [  # the totals with ResNet-34 less its direct network's
    ({"batch_norm": True}, 7, 31_558_976 - 27_785_280), ({"batch_norm": True}, 13, 31_563_584 - 27_786_048),
    ({"batch_norm": True}, 19, 31_568_192 - 27_786_816), ({"wide": True}, 7, 42_841_664 - 27_785_280),
    ({"wide": True}, 13, 42_850_112 - 27_786_048), ({"wide": True}, 19, 42_858_560 - 27_786_816)])
def test_variants_count_as_released(options, classes, both):
    with torch.device("meta"):
        assert count(TransferNet(classes, 1, **options), TransferNet(1, classes, **options)) == both


@pytest.mark.parametrize("batch_norm", [False, True])
def test_wiring_is_that_of_the_method_note(batch_norm):
    net, x = build(batch_norm=batch_norm), image()

    def double(part, x):
        found, parts = x, list(part)
        for _ in range(2):
            found = parts.pop(0)(found)
            found = F.relu(parts.pop(0)(found)) if batch_norm else F.relu(found)
            assert isinstance(parts.pop(0), torch.nn.ReLU)
        assert not parts
        return found

    def up(x):
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)

    e1 = F.max_pool2d(double(net.encoder[0], x), 2)  # section 1.3 in its own letters
    e2 = F.max_pool2d(double(net.encoder[1], e1), 2)
    e3 = F.max_pool2d(double(net.encoder[2], e2), 2)
    u1 = double(net.decoder[0], up(e3))
    u2 = double(net.decoder[1], up(torch.cat((u1, e2), 1)))
    u3 = double(net.decoder[2], up(torch.cat((u2, e1), 1)))
    y = net(x)
    torch.testing.assert_close(y, net.head(u3))
    assert y.shape == (2, 1, 32, 64) and (y < 0).any() and net.head.bias is None
    shapes = [p.shape[:2] for p in net.parameters() if p.dim() == 4]
    assert shapes == [(8, 7), (8, 8), (16, 8), (16, 16), (32, 16), (32, 32),
                      (16, 32), (16, 16), (8, 32), (8, 8), (8, 16), (8, 8), (1, 8)]


@pytest.mark.parametrize("size", [(8, 8), (9, 15), (33, 70)], ids=str)
def test_any_size_from_8_on_goes_through(size):
    assert build(1, 5)(image(1, 1, *size)).shape == (1, 5, *size)


def test_initialisation_is_xavier_and_follows_the_seed():
    for (key, p), q in zip(build(width=0.5).named_parameters(), build(width=0.5).parameters(), strict=True):
        assert torch.equal(p, q)
        if key.endswith("bias"):
            assert not p.any()
        elif p.numel() > 1000:
            fans = (p.shape[0] + p.shape[1]) * p.shape[2] * p.shape[3]
            assert abs(p.std() * (fans / 2) ** 0.5 - 1) < 0.1, key


@layouts
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_step_repeats_bit_for_bit_and_reaches_its_input(layout, precision):
    def step():
        net, x = build(batch_norm=True).to(memory_format=layout), image().contiguous(memory_format=layout)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            y = net(x.requires_grad_())
        y.float().square().mean().backward()
        assert y.dtype == precision and x.grad.any()
        return [y.detach(), x.grad, *(p.grad for p in net.parameters())]

    torch.use_deterministic_algorithms(True)
    assert all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(step(), step(), strict=True))
