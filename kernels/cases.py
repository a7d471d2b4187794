"""One table of cases for tests, benchmark and ahead-of-time compile: inputs, tolerances, bytes and operations.

Tolerances are relative to float64: of the loss, and of whole gradients in the 2-norm. Where a gradient is rounded to
the student's bfloat16 that rounding is part of it.
"""

from dataclasses import dataclass, replace

import torch

from kernels.packing import normalise, pack
from kernels.reference import GRAMIAN_ERROR

F32, BF16, F16, U8 = torch.float32, torch.bfloat16, torch.float16, torch.uint8

# (loss, gradient by the student, gradient by the adaptors), by the student's type; the interpreter truncates bfloat16
COMPUTED = {torch.float64: (1e-12, 1e-12, 1e-12), F32: (1e-6, 5e-6, 5e-6), BF16: (2e-4, 1e-2, 2e-2)}
# the same, of a storage type against exact teachers
STORED = {F32: (1e-6, 5e-6, 5e-6), F16: (1e-5, 5e-4, 5e-4), U8: (2e-4, 5e-3, 5e-3)}
GRAMIAN = GRAMIAN_ERROR    # of an entry, relative to the two norms
COMBINE = {torch.float64: 1e-12, F32: 1e-6, BF16: 1e-2, F16: 2e-3}
KKT = 1e-6                 # of |g_i| times the smallest gradient's norm: see tests/test_gradient_kernels.py


def short(dtype):
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Distance:
    """One call of `feature_distance`. layout: contiguous, channels_last, strided (with gaps) or vectors (B, C)."""
    tasks: int
    images: int
    channels: int
    height: int
    width: int
    dtype: torch.dtype = F32
    stored: torch.dtype = F16
    layout: str = "contiguous"
    teacher_channels: int = 0              # 0: as many as the student has
    adaptor: str = "linear"                # or none
    students: str = "shared"               # or own: a map for each task (MTAN)
    major: int = 9                         # the GPU's major version, for ahead-of-time compile

    def __post_init__(self):
        if not self.teacher_channels:
            object.__setattr__(self, "teacher_channels", self.channels)

    def __str__(self):
        parts = [f"T{self.tasks}", f"{self.images}x{self.channels}x{self.height}x{self.width}", short(self.dtype),
                 short(self.stored), self.layout]
        parts += [f"to{self.teacher_channels}"] * (self.teacher_channels != self.channels)
        parts += ["identity"] * (self.adaptor == "none") + ["own"] * (self.students == "own")
        return "-".join(parts)

    def inputs(self, device="cpu", dtype=None):
        """(students, adaptors, teachers, energies, weights); the same numbers in whatever dtype."""
        generator, dtype = torch.Generator().manual_seed(0), dtype or self.dtype
        size = (self.images, self.channels, *(() if self.layout == "vectors" else (self.height, self.width)))

        def draw(*size):
            return torch.randn(*size, generator=generator)

        def student():
            x = draw(*size).to(self.dtype)             # what the narrower type can hold
            x = x.to(device, dtype)
            if self.layout == "channels_last":
                x = x.to(memory_format=torch.channels_last)
            elif self.layout == "strided":
                x = x.repeat_interleave(2, -1)[..., ::2]
            return x.detach().requires_grad_()

        students = [student() for _ in range(self.tasks)] if self.students == "own" else student()
        shape, kind = (self.teacher_channels, self.channels), dtype if dtype == torch.float64 else F32
        adaptors = [None if self.adaptor == "none" else
                    (draw(*shape) * self.channels ** -0.5).to(device, kind).requires_grad_() for _ in range(self.tasks)]
        teachers, energies = zip(*(self.stored_teacher(draw, size, device) for _ in range(self.tasks)), strict=True)
        return students, adaptors, teachers, energies, torch.arange(1, self.tasks + 1, device=device) / 2

    def stored_teacher(self, draw, size, device):
        feature = draw(size[0], self.teacher_channels, *size[2:]).relu().to(device)
        feature[(0, slice(None), *(0 for _ in size[2:]))] = 0            # a dead pixel
        unit, energy = normalise(feature)
        return pack(unit, self.stored), energy

    @property
    def bytes(self):
        """Read students and teachers once, write the students' gradient once."""
        pixels = self.images * (1 if self.layout == "vectors" else self.height * self.width)
        maps = self.tasks if self.students == "own" else 1
        return pixels * (2 * maps * self.channels * self.dtype.itemsize
                         + self.tasks * self.teacher_channels * self.stored.itemsize)

    @property
    def operations(self):
        """Three products a task."""
        pixels = self.images * (1 if self.layout == "vectors" else self.height * self.width)
        return 0 if self.adaptor == "none" else 6 * self.tasks * pixels * self.channels * self.teacher_channels


def official(students, adaptors, raw_teachers, weights):
    """KD4MTL section 3.2 as the released code has it, the yardstick: eager torch on the teachers' raw (B, D, H, W)."""
    def unit(x):
        return x / (x.square().sum(1, keepdim=True) + 1e-6).sqrt()

    total = 0.0
    for t, teacher in enumerate(raw_teachers):
        s = students if torch.is_tensor(students) else students[t]
        a = s if adaptors[t] is None else torch.nn.functional.conv2d(s, adaptors[t].to(s.dtype)[:, :, None, None])
        total = total + weights[t] * (unit(a) - unit(teacher)).square().sum(1).mean()
    return total


DISTANCE_TESTS = [
    Distance(3, 2, 64, 9, 13),                                          # odd sides: a masked tail in each image
    Distance(3, 2, 64, 9, 13, layout="channels_last"),
    Distance(3, 1, 64, 8, 24, stored=F32, layout="channels_last"),      # whole tiles
    Distance(2, 2, 64, 5, 7, stored=U8),
    Distance(1, 3, 16, 5, 7),
    Distance(5, 1, 16, 7, 5, layout="channels_last"),                   # more tasks than one launch takes
    Distance(2, 1, 32, 7, 5, teacher_channels=16),
    Distance(2, 1, 16, 7, 5, teacher_channels=64, layout="channels_last", stored=U8),
    Distance(3, 2, 512, 2, 3),
    Distance(2, 2, 512, 2, 3, layout="channels_last", stored=U8),
    Distance(2, 2, 100, 3, 5, teacher_channels=96),                     # no power of two
    Distance(3, 2, 16, 3, 5, layout="strided"),
    Distance(3, 2, 16, 3, 5, students="own"),
    Distance(2, 2, 32, 3, 5, students="own", layout="channels_last", teacher_channels=64),
    Distance(3, 2, 16, 3, 5, adaptor="none"),
    Distance(3, 2, 24, 3, 5, adaptor="none", layout="channels_last", students="own"),
    Distance(3, 70, 16, 1, 1, layout="vectors"),
    Distance(2, 3, 512, 1, 1, layout="vectors"),
    Distance(3, 2, 64, 9, 13, dtype=BF16, layout="channels_last"),
    Distance(2, 2, 64, 9, 13, dtype=BF16, stored=U8),
    Distance(2, 2, 128, 3, 5, dtype=BF16),
]
LAST, MID = Distance(3, 2, 64, 288, 384), Distance(3, 2, 512, 9, 12)    # SegNet's taps on NYUv2, batch 2
CITYSCAPES = Distance(2, 8, 64, 128, 256)
DISTANCE_BENCH = [LAST, replace(LAST, layout="channels_last"), replace(LAST, stored=U8), MID, CITYSCAPES,
                  replace(LAST, students="own"), replace(LAST, tasks=5)]
GPU_ONLY = [replace(LAST, dtype=BF16), replace(LAST, dtype=BF16, layout="channels_last"),
            replace(LAST, dtype=BF16, layout="channels_last", stored=U8)]
GATE = [replace(LAST, dtype=BF16, layout=layout) for layout in ("channels_last", "contiguous")]
DISTANCE_BUILDS = [*GATE, *(replace(GATE[0], tasks=tasks) for tasks in (1, 2, 5)),
                   *(replace(case, stored=U8) for case in GATE), replace(GATE[0], channels=16, teacher_channels=16),
                   MID, replace(MID, dtype=BF16), LAST,
                   replace(LAST, adaptor="none")]


@dataclass(frozen=True)
class Gradients:
    """T tasks' gradients over a list of parameters. layout: dense, mixed (orders and gaps) or offset (no 16 bytes).

    holes: every task but the last misses some parameters, and every third parameter has a .grad already.
    """
    tasks: int
    shapes: tuple
    dtype: torch.dtype = F32
    layout: str = "dense"
    holes: bool = False

    def __str__(self):
        parts = [f"T{self.tasks}", f"{len(self.shapes)}tensors", f"{self.size}numbers", short(self.dtype), self.layout]
        return "-".join([*parts, *["holes"] * self.holes])

    def inputs(self, device="cpu"):
        """(parameters, gradients)."""
        generator = torch.Generator().manual_seed(0)

        def draw(task=-1):
            drawn = (torch.randn(shape, generator=generator).to(device, self.dtype) for shape in self.shapes)
            return [self.laid_out(x, task + i) for i, x in enumerate(drawn)]

        parameters, gradients = [torch.nn.Parameter(p) for p in draw()], [draw(t) for t in range(self.tasks)]
        if self.holes:
            gradients = [[None if (i + t) % 3 == 0 and t < self.tasks - 1 else g for i, g in enumerate(task)]
                         for t, task in enumerate(gradients)]
            for p in parameters[::3]:
                p.grad = torch.ones_like(p)
        return parameters, gradients

    def laid_out(self, x, turn):
        if self.layout == "offset":
            return torch.empty(x.numel() + 1, dtype=x.dtype, device=x.device)[1:].view(x.shape).copy_(x)
        if self.layout == "mixed" and x.ndim == 4 and turn % 3:
            return x.to(memory_format=torch.channels_last) if turn % 3 == 1 else x.repeat_interleave(2, -1)[..., ::2]
        return x

    @property
    def size(self):
        return sum(torch.Size(shape).numel() for shape in self.shapes)


def backbone(numbers, levels):
    """Shapes of a network's parameters, convolutions and their normalisations, of about `numbers` numbers."""
    block = [(64, 64, 3, 3), (64,), (64,), (128, 64, 3, 3), (128,), (128,), (256, 128, 1, 1), (256,), (256,)]
    shapes = (block * levels)[:3 * levels]
    rest = numbers - sum(torch.Size(shape).numel() for shape in shapes)
    return (*shapes, (rest // 2304, 256, 3, 3)) if rest >= 2304 else tuple(shapes)


SOME = ((8, 3, 3, 3), (8,), (0,), (1,), (16, 8, 3, 3), (33, 1021), (5, 7))     # the sixth is three chunks
GRADIENTS_TESTS = [*(Gradients(tasks, SOME) for tasks in (1, 2, 3, 5, 8, 11)), Gradients(3, SOME, holes=True),
                   Gradients(3, SOME, layout="mixed"), Gradients(3, SOME, layout="offset"),
                   Gradients(9, SOME[:5], layout="mixed", holes=True), Gradients(3, SOME, torch.float64, holes=True),
                   Gradients(3, SOME, BF16), Gradients(2, SOME, F16, holes=True), Gradients(32, SOME[:2])]
GRADIENTS_BENCH = [Gradients(3, backbone(5_000_000, 53)), Gradients(3, backbone(25_000_000, 35)),
                   Gradients(8, backbone(5_000_000, 53))]
GRADIENTS_BUILDS = [Gradients(tasks, ((64, 64),), dtype) for tasks, dtype in
                    [(2, F32), (3, F32), (5, F32), (8, F32), (11, F32), (32, F32), (3, BF16)]]
