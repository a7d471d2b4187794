"""`reference.feature_distance` and its gradients on the CPU, compiled: one pass, chunk of pixels by chunk.

Sums run in float32 inside a chunk and in float64 across chunks. Students in float32 or bfloat16 and adaptors of at most
WIDEST numbers; what else there is goes to `kernels.cpu.feature_distance`.
"""

import ctypes
import functools

import torch

from kernels.autograd import single_node
from kernels.cpu import feature_distance as plain
from kernels.native.build import library
from kernels.reference import pixel_major

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.uint8: 3}       # as in feature_distance.cpp
STUDENTS, TEACHERS = (torch.float32, torch.bfloat16), (torch.float32, torch.float16, torch.uint8)
WIDEST = 1 << 16           # above, an adaptor outgrows the caches, and torch's own products are faster
SMALL = 1 << 23            # multiplications below which a second thread costs more than it saves


class Call(ctypes.Structure):
    """The C++ has the same, in the same order."""
    _fields_ = [("student", ctypes.c_void_p), *((name, ctypes.c_long) for name in (
                    "images", "pixels", "channels", "image_step", "pixel_step", "channel_step")),
                ("by_student", ctypes.c_void_p), *((name, ctypes.c_long) for name in (
                    "by_image_step", "by_pixel_step", "by_channel_step", "teacher_image_step",
                    "teacher_pixel_step", "teacher_channel_step", "student_type", "tasks", "teacher_channels",
                    "teacher_type", "threads")),
                *((name, ctypes.c_void_p) for name in (
                    "adaptors", "teachers", "weights", "by_adaptors", "distances"))]


def feature_distance(students, adaptors, teachers, energies, weights):
    return single_node(single_pass, plain.scale, students, adaptors, teachers, energies, weights)


@functools.cache
def entry():
    function = library().feature_distance
    function.argtypes = [ctypes.POINTER(Call)]
    return function


def single_pass(student, adaptors, teachers, weights, want_student, want_adaptors):
    """As `kernels.cpu.feature_distance.single_pass`."""
    identity = adaptors[0] is None
    kinds = {a.dtype for a in adaptors if a is not None}
    wide = not identity and adaptors[0].numel() > WIDEST
    if wide or student.dtype not in STUDENTS or teachers[0].dtype not in TEACHERS or torch.float64 in kinds:
        return plain.single_pass(student, adaptors, teachers, weights, want_student, want_adaptors)
    if len({t.stride() for t in teachers}) > 1:
        teachers = [t.contiguous() for t in teachers]
    ds = torch.empty_like(student, memory_format=order(student)) if want_student else None
    maps, by = pixel_major(student.detach()), pixel_major(ds) if want_student else None
    (images, pixels, channels), tasks, width = maps.shape, len(teachers), teachers[0].shape[-1]
    factors = (weights.double() * (-2 / (images * pixels))).float().contiguous()
    held = [a if a is None else a.detach().float().contiguous() for a in adaptors]
    sums = torch.empty(tasks, width, channels) if want_adaptors and not identity else None
    distances = torch.empty(tasks, dtype=torch.float64)
    one = all(follows(x) for x in (maps, by, teachers[0]) if x is not None)
    work = 3 * tasks * images * pixels * width * (4 if identity else channels)
    call = Call(
        address(maps), *((1, images * pixels) if one else (images, pixels)), channels, *steps(maps, one),
        address(by), *steps(by, one), *steps(teachers[0], one), TYPES[student.dtype], tasks, width,
        TYPES[teachers[0].dtype], torch.get_num_threads() if work > SMALL else 1,
        None if identity else array(held), array(teachers), address(factors), address(sums), address(distances))
    if entry()(ctypes.byref(call)):
        raise MemoryError(f"feature_distance of {tuple(student.shape)} and {tasks} tasks: no memory for its chunks")
    by_adaptors = None if sums is None else [x.to(a.dtype) for x, a in zip(sums.unbind(), adaptors, strict=True)]
    return distances / (images * pixels), ds, by_adaptors


def address(tensor):
    return None if tensor is None else tensor.data_ptr()


def array(tensors):
    """A C array of their addresses; the caller holds the tensors."""
    return ctypes.cast((ctypes.c_void_p * len(tensors))(*map(address, tensors)), ctypes.c_void_p)


def order(student):
    """The order of a map's gradient: channels-last for such a map, and for every other the plain one."""
    last = student.ndim == 4 and not student.is_contiguous() and student.is_contiguous(
        memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def follows(view):
    """Whether the pixels of (B, P, C) lie one step apart over all images, so that these can be taken as one."""
    images, pixels, _ = view.shape
    return images == 1 or pixels == 1 or view.stride(0) == pixels * view.stride(1)


def steps(view, one):
    """Numbers between images, pixels and channels of (B, P, C); `one`: all images are taken as one."""
    if view is None:
        return 0, 0, 0
    image, pixel, channel = view.stride()
    return (0, image if view.shape[1] == 1 else pixel, channel) if one else (image, pixel, channel)
