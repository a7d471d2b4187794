"""Every operation in plain torch, on any device and in any float type: the specification.

Feature maps are student maps (B, C, H, W) or vectors (B, C), and pixel-major teacher maps (B, P, D) with P = H * W,
unit length over D, as `kernels.packing` stores them.
"""

import numpy as np
import torch

from kernels.gradients import check_gradients
from kernels.packing import EPSILON, unpack


def feature_distance(students, adaptors, teachers, energies, weights):
    """KD4MTL's distance between adapted student features and each teacher's (section 3.2; released code's epsilon).

        a_t = A_t s_t,   D_t = mean over images and pixels of | a_t / sqrt(|a_t|^2 + eps) - g_t |^2
                             = mean( |a|^2 / (|a|^2 + eps) + |g|^2 - 2 <a, g> / sqrt(|a|^2 + eps) )

    students   (B, C, H, W) or (B, C), one map that all T tasks share, or a list of T such maps
    adaptors   list of T: A_t (D, C), the adaptor's last 1x1, or None for the identity
    teachers   list of T: (B, P, D) as `pack` stored it
    energies   list of T: (B,) the mean |g|^2 of `normalise`
    weights    (T,) the lambda_t, not differentiated

    Returns sum_t lambda_t D_t, a scalar differentiable in students and adaptors, and the D_t (T,) without gradient.
    ValueError on shapes, types and devices that do not fit, and on a weight below 0 that can be read without waiting.
    """
    check_distance(students, adaptors, teachers, energies, weights)
    maps = [students] * len(teachers) if torch.is_tensor(students) else students
    distances = torch.stack([one_distance(*each) for each in zip(maps, adaptors, teachers, energies, strict=True)])
    weights = torch.as_tensor(weights, dtype=distances.dtype, device=distances.device)
    return (weights * distances).sum(), distances.detach()


def one_distance(student, weight, teacher, energy):
    s = pixel_major(student)
    s, g = s.to(torch.promote_types(s.dtype, torch.float32)), unpack(teacher)
    a = s if weight is None else s @ weight.T.to(s.dtype)
    norm2 = a.square().sum(-1)
    root = torch.rsqrt(norm2 + EPSILON)
    per_pixel = norm2 * root.square() - 2 * root * (a * g).sum(-1)
    return per_pixel.mean() + energy.to(per_pixel.dtype).mean()


def pixel_major(feature):
    """(B, C, H, W) -> (B, H * W, C), a view of a channels-last map; (B, C) -> (B, 1, C)."""
    return feature.flatten(2).transpose(1, 2) if feature.ndim == 4 else feature[:, None]


def check_distance(students, adaptors, teachers, energies, weights):
    """ValueError, with what was found in it, unless students (a map or a list of maps) and all the rest fit."""
    tasks = len(teachers)
    maps = [students] * tasks if torch.is_tensor(students) else students
    counts = [len(maps), len(adaptors), tasks, len(energies), len(weights)]
    if not tasks or len(set(counts)) > 1:
        raise ValueError("{} student maps, {} adaptors, {} teachers, {} energies and {} weights; each task needs one "
                         "of each, and there should be a task".format(*counts))
    if len({(None if a is None else a.shape, t.dtype) for a, t in zip(adaptors, teachers, strict=True)}) > 1:
        raise ValueError(f"adaptors {[None if a is None else tuple(a.shape) for a in adaptors]} and stored types "
                         f"{[t.dtype for t in teachers]} differ between tasks; one call takes one of each")
    if len({(m.shape, m.dtype) for m in maps}) > 1:
        raise ValueError(f"student maps {[f'{tuple(m.shape)} {m.dtype}' for m in maps]} differ between tasks")
    devices = {str(x.device) for x in (*maps, *adaptors, *teachers) if x is not None}
    if len(devices) > 1:
        raise ValueError(f"student, adaptors and teachers lie on {', '.join(sorted(devices))}; they should lie on one "
                         "device")
    if not maps[0].is_floating_point() or any(a is not None and not a.is_floating_point() for a in adaptors):
        raise ValueError(f"student maps are {maps[0].dtype}, adaptors "
                         f"{[None if a is None else a.dtype for a in adaptors]}; they should be floating point")
    if not torch.is_tensor(weights) or weights.device.type == "cpu":       # reading a GPU's would wait for it
        values = torch.as_tensor(weights).tolist()
        if not all(0 <= w < float("inf") for w in values):
            raise ValueError(f"weights {values}; a lambda should be 0 or more, and finite")
    for student, weight, teacher in zip(maps, adaptors, teachers, strict=True):
        if student.ndim not in (2, 4):
            raise ValueError(f"a student map of shape {tuple(student.shape)}; it should be (B, C, H, W) or (B, C)")
        images, pixels, channels = pixel_major(student).shape
        if weight is not None and weight.shape != (teacher.shape[-1], channels):
            raise ValueError(f"adaptor weight {tuple(weight.shape)} does not map {channels} student channels to "
                             f"{teacher.shape[-1]} teacher channels")
        adapted = (images, pixels, channels if weight is None else len(weight))
        if adapted != tuple(teacher.shape) or 0 in adapted:
            raise ValueError(f"adapted student features {adapted} and teacher features {tuple(teacher.shape)} differ, "
                             "or are empty (images, pixels, channels)")


# Of an entry of the Gramian, relative to the product of the two norms: 7.3e-12, which every implementation keeps.
# Products are made in float64, where those of float32 and shorter are exact, and added in float64 by sums of at most
# 2^15 of them, which are then added: of 2^29 numbers in 2^14 tensors there are at most 2^15. So no product is rounded
# more than 2^16 times, by a share of 2^-53 each, and the sum of all |g_i h_i| is at most |g| |h|, whatever they are.
GRAMIAN_ERROR = 2.0 ** (16 - 53)


def gramian(gradients):
    """Inner products of the tasks' gradients over a list of parameters: (T, T) float64, off by GRAMIAN_ERROR at most.

    gradients: list of T lists, one tensor a parameter, or None where a task's loss does not reach the parameter.
    ValueError if the lists do not fit each other.
    """
    check_gradients(gradients)
    tasks, device = len(gradients), next(g.device for task in gradients for g in task if g is not None)
    out = torch.zeros(tasks, tasks, dtype=torch.float64, device=device)
    for i in range(tasks):
        for j in range(i + 1):
            for g, h in zip(gradients[i], gradients[j], strict=True):
                if g is not None and h is not None:
                    out[i, j] += (g.double() * h.double()).sum()
    return out + out.tril(-1).T


SOLVED, NOT_FINITE, NOT_CONVERGED = 0, 1, 2
PIVOT = 1e-14              # a gradient whose distance to the face is below this share of its square lies on it
SLACK = 1e-13              # optimality: rounding of the terms of one inner product, relative


def min_norm(gramian):
    """The point of smallest norm in the convex hull of the gradients (MGDA; Desideri 2012): min a' G a on the simplex.

    gramian (T, T) -> weights (T,) float64, state () int32: SOLVED; NOT_FINITE (weights are NaN); NOT_CONVERGED (too).

    With unit gradients' Gramian C and u_i = min_j |g_j| / |g_i|, the weights are y_i / |g_i|, scaled to sum 1, where y
    minimises y'(C + u u')y / 2 - u'y over y >= 0: an active set (Lawson & Hanson 1974; Wolfe 1976), exact after
    finitely many solves and blind to the gradients' scales. The first zero gradient takes all weight; of gradients
    that depend on each other, those found first. Waits for the device; the matrix is solved by numpy.
    """
    check_gramian(gramian)
    weights, state = active_set(gramian.double().cpu().numpy())
    return (torch.from_numpy(weights).to(gramian.device),
            torch.tensor(state, dtype=torch.int32, device=gramian.device))


def active_set(g):
    tasks, norm = len(g), np.sqrt(g.diagonal().clip(0))
    if not np.isfinite(g).all():
        return np.full(tasks, np.nan), NOT_FINITE
    if not norm.all():
        y = np.zeros(tasks)
        y[norm.argmin()] = 1
        return y, SOLVED
    u = norm.min() / norm
    y, state = nonnegative(g / norm / norm[:, None] + u * u[:, None], u)
    weights = y / norm
    return weights / weights.sum(), state


def nonnegative(h, b):
    """The y >= 0 that minimises y'H y / 2 - b'y: h (T, T) positive semidefinite, b (T,) in its range, float64 arrays.

    -> y (T,), state: SOLVED, or NOT_CONVERGED with NaN.
    """
    tasks, size = len(h), abs(h)
    y, passive, refused = np.zeros(tasks), [], set()
    for _ in range(8 * tasks):
        slack = b - h @ y - SLACK * (abs(b) + size @ y)
        slack[[*passive, *refused]] = -1
        enter = int(slack.argmax())
        if slack[enter] <= 0:
            return y, SOLVED
        across = h[passive, enter]
        on_face = h[enter, enter] - across @ np.linalg.solve(h[np.ix_(passive, passive)], across)
        if on_face <= PIVOT * h[enter, enter]:
            refused.add(enter)
            continue
        passive.append(enter)
        z = np.linalg.solve(h[np.ix_(passive, passive)], b[passive])
        while (z <= 0).any():              # walk towards z until the first weight is zero, and leave that one out
            now = y[passive]
            share = np.divide(now, now - z, out=np.full(len(z), np.inf), where=z <= 0)
            now += share.min() * (z - now)
            now[share.argmin()] = 0
            y[passive] = now.clip(0)
            passive = [i for i in passive if y[i] > 0]
            z = np.linalg.solve(h[np.ix_(passive, passive)], b[passive])
        # rounding may throw out at once what has just come in
        refused = refused | {enter} if enter not in passive else set()
        y[passive] = z
    return np.full(tasks, np.nan), NOT_CONVERGED


def check_gramian(gramian):
    """ValueError unless it is a square matrix of at least one task."""
    if gramian.ndim != 2 or gramian.shape[0] != gramian.shape[1] or not len(gramian):
        raise ValueError(f"a Gramian of shape {tuple(gramian.shape)}; it should be (T, T) for T >= 1 tasks")


def combine(parameters, gradients, weights):
    """parameter.grad += sum_t weights_t gradient_t for a list of parameters, as autograd accumulates.

    gradients as for `gramian`; their tensors may be used up. weights (T,). A parameter no task reaches is left alone.
    ValueError if lists and weights do not fit each other.
    """
    check_gradients(gradients, weights, parameters)
    for p, *parts in zip(parameters, *gradients, strict=True):
        reached = [(w, g) for w, g in zip(weights, parts, strict=True) if g is not None]
        if reached:
            total = sum(w.to(g.dtype) * g for w, g in reached)
            p.grad = total if p.grad is None else p.grad + total
