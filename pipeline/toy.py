"""Stage `toy`: Aligned-MTL's two-task problem (arXiv 2305.19000, section 4.1 and appendix), every method at once.

    python -m pipeline.toy          out/toy/{toy.json, toy.md, toy.png}

Two parameters, losses a (c1 f1 + c2 q1) and (1 - a)(c1 f2 + c2 q2), five starts, five preferences a, 35,000 steps of
Adam at 1e-3 in float32, as the released program. The sign in h2 is the code's (CAGrad's and Nash-MTL's too), not the
appendix's; a gate at its clamp passes the gradient, as torch did when the figure was made, since else the start (0, 0)
never moves. `toy.yaml` has the gaps of an independent reimplementation; where they differ, the verb says so and
exits with an error if they are more than a tenth (runs through the valley of the logarithms are chaotic).
"""

import concurrent.futures
import json
import math
import multiprocessing
import pathlib
import time

import torch
import yaml

from pipeline import balancers
from pipeline.runtime import files
from pipeline.runtime.errors import UserError, run
from pipeline.runtime.progress import Line

OUT = pathlib.Path("out/toy")
STARTS = [[-8.5, 7.5], [0.0, 0.0], [9.0, 9.0], [-7.5, -0.5], [9.0, -1.0]]
PREFERENCES = (0.1, 0.3, 0.5, 0.7, 0.9)
METHODS = {"Uniform": "uniform", "MGDA": "mgda", "PCGrad": "pcgrad", "IMTL-G": "imtl", "CAGrad": "cagrad",
           "Nash-MTL": "nash_mtl", "Aligned-MTL": "aligned_mtl"}
# As released. On a Pareto front the exact update is zero; Adam brings what PCGrad's epsilon and Aligned-MTL's tolerance
# leave of it to full length, so both decide where a run ends.
OPTIONS = {"cagrad": {"c": 0.5, "rescale": "none"}, "pcgrad": {"epsilon": 1e-5},
           "aligned_mtl": {"rank_tolerance": 1.19e-7}}
# A process each, of about equal work.
GROUPS = [("Nash-MTL", "Uniform", "Aligned-MTL"), ("CAGrad", "MGDA", "PCGrad", "IMTL-G")]
STEPS, RATE, KEPT = 35_000, 1e-3, 100      # every so many steps a point of the trajectory is kept


def losses(theta):
    """theta (..., 2) -> L1 and L2 before the preference, each (...)."""
    x, y = theta.unbind(-1)

    def gate(z):
        return torch.where(z >= 0, z, 0)

    def valley(h):
        return torch.where(h >= 5e-6, h, 5e-6).log() + 6

    first = valley(((-x - 7) / 2 - (-y).tanh()).abs())
    second = valley(((-x + 3) / 2 + (-y).tanh() + 2).abs())
    bowl = 0.1 * (-y - 8) ** 2
    c1, c2 = gate((y / 2).tanh()), gate((-y / 2).tanh())
    return c1 * first + c2 * (((7 - x) ** 2 + bowl) / 10 - 20), c1 * second + c2 * (((-x - 7) ** 2 + bowl) / 10 - 20)


def descend(steps=STEPS, names=tuple(METHODS)):
    """{method: trajectory (kept points, preferences, starts, 2)}, these methods in one batch of points."""
    torch.set_num_threads(1)               # a few hundred numbers a step: a second thread only waits
    factors = torch.tensor(PREFERENCES)[:, None]
    theta = torch.tensor(STARTS).expand(len(names), len(PREFERENCES), -1, -1).clone().requires_grad_()
    chosen = [balancers.load(METHODS[name], ["one", "two"], **OPTIONS.get(METHODS[name], {})) for name in names]
    optimiser, kept, begun = torch.optim.Adam([theta], RATE), [], time.time()
    line = Line(f"toy: {', '.join(names)}", steps)
    for step in range(steps):
        if step % KEPT == 0:
            kept.append(theta.detach().clone())
        values = [factors * loss if i == 0 else (1 - factors) * loss for i, loss in enumerate(losses(theta))]
        rows = torch.stack([torch.autograd.grad(loss.sum(), theta, retain_graph=i == 0)[0]
                            for i, loss in enumerate(values)], -2)                # (methods, a, starts, tasks, 2)
        gramians, values = rows.double() @ rows.double().mT, torch.stack(values, -1).detach()
        weights = torch.stack([balancer.weights(values[i], gramians[i]).to(rows)
                               for i, balancer in enumerate(chosen)])
        theta.grad = (weights[..., None] * rows).sum(-2)
        optimiser.step()
        line.step(step + 1, lambda: f"{time.time() - begun:.0f} s")
    line.close(f"{len(PREFERENCES)} preferences, {len(STARTS)} starts")
    kept = torch.stack([*kept, theta.detach()])
    return {name: kept[:, i] for i, name in enumerate(names)}


def scaled(theta):
    """(..., preferences, starts, 2) -> the losses with their preferences, (..., preferences, starts, 2)."""
    factors = torch.tensor(PREFERENCES).to(theta)[:, None]
    first, second = losses(theta)
    return torch.stack([factors * first, (1 - factors) * second], -1)


def optimum(preference):
    """Smallest a L1 + (1 - a) L2, by a grid that narrows around its best point, in float64."""
    centre, width = torch.tensor([0.0, -8.0], dtype=torch.float64), 10.0
    for _ in range(12):
        side = torch.linspace(-width, width, 201, dtype=torch.float64)
        grid = torch.stack(torch.meshgrid(centre[0] + side, centre[1] + side, indexing="ij"), -1).view(-1, 2)
        first, second = losses(grid)
        total = preference * first + (1 - preference) * second
        centre, width = grid[total.argmin()], width / 10
    return total.min().item()


def gaps(ends):
    """(preferences, starts, 2) -> how far the sum of the losses is above its minimum, (preferences, starts)."""
    least = torch.tensor([optimum(a) for a in PREFERENCES], dtype=torch.float64)
    return scaled(ends.double()).sum(-1) - least[:, None]


def agrees(found, expected):
    """At the optimum, or stuck in the logarithms' valley (where the loss jumps by about 1), or near the same place."""
    if expected < 0.1:
        return abs(found - expected) < 0.05
    if expected > 12:
        return found > 8
    return abs(found - expected) < 0.1 + 0.3 * expected


def compared(found, expected):
    """{method: rows of gaps} twice -> a sentence an end point that is elsewhere, number of those that are expected."""
    pairs = [(name, a, start, ours, theirs) for name, rows in expected.items()
             for a, mine, line in zip(PREFERENCES, found[name], rows, strict=True)
             for start, ours, theirs in zip(STARTS, mine, line, strict=True) if theirs is not None]
    return [f"{name}, a = {a}, start {tuple(start)}: gap {ours:.3g}, expected {theirs:.3g}"
            for name, a, start, ours, theirs in pairs if not (math.isfinite(ours) and agrees(ours, theirs))], len(pairs)


def main():
    with concurrent.futures.ProcessPoolExecutor(len(GROUPS), multiprocessing.get_context("spawn")) as processes:
        halves = processes.map(descend, [STEPS] * len(GROUPS), GROUPS)
        found = {name: points for half in halves for name, points in half.items()}
    trajectories = {name: found[name] for name in METHODS}
    found = {name: gaps(points[-1]).tolist() for name, points in trajectories.items()}
    expected = yaml.safe_load((pathlib.Path(__file__).parent / "config/toy/toy.yaml").read_text())
    apart, points = compared(found, expected)
    files.write(OUT / "toy.json", (json.dumps({
        "preferences": PREFERENCES, "starts": STARTS, "steps": STEPS, "gaps": found, "apart": apart,
        "ends": {name: points[-1].tolist() for name, points in trajectories.items()}}, indent=1) + "\n").encode())
    files.write(OUT / "toy.md", as_markdown(found).encode())
    draw(trajectories)
    print(as_markdown(found), *(f"not where expected: {line}" for line in apart),
          f"{points - len(apart)} of {points} end points are where expected; {OUT}/toy.json, .md, .png", sep="\n")
    if len(apart) > points / 10:
        raise UserError(f"{len(apart)} of {points} end points are not where they should be: a balancer is wrong")


def as_markdown(found):
    """Gaps to the weighted optimum, five starts a cell."""
    lines = ["Gap of a L1 + (1 - a) L2 to its minimum, for each of the five starts; `at` counts those below 0.05.", "",
             "| a | " + " | ".join(found) + " |", "|---" * (len(found) + 1) + "|"]
    for i, a in enumerate(PREFERENCES):
        lines.append(f"| {a} | " + " | ".join(" ".join(f"{gap:.2g}" if gap >= 0.005 else "0" for gap in rows[i])
                                              for rows in found.values()) + " |")
    counts = [sum(gap < 0.05 for row in rows for gap in row) for rows in found.values()]
    lines.append("| at | " + " | ".join(f"{count} of {len(STARTS) * len(PREFERENCES)}" for count in counts) + " |")
    return "\n".join(lines) + "\n"


def draw(trajectories):
    """A row a preference, a column a method, as the paper's figure: trajectories in the plane of the two losses."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(trajectories)
    figure, axes = pyplot.subplots(len(PREFERENCES), len(names), figsize=(2.3 * len(names), 2.2 * len(PREFERENCES)),
                                   squeeze=False, layout="constrained")
    front = torch.stack([torch.linspace(-7, 7, 1000), torch.full((1000,), -8.3552)], -1)
    shades = matplotlib.colormaps["magma_r"](torch.linspace(0.1, 0.6, len(next(iter(trajectories.values())))))
    for column, name in enumerate(names):
        paths = scaled(trajectories[name])
        for row, a in enumerate(PREFERENCES):
            axis = axes[row, column]
            first, second = losses(front)
            curve = torch.stack([a * first, (1 - a) * second], -1)
            axis.plot(*curve.T, color="0.75", linewidth=4, zorder=1)
            for start in range(len(STARTS)):
                axis.scatter(*paths[:, row, start].T, c=shades, s=2, linewidths=0, zorder=2)
            axis.scatter(*paths[0, row].T, color="black", s=14, zorder=3)
            axis.scatter(*curve[curve.sum(-1).argmin()], color="black", marker="*", s=70, zorder=4)
            axis.tick_params(labelsize=6)
            if row == 0:
                axis.set_title(name, fontsize=9)
            if column == 0:
                axis.set_ylabel(f"a = {a}\nL2", fontsize=8)
            if row == len(PREFERENCES) - 1:
                axis.set_xlabel("L1", fontsize=8)
    OUT.mkdir(parents=True, exist_ok=True)
    figure.savefig(OUT / "toy.png", dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    run(main)
