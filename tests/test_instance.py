"""Instances as offsets, and disparity: targets against loops over pixels, losses and metrics as Aligned-MTL has."""

import numpy as np
import pytest
import torch

from pipeline import tasks
from pipeline.tasks import from_raw
from pipeline.tasks.tally import Tally

INSTANCE = np.array([[0, 7, 7, 0, 300], [0, 7, 0, 0, 300], [26, 7, 0, 0, 0], [26, 26, 0, 0, 7]])


def drawn(images=5, height=7, width=9, share=0.6, seed=0):
    """Offsets of random instances and a prediction near them; the last image has no instance."""
    draw = np.random.default_rng(seed)
    maps = draw.integers(1, 4, (images, height, width)) * (draw.random((images, height, width)) < share)
    maps[-1] = 0
    target = torch.from_numpy(np.stack([from_raw.offsets(one) for one in maps])).permute(0, 3, 1, 2)
    return target + torch.from_numpy(draw.normal(0, 2, target.shape)).float(), target


def test_offsets_are_from_the_mean_of_all_pixels_of_a_number():
    found = from_raw.offsets(INSTANCE)
    assert found.dtype == np.float32
    for number in (7, 26, 300):
        places = [(r, c) for r in range(4) for c in range(5) if INSTANCE[r, c] == number]
        row, column = (sum(axis) / len(places) for axis in zip(*places, strict=True))
        for r, c in places:
            assert found[r, c] == pytest.approx((r - row, c - column), abs=1e-6)
    assert (found[INSTANCE == 0] == from_raw.VOID).all() and (found[INSTANCE > 0] != from_raw.VOID).all()
    assert found[0, 1].tolist() == pytest.approx([-1.2, -0.8])      # its far pixel, at (3, 4), moves the centre
    assert (from_raw.offsets(np.zeros((3, 4), int)) == from_raw.VOID).all()
    whole = from_raw.offsets(np.full((1024, 2048), 24001))
    assert whole[0, 0].tolist() == [-511.5, -1023.5] and whole[511, 1023].tolist() == [-0.5, -0.5]


@pytest.mark.parametrize("share", [0.6, 0.0])
def test_loss_is_the_mean_over_elements_that_have_a_target(share):
    prediction, target = drawn(share=share)
    prediction.requires_grad_()
    loss, = tasks.losses({"instance": prediction}, {"offset": target})
    valid = (target != from_raw.VOID).all(1, keepdim=True).expand_as(target)
    gradient, = torch.autograd.grad(loss, [prediction])
    error = (prediction - target)[valid].detach()
    assert loss.item() == pytest.approx(error.abs().mean().item() if share else 0, rel=1e-6)
    torch.testing.assert_close(gradient[valid], error.sign() / valid.sum())
    assert not gradient[~valid].any()


def test_pixel_error_is_of_numbers_cut_towards_zero():
    prediction, target = drawn()
    tally = Tally(["instance"], {}, "cpu", 2)
    for at in (slice(0, 2), slice(2, 4), slice(4, 5)):
        tally.update({"instance": prediction[at]}, {"offset": target[at]})
    errors = []
    for p, t in zip(prediction.tolist(), target.tolist(), strict=True):
        errors.append([abs(int(p[k][r][c]) - int(t[k][r][c])) for k in range(2) for r in range(7) for c in range(9)
                       if t[k][r][c] != from_raw.VOID])
    found = tally.results()
    assert found["dataset"]["instance_px"] == pytest.approx(np.mean(sum(errors, [])))
    assert found["official"]["instance_px"] == pytest.approx(
        np.mean([np.mean(errors[0] + errors[1]), np.mean(errors[2] + errors[3])]))      # the last batch has no instance
    exact = Tally(["instance"], {}, "cpu", 5)
    exact.update({"instance": target.clone()}, {"offset": target})
    assert exact.results()["dataset"]["instance_px"] == 0


@pytest.mark.parametrize("share", [0.6, 0.0])
def test_disparity_has_an_l1_loss_and_a_mean_squared_error(share):
    draw = torch.Generator().manual_seed(0)
    target = torch.rand(5, 1, 7, 9, generator=draw) * 12 * (torch.rand(5, 1, 7, 9, generator=draw) < share)
    prediction = (target + torch.randn(target.shape, generator=draw)).requires_grad_()
    error = (prediction - target)[target > 0].detach()
    loss, = tasks.losses({"disparity": prediction}, {"disparity": target})
    gradient, = torch.autograd.grad(loss, [prediction])
    assert loss.item() == pytest.approx(error.abs().mean().item() if share else 0, rel=1e-6)
    assert bool(gradient.any()) == bool(share) and not gradient[target == 0].any()
    tally = Tally(["disparity"], {}, "cpu", 5)
    tally.update({"disparity": prediction.detach()}, {"disparity": target})
    for found in tally.results().values():
        assert found["disparity_mse"] == pytest.approx(error.square().mean().item() if share else np.nan, nan_ok=True)


@pytest.mark.parametrize("task, target, worth", [("depth", 4.0, 2.0), ("disparity", 4.0, 8.0), ("instance", 4.0, 8.0)])
def test_targets_of_an_image_twice_as_large(task, target, worth):
    own, void = tasks.load(task), tasks.load(task).void
    stored = torch.full((2, own.channels({}), 1, 2), target)
    stored[..., 1] = void
    found = own.zoom(stored, torch.tensor([1.0, 2.0]), {"zoom_depth": True, "inverse_depth": False})
    assert (found[..., 0].flatten(1) == torch.tensor([[target], [worth]])).all() and (found[..., 1] == void).all()


def test_a_mirror_and_a_turn_change_vectors_and_leave_voids():
    own, angle = tasks.load("instance"), torch.tensor([0.0, np.pi / 2, 0.3])
    stored = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1).repeat(3, 1, 1, 2)          # 3 rows below, 4 columns right
    stored[..., 1] = from_raw.VOID
    mirrored, turned = own.mirror(stored, torch.tensor([0.0, 1, 1])), own.turn(stored, angle)
    assert mirrored[:, :, 0, 0].tolist() == [[3, 4], [3, -4], [3, -4]]
    assert turned[:2, :, 0, 0].flatten().tolist() == pytest.approx([3, 4, 4, -3])       # right becomes down
    assert turned[2, :, 0, 0].tolist() == pytest.approx([3 * np.cos(0.3) + 4 * np.sin(0.3),
                                                         4 * np.cos(0.3) - 3 * np.sin(0.3)])
    assert (mirrored[..., 1] == from_raw.VOID).all() and (turned[..., 1] == from_raw.VOID).all()
    normals = tasks.load("normal").turn(torch.tensor([4.0, 3, 5]).view(1, 3, 1, 1).repeat(3, 1, 1, 1), angle)
    torch.testing.assert_close(normals[:, :2, 0, 0].flip(1), turned[..., 0, 0])
    assert (normals[:, 2] == 5).all()


def test_the_montage_marks_each_centre_once():
    from matplotlib.figure import Figure

    instance = np.zeros((9, 12), int)
    instance[1:4, 1:6], instance[5:8, 3:10] = 1, 2
    stored = np.where(instance[..., None] > 0, 4 * from_raw.offsets(instance), from_raw.VOID)     # of a side 4 times it
    for drawn, centres in ((stored, [(2, 3), (6, 6)]), (np.full_like(stored, from_raw.VOID), [])):
        figure = Figure()
        panel = figure.add_subplot()
        tasks.load("instance").paint(figure, panel, drawn, {})
        assert [(y, x) for line in panel.lines for x, y in zip(*line.get_data(), strict=True)] == centres
        shown = panel.images[0].get_array()
        assert (shown[instance == 0] == 0.25).all() and len(np.unique(shown[instance > 0].round(3), axis=0)) > 9 * bool(
            centres)


WRONG = {          # the task, what is done to right offsets, the sentence of a ValueError or of a warning
    "half-void": ("instance", lambda x: np.where([True, False], from_raw.VOID, x), "one component is void"),
    "zero-for-none": ("instance", lambda x: 0 * x, "100% of the offsets are 0: 0 seems to stand for no instance"),
    "no-instance": ("instance", lambda x: 0 * x + from_raw.VOID, "none of 2 images has an instance"),
    "stored-numbers": ("disparity", lambda x: 3000 + 0 * x[..., 0], "it looks like stored numbers; divide p by 2729"),
    "negative": ("disparity", lambda x: -1 + 0 * x[..., 0], "goes down to -1; write 0 where there is none"),
    "nothing-known": ("disparity", lambda x: 0 * x[..., 0], "it is 0, which stands for none, in all of 2 images")}


@pytest.mark.parametrize("case", WRONG)
def test_what_offsets_and_disparities_look_like_is_told(case):
    name, alter, sentence = WRONG[case]
    right = from_raw.offsets(np.arange(12 * 16).reshape(12, 16) // 40 % 4)
    assert not list(tasks.load("instance").check([right, right], {}))
    assert not list(tasks.load("disparity").check([np.full((12, 16), 2.5)] * 2, {}))
    try:
        said = list(tasks.load(name).check([alter(right)] * 2, {}))
    except ValueError as mistake:
        said = [str(mistake)]
    assert len(said) == 1 and sentence in said[0], said
