"""Balancers turn per-task losses into one update. One file a method, each with a class `Balancer`:

    needs         "losses": what `weights` is given (the smallest statistic that determines the method)
    Balancer(tasks, **options)
    weights(losses (T,)) -> (T,) without gradient
    start_epoch(history)   mean training losses of the finished epochs, oldest first, each (T,)
    state_dict(), load_state_dict(state)   everything a resumed run needs, plain values or tensors

The loop calls `backward` once a step and knows no method.
"""

import importlib


def load(name, tasks, **options):
    return importlib.import_module(f"pipeline.balancers.{name}").Balancer(tasks, **options)


def backward(balancer, losses, terms):
    """Fill every `.grad` from the task losses (T,) and the objective's own terms (scalars, never balanced).

    Returns the weights (T,) that were applied.
    """
    if balancer.needs != "losses":
        raise ValueError(f"a balancer that needs {balancer.needs!r} is unknown here; known: 'losses'")
    weights = balancer.weights(losses.detach())
    ((weights * losses).sum() + sum(terms.values())).backward()
    return weights
