"""Cross-task consistency (XTasC-Net, Nakano, Chen & Demachi 2021, arXiv 2111.14122; released code): what a task's
prediction transfers to must agree with the other tasks' direct predictions.

    L_s = (1 - lambda_s) direct_s + lambda_s mean_t distance(S2T(p_s), sg(p_t))             group: source

A small U-Net leads from each task's prediction to each other's; they train with the network and are dropped after it.
Gradients of a distance reach the net, the source's decoder and the encoder, not the target's decoder: `sg` detaches.
The L_s are what is balanced. With semantics and depth this is the paper's; here it may be any pair, or all tasks.

    targets    predictions: the direct ones (the released code's xtsc) | labels: the ground truth (its xtc)
    group      source: as above | target: L_t = (1 - lambda_t) direct_t + lambda_t mean_s distance(S2T(p_s), sg(p_t))
    semantic   cross: cross-entropy with the likeliest class of the direct prediction, smoothed | kl: KL divergence from
               its distribution. The released option kl mixes classes with pixels, and no number depends on it
    depth      l1 | ssim
    direct     of depth itself: l1 | mse | log_l1 | smooth_l1, a mean over an image's valid pixels, then over images
    void       in the distance of classes: skip: a mean over labelled pixels | zero: unlabelled ones are 0 but counted
               (released, Cityscapes) | keep: they take part (released, NYUv2)
    holes      skip: valid depth alone | keep: a missing depth is a depth of 0 (released, NYUv2)
"""

import itertools

import torch

from models.transfer import TransferNet
from pipeline import objectives, tasks
from pipeline.objectives import consistency_losses as between
from pipeline.objectives import supervised
from pipeline.runtime import distributed


class Objective(objectives.Objective):
    def __init__(self, row, model, split, device):
        self.labels = supervised.Objective(row, model, split, device)
        self.consistency = chosen = row["method"]["consistency"]
        self.side, named = ("source", "target").index(chosen["group"]), chosen["pairs"]
        self.pairs = list(itertools.permutations(row["tasks"], 2)) if named is None else [
            tuple(order) for pair in named for order in (pair.split("-"), pair.split("-")[::-1])]
        channels = {task: tasks.load(task).channels(split.classes) for task in row["tasks"]}
        nets = {f"{source}_{target}": TransferNet(channels[source], channels[target], row["train"]["width"],
                                                  chosen["batch_norm"], chosen["wide"])
                for source, target in self.pairs}
        self.nets = distributed.synchronised(
            torch.nn.ModuleDict(nets).to(device, memory_format=torch.channels_last), device)
        self.bfloat16 = row["train"]["precision"] == "bfloat16"
        # the network's Adam in all but the parameters, and Adam refuses an empty list
        self.optimiser = torch.optim.Adam(self.nets.parameters(), row["train"]["lr"], (0.9, row["train"]["beta2"]),
                                          fused=True) if self.pairs else None

    def __call__(self, step):
        losses, logged = self.groups(step.predictions, step)
        return objectives.Losses(losses, lambda predictions: self.groups(predictions, step)[0], logged=logged,
                                 there=self.there(step))

    def there(self, step):
        """Positions of the groups that have a label or, of another task's prediction, a distance."""
        if step.labelled is None:
            return None
        grouped = {pair[self.side] for pair in self.pairs}
        return tuple(i for i, task in enumerate(step.predictions) if i in step.labelled or task in grouped)

    def groups(self, predictions, step):
        """(a loss a group, in the order of `predictions`; {name: scalar} of what they are made of)."""
        direct = {task: self.direct(task, x, step) for task, x in predictions.items()}
        distances = {pair: self.disagreement(pair[1], x, predictions, step)
                     for pair, x in self.transferred(predictions, self.bfloat16).items()}
        logged = {f"label_{task}": loss.detach() for task, loss in direct.items()} | {
            f"transfer_{'_'.join(pair)}": loss.detach() for pair, loss in distances.items()}
        return [self.grouped(task, loss, [x for pair, x in distances.items() if pair[self.side] == task])
                for task, loss in direct.items()], logged

    def grouped(self, task, direct, distances):
        if not distances:
            return direct
        share = self.consistency["lambda"][task]
        return (1 - share) * direct + share * sum(distances) / len(distances)

    def direct(self, task, prediction, step):
        """The loss on the labels, of a direct prediction or of one that was transferred."""
        if task == "depth":
            return self.depth(prediction, step.targets["depth"], step, self.consistency["direct"])
        return self.labels.losses({task: prediction}, step.targets)[0]

    def transferred(self, predictions, bfloat16=False):
        """{(source, target): what the source's prediction says of the target}, as the target's predictions are."""
        found = {}
        for source, target in self.pairs:
            x = predictions[source]
            with torch.autocast(x.device.type, torch.bfloat16, enabled=bfloat16):
                raw = self.nets[f"{source}_{target}"](x)
            found[source, target] = tasks.load(target).activate(
                raw.to(torch.promote_types(raw.dtype, torch.float32)))
        return found

    def disagreement(self, task, transferred, predictions, step):
        """Of a transferred prediction from the task's direct one, which gets no gradient, or from its labels."""
        if self.consistency["targets"] == "labels":
            return self.direct(task, transferred, step)
        direct = predictions[task].detach()
        if task == "depth":
            return self.depth(transferred, direct, step, self.consistency["depth"])
        mask = tasks.valid(task, step.targets)
        if task != "semantic":
            return between.over_pixels(tasks.load(task).apart(transferred, direct), mask, mask)
        apart = tasks.load(task).apart(transferred, direct) if self.consistency["semantic"] == "kl" else between.cross(
            transferred, direct, self.consistency["smoothing"])
        everything = torch.ones_like(mask)
        return between.over_pixels(apart, everything if self.consistency["void"] == "keep" else mask,
                                   mask if self.consistency["void"] == "skip" else everything)

    def depth(self, prediction, target, step, kind):
        mask = tasks.valid("depth", step.targets)
        mask = torch.ones_like(mask) if self.consistency["holes"] == "keep" else mask
        if kind == "ssim":
            return between.ssim(prediction, target, mask, step.batch_share)
        return between.depth(kind, prediction, target, mask, step.batch_share)

    def update(self, step):
        if self.optimiser:
            for group in self.optimiser.param_groups:
                group["lr"] = step.lr
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)

    def extra_parameters(self):
        return list(self.nets.parameters())

    def buffers(self):
        return list(self.nets.buffers())

    def eval_metrics(self):
        return Energy(self)

    def state_dict(self):
        return {"transfers": self.nets.state_dict(), "optimiser": self.optimiser.state_dict() if self.optimiser else {}}

    def load_state_dict(self, state):
        self.nets.load_state_dict(state["transfers"])
        if self.optimiser:
            self.optimiser.load_state_dict(state["optimiser"])

    def describe(self):
        size = sum(p.numel() for p in self.nets.parameters())
        return f"task losses + consistency by {len(self.pairs)} transfer nets ({size:,} parameters, dropped)"


class Energy(objectives.EvalMetrics):
    """Consistency energy over the test images: how far transferred predictions are from the direct ones."""

    def __init__(self, objective):
        self.objective, self.apart, self.images = objective, 0.0, 0

    @torch.no_grad()
    def update(self, predictions):
        nets = self.objective.nets.eval()
        apart = [tasks.load(target).energy(x, predictions[target]).sum() for (_, target), x in
                 self.objective.transferred(predictions).items()]
        self.apart = self.apart + torch.stack(apart) if apart else 0.0
        self.images += len(next(iter(predictions.values())))
        nets.train()

    def results(self):
        """{"energy": mean over the pairs, and that of each pair}, a mean over images; nothing without a pair."""
        pairs = self.objective.pairs
        if not pairs:
            return {}
        total = distributed.total(torch.cat([self.apart, self.apart.new_tensor([self.images])]))
        *each, images = total.tolist()
        return {"energy": sum(each) / len(each) / images} | {
            f"energy_{'_'.join(pair)}": x / images for pair, x in zip(pairs, each, strict=True)}
