"""KD4MTL's released training step in its plainest form: what `pipeline.bench.step` compares with; nothing trains by it.

As released: live teachers in train mode (SegNet's compute all three heads, MTAN's have one branch), the normal loss
masked by the depth, the distance in eager torch, a float64 .npy file each image and target, Adam not fused, training
metrics on the host at every step. `compiled`: torch.compile on networks and loss, and channels last.
"""

import functools
import pathlib
import statistics

import numpy as np
import torch
import torch.nn.functional as F

from kernels.cases import official
from models.adaptor import Adaptor
from pipeline import data
from pipeline.runtime import weights
from pipeline.teachers import networks

RAW = pathlib.Path("raw")


def write_raw(split):
    """RAW/{image,label,depth,normal}/{i}.npy in float64, the layout of MTAN's NYUv2."""
    for kind in split.arrays:
        (RAW / kind).mkdir(parents=True)
        for i, array in enumerate(split.arrays[kind].cpu().double().numpy()):
            np.save(RAW / kind / f"{i}.npy", array / 255 if kind == "image" else array)


class Recipe:
    deterministic = False

    def __init__(self, row, where, compiled):
        self.where, self.tasks, self.method = where, row["tasks"], row["method"]
        self.classes = data.load_manifest(row["data"]["folder"])["classes"]
        torch.manual_seed(row["seed"])
        self.model = networks.network(row, self.tasks, self.classes, where).train()
        self.adaptors = torch.nn.ModuleDict({f"{task}_{tap}": Adaptor("linear", *[self.model.tap_channels[tap]] * 2)
                                             for task in self.tasks for tap in self.method["taps"]}).to(where)
        self.teachers = torch.nn.ModuleDict()
        for task in self.tasks:
            heads = self.tasks if row["model"] == "segnet" else [task]
            state = weights.read(networks.weights_file(row, task), "start the benchmark again")["last"]
            self.teachers[task] = networks.network(row, heads, self.classes, where).requires_grad_(False).train()
            self.teachers[task].load_state_dict(state, strict=False)      # the other tasks' heads stay as drawn
        self.arrange(torch.channels_last if compiled else torch.contiguous_format)
        self.optimiser = torch.optim.Adam(self.model.parameters(), row["train"]["lr"])
        self.adaptor_optimiser = torch.optim.Adam(self.adaptors.parameters(), row["adaptor"]["lr"],
                                                  weight_decay=row["adaptor"]["l2"])
        wrap = functools.partial(torch.compile, dynamic=False) if compiled else lambda function: function
        self.student, self.loss = wrap(self.model), wrap(self.losses)
        self.running = {task: wrap(teacher) for task, teacher in self.teachers.items()}

    def arrange(self, layout):
        """Networks and inputs in this memory format."""
        self.layout = layout
        self.model.to(memory_format=layout)
        self.teachers.to(memory_format=layout)

    def data(self, index):
        """(image, targets) of the samples, a file each."""
        image, label, depth, normal = (
            torch.stack([torch.from_numpy(np.load(RAW / kind / f"{i}.npy")) for i in index]).float().to(self.where)
            for kind in data.KINDS)
        image, normal = (x.permute(0, 3, 1, 2).contiguous(memory_format=self.layout) for x in (image, normal))
        return image, {"label": label.long(), "depth": depth[:, None], "normal": normal}

    def losses(self, predictions, maps, taught, targets):
        """(three task losses, weighted distance)."""
        mask = (targets["depth"].sum(1) != 0).float()
        semantic = F.nll_loss(predictions["semantic"], targets["label"], ignore_index=-1)
        depth = ((predictions["depth"] - targets["depth"]).abs()[:, 0] * mask).sum() / mask.sum()
        normal = 1 - ((predictions["normal"] * targets["normal"]).sum(1) * mask).sum() / mask.sum()
        distance = sum(official([maps[task][tap] for task in self.tasks],
                                [self.adaptors[f"{task}_{tap}"].weight for task in self.tasks],
                                [taught[task][tap] for task in self.tasks],
                                [self.method["lambda"][task] for task in self.tasks]) for tap in self.method["taps"])
        return [semantic, depth, normal], {"distance": distance}

    def compute(self, index):
        """Gradients, then (task losses, {"distance": scalar}, predictions, targets)."""
        image, targets = self.data(index)
        predictions, maps = self.student(image)
        with torch.no_grad():
            taught = {task: teacher(image)[1][task] for task, teacher in self.running.items()}
        losses, terms = self.loss(predictions, maps, taught, targets)
        self.optimiser.zero_grad()
        self.adaptor_optimiser.zero_grad()
        (sum(losses) + terms["distance"]).backward()
        return losses, terms, predictions, targets

    def step(self, index):
        losses, terms, predictions, targets = self.compute(index)
        self.optimiser.step()
        self.adaptor_optimiser.step()
        return [x.item() for x in (*losses, *terms.values())] + self.metrics(predictions, targets)

    @torch.no_grad()
    def metrics(self, predictions, targets):
        """Nine numbers; a class and image, two planes made on the host go up and two come back."""
        ious, accuracies = [], []
        for chosen, label in zip(predictions["semantic"].argmax(1), targets["label"], strict=True):
            shares = []
            for c in range(len(self.classes["semantic"])):
                found, true = ((x == torch.full(x.shape, c, dtype=torch.int64).to(self.where)).float().cpu()
                               for x in (chosen, label))
                union, common = ((found + true > limit).float().sum().item() for limit in (0, 1))
                shares += [common / union] if union else []
            ious.append(statistics.fmean(shares))
            accuracies.append((chosen == label).sum().item() / max((label >= 0).sum().item(), 1))
        mask, there = targets["depth"] != 0, targets["normal"].sum(1) != 0
        error = (predictions["depth"] - targets["depth"]).abs()[mask]
        cosine = (predictions["normal"] * targets["normal"]).sum(1).clamp(-1, 1)[there]
        angle = np.degrees(torch.acos(cosine).cpu().numpy())
        return [statistics.fmean(ious), statistics.fmean(accuracies), error.mean().item(),
                (error / targets["depth"][mask]).mean().item(), np.mean(angle), np.median(angle),
                *(np.mean(angle < limit) for limit in (11.25, 22.5, 30))]
