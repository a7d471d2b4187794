"""One epoch: its training steps, then the measurement on the test images."""

import json
import time
from dataclasses import dataclass

import torch

from pipeline import balancers
from pipeline.data import augment
from pipeline.loop import order
from pipeline.loop.measure import measure
from pipeline.loop.record import Record, Sums
from pipeline.objectives import Step
from pipeline.runtime import device, distributed, files, weights
from pipeline.runtime.errors import UserError
from pipeline.runtime.prefetch import positions
from pipeline.runtime.progress import Line, clock
from pipeline.tasks.metrics import METRICS, first, train_loss


def train_epoch(run, epoch):
    """Train one epoch (they count from 0), measure the network, and note both in `run.results`."""
    line, begun = Line(f"{run.title} epoch {epoch + 1}/{run.epochs}", run.steps), time.time()
    record, sums = Record(run.tasks), Sums(run.steps)
    run.model.train()
    run.balancer.start_epoch([[past[f"loss_{task}"] for task in run.tasks] for past in run.results.curve])
    for number, batch in enumerate(batches(run, epoch)):
        progress = (epoch + number / run.steps) / run.epochs
        sums.add(number, *train_step(run, batch, run.lr(epoch, number), progress, record))
        line.step(number + 1, lambda: f"loss {sums.last[:len(run.tasks)].mean().item():.4f}")
    means = sums.means(run.results.curve[-1] if run.results.curve else None)
    stop_if_not_finite(run, epoch, sums, record)
    took = time.time() - begun
    run.results.seconds += took
    run.results.curve.append({"epoch": epoch + 1, "lr": run.lr(epoch, run.steps - 1), **means, **measured(run)})
    run.results.balance.append({"epoch": epoch + 1, **record.line()})
    run.results.memory = max(run.results.memory, device.peak_memory(run.device))
    keep_weights(run, sums.last[0] if f"loss_{run.tasks[0]}" not in sums.last_missing else None)
    left = (time.time() - begun) * (run.epochs - epoch - 1)
    line.close(f"{summary(run.results.curve[-1], run.tasks)}  {took / run.steps:.2f} s/it  eta {clock(left)}")


# -- one step

@dataclass(frozen=True)
class Batch:
    """This process's images of one training step."""
    index: list                 # their positions in the split, B of them
    following: list | None      # the positions of the next step's, None at an epoch's last
    image: torch.Tensor         # (B, 3, H, W)
    targets: dict               # {kind: (B, ...)}
    batch_share: float          # share of the whole batch that they are
    labelled: tuple | None = None      # positions of the tasks with a label in the whole batch; None: all of them


def batches(run, epoch):
    """The `Batch` of every step of an epoch; the next one is read while a step computes."""
    training, switches = run.training, run.row["switches"]
    whole = order.epoch_of(run.train, run.row, epoch)
    rank_batches = [distributed.share(batch) for batch in whole]
    if (way := training["augment"]) != "none":
        drawn = augment.draw(way, order.epoch_seed(run.row["seed"], epoch), len(run.train), *run.train.size)
        drawn = drawn.to(run.device)
    run.train.prefetch(rank_batches[0])
    run.objective.prefetch(rank_batches[0])
    for batch, index, following in zip(whole, rank_batches, [*rank_batches[1:], None], strict=True):
        image, targets = run.train.whole_batch(index)
        if following:
            run.train.prefetch(following)
        if way != "none":
            image, targets = augment.apply(way, image, targets, drawn[positions(index, run.device)], run.tasks,
                                           switches | {"inverse_depth": run.train.inverse_depth})
        targets = run.train.thinned(targets)
        yield Batch(index, following, image, targets, len(index) / len(batch), run.labels.of(batch, targets))


def train_step(run, batch, lr, progress, record):
    """One update of everything that is trained.

    progress: share of the training that is done before it, from 0 to 1.

    Returns {column of curve.csv: scalar} (task losses, terms, what the objective logs), {name: a task's weight}, and
    names of columns that the batch says nothing of, for want of labels.
    """
    for group in run.optimiser.param_groups:
        group["lr"] = lr
    run.balancer.set_lr(lr)
    run.optimiser.zero_grad(set_to_none=True)
    step = forward(run.model, batch, run.precision, lr, progress, run.trunk)
    found, task_weights, gramian = gradients(run.model, run.objective, run.balancer, step, batch.following)
    run.optimiser.step()
    run.objective.update(step)
    if run.balancer.looks_again:
        balancers.look_again(run.balancer, [*run.model.buffers(), *run.objective.buffers()],
                             lambda: found.again(outputs(run.model, batch.image, run.precision)[0]), found.there)
    record.add(task_weights, gramian, run.balancer.residual if found.there != () else None, found.there)
    columns = dict(zip((f"loss_{task}" for task in run.tasks), found.losses, strict=True)) | found.terms | found.logged
    return ({name: value.detach() for name, value in columns.items()},
            dict(zip((f"weight_{task}" for task in run.tasks), task_weights, strict=True)),
            {f"{kind}_{task}" for kind, known in (("loss", found.there), ("label", batch.labelled)) if known is not None
             for i, task in enumerate(run.tasks) if i not in known})


def outputs(model, image, precision, trunk=None):
    """The network's predictions and features under autocast where the row asks for bfloat16; predictions are float32 in
    any case. `trunk` stands for `model.features` where it is compiled."""
    with torch.autocast(image.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        features = (trunk or model.features)(image)
        return model.predict(features), features


def forward(model, batch, precision, lr, progress=0.0, trunk=None):
    """`Batch` -> `Step`."""
    predictions, features = outputs(model, batch.image, precision, trunk)
    return Step(batch.index, batch.image, predictions, features, batch.targets, lr, progress, batch.batch_share,
                batch.labelled)


def gradients(model, objective, balancer, step, following=None):
    """Fill every `.grad` -> the objective's `Losses`, and weights (T,) and Gramian as `balancers.backward` has them.

    following: positions of the next step's images, read while gradients are computed.
    """
    found = objective(step)
    if following:
        objective.prefetch(following)
    return found, *balancers.backward(balancer, model, found.losses, found.terms, step.features,
                                      objective.extra_parameters(), found.there)


# -- after the steps

def stop_if_not_finite(run, epoch, sums, record):
    """`UserError` that names the first step, and of it the number, that is not finite; its Gramian is kept."""
    step, name = sums.first_nonfinite_step()
    if step < run.steps:
        file = run.checkpoint.folder / "broken.json"
        found = {"run": run.title, "epoch": epoch + 1, "step": step + 1, "value": name, **record.broken(step)}
        files.write(file, (json.dumps(found, indent=1) + "\n").encode())
        raise UserError(f"{run.title}: {name} is not finite at epoch {epoch + 1}, step {step + 1} (its weights and "
                        f"Gramian: {file}); lower the learning rate of the protocol in force. Finished epochs are "
                        "kept; a changed row starts anew")


def measured(run):
    """{column: number} of the test images: metrics under each protocol, then the objective's own."""
    own = run.objective.eval_metrics()
    try:
        metrics = measure(run.model, run.test, run.tasks, run.row["switches"]["official_batch"], run.device, own.update)
    except FloatingPointError as mistake:
        raise UserError(f"{run.title}: {mistake}; lower the learning rate of the protocol in force") from None
    return {f"{protocol}.{name}": value for protocol, values in metrics.items() for name, value in values.items()
            } | own.results()


def keep_weights(run, last_loss):
    """Keep the network's weights if this epoch is the best so far.

    KD4MTL selects by the mean task loss on training batches, distances not counted (quirk Q5), and its single-task
    networks by the loss of an epoch's last batch (quirk Q6), of which `last_loss` is this process's part; None where
    that batch has no label.
    """
    results = run.results
    curve, epoch = results.curve, len(results.curve)
    if results.best is None or (train_loss(curve[-1], run.tasks)
                                < train_loss(curve[results.best["epoch"] - 1], run.tasks)):
        results.best = {"epoch": epoch, "weights": weights.copy_of(run.model)}
    if run.row["group"] == "teacher" and last_loss is not None:
        loss = distributed.total(last_loss).item()
        if results.by_batch is None or loss < results.by_batch["loss"]:
            results.by_batch = {"loss": loss, "weights": weights.copy_of(run.model)}


def summary(line, tasks):
    """The epoch's training loss and the first metric of each task."""
    shown = "  ".join(f"{METRICS[name].title} {line[f'official.{name}']:.4g}" for name in map(first, tasks))
    return f"loss {train_loss(line, tasks):.4f}  {shown}"
