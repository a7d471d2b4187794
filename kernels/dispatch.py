"""Which implementation runs: the one place that decides, from the tensors' device and the environment.

    KERNELS=auto        the fused one of the device: Triton on CUDA, one chunked pass on the CPU, else the reference
    KERNELS=fused       the same, and an error where there is none
    KERNELS=reference   plain torch

`describe` says which; training prints it, so that falling back is never silent.
"""

import importlib
import importlib.util
import os

import torch

DECIDES_NUMBERS = False          # beyond rounding; no run's digest of code holds this file
NOWHERE = torch.empty(0)   # where there is no tensor, the implementation says so
CHOICES = ("auto", "fused", "reference")


def choose(device):
    """"triton", "chunked" or "reference" for a torch.device; ValueError if KERNELS asks for what there is not."""
    asked = os.environ.get("KERNELS", "auto")
    if asked not in CHOICES:
        raise ValueError(f"KERNELS is {asked!r}; it can be {', '.join(CHOICES[:-1])} or {CHOICES[-1]}")
    if asked == "reference":
        return "reference"
    if device.type == "cpu":
        return "chunked"
    if device.type == "cuda" and importlib.util.find_spec("triton"):
        return "triton"
    if asked == "fused":
        raise ValueError(f"KERNELS is 'fused' but there are no fused kernels for {why_not(device)}; set KERNELS=auto")
    return "reference"


def why_not(device):
    return "CUDA without the package triton" if device.type == "cuda" else f"the device {device.type!r}"


def describe(device):
    """"fused (triton)", "fused (chunked)", "reference" or "reference, since ..."."""
    device = torch.device(device)
    chosen = choose(device)
    if chosen != "reference":
        return f"fused ({chosen})"
    asked = os.environ.get("KERNELS", "auto")
    return "reference" if asked == "reference" else f"reference, since there is none for {why_not(device)}"


def implementation(operation, device):
    """The module whose `operation` runs on `device`; loaded by name, so that a CPU never loads Triton."""
    chosen = choose(device)
    if chosen == "reference" or (chosen, operation) == ("chunked", "min_norm"):     # tasks x tasks: nothing to fuse
        return importlib.import_module("kernels.reference")
    return importlib.import_module(f"kernels.{'cpu' if chosen == 'chunked' else 'gpu'}.{operation}")


def feature_distance(students, adaptors, teachers, energies, weights):
    """KD4MTL's distance of T adapted students to their teachers; `kernels.reference.feature_distance` specifies it."""
    device = next(iter(teachers), NOWHERE).device
    return implementation("feature_distance", device).feature_distance(students, adaptors, teachers, energies, weights)


def gramian(gradients):
    """Inner products of T tasks' gradients; `kernels.reference.gramian` specifies it."""
    device = next((g for task in gradients for g in task if g is not None), NOWHERE).device
    return implementation("gramian", device).gramian(gradients)


def min_norm(gramian):
    """MGDA's weights from the Gramian; `kernels.reference.min_norm` specifies it."""
    return implementation("min_norm", gramian.device).min_norm(gramian)


def combine(parameters, gradients, weights):
    """The weighted sum of T gradients into `.grad`; `kernels.reference.combine` specifies it."""
    return implementation("combine", weights.device).combine(parameters, gradients, weights)
