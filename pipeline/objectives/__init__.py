"""Objectives turn predictions, targets and features into one loss per task. One file each, a class `Objective`:

    Objective(run, model, split, device)
    __call__(index, image, predictions, features, targets)
        -> losses [T scalars], terms {name: scalar}, watched {name: scalar without gradient}
    losses(predictions, targets)      those alone; `seen` then has what of them is watched
    nets                   its networks that the losses reach, heads to a balancer; what only terms reach is not here
    judge(predictions)     of a chunk of test images; judged() -> {name: number} of all since it was last called
    follow(rate)           the network's learning rate, before each step
    progress               share of the training that is done, 0 to 1; the loop sets it before every step
    part                   share of the batch that this process's images are; likewise
    step()                 the objective's own optimiser, if it has one; clears its gradients too
    state_dict(), load_state_dict(state)
    describe()             one line for the run's header

    prefetch(index)        the images of the next step: what has to be read for them may be read meanwhile

`terms` are added to the balanced sum as they are; the attribute `terms` has their names. Names of terms and of what is
`watched` appear in curve.csv. Where several processes share a batch, all three are this one's parts of the whole.
"""

import importlib


def load(name, *arguments):
    return importlib.import_module(f"pipeline.objectives.{name}").Objective(*arguments)
