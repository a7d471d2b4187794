"""Balancers turn per-task losses into one update. One file a method, each with a class `Balancer` derived from this.

The loop calls `backward` once a step and knows no method; that computes the smallest statistic a method `needs`, of the
whole batch where several processes share it:

    losses     nothing more: one backward pass of the weighted sum
    layer      Gramian on the last shared layer, or on `layers`, T passes as far as that; then as `losses`
    features   Gramian on the last shared features, T passes through the heads and one through the rest
    gramian    Gramian on the shared parameters, a backward pass a task

A Gramian is (T, T), float64; G_ij = <g_i, g_j>. Options that every method has:

    heads       own: a head follows its own loss with weight 1 | weighted: with its task's weight
    preference  {task: factor}: what its file says, else the losses are multiplied by it before the method sees them
    scale       own: weights as the paper has them | sum, mean: their absolute values add up to T, to 1
    attention   MTAN's branches, where a Gramian on the parameters is needed: own, as heads | shared: in the Gramian
    period      weights are computed every so many steps; between, one pass with the last ones

A task without a label in a batch takes no part in its step: the method sees the other tasks alone, as if there were no
more, and what it has learned of the absent one stays as it was.
"""

import copy
import functools
import importlib
from typing import Literal

import torch

import kernels.dispatch
from pipeline.options import declared
from pipeline.options.mistakes import resolved
from pipeline.options.types import Count, Name, Positive
from pipeline.runtime import distributed
from pipeline.runtime.entries import put, taken
from pipeline.runtime.errors import UserError

TINY = 1e-12              # least loss that is divided by, or whose logarithm is taken
FROM_LOOP = ("seed", "device", "model_lr", "model_beta2")          # what a row does not choose


class Balancer:
    needs = "losses"
    heads = None               # a method's own default; else weighted for `losses` and `layer`, own for the others
    prefers = False            # True: `preference` has a meaning in the method itself; None: it has no effect
    looks_again = False        # True: `look_again` wants the losses of the same batch after the update
    residual = None            # after `weights`, of a method that solves a problem: how far from solved, () tensor
    state = ("calls", "last_weights", "generator")     # attributes that a resumed run needs
    axes = {"preference": (0,), "last_weights": (0,)}  # of attributes with a number a task: the axes of tasks

    def __init__(self, tasks, *, heads: Literal["own", "weighted"] | None = None,
                 preference: dict[Name, Positive] | None = None, scale: Literal["own", "sum", "mean"] = "own",
                 attention: Literal["own", "shared"] = "own", period: Count = 1, seed=0, device="cpu",
                 model_lr=1e-3, model_beta2=0.999):
        heads = heads or self.heads or ("weighted" if self.needs in ("losses", "layer") else "own")
        preference = preference or {}
        if preference and self.prefers is None:
            raise ValueError(f"`preference` is {preference}; {type(self).__module__.split('.')[-1]} undoes any")
        if set(preference) - set(tasks):
            raise ValueError(f"`preference` is {preference}; it should have factors of {', '.join(tasks)}")
        self.tasks, self.heads, self.scale, self.attention, self.period = list(tasks), heads, scale, attention, period
        self.preference = torch.tensor([float(preference.get(task, 1)) for task in tasks], device=device)
        self.calls, self.last_weights = 0, None
        self.generator = torch.Generator().manual_seed(seed)      # on the host, so that every device draws the same
        self.device, self.model_lr, self.model_beta2 = device, model_lr, model_beta2

    def start_epoch(self, history):
        """Mean training losses of the finished epochs, oldest first, each (T,)."""

    def set_lr(self, lr):
        """The network's learning rate, before each step."""

    def weights(self, losses, gramian):
        """losses (T,), gramian (T, T) float64 or None if it is not needed -> (T,), all without gradient."""
        raise NotImplementedError

    def applied(self, losses, gramian):
        """`weights` under the options `preference` and `scale` (not of zeros); NaN where a gradient is not finite."""
        if self.prefers:
            weights = self.weights(losses, gramian)
        else:
            p = self.preference
            weights = p * self.weights(p * losses, None if gramian is None else gramian * p * p[:, None])
        if gramian is not None:
            whole = gramian.diagonal().isfinite()
            weights = torch.where(whole, torch.where(whole.all(), weights, 0), torch.nan)
        if self.scale == "own":
            return weights
        total = weights.abs().sum()
        return torch.where(total > 0, weights * ((len(self.tasks) if self.scale == "sum" else 1) / total), weights)

    def prepare(self, gradients, losses, maps=None):
        """What takes the place of the tasks' gradients: lists over parameters or `maps`, None where there is none."""
        return gradients

    def layers(self, model):
        """Of each task, the parameters that its gradient is looked at, where the method needs `layer`."""
        return [model.last_shared()] * len(self.tasks)

    def gramian_of(self, gradients):
        return kernels.dispatch.gramian(gradients)

    def head_weights(self, weights):
        """(T,) factors of each head's own gradient."""
        return weights if self.heads == "weighted" else torch.ones_like(weights)

    def among(self, there):
        """The same method for the tasks at these positions alone; `follow` brings back what it learns."""
        part = copy.copy(self)
        part.tasks = [self.tasks[i] for i in there]
        for name, axes in self.axes.items():
            setattr(part, name, taken(getattr(self, name), there, axes))
        return part

    def follow(self, part, there):
        """Have learned what `part`, made by `among`, has in a step; what the other tasks have stays as it was."""
        self.residual = part.residual
        for name in self.state:
            new = getattr(part, name)
            if name not in self.axes:
                setattr(self, name, new)
            elif new is not None:
                if getattr(self, name) is None:                     # the first weights of a `period`
                    setattr(self, name, new.new_ones(len(self.tasks)))
                put(getattr(self, name), new, there, self.axes[name])

    def look_again(self, losses):
        """losses (T,) of the same batch after the update, if the class `looks_again`."""

    def state_dict(self):
        def packed(value):
            if isinstance(value, torch.Generator):
                return value.get_state()
            return value.state_dict() if hasattr(value, "state_dict") else value
        return {name: packed(getattr(self, name)) for name in self.state}

    def load_state_dict(self, state):
        for name in self.state:
            held, value = getattr(self, name), state[name]
            if isinstance(held, torch.Generator):
                held.set_state(value)
            elif hasattr(held, "load_state_dict"):
                held.load_state_dict(value)
            elif isinstance(held, torch.Tensor):           # in place: an optimiser may hold it
                held.copy_(value)
            else:
                setattr(self, name, placed(value, self.device))


def placed(value, device):
    """Tensors, in lists of lists too, on `device`."""
    if isinstance(value, list):
        return [placed(x, device) for x in value]
    return value.to(device) if isinstance(value, torch.Tensor) else value


class Learned(Balancer):
    """A method with one learned number a task and an Adam of its own; lr None is the network's rate, step by step."""
    joins = False              # True: with lr None the numbers are in the network's own Adam, so have its beta2 too
    state = (*Balancer.state, "learned", "optimiser")
    axes = Balancer.axes | {"learned": (0,)}

    def __init__(self, tasks, init, lr, decay=0.0, **common):
        super().__init__(tasks, **common)
        self.network_lr = lr is None
        self.learned = torch.full((len(tasks),), float(init), device=self.device)
        betas = (0.9, self.model_beta2 if self.joins and self.network_lr else 0.999)
        self.optimiser = torch.optim.Adam([self.learned], lr or self.model_lr, betas, weight_decay=decay, fused=True)

    def set_lr(self, lr):
        if self.network_lr:
            for group in self.optimiser.param_groups:
                group["lr"] = lr

    def learn(self, gradient):
        self.learned.grad = gradient.to(self.learned)
        self.optimiser.step()

    def among(self, there):
        part = super().among(there)
        part.learn = functools.partial(self.learn_some, part, there)
        return part

    def learn_some(self, part, there, gradient):
        """`learn` for some tasks; of the others neither the numbers nor Adam's moments move."""
        moments = self.optimiser.state[self.learned]
        held = {name: moments[name].clone() for name in ("exp_avg", "exp_avg_sq") if moments}
        whole, learned = torch.zeros_like(self.learned), self.learned.clone()
        put(whole, gradient.to(whole), there)
        self.learn(whole)
        for name, now in (("learned", self.learned), *((name, moments[name]) for name in ("exp_avg", "exp_avg_sq"))):
            before = learned if name == "learned" else held.get(name, torch.zeros_like(now))
            put(before, taken(now, there), there)
            now.copy_(before)
        part.learned = taken(self.learned, there)


def load(name, tasks, **options):
    """A balancer by its file's name. ValueError, in one sentence, for an option that its class does not take."""
    given = {key: value for key, value in options.items() if key not in FROM_LOOP}
    try:
        resolved(declared.options(f"{__name__}.{name}", "Balancer", FROM_LOOP), given, name)
    except UserError as mistake:
        raise ValueError(str(mistake)) from None
    return importlib.import_module(f"{__name__}.{name}").Balancer(tasks, **options)


# -- one step

def backward(balancer, model, losses, terms, features, extra_parameters=(), there=None):
    """Fill every `.grad` from the task losses, T scalars, and the objective's own terms (scalars, never balanced).

    extra_parameters: those of the objective that the losses reach; they are heads to a balancer. there: positions of
    the tasks that have a label in the batch, None: all have; the others' heads have no gradient.

    Returns the weights (T,) that were applied and the Gramian (T, T), None where there was none; with one, NaN for the
    tasks whose gradient was not finite; 0 for those that are not there.
    """
    if there is not None and len(there) < len(losses):
        return some_backward(balancer, model, losses, terms, features, extra_parameters, there)
    values = distributed.total(torch.stack([loss.detach() for loss in losses]))
    again = balancer.last_weights is not None and balancer.calls % balancer.period
    balancer.calls += 1
    if again:
        weighted(balancer, model, losses, terms, extra_parameters, balancer.last_weights)
        return balancer.last_weights, None
    weights, gramian = {"losses": by_losses, "layer": by_layer, "features": by_features,
                        "gramian": by_gramian}[balancer.needs](balancer, model, losses, values, terms, extra_parameters,
                                                               features)
    balancer.last_weights = weights if balancer.period > 1 else None
    return weights, gramian


def some_backward(balancer, model, losses, terms, features, extra_parameters, there):
    """`backward` of the tasks that are there, of the terms alone where none is."""
    weights, gramian = torch.zeros(len(losses), dtype=torch.float64, device=losses[0].device), None
    if there:
        part = balancer.among(there)
        found, seen = backward(part, model, [losses[i] for i in there], terms, features, extra_parameters)
        balancer.follow(part, there)
        put(weights, found.double(), there)
        if seen is not None:
            gramian = seen.new_zeros(len(losses), len(losses))
            put(gramian, seen, there, (0, 1))
    elif terms:
        sum(terms.values()).backward()
        distributed.total_gradients([*model.parameters(), *extra_parameters])
    return weights, gramian


def by_losses(balancer, model, losses, values, terms, extra_parameters, features):
    weights = balancer.applied(values, None)
    weighted(balancer, model, losses, terms, extra_parameters, weights)
    return weights, None


def by_layer(balancer, model, losses, values, terms, extra_parameters, features):
    gradients = [distributed.totals(torch.autograd.grad(loss, layer, retain_graph=True))
                 for loss, layer in zip(losses, balancer.layers(model), strict=True)]
    gramian = balancer.gramian_of(gradients)
    weights = balancer.applied(values, gramian)
    weighted(balancer, model, losses, terms, extra_parameters, weights)
    return weights, gramian


def weighted(balancer, model, losses, terms, extra_parameters, weights):
    """One backward pass of the weighted sum; heads get what is missing to their own share."""
    alone = balancer.heads == "own"
    total = sum(w.to(loss) * loss for w, loss in zip(weights, losses, strict=True)) + sum(terms.values())
    total.backward(retain_graph=alone)
    if alone:
        _, heads = parts(balancer, model, extra_parameters)
        missing = balancer.head_weights(weights) - weights
        torch.autograd.backward(sum(w.to(loss) * loss for w, loss in zip(missing, losses, strict=True)), inputs=heads)
    distributed.total_gradients([*model.parameters(), *extra_parameters])


def by_gramian(balancer, model, losses, values, terms, extra_parameters, features):
    shared, heads = parts(balancer, model, extra_parameters)
    last = len(losses) - 1
    gradients = [distributed.totals(torch.autograd.grad(loss, [*shared, *heads], allow_unused=True,
                                                        retain_graph=i < last or bool(terms)))
                 for i, loss in enumerate(losses)]
    if terms:
        sum(terms.values()).backward()
        distributed.total_gradients([*model.parameters(), *extra_parameters])
    by_task = balancer.prepare([found[:len(shared)] for found in gradients], values)
    gramian = balancer.gramian_of(by_task)
    weights = balancer.applied(values, gramian)
    kernels.dispatch.combine(shared, by_task, weights)
    kernels.dispatch.combine(heads, [found[len(shared):] for found in gradients], balancer.head_weights(weights))
    return weights, gramian


def by_features(balancer, model, losses, values, terms, extra_parameters, features):
    maps = list({id(features[task]["last"]): features[task]["last"] for task in balancer.tasks}.values())
    heads = [*(p for task in balancer.tasks for p in model.head_parameters(task)), *extra_parameters]
    gradients = [torch.autograd.grad(loss, [*maps, *heads], retain_graph=True, allow_unused=True) for loss in losses]
    by_task = balancer.prepare([found[:len(maps)] for found in gradients], values, maps)
    gramian = distributed.total(balancer.gramian_of(by_task))          # each process has maps of its own images
    weights = balancer.applied(values, gramian)
    leaves = [x.detach() for x in maps]
    kernels.dispatch.combine(leaves, by_task, weights)
    torch.autograd.backward([*maps, *terms.values()], [*(leaf.grad for leaf in leaves), *[None] * len(terms)])
    kernels.dispatch.combine(heads, [found[len(maps):] for found in gradients], balancer.head_weights(weights))
    distributed.total_gradients([*model.parameters(), *extra_parameters])
    return weights, gramian


def parts(balancer, model, extra_parameters):
    """Parameters that are balanced, and those that belong to a task or, `extra_parameters`, to the objective."""
    shared = list(model.shared_parameters())
    of_task = model.task_parameters
    if balancer.attention == "shared":
        shared += [p for task in balancer.tasks for p in model.attention_parameters(task)]
        of_task = model.head_parameters
    return shared, [*(p for task in balancer.tasks for p in of_task(task)), *extra_parameters]


def look_again(balancer, buffers, losses, there=None):
    """Show the balancer `losses()` of the same batch, T scalars, after an update by new weights.

    buffers: tensors that computing them changes, batch norm's statistics; they are left as they were. there: as
    `backward` has it.
    """
    if (balancer.calls - 1) % balancer.period or there == ():
        return
    if there is not None and len(there) < len(balancer.tasks):
        part = balancer.among(there)
        look_again(part, buffers, lambda: [x for i, x in enumerate(losses()) if i in there])
        return balancer.follow(part, there)
    kept = [buffer.clone() for buffer in buffers]
    with torch.no_grad():
        balancer.look_again(distributed.total(torch.stack(losses())))
    for buffer, value in zip(buffers, kept, strict=True):
        buffer.copy_(value)


def passes(balancer, terms):
    """Whole backward passes a step, given the names of the objective's terms."""
    return len(balancer.tasks) + bool(terms) if balancer.needs == "gramian" else 1
