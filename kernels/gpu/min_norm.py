"""`reference.min_norm` on the GPU: one program solves, so the host never waits.

The same active set, in float64, as one machine: a step either chooses the gradient to enter (and solves for its
distance to the face) or moves to the face's minimum (and drops what turns negative). Either way it solves one system
with the passive part of H, by elimination without pivots, as H is positive definite there.
"""

import torch
import triton
import triton.language as tl

from kernels.reference import NOT_CONVERGED, NOT_FINITE, PIVOT, SLACK, SOLVED, check_gramian

MOST_TASKS = 32
STEPS = 32                 # a task, at most; random and degenerate Gramians of 32 tasks take 6


@triton.jit
def at(values, index, lane):
    """values[index]"""
    return tl.sum(tl.where(lane == index, values, 0.0), 0)


@triton.jit
def first(flags, lane, NONE: tl.constexpr):
    """The lowest lane that is flagged, or NONE."""
    return tl.min(tl.where(flags, lane, NONE), 0)


@triton.jit
def solve(h, right, passive, lane, TASKS: tl.constexpr):
    """z with h[P, P] z[P] = right[P] and 0 elsewhere."""
    both = passive[:, None] & passive[None, :]
    one = lane[:, None] == lane[None, :]
    a = tl.where(both, h, tl.where(one, 1.0, 0.0))
    z = tl.where(passive, right, 0.0)
    for k in tl.range(TASKS):
        across = tl.sum(tl.where((lane == k)[:, None], a, 0.0), 0)              # row k
        factor = tl.sum(tl.where((lane == k)[None, :], a, 0.0), 1) / at(across, k, lane)
        factor = tl.where(lane == k, 0.0, factor)
        a -= factor[:, None] * across[None, :]
        z -= factor * at(z, k, lane)
    return z / tl.sum(tl.where(one, a, 0.0), 1)


@triton.jit
def min_norm_kernel(
    g_ptr, weights_ptr, state_ptr, TASKS: tl.constexpr, SIZE: tl.constexpr, STEPS: tl.constexpr, PIVOT: tl.constexpr,
    SLACK: tl.constexpr, SOLVED: tl.constexpr, NOT_FINITE: tl.constexpr, NOT_CONVERGED: tl.constexpr,
):  # fmt: skip
    lane = tl.arange(0, SIZE)
    inside = lane < TASKS
    one = lane[:, None] == lane[None, :]
    g = tl.load(g_ptr + lane[:, None] * TASKS + lane[None, :], mask=inside[:, None] & inside[None, :], other=0.0)
    finite = tl.sum(tl.sum((g - g != 0).to(tl.int32), 1), 0) == 0
    g = tl.where(finite, g, 0.0)
    norm = tl.sqrt(tl.maximum(tl.sum(tl.where(one, g, 0.0), 1), 0.0))
    zero = first(inside & (norm == 0), lane, SIZE)           # the first gradient that is zero takes all weight
    easy = zero < SIZE                                       # or the Gramian is not finite
    norm = tl.where(inside & (norm > 0), norm, 1.0)
    u = tl.where(inside, tl.min(tl.where(inside, norm, float("inf")), 0) / norm, 0.0)
    h = g / norm[None, :] / norm[:, None] + u[:, None] * u[None, :]
    h = tl.where(one & (inside == 0)[:, None], 1.0, h)
    y = tl.zeros([SIZE], tl.float64)
    passive, refused = lane < 0, lane < 0
    entering = tl.sum(tl.zeros([SIZE], tl.int32), 0) - 1     # < 0: choose next; else move to the face it entered
    state = tl.where(easy, SOLVED, NOT_CONVERGED)
    step = entering + 1
    while (state == NOT_CONVERGED) & (step < STEPS * TASKS):
        step += 1
        choosing = entering < 0
        slack = u - tl.sum(h * y[None, :], 1) - SLACK * (u + tl.sum(tl.abs(h) * y[None, :], 1))
        slack = tl.where(passive | refused | (inside == 0), -1.0, slack)
        best = tl.max(slack, 0)
        enter = tl.where(choosing, first(slack == best, lane, SIZE), entering)
        across = tl.sum(tl.where((lane == enter)[None, :], h, 0.0), 1)
        z = solve(h, tl.where(choosing, across, u), passive, lane, TASKS)
        if choosing:
            own = at(across, enter, lane)
            joins = own - tl.sum(tl.where(passive, across * z, 0.0), 0) > PIVOT * own
            if best <= 0:
                state = state * 0 + SOLVED
            else:
                passive = passive | (lane == tl.where(joins, enter, SIZE))
                refused = refused | (lane == tl.where(joins, SIZE, enter))
                entering = tl.where(joins, enter, -1)
        else:
            negative = passive & (z <= 0)
            if tl.max(negative.to(tl.int32), 0) > 0:         # walk towards z until the first weight is zero
                share = tl.where(negative, y / tl.where(negative, y - z, 1.0), float("inf"))
                shortest = tl.min(share, 0)
                leaves = first(share == shortest, lane, SIZE)
                y = tl.where(passive & (lane != leaves), tl.maximum(y + shortest * (z - y), 0.0), 0.0)
                passive = passive & (y > 0)
            else:
                # rounding may throw out at once what has just come in
                stays = tl.max((passive & (lane == enter)).to(tl.int32), 0) > 0
                refused = tl.where(stays, lane < 0, refused | (lane == enter))
                y, entering = z, entering * 0 - 1
    weights = y / norm
    weights = tl.where(easy, tl.where(lane == zero, 1.0, 0.0), weights / tl.where(easy, 1.0, tl.sum(weights, 0)))
    state = tl.where(finite, state, NOT_FINITE)
    tl.store(weights_ptr + lane, tl.where(state == SOLVED, weights, float("nan")), mask=inside)
    tl.store(state_ptr, state)


def min_norm(gramian):
    """As the reference, for at most 32 tasks; nothing waits for the device."""
    check_gramian(gramian)
    tasks = len(gramian)
    if tasks > MOST_TASKS:
        raise ValueError(f"a Gramian of {tasks} tasks; the fused solver takes {MOST_TASKS}, set KERNELS=reference")
    weights = torch.empty(tasks, dtype=torch.float64, device=gramian.device)
    state = torch.empty((), dtype=torch.int32, device=gramian.device)
    constants, options = settings(tasks)
    min_norm_kernel[(1,)](gramian.double().contiguous(), weights, state, **constants, **options)
    return weights, state


def settings(tasks):
    """Constants and launch options of `min_norm_kernel`."""
    return dict(TASKS=tasks, SIZE=max(2, triton.next_power_of_2(tasks)), STEPS=STEPS, PIVOT=PIVOT, SLACK=SLACK,
                SOLVED=SOLVED, NOT_FINITE=NOT_FINITE, NOT_CONVERGED=NOT_CONVERGED), dict(
                    num_warps=1 if tasks <= 16 else 8)  # fmt: skip


def builds(case):
    """What one launch of a `cases.Gradients` compiles to: (kernel, argument types, constants, options)."""
    arguments = {"g_ptr": "*fp64:16", "weights_ptr": "*fp64:16", "state_ptr": "*i32:16"}
    yield min_norm_kernel, arguments, *settings(case.tasks)
