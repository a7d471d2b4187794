"""Cross-task consistency: its losses by hand, where its gradients go, how it groups."""

import types

import pytest
import torch
import torch.nn.functional as F
from conftest import heads

import models
from pipeline import balancers, objectives, tasks
from pipeline.objectives import consistency
from pipeline.objectives import consistency_losses as between

CLASSES = {"semantic": list("abcde")}
DEFAULTS = {"lambda": {"semantic": 0.2, "depth": 0.3, "normal": 0.4}, "pairs": None, "targets": "predictions",
            "group": "source", "semantic": "cross", "smoothing": 0.0, "depth": "l1", "direct": "l1", "void": "skip",
            "holes": "skip", "batch_norm": False, "wide": False}


def objective(names=("semantic", "depth"), **changes):
    torch.manual_seed(0)
    run = {"method": {"consistency": DEFAULTS | changes}, "tasks": list(names), "switches": {"normal_mask": "own"},
           "train": {"width": 0.125, "lr": 1e-3, "beta2": 0.99, "precision": "float32"}}
    return consistency.Objective(run, None, types.SimpleNamespace(classes=CLASSES), torch.device("cpu"))


def step(predictions, targets, **more):
    """A step of training that has these predictions and targets."""
    return objectives.Step([], None, predictions, {}, targets, lr=more.pop("lr", 1e-3), **more)


def made(names=("semantic", "depth"), seed=0, images=2, height=16, width=24):
    """Predictions that want a gradient, and targets with holes."""
    draw = torch.Generator().manual_seed(seed)
    def rand(*shape):
        return torch.rand(images, *shape, height, width, generator=draw)
    raw = {"semantic": rand(5).mul(4), "depth": rand(1), "normal": rand(3) - 0.5}
    raw = {name: raw[name].requires_grad_() for name in names}
    formed = {"semantic": lambda x: x.log_softmax(1), "depth": lambda x: x, "normal": lambda x: F.normalize(x, dim=1)}
    targets = {"label": (rand() * 6).long() - 1, "depth": rand(1) * (rand(1) > 0.3),
               "normal": F.normalize(rand(3) - 0.5, dim=1) * (rand(1) > 0.2)}
    return raw, {name: formed[name](x) for name, x in raw.items()}, targets


# -- losses

@pytest.mark.parametrize("kind, difference", [
    ("l1", torch.abs), ("mse", torch.square), ("log_l1", lambda e: (1 + e.abs()).log()),
    ("smooth_l1", lambda e: F.smooth_l1_loss(e, torch.zeros_like(e), reduction="none"))])
def test_depth_is_a_mean_over_an_images_pixels_and_then_over_images(kind, difference):
    _, predictions, targets = made()
    p, y = predictions["depth"] * 3, targets["depth"]
    means = [difference(p[i] - y[i])[y[i] != 0].mean() for i in range(2)]
    assert (y[0] != 0).sum() != (y[1] != 0).sum()
    torch.testing.assert_close(between.depth(kind, p, y, (y != 0)[:, 0], 1.0), sum(means) / 2)
    empty = torch.zeros(2, 16, 24, dtype=torch.bool)
    assert between.depth(kind, p, y, empty, 1.0) == 0                     # an image without depth is no NaN


def test_cross_is_the_smoothed_cross_entropy_with_the_likeliest_class():
    _, predictions, _ = made()
    _, others, _ = made(seed=1)
    q, p = predictions["semantic"], others["semantic"]
    chosen = p.argmax(1)
    torch.testing.assert_close(between.cross(q, p, 0.0), F.nll_loss(q, chosen, reduction="none"))
    wanted = torch.full_like(q, 0.1 / 4).scatter(1, chosen[:, None], 0.9)
    torch.testing.assert_close(between.cross(q, p, 0.1), -(wanted * q).sum(1))
    apart = tasks.load("semantic").apart
    torch.testing.assert_close(apart(q, p), F.kl_div(q, p, reduction="none", log_target=True).sum(1))
    assert apart(p, p).abs().max() < 1e-6


def test_ssim_by_hand():
    _, predictions, targets = made()
    x, y = predictions["depth"].detach().double(), targets["depth"].double()
    mask = (y != 0)[:, 0]
    expected = 0.0
    for i in range(2):
        a, b, total = x[i, 0] * mask[i], y[i, 0] * mask[i], 0.0
        for r in range(14):
            for c in range(22):
                u, v = a[r:r + 3, c:c + 3], b[r:r + 3, c:c + 3]
                both = (u * v).mean() - u.mean() * v.mean()
                s = (2 * u.mean() * v.mean() + 1e-4) * (2 * both + 9e-4) / (
                    (u.mean()**2 + v.mean()**2 + 1e-4) * (u.var(correction=0) + v.var(correction=0) + 9e-4))
                total += ((1 - s) / 2).clamp(0, 1)
        expected += total / mask[i].sum() / 2
    torch.testing.assert_close(between.ssim(x, y, mask, 1.0), expected)
    before = x.clone()
    assert between.ssim(x, x, mask, 1.0) < 1e-12 and torch.equal(x, before)         # the released code alters it


# -- the objective

def test_gradients_go_where_the_paper_says():
    """Of each distance: to its source's prediction and net, to nothing of the target's."""
    one = objective()
    raw, predictions, targets = made()
    for source, target in one.pairs:
        apart = one.disagreement(target, one.transferred(predictions)[source, target], predictions,
                                 step(predictions, targets))
        reached = dict(zip(raw, torch.autograd.grad(apart, list(raw.values()), allow_unused=True, retain_graph=True),
                           strict=True))
        assert reached[target] is None and reached[source].abs().sum() > 0
        nets = {name: torch.autograd.grad(apart, list(net.parameters()), allow_unused=True, retain_graph=True)
                for name, net in one.nets.items()}
        assert all(g is not None for g in nets[f"{source}_{target}"])
        assert all(g is None for g in nets[f"{target}_{source}"])


def test_groups_are_the_papers_sums():
    one = objective()
    _, predictions, targets = made()
    found = one(step(predictions, targets))
    semantic, depth = (x.item() for x in found.losses)
    seen = {key: x.item() for key, x in found.logged.items()}
    assert semantic == pytest.approx(0.8 * seen["label_semantic"] + 0.2 * seen["transfer_semantic_depth"])
    assert depth == pytest.approx(0.7 * seen["label_depth"] + 0.3 * seen["transfer_depth_semantic"])
    assert seen["label_semantic"] == pytest.approx(tasks.losses(predictions, targets)[0].item())
    by_target = [x.item() for x in objective(group="target")(step(predictions, targets)).losses]
    assert by_target == pytest.approx([0.8 * seen["label_semantic"] + 0.2 * seen["transfer_depth_semantic"],
                                       0.7 * seen["label_depth"] + 0.3 * seen["transfer_semantic_depth"]])
    alone = objective(pairs=[])
    assert [x.item() for x in alone(step(predictions, targets)).losses] == pytest.approx(
        [seen["label_semantic"], seen["label_depth"]]) and not alone.extra_parameters()


def test_any_pair_and_all_three_tasks():
    three = objective(("semantic", "depth", "normal"))
    assert len(three.pairs) == 6 and ("normal", "depth") in three.pairs
    _, predictions, targets = made(("semantic", "depth", "normal"))
    found = three(step(predictions, targets))
    mean = (found.logged["transfer_normal_semantic"] + found.logged["transfer_normal_depth"]) / 2
    torch.testing.assert_close(found.losses[2].detach(), 0.6 * found.logged["label_normal"] + 0.4 * mean)
    pair = objective(("semantic", "depth", "normal"), pairs=["depth-normal"])
    assert pair.pairs == [("depth", "normal"), ("normal", "depth")]
    _, predictions, targets = made(("semantic", "depth", "normal"))
    found = pair(step(predictions, targets))
    assert found.losses[0].item() == pytest.approx(found.logged["label_semantic"].item())
    found = pair.transferred(predictions)["depth", "normal"]
    torch.testing.assert_close(found.square().sum(1), torch.ones(2, 16, 24))


def test_targets_may_be_the_labels():
    one = objective(targets="labels", direct="mse")
    _, predictions, targets = made()
    logged = one(step(predictions, targets)).logged
    found = one.transferred(predictions)
    expected = between.depth("mse", found["semantic", "depth"], targets["depth"], (targets["depth"] != 0)[:, 0], 1.0)
    torch.testing.assert_close(logged["transfer_semantic_depth"], expected.detach())
    torch.testing.assert_close(logged["transfer_depth_semantic"], F.nll_loss(
        found["depth", "semantic"], targets["label"], ignore_index=-1).detach())


def test_void_pixels_and_holes():
    _, predictions, targets = made()
    labelled, everything = (targets["label"] != -1).sum(), targets["label"].numel()
    found = {void: objective(void=void)(step(predictions, targets)).logged["transfer_depth_semantic"]
             for void in ("skip", "zero", "keep")}
    torch.testing.assert_close(found["skip"] * labelled, found["zero"] * everything)
    assert found["keep"] != found["zero"]
    kept = objective(holes="keep")(step(predictions, targets)).logged
    whole = (predictions["depth"] - targets["depth"]).abs().mean()         # missing depth is a depth of 0
    torch.testing.assert_close(kept["label_depth"], whole.detach())
    uncut = {"depth_mask": torch.zeros(2, 1, 16, 24, dtype=torch.bool), "label_mask": torch.zeros(2, 16, 24) > 0}
    uncut["depth_mask"][:, :, 0] = uncut["label_mask"][:, 1] = True           # the masks that augmentation left uncut
    one = objective(void="zero")
    logged = one(step(predictions, targets | uncut)).logged
    torch.testing.assert_close(logged["label_depth"],
                               (predictions["depth"] - targets["depth"]).abs()[:, :, 0].mean().detach())
    apart = between.cross(one.transferred(predictions)["depth", "semantic"], predictions["semantic"].detach(), 0.0)
    torch.testing.assert_close(logged["transfer_depth_semantic"], apart[:, 1].sum().detach() / everything)


def test_energy_is_the_released_scripts():
    one = objective()
    chunks = [made(seed=seed, images=images)[1] for seed, images in ((0, 2), (1, 3))]
    metrics = one.eval_metrics()
    for predictions in chunks:
        metrics.update(predictions)
    energy = metrics.results()
    both = {name: torch.cat([chunk[name] for chunk in chunks]).detach() for name in ("semantic", "depth")}
    with torch.no_grad():
        found = one.transferred(both)
    semantic = F.kl_div(found["depth", "semantic"], both["semantic"], log_target=True, reduction="none").mean().item()
    depth = (found["semantic", "depth"] - both["depth"]).abs().mean().item()
    assert energy["energy_semantic_depth"] == pytest.approx(depth, rel=1e-5)
    assert energy["energy"] == pytest.approx(0.5 * semantic + 0.5 * depth, rel=1e-5)
    anew, none = one.eval_metrics(), objective(pairs=[]).eval_metrics()
    for metrics in (anew, none):
        metrics.update(chunks[0])
    assert anew.results()["energy"] != energy["energy"] and none.results() == {}


@pytest.mark.parametrize("name", ["uniform", "gradnorm", "aligned_mtl_ub", "mgda"])
def test_transfer_nets_are_heads_to_every_balancer(name):
    """Under `heads: own` each net's gradient is that of its own loss, whatever the weights are."""
    one = objective()
    torch.manual_seed(1)
    model = models.load("segnet", heads({"semantic": 5, "depth": 1}), 0.125)
    image, targets = torch.rand(2, 3, 32, 48), made(height=32, width=48)[2]
    predictions, features = model(image)
    losses = one(step(predictions, targets)).losses
    expected = torch.autograd.grad(sum(losses), one.extra_parameters(), retain_graph=True)
    balancers.backward(balancers.load(name, ["semantic", "depth"], heads="own"), model, losses, {}, features,
                       one.extra_parameters())
    for parameter, gradient in zip(one.extra_parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-7)


def test_nets_follow_the_networks_adam():
    one = objective()
    one.update(step({}, {}, lr=0.5))
    (group,) = one.optimiser.param_groups
    assert group["lr"] == 0.5 and group["betas"] == (0.9, 0.99)


def test_the_weights_of_uncertainty_settle_at_the_losses_inverse():
    learned = balancers.load("uncertainty", ["a", "b"], init=0.0, regulariser=1.0, lr=0.05)
    for _ in range(600):
        weights = learned.weights(torch.tensor([0.5, 4.0]), None)
    assert weights.tolist() == pytest.approx([2.0, 0.25], rel=0.02)
    assert balancers.load("uncertainty", ["a"], model_beta2=0.9).optimiser.param_groups[0]["betas"] == (0.9, 0.9)
    assert balancers.load("uncertainty", ["a"], model_beta2=0.9, lr=0.1).optimiser.param_groups[0]["betas"][1] == 0.999


def test_adaptive_loss_specific_weights_follow_the_decoders_gradients():
    torch.manual_seed(0)
    model = models.load("resnet", heads({"semantic": 5, "depth": 1}), 0.125, encoder=18)
    predictions, features = model(torch.rand(2, 3, 32, 48))
    losses = list(tasks.losses(predictions, made(height=32, width=48)[2]))
    sizes = [torch.autograd.grad(loss, [model.first_own(task)], retain_graph=True)[0].abs().mean().item()
             for task, loss in zip(("semantic", "depth"), losses, strict=True)]
    alone = torch.autograd.grad(losses[1], [model.first_own("depth")], retain_graph=True)[0]
    weights, _ = balancers.backward(balancers.load("adalsp", ["semantic", "depth"]), model, losses, {}, features)
    assert weights.tolist() == pytest.approx([size / sum(sizes) for size in sizes], rel=1e-5)
    torch.testing.assert_close(model.first_own("depth").grad, weights[1] * alone, rtol=1e-3, atol=1e-7)


def test_a_second_look_leaves_the_nets_statistics(monkeypatch):
    one = objective(batch_norm=True)
    model = models.load("segnet", heads({"semantic": 5, "depth": 1}), 0.125).train()
    image, targets = torch.rand(2, 3, 32, 48), made(height=32, width=48)[2]
    famo = balancers.load("famo", ["semantic", "depth"])

    found = one(step(model(image)[0], targets))
    balancers.backward(famo, model, found.losses, {}, None, one.extra_parameters())
    after = [*model.buffers(), *one.buffers()]
    before = [buffer.clone() for buffer in after]
    balancers.look_again(famo, after, lambda: found.again(model(image)[0]))
    assert len(before) > 20 and all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
