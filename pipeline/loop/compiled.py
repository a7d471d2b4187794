"""COMPILE = off | on | graphs: the network's trunk by torch.compile, `graphs` with CUDA graphs; an opt-in of the
environment, since it changes no result beyond rounding.

It is tried once, forward and backward, before training; where that fails the run says so and goes on eager.
"""

import os
import sys

import torch

from pipeline.runtime import device, distributed
from pipeline.runtime.errors import UserError

DECIDES_NUMBERS = False          # beyond rounding; no run's digest of code holds this file
MODES = {"off": None, "on": "default", "graphs": "reduce-overhead"}


def trunk_of(model, image, precision):
    """`model.features`, compiled if COMPILE asks for it and it works on a batch like `image`; and its name."""
    asked = os.environ.get("COMPILE", "off")
    if asked not in MODES:
        raise UserError(f"COMPILE is {asked!r}; it can be {', '.join(MODES)}")
    if asked == "off":
        return model.features, "eager"
    if asked == "graphs" and image.device.type != "cuda":
        return fallback(model, asked, "CUDA graphs need a GPU")
    torch.use_deterministic_algorithms(True)             # tells the compiler too
    from torch._functorch import config
    config.donated_buffer = False                        # balancers go backward more than once
    features = torch.compile(model.features, mode=MODES[asked])

    def trunk(image):
        torch.compiler.cudagraph_mark_step_begin()       # what the step before got is no longer needed
        return features(image)
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    drawn, why = device.draws(image.device), None
    try:
        for _ in range(3 if asked == "graphs" else 1):         # graphs are warmed up, captured, replayed
            probe(trunk, list(model.parameters()), image, precision)
    except Exception as mistake:          # a compiler, a C++ toolchain, a driver: anything may be missing
        why = f"{type(mistake).__name__}: {mistake}"
    for name, buffer in model.named_buffers():
        buffer.data.copy_(kept[name])
    device.draw_on(image.device, drawn)
    works = distributed.least(torch.tensor(float(not why), device=image.device))       # all processes, or none
    if not works:
        return fallback(model, asked, why or "another process failed")
    return trunk, f"compiled ({MODES[asked]})"


def probe(trunk, parameters, image, precision):
    with torch.autocast(image.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        maps = [x for taps in trunk(image).values() for x in taps.values()]
    for _ in range(2):
        torch.autograd.grad(sum(x.float().mean() for x in maps), parameters, retain_graph=True, allow_unused=True)


def fallback(model, asked, why):
    print(f"warning: COMPILE={asked} does not work here ({' '.join(why.split())[:300]}); going on eager",
          file=sys.stderr)
    return model.features, f"eager, since COMPILE={asked} failed"
