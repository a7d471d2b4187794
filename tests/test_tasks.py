"""The task table against the numbers of the released code (section 10), plain numpy, and hostile inputs."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import command
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline import tasks
from pipeline.tasks import facts, load, losses, names, normal
from pipeline.tasks.metrics import delta_m, of
from pipeline.tasks.tally import Tally

DENSE = ("semantic", "depth", "normal")


def make(images, height=9, width=11, classes=5, seed=0, valid=0.7):
    """Random predictions and targets; `valid`: share of valid pixels; the last class is only predicted."""
    g, size = torch.Generator().manual_seed(seed), (height, width)
    keep = [torch.rand(images, 1, *size, generator=g) < valid for _ in DENSE]
    label = torch.randint(classes - 1, (images, *size), generator=g).where(keep[0][:, 0], -1)
    normal = F.normalize(torch.randn(images, 3, *size, generator=g), dim=1)
    predictions = {
        "semantic": torch.randn(images, classes, *size, generator=g).log_softmax(1),
        "depth": 5 * torch.rand(images, 1, *size, generator=g),
        "normal": F.normalize(normal + 0.3 * torch.randn(images, 3, *size, generator=g), dim=1),
    }
    depth = 0.1 + 5 * torch.rand(images, 1, *size, generator=g)
    return predictions, {"label": label, "depth": depth * keep[1], "normal": normal * keep[2]}


def one_task(task, prediction, **target):
    """The same with a single prediction; the targets not given are all invalid."""
    b, _, *size = prediction.shape
    invalid = {"label": torch.full((b, *size), -1), "depth": torch.zeros(b, 1, *size)}
    return {task: prediction}, invalid | {"normal": torch.zeros(b, 3, *size)} | target


def take(data, index):
    return [{key: value[index] for key, value in part.items()} for part in data]


def listed(classes):
    return {"semantic": [str(n) for n in range(classes)]}


def measure(data, batch=2, chunk=None, classes=5):
    tally, step = Tally(data[0], listed(classes), "cpu", batch), chunk or batch
    for start in range(0, len(data[1]["label"]), step):
        tally.update(*take(data, slice(start, start + step)))
    return tally.results()


def test_semantic_oracle_1():
    label = torch.tensor([[[0, 0, 1, -1], [0, 1, 1, -1]], [[2, 2, 2, 2], [-1, 2, 0, 0]]])
    predicted = torch.tensor([[[0, 1, 1, 1], [0, 1, 2, 0]], [[2, 2, 0, 2], [2, 2, 0, 1]]])
    data = one_task("semantic", F.one_hot(predicted, 3).movedim(3, 1).float().log_softmax(1), label=label)
    out, first = measure(data, classes=3), measure(take(data, slice(1)), classes=3)
    numbers = [*out["official"].values(), *out["dataset"].values()]
    assert numbers == pytest.approx([31.6667, 69.0476, 52.2222, 69.2308], abs=5e-5)
    assert first["official"]["miou_pct"] == pytest.approx(30, abs=5e-5)


def test_depth_oracle_2():
    target = torch.tensor([[[[1.0, 2], [0, 4]]], [[[0, 0], [5, 10]]]])
    data = one_task("depth", torch.tensor([[[[1.5, 2], [3, 3]]], [[[9, 9], [4, 11]]]]), depth=target)
    for numbers in measure(data).values():
        assert numbers == pytest.approx({"abs_err": 0.70, "rel_err": 0.21}, abs=1e-7)
    assert torch.stack(losses(*data)).tolist() == pytest.approx([0.70])


def tilted(*degrees):  # normals at these angles to the z axis -> (1, 3, 1, n)
    angle = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angle.sin(), 0 * angle, angle.cos()])[None, :, None]


def test_normal_oracle_3():
    target = tilted(0, 0, 0, 0) * torch.tensor([1.0, 1, 1, 0])
    data = one_task("normal", tilted(10, 20, 40, 0), normal=target, depth=torch.tensor([[[[1.0, 1, 0, 1]]]]))
    for protocol, slack in (("official", 5e-5), ("dataset", 0.004)):
        mean, median, *within = measure(data)[protocol].values()
        assert [mean, *within] == pytest.approx([23.3333, 33.3333, 66.6667, 66.6667], abs=5e-5)
        assert median == pytest.approx(20, abs=slack)
    assert torch.stack(losses(*data, normal_mask="depth")).tolist() == pytest.approx([0.358500], abs=5e-7)
    assert torch.stack(losses(*data)).tolist() == pytest.approx([0.103152], abs=5e-7)


def brute(predictions, targets, classes, pooled):
    """Section 4.2 on one batch, or 4.3 on all images, from the definitions."""
    p, t = ({k: v.double().numpy() for k, v in part.items()} for part in (predictions, targets))
    images = list(zip(p["semantic"].argmax(1), t["label"], strict=True))
    if pooled:
        images = [[np.concatenate([image[k][image[1] >= 0] for image in images]) for k in (0, 1)]]

    def iou(a, b):
        pairs = [((a == c) & (b == c), (a == c) | (b == c)) for c in range(classes)]
        return np.mean([both.sum() / either.sum() for both, either in pairs if either.any()])

    semantic = np.mean([[iou(a, b), (a == b)[b >= 0].mean()] for a, b in images], axis=0)
    d, error = t["depth"][t["depth"] != 0], np.abs(p["depth"] - t["depth"])[t["depth"] != 0]
    angle = np.degrees(np.arccos((p["normal"] * t["normal"]).sum(1).clip(-1, 1)))[(t["normal"] != 0).any(1)]
    within = [100 * (angle < limit).mean() for limit in (11.25, 22.5, 30)]
    return [*100 * semantic, error.mean(), (error / d).mean(), angle.mean(), np.median(angle), *within]


def test_metrics_equal_numpy():
    out = measure(data := make(7, 24, 31), 2, 4)
    assert list(out["official"]) == list(of(DENSE)) == list(out["dataset"])
    official = np.mean([brute(*take(data, slice(i, i + 2)), 5, False) for i in range(0, 7, 2)], axis=0)
    np.testing.assert_allclose(list(out["official"].values()), official, atol=1e-6, rtol=0)
    gap = np.abs(np.subtract(list(out["dataset"].values()), brute(*data, 5, True)))
    assert gap[5] < 2**-8 and np.delete(gap, 5).max() < 1e-6  # the pooled median is good to a bin


def logged(predictions, targets, classes, batch):
    """What XTasC-Net's loggers give, from the definitions: an image's IoU over the classes of its valid pixels, its
    accuracy, depth errors of a batch's valid pixels; all are added up by images."""
    p, t = ({k: v.double().numpy() for k, v in part.items()} for part in (predictions, targets))
    sums = np.zeros(4)
    for a, b in zip(p["semantic"].argmax(1), t["label"], strict=True):
        a, b = a[b >= 0], b[b >= 0]
        pairs = [((a == c) & (b == c), (a == c) | (b == c)) for c in range(classes)]
        sums[:2] += 100 * np.mean([both.sum() / either.sum() for both, either in pairs if either.any()]), 100 * np.mean(
            a == b)
    for first in range(0, len(t["depth"]), batch):
        d, y = p["depth"][first:first + batch], t["depth"][first:first + batch]
        d, y = d[y > 0], y[y > 0]
        sums[2:] += len(t["depth"][first:first + batch]) * np.array([np.mean(abs(d - y)), np.mean(abs(d - y) / y)])
    return sums / len(t["depth"])


@pytest.mark.parametrize("void", [0, 0.05, 0.1, 0.2])
def test_the_masked_protocol_is_xtasc_nets(void):
    """Twelve images in batches of eight: the second counts for half as much as the first."""
    predictions, targets = make(12, 24, 32, valid=1 - void)
    right = F.one_hot(targets["label"].clamp(min=0), 5).movedim(3, 1).float()
    some = torch.rand(targets["label"].shape, generator=torch.Generator().manual_seed(1)) < 0.9
    predictions["semantic"] = torch.where(some[:, None], right, predictions["semantic"]).log_softmax(1)
    data = [{task: predictions[task] for task in ("semantic", "depth")}, targets]
    found = measure(data, 8)
    assert list(found["masked"]) == ["miou_pct", "pix_acc_pct", "abs_err", "rel_err"]
    np.testing.assert_allclose(list(found["masked"].values()), logged(*data, 5, 8), rtol=1e-7)
    one, whole = measure(data, 1), measure(data, 12)
    assert one["official"]["pix_acc_pct"] == one["masked"]["pix_acc_pct"] == found["masked"]["pix_acc_pct"]
    assert (whole["official"]["miou_pct"] == pytest.approx(whole["masked"]["miou_pct"], rel=1e-12)) == (void == 0)
    assert whole["official"]["miou_pct"] <= whole["masked"]["miou_pct"] * (1 + 1e-12)
    assert found["official"]["abs_err"] != found["masked"]["abs_err"] == measure(data, 8, 16)["masked"]["abs_err"]


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 7])
def test_dataset_independent_of_batch_and_order(batch):
    data = make(13, 37, 53)
    order = np.random.default_rng(batch).permutation(13)
    assert measure(take(data, order), batch)["dataset"] == measure(data, 4)["dataset"]


def test_official_independent_of_chunks():
    first, *others = [measure(make(11), 2, chunk) for chunk in (2, 4, 6)]
    assert others == [first, first]
    assert measure(make(11), 3)["official"] != first["official"]


class NoSync(TorchDispatchMode):  # refuses what hands a value, or a shape that depends on values, to the host
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        syncs = ("_local_scalar_dense", "item", "nonzero", "bincount", "masked_select", "index")
        assert func.overloadpacket.__name__ not in syncs, func
        return func(*args, **(kwargs or {}))


def test_update_never_waits_for_the_device():
    data, tally = make(4), Tally(DENSE, listed(5), "cpu", 2)
    with NoSync():
        tally.update(*data)
        for sync in (lambda x: x.sum().item(), lambda x: x[x > 0]):  # the mode does catch them
            with pytest.raises(AssertionError, match="aten"):
                sync(data[1]["depth"])
    assert tally.results() == measure(data)


def test_masks_empty_and_full():
    full, empty = make(4, valid=1.0), make(2, valid=0.0)
    for data, state in ((empty, np.isnan), (full, np.isfinite)):
        assert all(state(list(numbers.values())).all() for numbers in measure(data).values())
    both = [{k: torch.cat([a[k], b[k]]) for k in a} for a, b in zip(full, empty, strict=True)]
    assert measure(both) == measure(full)  # a batch without a valid pixel is skipped


@pytest.mark.parametrize("normal_mask", ["own", "depth"])
@pytest.mark.parametrize("valid", [0.0, 0.7, 1.0])
def test_losses_and_gradients(valid, normal_mask):
    p, t = make(2, valid=valid)
    p = {task: x.double().requires_grad_() for task, x in p.items()}
    gradients = torch.autograd.grad((values := torch.stack(losses(p, t, normal_mask))).sum(), p.values())
    mask, label = t["depth"] != 0, t["label"][:, None]
    mask_n = (t["normal"] != 0).any(1) if normal_mask == "own" else mask[:, 0]
    nll = -p["semantic"].gather(1, label.clamp(min=0))[label >= 0]
    error, cosine = (p["depth"] - t["depth"])[mask], (p["normal"] * t["normal"]).sum(1)[mask_n]
    expected = torch.stack([nll.mean(), error.abs().mean(), (1 - cosine).mean()]).nan_to_num(0)
    torch.testing.assert_close(values, expected)
    assert gradients[1][mask].tolist() == pytest.approx((error.sign() / max(len(error), 1)).tolist())
    assert all(g.isfinite().all() and bool(g.any()) == (valid > 0) for g in gradients)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_is_named_and_counted(bad):
    spots = [(0, task, f"{task} prediction") for task in DENSE]
    for part, key, name in [*spots, (1, "depth", "depth target"), (1, "normal", "normal target")]:
        data = make(2)
        data[part][key][0, 0, 0, :3] = bad
        with pytest.raises(FloatingPointError, match=f"{name} is not finite at 3 pixels"):
            measure(data)


def test_wrong_input_is_told():
    data, tally = make(3), Tally(DENSE, listed(5), "cpu", 2)
    tally.update(*data)
    with pytest.raises(ValueError, match="multiple of 2"):
        tally.update(*data)
    data[1]["label"][0, 0, :2] = torch.tensor([5, 255])
    with pytest.raises(ValueError, match="2 pixels"):
        measure(data)
    with pytest.raises(ValueError, match="'edges'"):
        Tally(["edges"], listed(5), "cpu", 2)
    with pytest.raises(ValueError, match="'both'"):
        losses(*make(3), normal_mask="both")
    with pytest.raises(ValueError, match=r"digits should be 2 or more. Found \['0'\]"):
        load("digits").channels({"digits": ["0"]})


def test_normals_of_zero_length_stay_finite():
    x = (torch.randn(2, 3, 4, 5) * torch.tensor([[1], [0], [0], [1e-20]])).requires_grad_()
    y = normal.unit(x)
    y.sum().backward()
    torch.testing.assert_close(y[:, :, 0], F.normalize(x[:, :, 0], dim=1))
    assert (y[:, :, 1:] == 0).all() and (x.grad[:, :, 1:] == 0).all() and x.grad.isfinite().all()


def test_what_tables_and_checks_know_of_tasks_needs_no_torch():
    code = "import pipeline.config.params, pipeline.data, pipeline.table, sys; print('torch' in sys.modules)"
    assert command(code=code).stdout == "False\n"
    assert sorted(facts(task).target for task in names()) == ["characters", "depth", "digits", "disparity", "label",
                                                              "normal", "offset"]


def test_a_kind_and_a_metric_are_one_tasks_own(monkeypatch):
    monkeypatch.setattr(tasks, "names", lambda: ("depth", "depth"))
    with pytest.raises(ValueError, match="'depth' is the target of depth and of depth"):
        tasks.of_kinds(["depth"])
    with pytest.raises(ValueError, match="both have a metric 'abs_err'"):
        of(["depth", "depth"])


def test_extremes_of_the_fixed_point():
    target = torch.full((1, 1, 1024, 2048), 1 / 65535)
    for numbers in measure(one_task("depth", torch.full_like(target, 1e30), depth=target)).values():
        assert set(numbers.values()) == {2.0**17}
    small = measure(one_task("normal", tilted(0.001, 0.002, 0.005, 0.01), normal=tilted(0, 0, 0, 0)))
    assert list(small["official"].values())[:2] == pytest.approx([0.0045, 0.0035], rel=1e-3)


def test_delta_m_signs_and_selection():
    single = {"miou_pct": 40.0, "pix_acc_pct": 50.0, "abs_err": 0.5, "angle_mean_deg": 20.0}
    ours = {"miou_pct": 44.0, "pix_acc_pct": 50.0, "abs_err": 0.4, "rel_err": 0.2, "angle_mean_deg": 22.0}
    assert delta_m(ours, single) == pytest.approx((5 + 20 - 10) / 3)
    assert delta_m(ours, single, ["miou_pct", "abs_err"]) == pytest.approx((10 + 20) / 2)
    assert np.isnan(delta_m({"miou_pct": 1.0}, {"miou_pct": 0.0}))
    with pytest.raises(ValueError, match="mIoU"):
        delta_m(ours, single, ["mIoU"])
