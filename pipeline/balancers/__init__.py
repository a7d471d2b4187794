"""Balancers turn per-task losses into one update. One file a method, each with a class `Balancer` derived from this.

The loop calls `backward` once a step and knows no method; that computes the smallest statistic a method `needs`:

    losses     one backward pass of the weighted sum; every parameter follows the weights
    gramian    one a task; the weights are for the shared parameters, heads follow their own loss with weight 1
"""

import importlib

import torch

import kernels.dispatch


class Balancer:
    needs = "losses"

    def __init__(self, tasks):
        self.tasks = tasks

    def start_epoch(self, history):
        """Mean training losses of the finished epochs, oldest first, each (T,)."""

    def weights(self, losses, gramian):
        """losses (T,), gramian (T, T) float64 or None if it is not needed -> (T,), all without gradient."""
        raise NotImplementedError

    def state_dict(self):
        """Everything a resumed run needs, plain values or tensors."""
        return {}

    def load_state_dict(self, state):
        pass


def load(name, tasks, **options):
    return importlib.import_module(f"pipeline.balancers.{name}").Balancer(tasks, **options)


def backward(balancer, model, losses, terms):
    """Fill every `.grad` from the task losses (T,) and the objective's own terms (scalars, never balanced).

    Returns the weights (T,) that were applied; NaN if a gradient was not finite.
    """
    if balancer.needs == "losses":
        weights = balancer.weights(losses.detach(), None)
        ((weights * losses).sum() + sum(terms.values())).backward()
        return weights
    shared, heads = model.shared_parameters(), [p for task in balancer.tasks for p in model.task_parameters(task)]
    last = len(losses) - 1
    gradients = [torch.autograd.grad(loss, [*shared, *heads], retain_graph=i < last or bool(terms), allow_unused=True)
                 for i, loss in enumerate(losses)]
    if terms:
        sum(terms.values()).backward()
    by_task = [found[:len(shared)] for found in gradients]
    weights = balancer.weights(losses.detach(), kernels.dispatch.gramian(by_task))
    kernels.dispatch.combine(shared, by_task, weights)
    kernels.dispatch.combine(heads, [found[len(shared):] for found in gradients], torch.ones_like(weights))
    return weights


def passes(balancer, terms):
    """Backward passes a step, given the names of the objective's terms."""
    return 1 if balancer.needs == "losses" else len(balancer.tasks) + bool(terms)
