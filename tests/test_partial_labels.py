"""Tasks without a label in a batch, or in most: they take no part in a step, nor in a mean of the epoch."""

import pytest
import torch
from conftest import change, folder_of, run
from test_balancers import METHODS, TASKS, Toy, flat, train_toy

from pipeline import balancers, features, prepare, train
from pipeline.data import augment, scenes
from pipeline.data.labels import Labels
from pipeline.loop.curve import read
from pipeline.loop.record import Sums
from pipeline.runtime.entries import taken
from pipeline.runtime.errors import UserError


class Part(Toy):
    """The toy with the losses of some of its tasks alone."""

    def __init__(self, there):
        super().__init__()
        self.there = there

    def losses(self, x):
        whole = super().losses(x)
        return [whole[i] for i in self.there]


def steps_of(name, there, count=25):
    """A model after some steps in which the others of three tasks have no label, and its balancer."""
    model, balancer = Toy(), balancers.load(name, TASKS)
    return train_toy(name, count, balancer, model, there=there)


@pytest.mark.parametrize("there", [(0, 2), (1,)], ids=["two", "one"])
@pytest.mark.parametrize("name", METHODS)
def test_the_others_train_as_if_there_were_no_more(name, there):
    model, balancer = steps_of(name, there, 5)
    alone, method = Part(there), balancers.load(name, [TASKS[i] for i in there])
    optimiser = torch.optim.SGD(alone.parameters(), 0.02)
    for k in range(5):
        x = torch.randn(6, 5, generator=torch.Generator().manual_seed(k))
        optimiser.zero_grad(set_to_none=True)
        if k == 0:
            method.start_epoch([])
        balancers.backward(method, alone, alone.losses(x), {}, alone.features)
        torch.nn.utils.clip_grad_norm_(alone.parameters(), 1.0)
        optimiser.step()
        if method.looks_again:
            balancers.look_again(method, [], lambda x=x: alone.losses(x))
    assert torch.equal(flat(model), flat(alone))
    absent = [i for i in range(3) if i not in there]
    assert all(p.grad is None for i in absent for p in model.heads[TASKS[i]].parameters())
    fresh = balancers.load(name, TASKS)
    for attribute, axes in balancer.axes.items():         # what it knows of the absent tasks is what it began with
        now, begun = getattr(balancer, attribute), getattr(fresh, attribute)
        if isinstance(now, torch.Tensor) and begun is not None:
            assert torch.equal(taken(now, absent, axes), taken(begun, absent, axes)), attribute


@pytest.mark.parametrize("name", METHODS)
def test_every_number_a_task_is_declared_as_one(name):
    """A method's state has 3 numbers only where `axes` says so; Adam's moments follow what is learned."""
    _, balancer = train_toy(name, 30)
    for attribute in balancer.state:
        value = getattr(balancer, attribute)
        shape = (len(value),) if isinstance(value, list) else getattr(value, "shape", ())
        assert (3 in shape) == (attribute in balancer.axes and value is not None), attribute


@pytest.mark.parametrize("name", ["gradnorm", "famo", "uncertainty"])
def test_learned_numbers_and_moments_of_the_absent_stay(name):
    _, balancer = train_toy(name, 8)
    before = balancer.learned[1].clone(), {key: value.clone() for key, value in
                                           balancer.optimiser.state[balancer.learned].items()}
    train_toy(name, 3, balancer, there=(0, 2))
    now = balancer.optimiser.state[balancer.learned]
    assert balancer.learned[1] == before[0] and balancer.learned[0] != before[0]
    for moment in ("exp_avg", "exp_avg_sq"):
        assert now[moment][1] == before[1][moment][1] and now[moment][0] != before[1][moment][0]


def test_a_batch_without_any_label_has_the_terms_alone():
    model, balancer = Toy(), balancers.load("mgda", TASKS)
    losses = model.losses(torch.randn(6, 5))
    weights, gramian = balancers.backward(balancer, model, losses, {}, model.features, there=())
    assert weights.tolist() == [0, 0, 0] and gramian is None and all(p.grad is None for p in model.parameters())
    balancers.backward(balancer, model, losses, {"distance": model.first.weight.square().sum()}, model.features,
                       there=())
    assert torch.equal(model.first.weight.grad, 2 * model.first.weight) and balancer.calls == 0


def test_an_old_weight_waits_for_a_task_that_was_not_there():
    """With `period` the first weights are of some tasks; the other has 1 until the method has seen it."""
    model, balancer = Toy(), balancers.load("mgda", TASKS, period=2)
    for there in ((0, 2), None):
        weights, _ = balancers.backward(balancer, model, model.losses(torch.ones(6, 5)), {}, model.features,
                                        there=there)
    assert weights[1] == 1 and weights[[0, 2]].sum() == pytest.approx(1)


def test_means_are_over_the_steps_that_say_something():
    sums = Sums(3)
    for number, (value, missing) in enumerate([(2.0, ()), (0.0, {"loss_b"}), (4.0, {"label_a"})]):
        sums.add(number, {"loss_a": torch.tensor(value), "loss_b": torch.tensor(value)}, {}, missing)
    assert sums.means() == {"loss_a": 2.0, "loss_b": 3.0}
    sums = Sums(1)
    sums.add(0, {"loss_a": torch.tensor(1.0), "loss_b": torch.tensor(0.0)}, {}, {"loss_b"})
    assert sums.means() == {"loss_a": 1.0, "loss_b": 0.0} and sums.means({"loss_b": 7.0})["loss_b"] == 7.0


# -- where the flags come from

class Images:
    """Images of 12 x 12 with so many pixels of depth each, from the top left corner on."""
    size, stride = (12, 12), 1

    def __init__(self, *pixels):
        self.depth = torch.stack([(torch.arange(144) < count).float().view(1, 12, 12) for count in pixels])

    def __len__(self):
        return len(self.depth)

    def batch(self, index):
        return None, {"depth": self.depth[index], "normal": self.depth[index].expand(-1, 3, 12, 12)}


def row(augmented="none", mask="own", tasks=("depth",)):
    return {"tasks": list(tasks), "switches": {"normal_mask": mask}, "train": {"augment": augmented},
            "data": {"folder": "data/rooms"}}


def test_a_batch_has_a_label_where_an_image_of_it_has():
    labels = Labels(Images(0, 1, 0, 144), row())
    assert labels.of([0, 2], {}) == () and labels.of([0, 1], {}) is None and labels.of([3, 2], {}) is None
    assert Labels(Images(1, 144), row()).everywhere


def test_a_cut_that_takes_the_last_label_is_seen():
    """64 of 144 pixels are left of the smallest cut, so 80 may be lost; only then is the batch looked at."""
    assert (12 / max(augment.SCALES)) == 8
    images = Images(0, 80, 81)
    labels = Labels(images, row("crop"))
    assert labels.of([2, 0], {}) is None                               # not looked at
    lost = {"depth": torch.zeros(2, 1, 12, 12)}
    assert labels.of([1, 0], lost) == () and labels.of([1, 0], images.batch([1, 0])[1]) is None
    images.stride = 2
    for row_of, target in ((row("crop"), lost), (row("rotate"), lost)):
        assert Labels(images, row_of).of([2, 2], target) == () and Labels(images, row("none")).of([2], {}) is None


def test_normals_averaged_over_valid_depth_need_both():
    images = Images(5, 0)
    images.batch = lambda index: (None, {"depth": images.depth[index], "normal": torch.ones(len(index), 3, 12, 12)})
    assert Labels(images, row(mask="own", tasks=["normal"])).everywhere
    assert Labels(images, row(mask="depth", tasks=["normal"])).of([1], {}) == ()


def test_a_task_that_no_image_shows_is_refused():
    with pytest.raises(UserError, match="none of the 2 training images of data/rooms has a label of depth; leave depth "
                                        "out of `teacher.rows`"):
        Labels(Images(0, 0), row())


# -- a training of a set of which one image has a depth: half of the steps have none

@pytest.fixture
def one_depth(folder, monkeypatch):
    read_image = scenes.read

    def without(split, name, *rest):
        found = read_image(split, name, *rest)
        if split == "train" and not name.endswith("00003"):
            found["depth"] = 0 * found["depth"]
        return found
    monkeypatch.setattr(scenes, "read", without)
    run(prepare, "rooms")
    return folder


def test_a_partly_labelled_set_trains_by_every_kind_of_method(one_depth, monkeypatch):
    """The whole chain: a depth teacher, DWA and STCH that read past losses, FAMO's second look, a Gramian, and Ours.
    What every mean is of is written down beside it, step by step."""
    methods = ("dwa", "stch", "famo", "cagrad", "mgda-full")
    change(("rows: [si,", "rows: [dwa, si,"), ("epochs: 2, batch: 4", "epochs: 4, batch: 4"))
    seen, add = [], Sums.add

    def watched(sums, number, columns, weights, missing=()):
        seen.append(({name: value.item() for name, value in columns.items()}, missing))
        add(sums, number, columns, weights, missing)
    monkeypatch.setattr(Sums, "add", watched)

    def trained(group, name):
        seen.clear()
        run(train, "rooms", group, "segnet", name, "0")
        return read(folder_of("rooms", "segnet", name), "")[0]
    for task in ("semantic", "depth", "normal"):
        trained("teacher", task)
        features.main("rooms", "teacher", "segnet", task, "0")
    for group, name in (*(("wide", name) for name in methods), ("student", "ours")):
        curve = trained(group, name)
        assert len(seen) == 2 * len(curve) == 8
        for epoch, line in enumerate(curve):
            steps = [columns["loss_depth"] for columns, missing in seen[2 * epoch:2 * epoch + 2]
                     if "loss_depth" not in missing]
            assert len(steps) == 1 and steps[0] > 0.1 and line["loss_depth"] == pytest.approx(steps[0])
            assert name != "ours" or line["distance_depth"] == pytest.approx(
                sum(columns["distance_depth"] for columns, _ in seen[2 * epoch:2 * epoch + 2]) / 2)
