"""The learning rate of a step."""

import math


def learning_rate(training, epoch, step, steps, early=False):
    """The rate of one step, a pure function, so that a resumed run has nothing to restore.

    training: the row's `train`; epoch and step count from 0, steps are those of an epoch.

    constant; step: times `step_factor` after every `step_every` epochs (KD4MTL, epochs 100 on), an epoch `early` as in
    the released code, which steps its scheduler first (quirk Q2: from 99 on, and again at 199), or only after those
    epochs that `step_every` divides and that are not before `step_from` (Aligned-MTL: times 0.7 after 42, 45, ..., 57);
    onecycle: torch's OneCycleLR with its defaults, cosine from lr / 25 up over 30 %, down to lr / 250,000.
    """
    peak = training["lr"]
    if training["schedule"] == "constant":
        return peak
    if training["schedule"] == "step":
        every, begin = training["step_every"], training["step_from"] or 1
        return peak * training["step_factor"] ** max(0, (epoch + early) // every - (begin - 1) // every)
    total = training["epochs"] * steps
    now, top = epoch * steps + step, max(0.3 * total - 1, 1e-9)
    low, high, share = (peak / 25, peak, now / top) if now <= top else (
        peak, peak / 25e4, (now - top) / max(total - 1 - top, 1e-9))
    return high + (low - high) * (1 + math.cos(math.pi * share)) / 2
