"""`make bench-consistency`: what the losses of cross-task consistency add to a training step, beside the convolutions.

Both variants train the same ResNet-34 and transfer nets on the same drawn images of 128x256: `losses` as they are;
`bare`, where each transferred prediction's mean and the plain task losses stand in for all that is masked, so that
every convolution runs forward and back and next to nothing else. In turns; the median of the rounds.

    python -m pipeline.bench.consistency [batch] [rounds]
"""

import statistics
import sys
import time
import types

import torch

import kernels.dispatch
from pipeline import balancers
from pipeline.config import params, resolve
from pipeline.loop import epoch
from pipeline.loop.record import Record
from pipeline.objectives import consistency
from pipeline.runtime import device
from pipeline.runtime.errors import run
from pipeline.teachers import networks

SIZE, SUITE, ROW = (128, 256), "xtask_streets", "xtasc-streets"


class Bare(consistency.Objective):
    """The same nets without what is measured."""

    def transferred(self, predictions, bfloat16=False):
        with torch.autocast(predictions["depth"].device.type, torch.bfloat16, enabled=bfloat16):
            return {(a, b): self.nets[f"{a}_{b}"](predictions[a]) for a, b in self.pairs}

    def groups(self, predictions, step):
        ours = self.labels.losses(predictions, step.targets)
        raw = self.transferred(predictions, self.bfloat16).values()
        return [loss + 0.01 * x.float().mean() for loss, x in zip(ours, raw, strict=True)], {}


def main(batch="", rounds="5"):
    where = device.pick()
    batch = int(batch or (8 if where.type == "cuda" else 2))
    for precision in ("float32", "bfloat16"):
        for classes in (7, 19):
            took = medians(variants(classes, precision, batch, where), where, int(rounds))
            share = 1 - took["bare"] / took["losses"]
            print(f"{device.describe(where)}, kernels {kernels.dispatch.choose(where)}, batch {batch} of "
                  f"{SIZE[0]}x{SIZE[1]}, {classes} classes, {precision}: step {took['losses']:.4f} s, bare "
                  f"{took['bare']:.4f} s; the losses are {100 * share:.1f} % of the step", flush=True)


def variants(classes, precision, batch, where):
    """{name: call that trains one step}, from the same first weights and on the same images."""
    row = resolve.train(params.load(SUITE), "baseline", "resnet", ROW, 0)
    row |= {"train": {"width": 1.0, "lr": 1e-4, "beta2": 0.99, "precision": precision}}
    split = types.SimpleNamespace(classes={"semantic": [str(c) for c in range(classes)]}, domains={})
    draw = torch.Generator().manual_seed(0)
    image = torch.rand(batch, 3, *SIZE, generator=draw).to(where, memory_format=torch.channels_last)
    targets = {"label": torch.randint(-1, classes, (batch, *SIZE), generator=draw).to(where),
               "depth": torch.rand(batch, 1, *SIZE, generator=draw).sub(0.1).clamp_min(0).to(where)}

    def steps(kind):
        torch.manual_seed(0)
        model = networks.network(row, row["tasks"], split.classes, where).train()
        run = types.SimpleNamespace(
            model=model, objective=kind(row, model, split, where), tasks=row["tasks"], precision=precision, trunk=None,
            balancer=balancers.load("uncertainty", row["tasks"], device=where),
            optimiser=torch.optim.Adam(model.parameters(), 1e-4, fused=True))
        images = epoch.Batch(list(range(batch)), None, image, targets, 1.0)
        return lambda: epoch.train_step(run, images, 1e-4, 0.0, Record(row["tasks"]))
    return {"losses": steps(consistency.Objective), "bare": steps(Bare)}


def medians(ways, where, rounds):
    wait, each = (torch.cuda.synchronize, 10) if where.type == "cuda" else (lambda: None, 1)
    taken = {name: [] for name in ways}
    for _ in range(rounds + 1):                   # the first is a warm-up
        for name, step in ways.items():
            wait()
            begun = time.perf_counter()
            for _ in range(each):
                step()
            wait()
            taken[name].append((time.perf_counter() - begun) / each)
    return {name: statistics.median(values[1:]) for name, values in taken.items()}


if __name__ == "__main__":
    run(main, *sys.argv[1:])
