"""`reference.feature_distance` and its gradients on the CPU: one pass over memory in chunks that stay in cache.

Sums run in the tensors' own type inside a chunk and in float64 across chunks.
"""

import torch

from kernels.autograd import single_node
from kernels.packing import EPSILON, unpack
from kernels.reference import pixel_major

PIXELS = 2048              # of a chunk, if a pixel of all tasks has 192 numbers; 1024 to 4096 differ by 5 %


def feature_distance(students, adaptors, teachers, energies, weights):
    return single_node(single_pass, scale, students, adaptors, teachers, energies, weights)


def single_pass(student, adaptors, teachers, weights, want_student, want_adaptors):
    """Distances without mean |g|^2 (T,) float64, the gradient of their weighted sum by student, and by adaptors.

    One student map (B, C, H, W) or (B, C) in any float type, adaptors all (D, C) or all None, weights (T,).
    """
    maps, ds = pixel_major(student), torch.empty_like(student) if want_student else None
    images, pixels, channels = maps.shape
    T, D = len(teachers), teachers[0].shape[-1]
    kind, share = torch.promote_types(student.dtype, torch.float32), 1 / (images * pixels)
    identity = adaptors[0] is None
    stack = None if identity else torch.cat(list(adaptors)).to(kind)
    da_sum = torch.zeros_like(stack) if want_adaptors and not identity else None
    minus_two = (weights.to(kind) * (-2 * share))[:, None]
    size = min(pixels, max(64, PIXELS * 192 // (T * D)))
    a_chunk, g_chunk = (torch.empty(size, T, D, dtype=kind) for _ in range(2))
    distances = torch.zeros(T, dtype=torch.float64)
    for image in range(images):
        for first in range(0, pixels, size):
            here = slice(first, min(pixels, first + size))
            s = maps[image, here].to(kind)
            a, g = a_chunk[:len(s)], g_chunk[:len(s)]
            for t, teacher in enumerate(teachers):
                g[:, t] = unpack(teacher[image, here])
            if identity:
                a.copy_(s[:, None].expand_as(a))
            else:
                torch.mm(s, stack.T, out=a.view(len(s), -1))
            norm2 = torch.linalg.vector_norm(a, dim=-1, keepdim=True).square_()
            root = (norm2 + EPSILON).rsqrt_()
            root2, d = root.square(), root * torch.linalg.vecdot(a, g).unsqueeze(-1)
            distances += (norm2 * root2 - 2 * d).sum((0, 2), dtype=torch.float64)
            if not (want_student or want_adaptors):
                continue
            alpha = root * minus_two
            da = a.mul_(-alpha * root * (d + EPSILON * root2)).addcmul_(g, alpha)
            if want_student:
                pixel_major(ds)[image, here] = da.sum(1) if identity else da.view(len(s), -1) @ stack
            if da_sum is not None:
                da_sum.addmm_(da.view(len(s), -1).T, s)
    sums = None if da_sum is None else list(da_sum.to(adaptors[0].dtype).view(T, D, channels))
    return distances * share, ds, sums


def scale(x, factor):
    """x *= factor in place, a scalar; nothing to do for the usual 1."""
    if factor != 1:
        x.mul_(factor)
