"""Stages `teacher`, `baseline` and `student`: the one training loop.

    python -m pipeline.train rooms teacher segnet semantic 0       a single-task network
    python -m pipeline.train rooms baseline segnet uniform 0       a multi-task network on the labels alone
    python -m pipeline.train rooms wide segnet cagrad 0            the same, a row of the table of balancers
    python -m pipeline.train rooms student segnet ours 0           a multi-task network that follows the teachers
    python -m pipeline.train rooms ablation segnet ours-last 0     the same, a row of Table 4

Writes out/<suite>/runs/<model>-<name>-s<seed>/: weights.pt (state dicts of the last epoch, of the one with the lowest
training loss, and for a teacher of the one with the lowest loss of its last batch), curve.csv (an epoch a row),
balance.csv (what the balancer saw and did; not for one task), run.yaml (the resolved row), cost.json (time and memory).
Killed at any moment, the same command goes on from the last finished epoch and ends with the same bits.
"""

import functools
import json
import math
import resource
import sys
import time

import torch
import yaml

import kernels.dispatch
from pipeline import balancers, data, objectives
from pipeline.config import params
from pipeline.config.metrics import METRICS, train_loss
from pipeline.config.schema import DISTILLING
from pipeline.data import augment
from pipeline.loop import checkpoint, compiled
from pipeline.loop.curve import text
from pipeline.loop.measure import measure
from pipeline.loop.record import Record
from pipeline.runtime import device, distributed, files
from pipeline.runtime.errors import UserError, run
from pipeline.runtime.progress import Line, clock
from pipeline.teachers import networks


def main(suite, stage, model_name, name, seed):
    row = params.load().resolve(suite, stage, model_name, name, seed)
    if distributed.launched("pipeline.train", suite, stage, model_name, name, seed):
        return
    training, tasks, title = row["train"], row["tasks"], f"{suite}-{model_name}-{name}-s{seed}"
    where = device.pick()
    train, test = data.Split(suite, "train", where), data.Split(suite, "test", where)
    batches = epoch_of(train, row, 0)
    enough_for_all(batches, train, test, row)

    # -- what is trained: the same seed gives every method of a row the same first weights
    torch.manual_seed(row["seed"])
    model = networks.network(row, tasks, train.classes, where, begin=True)
    objective = objectives.load(row["method"]["objective"], row, model, train, where)
    balancer = balancer_of(row, where)
    torch.manual_seed(row["seed"])              # what training draws does not depend on what was built
    optimiser = torch.optim.Adam(model.parameters(), training["lr"], (0.9, training["beta2"]), fused=True)
    trunk, way = compiled.trunk_of(model, train.batch(distributed.share(batches[0]))[0], training["precision"])
    print(f"{title}: {sum(p.numel() for p in model.parameters()):,} parameters, {device.describe(where)}, {way}, "
          f"kernels {kernels.dispatch.describe(where)}; {sum(map(len, batches))} images an epoch; "
          f"{objective.describe()}")

    # -- what is already there
    work = checkpoint.Run(title, checkpoint.fingerprint(
        row, data.fingerprint(data.load_manifest(suite)), where.type, way, kernels.dispatch.choose(where),
        teacher_digests(row)))
    state = work.load()
    holders = {"model": model, "optimiser": optimiser, "objective": objective, "balancer": balancer}
    curve, balance, best, by_batch, seconds, memory = [], [], None, None, 0.0, 0.0
    if state:
        for key, holder in holders.items():
            holder.load_state_dict(state[key])
        device.draw_on(where, state["rng"])
        curve, balance, best, by_batch = state["curve"], state["balance"], state["best"], state["by_batch"]
        seconds, memory = state["seconds"], state["memory"]
        print(f"{title}: going on from epoch {len(curve)}")

    # -- the epochs
    steps, switches = len(batches), row["switches"]
    rate = functools.partial(learning_rate, training, steps=steps, early=switches["step_first"])
    for epoch in range(len(curve), training["epochs"]):
        model.train()
        balancer.start_epoch([[line[f"loss_{task}"] for task in tasks] for line in curve])
        batches = epoch_of(train, row, epoch)
        if training["augment"] != "none":
            drawn = augment.draw(mix(row["seed"], epoch), len(train), *train.size).to(where)
        line, begun, sums, broken = Line(f"{title} epoch {epoch + 1}/{training['epochs']}", steps), time.time(), 0, None
        record = Record(tasks)
        own = [distributed.share(batch) for batch in batches]
        train.prefetch(own[0])
        objective.prefetch(own[0])
        for step, index in enumerate(own):
            for group in optimiser.param_groups:
                group["lr"] = rate(epoch, step)
            balancer.follow(rate(epoch, step))
            objective.follow(rate(epoch, step))
            objective.progress = (epoch + step / steps) / training["epochs"]
            image, targets = train.batch(index)
            if step + 1 < steps:
                train.prefetch(own[step + 1])
            if training["augment"] != "none":
                image, targets = augment.apply(image, targets, drawn[data.positions(index, where)],
                                               train.inverse_depth, switches["zoom_depth"], switches["crop_masks"])
            optimiser.zero_grad(set_to_none=True)
            losses, terms, watched, weights, gramian = gradients(
                model, objective, balancer, index, image, targets, training["precision"], trunk,
                part=len(index) / len(batches[step]), following=own[step + 1] if step + 1 < steps else None)
            optimiser.step()
            objective.step()
            if balancer.looks_again:
                balancers.look_again(balancer, [model, objective.nets], functools.partial(
                    again, model, training["precision"], objective, image, targets))
            record.add(weights, gramian, balancer.residual)
            values = torch.stack([x.detach().double() for x in (*losses, *terms.values(), *watched.values(), *weights)])
            # sums stay on the device; the first non-finite step is found without waiting for it
            broken = torch.where(values.isfinite(), steps, step) if broken is None else torch.minimum(
                broken, torch.where(values.isfinite(), steps, step))
            sums = sums + values
            line.step(step + 1, lambda values=values: f"loss {values[:len(tasks)].mean().item():.4f}")
        sums, broken = distributed.total(sums), distributed.least(broken)
        names = [*(f"loss_{task}" for task in tasks), *terms, *watched]
        stop_if_broken(title, epoch, steps, [*names, *(f"weight_{task}" for task in tasks)], broken, record, work)
        took = time.time() - begun
        seconds += took
        curve.append({"epoch": epoch + 1, "lr": rate(epoch, steps - 1),
                      **dict(zip(names, (sums[:len(names)] / steps).tolist(), strict=True)),
                      **flat(measured(title, model, test, row, where, objective)), **objective.judged()})
        balance.append({"epoch": epoch + 1, **record.line()})
        memory = max(memory, peak_memory(where))
        # KD4MTL selects by the mean task loss on training batches, distances not counted (quirk Q5)
        if best is None or train_loss(curve[-1], tasks) < train_loss(curve[best["epoch"] - 1], tasks):
            best = {"epoch": epoch + 1, "weights": copy(model)}
        if stage == "teacher":                                                              # quirk Q6
            final = distributed.total(values[0]).item()
            if by_batch is None or final < by_batch["loss"]:
                by_batch = {"loss": final, "weights": copy(model)}
        work.save({**{key: holder.state_dict() for key, holder in holders.items()}, "rng": device.draws(where),
                   "curve": curve, "balance": balance, "best": best, "by_batch": by_batch,
                   "seconds": seconds, "memory": memory})
        left = (time.time() - begun) * (training["epochs"] - epoch - 1)
        line.close(f"{summary(curve[-1], tasks)}  {took / steps:.2f} s/it  eta {clock(left)}")

    # -- what is left behind
    folder = params.folder(suite, model_name, name, seed)
    states = {"last": copy(model), "train_loss": best["weights"]} | (
        {"last_batch": by_batch["weights"]} if by_batch else {})
    files.write(folder / "weights.pt", checkpoint.pack(states))
    files.write(folder / "curve.csv", text(curve).encode())
    if stage != "teacher":
        files.write(folder / "balance.csv", text(balance).encode())
    files.write(folder / "run.yaml", yaml.safe_dump(row, sort_keys=False).encode())
    cost = {"parameters": sum(p.numel() for p in model.parameters()), "steps": steps * training["epochs"],
            "seconds_per_step": seconds / (steps * training["epochs"]), "peak_memory_mb": memory,
            "backward_passes": balancers.passes(balancer, objective.terms), "device": device.describe(where),
            "stage": stage, "work": params.work(training, *train.size)}
    files.write(folder / "cost.json", (json.dumps(cost, indent=1) + "\n").encode())
    work.done()


def balancer_of(row, where):
    method = row["method"]
    try:
        return balancers.load(method["balancer"], row["tasks"], seed=row["seed"], device=where,
                              model_lr=row["train"]["lr"], model_beta2=row["train"]["beta2"], **method["options"])
    except (TypeError, ValueError) as mistake:
        raise UserError(f"`methods.{row['name']}.options`: {mistake}; `make params` checks all of them") from None


def epoch_of(split, row, epoch):
    """The images of an epoch in their order, a list a step.

    Where images are labelled for one task only, an equal share of each batch is of each task's own, drawn from shuffled
    lists that begin again until the longest is through (KD4MTL's Table 1: 256 and 256 of 512); a teacher sees its own.
    """
    batch, draw = row["train"]["batch"], torch.Generator().manual_seed(mix(row["seed"], epoch))
    if split.domains:
        share, own = batch // len(split.domains), {task: split.domains[task] for task in row["tasks"]}
        orders = [[places[i] for i in torch.randperm(len(places), generator=draw).tolist()] for places in own.values()]
        return [[order[i % len(order)] for order in orders for i in range(k * share, (k + 1) * share)]
                for k in range(math.ceil(max(map(len, orders)) / share))]
    order = torch.randperm(len(split), generator=draw).tolist()
    steps = len(split) // batch if row["switches"]["drop_last"] else math.ceil(len(split) / batch)
    return [order[k * batch:(k + 1) * batch] for k in range(steps)]


def enough_for_all(batches, train, test, row):
    """`UserError` where a process would be without an image."""
    if not batches:
        raise UserError(f"{len(train)} training images are less than a batch of {row['train']['batch']}; lower `batch` "
                      "of the protocol in force, or set `drop_last: false`")
    processes, smallest = distributed.size(), min(map(len, batches))
    if processes > 1 and train.domains:
        raise UserError(f"NPROC is {processes}, but batches of {' and '.join(train.domains)} are not shared; "
                        "set NPROC=1")
    if processes > 1 and row["model"] == "adamt":
        raise UserError(f"NPROC is {processes}, but the channels that AdaMT-Net drops at random, and its maps for each "
                      "place in a batch, are one process's; set NPROC=1")
    if smallest < processes:
        raise UserError(f"{processes} processes share a batch of {smallest}; raise `batch` of the protocol in force"
                      f"{'' if row['switches']['drop_last'] else ', set `switches.drop_last: true`'}, or lower NPROC")
    judged = math.ceil(len(test) / row["switches"]["official_batch"])
    if judged < processes:
        raise UserError(f"{processes} processes share {judged} batches of the test set; lower NPROC")


def forward(model, image, precision, trunk=None):
    """The network under autocast where the row asks for bfloat16; predictions are float32 in any case.

    `trunk` stands for `model.features` where it is compiled.
    """
    with torch.autocast(image.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        features = (trunk or model.features)(image)
        return model.predict(features), features


def gradients(model, objective, balancer, index, image, targets, precision, trunk=None, part=1.0, following=None):
    """Every gradient of one step -> losses, terms, watched, as the objective has them, weights, Gramian.

    part: share of the batch that the images `index` are, where several processes share it; following: the next images.
    """
    predictions, features = forward(model, image, precision, trunk)
    objective.part = part
    losses, terms, watched = objective(index, image, predictions, features, targets)
    if following:
        objective.prefetch(following)
    return losses, terms, watched, *balancers.backward(balancer, model, losses, terms, features,
                                                           list(objective.nets.parameters()))


def again(model, precision, objective, image, targets):
    """The task losses of a batch once more."""
    predictions, _ = forward(model, image, precision)
    return objective.losses(predictions, targets)


def learning_rate(training, epoch, step, steps, early=False):
    """The rate of one step, a pure function, so that a resumed run has nothing to restore.

    constant; step: times `step_factor` after every `step_every` epochs (KD4MTL, epochs 100 on), an epoch `early` as in
    the released code, which steps its scheduler first (quirk Q2: from 99 on, and again at 199); onecycle: torch's
    OneCycleLR with its defaults, cosine from lr / 25 up over 30 %, down to lr / 250,000.
    """
    peak = training["lr"]
    if training["schedule"] == "constant":
        return peak
    if training["schedule"] == "step":
        return peak * training["step_factor"] ** ((epoch + early) // training["step_every"])
    total = training["epochs"] * steps
    now, top = epoch * steps + step, max(0.3 * total - 1, 1e-9)
    low, high, share = (peak / 25, peak, now / top) if now <= top else (
        peak, peak / 25e4, (now - top) / max(total - 1 - top, 1e-9))
    return high + (low - high) * (1 + math.cos(math.pi * share)) / 2


def mix(seed, epoch):
    """One generator seed for the order of one epoch."""
    return seed * 1_000_003 + epoch


def teacher_digests(row):
    """Checksums of the teachers a student depends on; nothing where labels are all there is."""
    if row["method"]["objective"] not in DISTILLING:
        return []
    return [files.digest(networks.weights_file(row, task)) for task in row["tasks"]]


def stop_if_broken(title, epoch, steps, names, broken, record, work):
    step, name = min(zip(broken.tolist(), names, strict=True), key=lambda pair: pair[0])
    if step < steps:
        file = work.folder / "broken.json"
        found = {"run": title, "epoch": epoch + 1, "step": step + 1, "value": name, **record.broken(step)}
        files.write(file, (json.dumps(found, indent=1) + "\n").encode())
        raise UserError(f"{title}: {name} is not finite at epoch {epoch + 1}, step {step + 1} (its weights and "
                      f"Gramian: {file}); lower the learning rate of the protocol in force. Finished epochs are kept; "
                      "a changed row starts anew")


def measured(title, model, split, row, where, objective):
    try:
        return measure(model, split, row["tasks"], row["switches"]["official_batch"], where, objective.judge)
    except FloatingPointError as mistake:
        raise UserError(f"{title}: {mistake}; lower the learning rate of the protocol in force") from None


def flat(metrics):
    return {f"{protocol}.{name}": value for protocol, values in metrics.items() for name, value in values.items()}


def copy(model):
    return {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}


def peak_memory(where):
    """Megabytes: of the GPU's allocator, or of this process."""
    if where.type == "cuda":
        return torch.cuda.max_memory_allocated(where) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def summary(line, tasks):
    """The epoch's training loss and the first metric of each task."""
    shown = {METRICS[name].task: name for name in reversed(METRICS)}
    metrics = "  ".join(f"{METRICS[shown[task]].title} {line[f'official.{shown[task]}']:.4g}" for task in tasks)
    return f"loss {train_loss(line, tasks):.4f}  {metrics}"


if __name__ == "__main__":
    run(main, *sys.argv[1:])
