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

from models.network import ACTIVATIONS
from models.transfer import TransferNet
from pipeline import tasks
from pipeline.objectives import consistency_losses as between
from pipeline.objectives import supervised
from pipeline.runtime import distributed


class Objective(supervised.Objective):
    def __init__(self, run, model, split, device):
        super().__init__(run, model, split, device)
        self.consistency = chosen = run["method"]["consistency"]
        named = chosen["pairs"]
        self.pairs = list(itertools.permutations(run["tasks"], 2)) if named is None else [
            tuple(order) for pair in named for order in (pair.split("-"), pair.split("-")[::-1])]
        channels = {task: tasks.TASKS[task].channels(split.classes) for task in run["tasks"]}
        nets = {f"{source}_{target}": TransferNet(channels[source], channels[target], run["train"]["width"],
                                                  chosen["batch_norm"], chosen["wide"])
                for source, target in self.pairs}
        self.nets = distributed.synchronised(
            torch.nn.ModuleDict(nets).to(device, memory_format=torch.channels_last), device)
        self.bfloat16 = run["train"]["precision"] == "bfloat16"
        self.transfers_optimiser = torch.optim.Adam(
            self.nets.parameters(), run["train"]["lr"], (0.9, run["train"]["beta2"]),
            fused=True) if self.pairs else None
        self.apart, self.judged_images = 0.0, 0

    def losses(self, predictions, targets):
        """A loss a group, in the order of `predictions`."""
        direct = {task: self.direct(task, x, targets) for task, x in predictions.items()}
        distances = {pair: self.disagreement(pair[1], x, predictions, targets)
                     for pair, x in self.transferred(predictions, self.bfloat16).items()}
        self.seen = {f"label_{task}": loss.detach() for task, loss in direct.items()} | {
            f"transfer_{'_'.join(pair)}": loss.detach() for pair, loss in distances.items()}
        side = ("source", "target").index(self.consistency["group"])
        return [self.grouped(task, loss, [x for pair, x in distances.items() if pair[side] == task])
                for task, loss in direct.items()]

    def grouped(self, task, direct, distances):
        if not distances:
            return direct
        share = self.consistency["lambda"][task]
        return (1 - share) * direct + share * sum(distances) / len(distances)

    def direct(self, task, prediction, targets):
        """The loss on the labels, of a direct prediction or of one that was transferred."""
        if task == "depth":
            return self.depth(prediction, targets["depth"], targets, self.consistency["direct"])
        return super().losses({task: prediction}, targets)[0]

    def transferred(self, predictions, bfloat16=False):
        """{(source, target): what the source's prediction says of the target}, as the target's predictions are."""
        found = {}
        for source, target in self.pairs:
            x = predictions[source]
            with torch.autocast(x.device.type, torch.bfloat16, enabled=bfloat16):
                raw = self.nets[f"{source}_{target}"](x)
            found[source, target] = ACTIVATIONS[target](raw.to(torch.promote_types(raw.dtype, torch.float32)))
        return found

    def disagreement(self, task, transferred, predictions, targets):
        """Of a transferred prediction from the task's direct one, which gets no gradient, or from its labels."""
        if self.consistency["targets"] == "labels":
            return self.direct(task, transferred, targets)
        direct = predictions[task].detach()
        if task == "depth":
            return self.depth(transferred, direct, targets, self.consistency["depth"])
        mask = tasks.valid(task, targets)
        if task == "normal":
            return between.over_pixels(1 - (transferred * direct).sum(1), mask, mask)
        apart = between.kl(transferred, direct) if self.consistency["semantic"] == "kl" else between.cross(
            transferred, direct, self.consistency["smoothing"])
        everything = torch.ones_like(mask)
        return between.over_pixels(apart, everything if self.consistency["void"] == "keep" else mask,
                                   mask if self.consistency["void"] == "skip" else everything)

    def depth(self, prediction, target, targets, kind):
        mask = tasks.valid("depth", targets)
        mask = torch.ones_like(mask) if self.consistency["holes"] == "keep" else mask
        if kind == "ssim":
            return between.ssim(prediction, target, mask, self.part)
        return between.depth(kind, prediction, target, mask, self.part)

    # -- consistency energy, on the test images

    @torch.no_grad()
    def judge(self, predictions):
        self.nets.eval()
        images = [between.energy(target, x, predictions[target]) for (_, target), x in
                  self.transferred(predictions).items()]
        self.apart = self.apart + torch.stack([x.sum() for x in images]) if images else 0.0
        self.judged_images += len(next(iter(predictions.values())))
        self.nets.train()

    def judged(self):
        """{"energy": mean over the pairs, and that of each pair}, a mean over images; nothing without a pair."""
        if not self.pairs:
            return {}
        total = distributed.total(torch.cat([self.apart, self.apart.new_tensor([self.judged_images])]))
        *each, images = total.tolist()
        self.apart, self.judged_images = 0.0, 0
        return {"energy": sum(each) / len(each) / images} | {
            f"energy_{'_'.join(pair)}": x / images for pair, x in zip(self.pairs, each, strict=True)}

    # -- the nets' own optimiser, the network's Adam in all but the parameters

    def follow(self, rate):
        for group in self.transfers_optimiser.param_groups if self.pairs else ():
            group["lr"] = rate

    def step(self):
        super().step()
        if self.pairs:
            self.transfers_optimiser.step()
            self.transfers_optimiser.zero_grad(set_to_none=True)

    def state_dict(self):
        return super().state_dict() | {"transfers": self.nets.state_dict()} | (
            {"transfers_optimiser": self.transfers_optimiser.state_dict()} if self.pairs else {})

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.nets.load_state_dict(state["transfers"])
        if self.pairs:
            self.transfers_optimiser.load_state_dict(state["transfers_optimiser"])

    def describe(self):
        size = sum(p.numel() for p in self.nets.parameters())
        return f"{super().describe()} + consistency by {len(self.pairs)} transfer nets ({size:,} parameters, dropped)"
