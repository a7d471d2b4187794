"""`reference.feature_distance` and its gradients on the GPU, in one pass over student and teachers.

With w the task's lambda and g the stored unit feature, one pixel of one task costs

    r = 1 / sqrt(|a|^2 + eps),  d = r <a, g>          a = A s, two sums along a row
    D = |a|^2 r^2 - 2 d + |g|^2                       the last term was summed when g was stored
    da = -2 w r g + 2 w r^2 (d + eps r^2) a           the gradient of w D
    ds = sum_t A_t' da_t,  dA_t = sum_pixels da_t s'

so that student and teachers are read once and ds written once: T + 2 feature maps, against about 136 for eager torch.
Two ways: `feature_distance_kernel` keeps everything on the chip (16 to 64 channels, 16-bit products);
`feature_distance_rows_kernel` works between cuBLAS products, in place (any channels, exact in float32).
Sums over pixels have a fixed order: partial sums a program, then one sum over programs. No atomics.
"""

import torch
import triton
import triton.language as tl

from kernels.autograd import single_node
from kernels.packing import EPSILON
from kernels.reference import pixel_major

# Tasks a launch -> (pixels a tile, warps, stages), by the GPU's major version: what `make kernels-versions` compiles
# without a register spill. More tasks than that go in several launches that add to ds.
SHIPPED = {8: {1: (64, 4, 2)},
           9: {1: (64, 4, 2), 2: (64, 4, 2), 3: (128, 8, 2)},
           10: {1: (64, 4, 2), 2: (64, 4, 2), 3: (64, 4, 2)}}
TRANSPOSED = {8: {1: (32, 4, 2)}}      # instead, where ds is written channels first and that costs registers
CHANNELS = (16, 32, 64)    # what one program can hold the adaptors of
ROW = 4096                 # numbers of one task that a program of the rows kernel works on at once
SCALED = 8192              # numbers a program of the scale kernel
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.uint8: "u8"}    # Triton's


@triton.jit
def unpack(f, STORED_UINT8: tl.constexpr):
    """Stored teacher rows -> float32 and the factor (rows,) that makes them unit vectors."""
    f = f.to(tl.float32)
    if STORED_UINT8:
        return f, tl.rsqrt(tl.maximum(tl.sum(f * f, 1), 1e-12))
    return f, tl.full([f.shape[0]], 1.0, tl.float32)


@triton.jit
def one_task(a, f, unit, weight, EPSILON: tl.constexpr):
    """Rows a and f (pixels, D) -> the distance of each pixel without |g|^2, and the gradient of weight * distance."""
    norm2 = tl.sum(a * a, 1)
    root = tl.rsqrt(norm2 + EPSILON)
    d = root * unit * tl.sum(a * f, 1)
    alpha = -2 * weight * root
    beta = -alpha * root * (d + EPSILON * root * root)
    return norm2 * root * root - 2 * d, (alpha * unit)[:, None] * f + beta[:, None] * a


@triton.jit
def feature_distance_kernel(
    s_ptr, ds_ptr, teachers, adaptors, weight_ptr, loss_ptr, partial_ptr, pixels, tiles_per_image, tiles, scale,
    EPSILON: tl.constexpr, C: tl.constexpr, D: tl.constexpr, TASKS: tl.constexpr, BP: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, OPERAND: tl.constexpr, STORED_UINT8: tl.constexpr, STUDENT: tl.constexpr,
    ADAPTORS: tl.constexpr, ADD: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    c, d, q = tl.arange(0, C), tl.arange(0, D), tl.arange(0, BP)
    a_maps, da_sums, losses, weights = (), (), (), ()
    for t in tl.static_range(TASKS):
        a_maps = a_maps + (tl.load(adaptors[t] + d[:, None] * C + c[None, :]).to(OPERAND),)
        da_sums = da_sums + (tl.zeros([D, C], tl.float32),)
        losses = losses + (tl.zeros([BP], tl.float32),)
        weights = weights + (tl.load(weight_ptr + t),)
    for tile in tl.range(program, tiles, tl.num_programs(0), num_stages=STAGES):
        image = (tile // tiles_per_image).to(tl.int64)
        p = (tile % tiles_per_image) * BP + q
        inside = p < pixels
        start = image * pixels * C                     # 64 bits up to the image, 32 within
        if CHANNELS_LAST:
            place = p[:, None] * C + c[None, :]
            s = tl.load(s_ptr + start + place, mask=inside[:, None], other=0.0).to(OPERAND)
        else:
            place = c[:, None] * pixels + p[None, :]
            s = tl.trans(tl.load(s_ptr + start + place, mask=inside[None, :], other=0.0).to(OPERAND))
        ds = tl.zeros([BP, C], tl.float32)
        new_sums, new_losses = (), ()
        for t in tl.static_range(TASKS):
            a = tl.dot(s, tl.trans(a_maps[t]), input_precision="ieee")
            f_ptr = teachers[t] + image * pixels * D + (p[:, None] * D + d[None, :])    # as place, in 32 bits
            f, unit = unpack(tl.load(f_ptr, mask=inside[:, None], other=0), STORED_UINT8)
            loss, da = one_task(a, f, unit, weights[t], EPSILON)
            new_losses = new_losses + (losses[t] + loss,)
            da = da.to(OPERAND)
            if STUDENT:
                ds = tl.dot(da, a_maps[t], ds, input_precision="ieee")
            if ADAPTORS:
                new_sums = new_sums + (tl.dot(tl.trans(da), s, da_sums[t], input_precision="ieee"),)
        losses = new_losses
        if ADAPTORS:
            da_sums = new_sums
        if STUDENT:
            ds *= scale
            if CHANNELS_LAST:
                mask = inside[:, None]
            else:
                ds, mask = tl.trans(ds), inside[None, :]
            if ADD:
                ds += tl.load(ds_ptr + start + place, mask=mask, other=0.0).to(tl.float32)
            tl.store(ds_ptr + start + place, ds.to(ds_ptr.dtype.element_ty), mask=mask)
    for t in tl.static_range(TASKS):
        tl.store(loss_ptr + program * TASKS + t, tl.sum(losses[t], 0))
        if ADAPTORS:
            cell = (program * TASKS + t) * D * C + d[:, None] * C + c[None, :]
            tl.store(partial_ptr + cell, da_sums[t] * scale)


@triton.jit
def feature_distance_rows_kernel(
    a_ptr, da_ptr, teachers, weight_ptr, loss_ptr, rows, a_row_stride, a_task_stride, da_row_stride, scale,
    EPSILON: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, TASKS: tl.constexpr, BP: tl.constexpr,
    STORED_UINT8: tl.constexpr, IDENTITY: tl.constexpr,
):  # fmt: skip
    """a (rows, TASKS, D) -> da in its place; without an adaptor all tasks read one a and add up in da (rows, D)."""
    p = tl.program_id(0).to(tl.int64) * BP + tl.arange(0, BP)
    d = tl.arange(0, BLOCK_D)
    mask = (p < rows)[:, None] & (d < D)[None, :]
    total = tl.zeros([BP, BLOCK_D], tl.float32)
    for t in tl.static_range(TASKS):
        place = p[:, None] * a_row_stride + t * a_task_stride + d[None, :]
        a = tl.load(a_ptr + place, mask=mask, other=0.0).to(tl.float32)
        f, unit = unpack(tl.load(teachers[t] + p[:, None] * D + d[None, :], mask=mask, other=0), STORED_UINT8)
        loss, da = one_task(a, f, unit, tl.load(weight_ptr + t), EPSILON)
        tl.store(loss_ptr + tl.program_id(0) * TASKS + t, tl.sum(loss, 0))
        if IDENTITY:
            total += da * scale
        else:
            tl.store(da_ptr + place, (da * scale).to(da_ptr.dtype.element_ty), mask=mask)
    if IDENTITY:
        place = p[:, None] * da_row_stride + d[None, :]
        tl.store(da_ptr + place, total.to(da_ptr.dtype.element_ty), mask=mask)


@triton.jit
def scale_kernel(x_ptr, factor_ptr, size, BLOCK: tl.constexpr):
    """x *= factor, without touching x when the factor is 1, which only the device knows."""
    factor = tl.load(factor_ptr)
    if factor != 1.0:
        i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + i, mask=i < size, other=0.0)
        tl.store(x_ptr + i, (x * factor).to(x_ptr.dtype.element_ty), mask=i < size)


def feature_distance(students, adaptors, teachers, energies, weights):
    return single_node(single_pass, scale, students, adaptors, teachers, energies, weights)


def single_pass(student, adaptors, teachers, weights, want_student, want_adaptors):
    """Distances without mean |g|^2 (T,) float64, the gradient of their weighted sum by student, and by adaptors.

    One student map (B, C, H, W) or (B, C), float32 or bfloat16, adaptors all (D, C) or all None, weights (T,) on the
    device. float32 students multiply in float32, or in bfloat16 after `torch.set_float32_matmul_precision("medium")`.
    """
    if student.dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"student features are {student.dtype}; the fused distance takes float32 or bfloat16 "
                         "(float16's gradients would underflow); set KERNELS=reference for others")
    if not (student.is_contiguous() or student.is_contiguous(memory_format=torch.channels_last)):
        student = student.contiguous()
    weights = weights.to(torch.float32)
    teachers = tuple(teacher.contiguous() for teacher in teachers)
    short = student.dtype == torch.bfloat16 or torch.get_float32_matmul_precision() == "medium"
    fits = adaptors[0] is not None and adaptors[0].shape[0] in CHANNELS and adaptors[0].shape[1] in CHANNELS
    if short and fits:
        return on_chip(student, adaptors, teachers, weights, want_student, want_adaptors)
    return between_products(student, adaptors, teachers, weights, want_student, want_adaptors)


def on_chip_options(tasks, C, D, channels_last, stored, student, adaptors, add, major):
    """Constants and launch options of `feature_distance_kernel`."""
    shipped = SHIPPED if channels_last else SHIPPED | TRANSPOSED
    BP, warps, stages = shipped.get(major, shipped[8])[tasks]
    return dict(EPSILON=EPSILON, C=C, D=D, TASKS=tasks, BP=BP, CHANNELS_LAST=channels_last, OPERAND=operand(),
                STORED_UINT8=stored == torch.uint8, STUDENT=student, ADAPTORS=adaptors, ADD=add,
                STAGES=stages), dict(num_warps=warps, num_stages=stages)  # fmt: skip


def rows_options(tasks, D, stored, identity):
    """Constants and launch options of `feature_distance_rows_kernel`."""
    BLOCK_D = triton.next_power_of_2(D)
    return dict(EPSILON=EPSILON, D=D, BLOCK_D=BLOCK_D, TASKS=tasks, BP=max(1, ROW // BLOCK_D),
                STORED_UINT8=stored == torch.uint8, IDENTITY=identity), dict(num_warps=4)  # fmt: skip


def on_chip(student, adaptors, teachers, weights, want_student, want_adaptors):
    channels_last = student.ndim == 2 or student.is_contiguous(memory_format=torch.channels_last)
    images, pixels, C = pixel_major(student).shape
    if student.ndim == 2:              # vectors: the batch is one image
        images, pixels = pixels, images
    D, rows = teachers[0].shape[-1], images * pixels
    major, multiprocessors = capability(student.device)
    most = max(SHIPPED.get(major, SHIPPED[8]))
    ds = torch.empty_like(student) if want_student else student
    losses, sums = [], []
    for first in range(0, len(teachers), most):
        now = slice(first, first + most)
        maps = tuple(a.contiguous() for a in adaptors[now])
        T = len(maps)
        constants, options = on_chip_options(T, C, D, channels_last, teachers[0].dtype, want_student, want_adaptors,
                                             first > 0, major)
        tiles_per_image = triton.cdiv(pixels, constants["BP"])
        tiles = images * tiles_per_image
        programs = min(tiles, multiprocessors * (2 if options["num_warps"] == 4 else 1))
        loss = torch.empty(programs, T, device=student.device)
        partial = torch.empty((programs, T, D, C) if want_adaptors else 1, device=student.device)
        feature_distance_kernel[(programs,)](
            student, ds, teachers[now], maps, weights[now], loss, partial, pixels, tiles_per_image, tiles, 1 / rows,
            **constants, **options)  # fmt: skip
        losses.append(loss.sum(0, dtype=torch.float64) / rows)
        sums.extend(partial.sum(0) if want_adaptors else [])
    return torch.cat(losses), ds if want_student else None, sums if want_adaptors else None


def between_products(student, adaptors, teachers, weights, want_student, want_adaptors):
    s = pixel_major(student)
    images, pixels, C = s.shape
    T, D = len(teachers), teachers[0].shape[-1]
    rows, identity = images * pixels, adaptors[0] is None
    if identity:
        a = s.contiguous()
        da, strides = torch.empty_like(a), (D, 0)
    else:
        stack = torch.cat(list(adaptors)).to(s.dtype)
        a = da = s @ stack.T
        strides = (T * D, D)
    constants, options = rows_options(T, D, teachers[0].dtype, identity)
    programs = triton.cdiv(rows, constants["BP"])
    loss = torch.empty(programs, T, device=s.device)
    feature_distance_rows_kernel[(programs,)](a, da, teachers, weights, loss, rows, *strides, D, 1 / rows, **constants,
                                              **options)
    ds = sums = None
    if want_student:
        by_pixel = da if identity else da @ stack
        ds = by_pixel.transpose(1, 2).reshape(student.shape) if student.ndim == 4 else by_pixel[:, 0]
    if want_adaptors and not identity:
        sums = list(torch.bmm(da.transpose(1, 2), s).sum(0).to(adaptors[0].dtype).view(T, D, C))
    return loss.sum(0, dtype=torch.float64) / rows, ds, sums


def capability(device):
    """(major version, multiprocessors); in the interpreter a GPU of two, to have several programs."""
    if device.type != "cuda":
        return 9, 2
    properties = torch.cuda.get_device_properties(device)
    return properties.major, properties.multi_processor_count


def operand():
    """What the products multiply: the interpreter's bfloat16 product is wrong (raw bits), so it takes float32."""
    return tl.float32 if triton.knobs.runtime.interpret else tl.bfloat16


def scale(x, factor):
    """x *= factor in place, a scalar on x's device."""
    scale_kernel[(triton.cdiv(x.numel(), SCALED),)](x, factor, x.numel(), BLOCK=SCALED, num_warps=8)


def builds(case):
    """What one launch of a `cases.Distance` compiles to: (kernel, argument types, constants, options) each."""
    T, C, D, stored = case.tasks, case.channels, case.teacher_channels, case.stored
    student, teacher = NAMES[case.dtype], NAMES[stored]
    some = {"teachers": (f"*{teacher}:16",) * T, "weight_ptr": "*fp32", "loss_ptr": "*fp32:16"}
    if C in CHANNELS and D in CHANNELS and case.dtype == torch.bfloat16:
        most = max(SHIPPED.get(case.major, SHIPPED[8]))
        for first in range(0, T, most):
            now = min(T - first, most)
            arguments = {"s_ptr": f"*{student}:16", "ds_ptr": f"*{student}:16", "teachers": some["teachers"][:now],
                         "adaptors": ("*fp32:16",) * now, "weight_ptr": "*fp32", "loss_ptr": "*fp32:16",
                         "partial_ptr": "*fp32:16", "pixels": "i32:16" if case.height * case.width % 16 == 0 else "i32",
                         "tiles_per_image": "i32", "tiles": "i32", "scale": "fp32"}
            yield feature_distance_kernel, arguments, *on_chip_options(
                now, C, D, case.layout == "channels_last", stored, True, True, first > 0, case.major)
    else:
        arguments = {"a_ptr": f"*{student}:16", "da_ptr": f"*{student}:16", **some, "rows": "i32",
                     "a_row_stride": "i32:16", "a_task_stride": "i32:16", "da_row_stride": "i32:16", "scale": "fp32"}
        yield feature_distance_rows_kernel, arguments, *rows_options(T, D, stored, case.adaptor == "none")
    arguments = {"x_ptr": f"*{student}:16", "factor_ptr": "*fp32:16", "size": "i32:16"}
    yield scale_kernel, arguments, dict(BLOCK=SCALED), dict(num_warps=8)
