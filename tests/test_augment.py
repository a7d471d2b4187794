"""Augmentation: what torch's own cutting and resizing gives, drawn anew every epoch and the same for the same seed."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import change, folder_of, run

from pipeline import features, tasks, train
from pipeline.data import augment
from pipeline.runtime.errors import UserError
from pipeline.tasks import from_raw

HEIGHT, WIDTH = 48, 65


def apply(image, targets, drawn, inverse=False, zoom_depth=True, crop_masks=True, way="crop"):
    """`augment.apply` for the tasks whose targets these are."""
    names = [own.name for own in tasks.of_kinds(targets).values()]
    return augment.apply(way, image, targets, drawn, names, {
        "inverse_depth": inverse, "zoom_depth": zoom_depth, "crop_masks": crop_masks})


def test_equals_cut_resize_and_mirror_one_by_one():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(64, 3, HEIGHT, WIDTH, generator=generator)
    targets = {"label": torch.randint(-1, 13, (64, HEIGHT, WIDTH), generator=generator),
               "depth": torch.rand(64, 1, HEIGHT, WIDTH, generator=generator),
               "normal": torch.randn(64, 3, HEIGHT, WIDTH, generator=generator)}
    drawn = augment.draw("crop", 3, 64, HEIGHT, WIDTH)
    found, its = apply(image, targets, drawn)
    for k, (scale, *numbers) in enumerate(drawn.tolist()):
        h, w, top, left, mirrored = map(int, numbers)

        def alone(x, k=k, h=h, w=w, top=top, left=left, mirrored=mirrored, **how):
            cut = F.interpolate(x[k:k + 1, :, top:top + h, left:left + w].float(), (HEIGHT, WIDTH), **how)[0]
            return cut.flip(-1) if mirrored else cut
        smooth = {"mode": "bilinear", "align_corners": True}
        torch.testing.assert_close(found[k], alone(image, **smooth), rtol=0, atol=1e-5)
        assert torch.equal(its["label"][k], alone(targets["label"][:, None])[0].long())
        torch.testing.assert_close(its["depth"][k], alone(targets["depth"]) / scale)
        signs = torch.tensor([-1.0 if mirrored else 1.0, 1, 1])[:, None, None]
        assert torch.equal(its["normal"][k], alone(targets["normal"]) * signs)


def test_inverse_depth_grows_where_depth_shrinks_and_what_is_not_there_is_left_out():
    image, drawn = torch.rand(8, 3, HEIGHT, WIDTH), augment.draw("crop", 3, 8, HEIGHT, WIDTH)
    targets = {"label": torch.zeros(8, HEIGHT, WIDTH).long(), "depth": torch.ones(8, 1, HEIGHT, WIDTH)}
    for inverse, power in ((True, 1), (False, -1)):
        its = apply(image, targets, drawn, inverse)[1]
        assert set(its) == {"label", "depth"}
        torch.testing.assert_close(its["depth"][:, 0, 0, 0], drawn[:, 0]**power)


def turned_by_hand(image, targets, angle, mirrored):
    """One image and its targets in a loop over the pixels of what comes out, in numpy."""
    (height, width), voids = image.shape[1:], {"label": -1, "depth": 0, "normal": 0, "offset": from_raw.VOID}
    out = {"image": np.zeros(image.shape)} | {kind: np.full(x.shape, voids[kind], float) for kind, x in targets.items()}
    sine, cosine, sign = np.sin(angle), np.cos(angle), -1 if mirrored else 1
    for r, c in np.ndindex(height, width):
        down, right = r - (height - 1) / 2, sign * (c - (width - 1) / 2)
        y, x = (down * cosine - right * sine + (height - 1) / 2, down * sine + right * cosine + (width - 1) / 2)
        for i, j in ((i, j) for i in (int(np.floor(y)), int(np.floor(y)) + 1) for j in (
                int(np.floor(x)), int(np.floor(x)) + 1)):
            if 0 <= i < height and 0 <= j < width:
                out["image"][:, r, c] += image[:, i, j] * (1 - abs(y - i)) * (1 - abs(x - j))
        i, j = int(np.floor(y + 0.5)), int(np.floor(x + 0.5))
        if not (0 <= i < height and 0 <= j < width):
            continue
        for kind in targets:
            out[kind][..., r, c] = targets[kind][..., i, j]
        down, right = targets["offset"][:, i, j]
        if down != from_raw.VOID:
            out["offset"][:, r, c] = right * sine + down * cosine, sign * (right * cosine - down * sine)
        right, down, ahead = targets["normal"][:, i, j]
        out["normal"][:, r, c] = sign * (right * cosine - down * sine), right * sine + down * cosine, ahead
    return out


def test_a_turn_is_what_a_loop_over_pixels_gives():
    draw, size = np.random.default_rng(0), (4, 21, 30)
    maps = draw.integers(0, 4, size)
    image = torch.from_numpy(draw.random((4, 3, *size[1:]), np.float32))
    targets = {"label": torch.from_numpy(draw.integers(-1, 5, size)),
               "depth": torch.from_numpy(draw.random((4, 1, *size[1:]), np.float32)),
               "normal": torch.from_numpy(draw.normal(size=(4, 3, *size[1:])).astype(np.float32)),
               "offset": torch.from_numpy(np.stack([from_raw.offsets(one) for one in maps])).permute(0, 3, 1, 2)}
    drawn = torch.tensor([[0.0, 0], [0.15, 0], [-0.1, 1], [1.3, 1]])
    found, its = apply(image, targets, drawn, way="rotate")
    for k, (angle, mirrored) in enumerate(drawn.tolist()):
        one = {kind: x[k].numpy() for kind, x in targets.items()}
        expected = turned_by_hand(image[k].numpy(), one, angle, mirrored)
        for kind, x in {"image": found, **its}.items():
            np.testing.assert_allclose(x[k].numpy(), expected[kind], rtol=1e-4, atol=1e-4, err_msg=kind)
    assert all(torch.equal(its[kind][0], targets[kind][0]) for kind in targets)
    assert (its["label"][3] == -1).sum() > (targets["label"][3] == -1).sum() + 100       # corners


def test_turned_offsets_are_those_of_the_turned_instances():
    rows, columns = np.indices((60, 80))
    maps = 1 * (np.hypot(rows - 20, (columns - 25) / 1.5) < 9) + 2 * (abs(rows - 40) + abs(columns - 55) < 12)
    targets = {"label": torch.from_numpy(maps)[None],
               "offset": torch.from_numpy(from_raw.offsets(maps)).permute(2, 0, 1)[None]}
    for drawn in ((0.17, 0.0), (-0.17, 1.0)):
        its = apply(torch.zeros(1, 3, 60, 80), targets, torch.tensor([drawn]), way="rotate")[1]
        again = torch.from_numpy(from_raw.offsets(its["label"][0].clamp_min(0).numpy())).permute(2, 0, 1)
        assert (its["label"] > 0).sum() > 500
        torch.testing.assert_close(its["offset"][0], again, rtol=0, atol=0.75)         # a pixel's rounding


def test_turns_are_drawn_evenly_from_both_sides_and_the_same_for_the_same_seed():
    drawn = augment.draw("rotate", 0, 3000, HEIGHT, WIDTH)
    assert torch.equal(drawn, augment.draw("rotate", 0, 3000, HEIGHT, WIDTH)) and drawn.shape == (3000, 2)
    assert not torch.equal(drawn, augment.draw("rotate", 1, 3000, HEIGHT, WIDTH))
    shares = torch.histc(drawn[:, 0].rad2deg(), 4, -10, 10)
    assert shares.sum() == 3000 and shares.min() > 650 and 1400 < drawn[:, 1].sum() < 1600


def by_hand():
    """Six by six pixels: an image kept, one mirrored, of one four by four from (1, 2), zoomed by 1.5 and mirrored."""
    label, image = torch.arange(36).view(1, 6, 6).repeat(3, 1, 1), torch.rand(3, 3, 6, 6)
    label[:, 2, 2:4] = -1
    depth = (label[:, None] % 7).float()
    drawn = torch.tensor([[1, 6, 6, 0, 0, 0], [1, 6, 6, 0, 0, 1], [1.5, 4, 4, 1, 2, 1]])
    return image, {"label": label, "depth": depth}, drawn


def test_masks_of_the_whole_image_are_mirrored_and_not_cut():
    image, targets, drawn = by_hand()
    found, its = apply(image, targets, drawn, crop_masks=False)
    plain, cut = apply(image, targets, drawn)
    assert set(its) == {"label", "depth", "label_mask", "depth_mask"} and set(cut) == {"label", "depth"}
    assert torch.equal(found, plain) and all(torch.equal(its[kind], cut[kind]) for kind in cut)
    rows, columns = torch.tensor([1, 1, 2, 3, 3, 4]), torch.tensor([5, 4, 4, 3, 2, 2])
    assert torch.equal(its["label"][2], targets["label"][2][rows[:, None], columns])
    for kind, void in (("label", -1), ("depth", 0)):
        whole, mask = targets[kind] != void, its[f"{kind}_mask"]
        assert mask.dtype == torch.bool and mask.shape == targets[kind].shape
        assert torch.equal(mask[0], whole[0])
        assert all(torch.equal(mask[k], whole[k].flip(-1)) for k in (1, 2))
        assert torch.equal(mask[:2], its[kind][:2] != void) and not torch.equal(mask[2], its[kind][2] != void)
    assert (~its["label_mask"][2]).nonzero().tolist() == [[2, 2], [2, 3]]


@pytest.mark.parametrize("inverse", [False, True])
def test_depth_stays_as_it_is_where_it_is_not_zoomed(inverse):
    image, targets, drawn = by_hand()
    found, its = apply(image, targets, drawn, inverse, zoom_depth=False)
    plain, zoomed = apply(image, targets, drawn, inverse)
    assert torch.equal(found, plain) and torch.equal(its["label"], zoomed["label"])
    assert torch.equal(its["depth"][:2], zoomed["depth"][:2])
    torch.testing.assert_close(its["depth"][2] * 1.5 ** (1 if inverse else -1), zoomed["depth"][2])
    assert set(its["depth"].unique().tolist()) <= set(targets["depth"].unique().tolist())


def test_depth_alone():
    image, targets, drawn = by_hand()
    whole = apply(image, targets, drawn, crop_masks=False)[1]
    alone = apply(image, {"depth": targets["depth"]}, drawn, crop_masks=False)[1]
    assert set(alone) == {"depth", "depth_mask"} and all(torch.equal(alone[kind], whole[kind]) for kind in alone)


def test_draws_cover_scales_places_and_mirrors():
    drawn = augment.draw("crop", 0, 3000, HEIGHT, WIDTH)
    assert torch.equal(drawn, augment.draw("crop", 0, 3000, HEIGHT, WIDTH))
    assert not torch.equal(drawn, augment.draw("crop", 1, 3000, HEIGHT, WIDTH))
    scales, counts = drawn[:, 0].unique(return_counts=True)
    assert scales.tolist() == pytest.approx(augment.SCALES) and counts.min() > 900
    assert 1400 < drawn[:, 5].sum() < 1600
    for size, corner, whole in ((1, 3, HEIGHT), (2, 4, WIDTH)):
        room = whole - drawn[:, size]
        assert (drawn[:, corner] >= 0).all() and (drawn[:, corner] <= room).all()
        assert (drawn[:, corner] == room)[room > 0].any() and (drawn[:, corner] == 0)[room > 0].any()


@pytest.mark.parametrize("way", ["crop", "rotate"])
def test_a_row_asks_for_it(copy, way):
    before = open(folder_of("rooms", "segnet", "uniform", 0) / "curve.csv").read()
    change(("width: 0.125", f"width: 0.125, augment: {way}"))
    curves = []
    for _ in range(2):
        run(train, "rooms", "baseline", "segnet", "uniform", "0")
        curves.append(open(folder_of("rooms", "segnet", "uniform", 0) / "curve.csv").read())
    assert curves[0] == curves[1] != before


def test_a_rows_switches_reach_it(copy, monkeypatch):
    change(("width: 0.125", "width: 0.125, augment: crop"))
    change(("balancer: uniform}", "balancer: uniform, switches: {crop_masks: false, zoom_depth: false}}"))
    seen, original = [], augment.apply

    def told(*arguments):
        image, targets = original(*arguments)
        seen.append((arguments[5]["zoom_depth"], arguments[5]["crop_masks"], set(targets)))
        return image, targets
    monkeypatch.setattr(augment, "apply", told)
    three = {"label", "depth", "normal"}
    for stage, name, *expected in (("teacher", "depth", True, True, {"depth"}),
                                   ("teacher", "normal", True, True, {"depth", "normal"}),
                                   ("baseline", "uniform", False, False, three | {"label_mask", "depth_mask"})):
        run(train, "rooms", stage, "segnet", name, "0")
        assert all(one == tuple(expected) for one in seen) and seen
        seen.clear()


def test_cached_features_are_refused_and_live_teachers_are_not(copy, monkeypatch, capsys):
    change(("width: 0.125", "width: 0.125, augment: crop"))
    for task in ("semantic", "depth", "normal"):
        run(features, "rooms", "teacher", "segnet", task, "0")
    assert capsys.readouterr().out.count("not stored") == 3
    monkeypatch.setenv("FEATURES", "ram")
    with pytest.raises(UserError, match="FEATURES is 'ram' and `augment` 'crop', but cached .* FEATURES=live or auto"):
        run(train, "rooms", "student", "segnet", "ours", "0")
    for place in ("auto", "live"):
        monkeypatch.setenv("FEATURES", place)
        run(train, "rooms", "student", "segnet", "ours", "0")
        assert capsys.readouterr().out.count("live, batch norm in eval mode") == 3
