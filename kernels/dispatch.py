"""Which implementation runs: the one place that decides, from the tensors' device and the environment.

    KERNELS=auto        the fused one of the device: Triton on CUDA, C++ on the CPU, else the reference
    KERNELS=fused       the same, and an error where there is none
    KERNELS=chunked     on the CPU torch's one pass in chunks, which is also what runs without a C++ compiler
    KERNELS=reference   plain torch

`describe` says which, and why it is not the compiled one; training prints it, so that falling back is never silent.
"""

import importlib
import importlib.util
import os

import torch

from kernels.native import build

DECIDES_NUMBERS = False          # beyond rounding; no run's digest of code holds this file
NOWHERE = torch.empty(0)   # where there is no tensor, the implementation says so
CHOICES = ("auto", "fused", "chunked", "reference")
FOLDERS = {"native": "native", "chunked": "cpu", "triton": "gpu"}


def choose(device):
    """"triton", "native", "chunked" or "reference" for a torch.device; ValueError if KERNELS asks for more.

    On the CPU the first call compiles the C++ where no earlier one has; without a compiler "chunked" is fused too.
    """
    asked = os.environ.get("KERNELS", "auto")
    if asked not in CHOICES:
        raise ValueError(f"KERNELS is {asked!r}; it can be {', '.join(CHOICES[:-1])} or {CHOICES[-1]}")
    if asked == "reference":
        return "reference"
    if device.type == "cpu":
        return "chunked" if asked == "chunked" or build.why_not() else "native"
    if asked == "chunked":
        raise ValueError(f"KERNELS is 'chunked', which is for the CPU, not for {device.type!r}; set KERNELS=auto")
    if device.type == "cuda" and importlib.util.find_spec("triton"):
        return "triton"
    if asked == "fused":
        raise ValueError(f"KERNELS is 'fused' but there are no fused kernels for {why_not(device)}; set KERNELS=auto")
    return "reference"


def why_not(device):
    return "CUDA without the package triton" if device.type == "cuda" else f"the device {device.type!r}"


def describe(device):
    """"fused (triton)", "fused (native)", "fused (chunked, since ...)", "reference" or "reference, since ..."."""
    device = torch.device(device)
    chosen, asked = choose(device), os.environ.get("KERNELS", "auto")
    if chosen == "chunked" and asked != "chunked":
        return f"fused (chunked, since {build.why_not()})"
    if chosen != "reference":
        return f"fused ({chosen})"
    return "reference" if asked == "reference" else f"reference, since there is none for {why_not(device)}"


def implementation(operation, device):
    """The module whose `operation` runs on `device`; loaded by name, so that a CPU never loads Triton."""
    chosen = choose(device)
    if chosen == "reference" or (operation == "min_norm" and device.type == "cpu"):   # tasks x tasks: nothing to fuse
        return importlib.import_module("kernels.reference")
    return importlib.import_module(f"kernels.{FOLDERS[chosen]}.{operation}")


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
