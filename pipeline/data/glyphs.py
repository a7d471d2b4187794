"""Drawn digits and characters that stand in for SVHN and Omniglot: no files, every pixel follows from a seed.

How: a glyph is strokes, polylines in a unit box; ink is where a pixel's distance to the nearest one is below the pen's
radius. Digits, in several hands, are coloured, slanted, blurred and noisy, and stand between other digits on cluttered
ground; the label is the middle one's. A character is a few Bezier curves fixed for its class; each drawing, 12 to train
on and 4 to test, moves their control points. 0.9 ms a digit and 0.4 ms a character, one thread of a busy 2-core Xeon,
2026-11-21, by `OMP_NUM_THREADS=1 python -m timeit -s "from pipeline.data import glyphs" "[glyphs.read('train',
f'train-digits-{i:05d}', (32, 32), {}) for i in range(100)]"`, and so for `train-characters-{i:04d}-00`.
"""

import functools
import math
from typing import Annotated

import numpy as np
from pydantic import Field

from pipeline.data import pair
from pipeline.options.mistakes import resolved
from pipeline.options.types import Natural, Section
from pipeline.runtime.errors import UserError

KINDS = pair.KINDS
SPLITS = ("train", "test")
TITLE, STANDS_FOR, TASKS = "drawn digits and characters", "SVHN and Omniglot", pair.TASKS
DRAWINGS = {"train": 12, "test": 4}                                         # of each character
# Mean and standard deviation at 32x32, of 4,000 digits and the 1,200 characters of the default options.
MOMENTS = {"digits": ((0.508,) * 3, (0.251,) * 3), "characters": ((0.082,) * 3, (0.240,) * 3)}


class Options(Section):
    seed: Natural = 0
    alphabet: Annotated[int, Field(ge=2, le=10_000)] = 100      # characters, each drawn 12 + 4 times


def checked(options):
    return resolved(Options, options, "datasets.glyphs").model_dump()


def arc(x, y, across, down, start, end):
    """Points of an ellipse about (x, y), angles in degrees from the right, clockwise."""
    angles = np.radians(np.linspace(start, end, 3 + abs(end - start) // 40))
    return np.stack([x + across * np.cos(angles), y + down * np.sin(angles)], 1)


def line(*numbers):
    return np.reshape(numbers, (-1, 2)).astype(float)


def turned(strokes):
    return [1 - stroke for stroke in strokes]


BARS = dict(zip("abcdefg", (line(0, 0, 1, 0), line(1, 0, 1, .5), line(1, .5, 1, 1), line(0, 1, 1, 1),
                            line(0, .5, 0, 1), line(0, 0, 0, .5), line(0, .5, 1, .5)), strict=True))
SEVEN_BARS = ("abcdef", "bc", "abged", "abgcd", "fgbc", "afgcd", "afgedc", "abc", "abcdefg", "abcdfg")
SIXES = [[arc(.5, .68, .5, .32, 0, 360), arc(.95, .68, .95, .68, 180, 265)],
         [arc(.5, .7, .48, .3, 0, 360), line(.72, 0, .06, .58)]]
HANDS = [                                   # by digit: ways to write it, x right, y down, in a unit box
    [[arc(.5, .5, .5, .5, 0, 360)], [arc(.5, .5, .36, .5, 0, 360)]],
    [[line(.5, 0, .5, 1)], [line(.2, .22, .55, 0, .55, 1)], [line(.2, .2, .55, 0, .55, 1), line(.2, 1, .9, 1)]],
    [[arc(.5, .29, .45, .29, 190, 390), line(.89, .43, 0, 1, 1, 1)],
     [arc(.45, .3, .45, .3, 200, 420), line(.67, .56, .1, .9, 0, 1, .95, .94)]],
    [[arc(.42, .26, .45, .26, -150, 90), arc(.42, .75, .55, .25, -90, 155)],
     [line(.05, 0, .92, 0, .42, .4), arc(.42, .7, .55, .3, -90, 150)]],
    [[line(.78, 1, .78, 0, 0, .68, 1, .68)], [line(.15, 0, .05, .55, 1, .55), line(.8, .2, .72, 1)]],
    [[line(.92, 0, .18, 0, .1, .46), arc(.42, .69, .54, .31, -130, 150)],
     [line(.95, .02, .2, 0, .2, .4), arc(.3, .7, .62, .3, -100, 110)]],
    SIXES,
    [[line(0, 0, 1, 0, .35, 1)], [line(0, .04, 1, 0, .3, 1), line(.25, .5, .85, .5)],
     [line(.02, .14, .05, 0, .95, 0), arc(1.1, 1, .7, 1, 258, 180)]],
    [[arc(.5, .24, .38, .24, 0, 360), arc(.5, .74, .5, .26, 0, 360)],
     [arc(.5, .27, .45, .27, 0, 360), arc(.5, .77, .42, .23, 0, 360)]],
    [turned(six) for six in SIXES],
]
for hands, bars in zip(HANDS, SEVEN_BARS, strict=True):
    hands.append([BARS[bar] for bar in bars])


def ids(split, count, options):
    """Names "train-digits-00007" and (class, drawing) "train-characters-0031-02"; every class once before any twice."""
    alphabet = checked(options)["alphabet"]
    count = pair.counted(split, count, {"digits": None, "characters": alphabet * DRAWINGS[split]})
    return [*(f"{split}-digits-{i:05d}" for i in range(count["digits"])),
            *(f"{split}-characters-{i % alphabet:04d}-{i // alphabet:02d}" for i in range(count["characters"]))]


def classes(options):
    return {"digits": tuple("0123456789"),
            "characters": tuple(f"character{i:04d}" for i in range(checked(options)["alphabet"]))}


def moments(options):
    return MOMENTS


def read(split, name, size, options):
    """One sample at size (H, W), a pure function of (options, split, name, size); see `pipeline.data.pair`."""
    options, (head, task, *numbers) = checked(options), name.split("-")
    assert head == split, (split, name)
    if min(size) < 16:
        raise UserError(f"`protocols.<name>.data` should ask for at least 16 pixels a side; found {list(size)}")
    seeds = np.random.SeedSequence(options["seed"], spawn_key=(SPLITS.index(split), pair.TASKS.index(task),
                                                               *map(int, numbers)))
    # The drawing's generator never sees the size, so one name is one drawing at every size.
    rng, pixel_rng = map(np.random.default_rng, seeds.spawn(2))
    if task == "digits":
        image, label = _number(rng, pixel_rng, size)
    else:
        label = int(numbers[0])
        image = _character(rng, np.random.SeedSequence(options["seed"], spawn_key=(2, label)), size)
    return pair.sample(np.clip(image, 0, 1).astype(np.float32), task, label)


# -- drawing; lengths are in shorter sides of the image, the origin is its middle

def _axes(size):
    """Positions of the rows and of the columns of pixels."""
    return ((np.arange(0.5, n, dtype=np.float32) - n / 2) / min(size) for n in size)


def _distance(strokes, size):
    """(H, W) float32: from each pixel's centre to the nearest point of the strokes, a list of (n, 2) polylines."""
    start, end = (np.concatenate([stroke[part] for stroke in strokes]).astype(np.float32).T
                  for part in (slice(-1), slice(1, None)))
    way, (y, x) = end - start, (axis[:, None] for axis in _axes(size))
    square = np.maximum((way**2).sum(0), 1e-9)
    x, y = x - start[0], (y - start[1])[:, None]
    along = np.clip((x * (way[0] / square)) + y * (way[1] / square), 0, 1)
    return np.sqrt(((x - along * way[0])**2 + (y - along * way[1])**2).min(-1))


def _ink(distance, radius, size):
    """Coverage in [0, 1] by a pen of this radius, one pixel soft at the rim."""
    return np.clip((radius - distance) * min(size) + 0.5, 0, 1)


@functools.cache
def _bernstein(n):
    """(4 n - 3, n): n control points -> points of their Bezier curve."""
    t = np.linspace(0, 1, 4 * n - 3)[:, None]
    return np.stack([math.comb(n - 1, i) * t[:, 0]**i * (1 - t[:, 0])**(n - 1 - i) for i in range(n)], 1)


def _character(rng, seeds, size):
    """(H, W, 3) ink on zeros: the character that `seeds` stands for as `rng` draws it."""
    shape = np.random.default_rng(seeds)
    strokes, tip = [], None
    number = 1 + shape.choice(4, p=(.15, .35, .35, .15))
    for _ in range(number):
        points = shape.uniform(-1, 1, (shape.integers(2 if number > 2 else 6 - number, 7 - number // 2), 2))
        if tip is not None and shape.random() < 0.5:
            points[0] = tip
        strokes.append(points)
        tip = points[shape.integers(len(points))]
    low, high = (way([way(_bernstein(len(p)) @ p, 0) for p in strokes], 0) for way in (np.min, np.max))
    middle, half = (low + high) / 2, max((high - low).max() / 2, 0.3)
    turn, shear, (wide, tall) = rng.normal(0, 0.15), rng.normal(0, 0.12), 0.36 * rng.uniform(0.75, 1.12, 2)
    frame = np.array([[wide, 0], [shear * tall, tall]]) @ [[math.cos(turn), math.sin(turn)],
                                                          [-math.sin(turn), math.cos(turn)]]
    shift = rng.normal(0, 0.045, 2)
    drawn = [_bernstein(len(p)) @ ((p - middle) / half + rng.normal(0, 0.13, p.shape)) @ frame + shift for p in strokes]
    ink = _ink(_distance(drawn, size), rng.uniform(0.018, 0.028), size)
    return np.repeat(ink[..., None], 3, -1)


def _number(rng, pixel_rng, size):
    """(H, W, 3) and a digit: a house number's piece with that digit in the middle."""
    label, hand, others = rng.integers(10), rng.random(), rng.integers(10, size=2)
    tall = rng.uniform(0.5, 0.95)
    wide, radius = tall * rng.uniform(0.4, 0.7), tall * rng.uniform(0.035, 0.1)
    slant, turn, step = rng.normal(0, 0.15), rng.normal(0, 0.12), wide + 2 * radius + tall * rng.uniform(0.04, 0.25)
    frame = np.array([[wide, 0], [-slant * tall, tall]]) @ [[math.cos(turn), math.sin(turn)],
                                                           [-math.sin(turn), math.cos(turn)]]
    middle = rng.normal(0, (0.07, 0.05))
    strokes = []
    for place, digit in ((0, label), (-1, others[0]), (1, others[1])):
        if place == 0 or rng.random() < 0.55:
            ways = HANDS[digit]
            bend, phase = rng.normal(0, 2, (2, 2)), rng.uniform(0, 2 * math.pi, 2)
            for stroke in ways[int(hand * len(ways))]:
                bent = stroke - 0.5 + 0.06 * np.sin(stroke @ bend + phase)
                strokes.append(bent @ frame + middle + (place * step, place * step * math.sin(turn)))
    distance = _distance(strokes, size)

    image, tint = _ground(rng, size), rng.normal(0, 0.1, 3)
    around, contrast = image.mean((0, 1)), rng.uniform(0.1, 0.6) * rng.choice((-1, 1))
    if not 0.05 < around.mean() + contrast < 0.95:
        contrast = -contrast
    contrast = contrast + tint - tint.mean()
    if rng.random() < 0.3:                              # a rim or a shadow
        rim = _ink(distance, radius + rng.uniform(0.02, 0.06), size)[..., None]
        image = image + rim * (np.clip(around - 0.5 * contrast, 0, 1) - image)
    image = image + _ink(distance, radius, size)[..., None] * (np.clip(around + contrast, 0, 1) - image)
    blur = rng.uniform(0.005, 0.05)
    rows, columns = (np.exp(-0.5 * ((axis[:, None] - axis) / blur)**2) for axis in _axes(size))
    image = (columns / columns.sum(1, keepdims=True)) @ image
    image = np.tensordot(rows / rows.sum(1, keepdims=True), image, 1)
    return image + rng.uniform(0, 0.08) * pixel_rng.standard_normal(image.shape, np.float32), label


def _ground(rng, size):
    """(H, W, 3) float32: one colour, lit unevenly, with edges and scratches."""
    y, x = _axes(size)
    image = np.zeros((*size, 3), np.float32) + rng.uniform(0.1, 0.9) + rng.normal(0, 0.12, 3)
    cells = rng.normal(0, rng.uniform(0, 0.12), (5, 5, 1)) + rng.normal(0, 0.02, (5, 5, 3))
    down, across = (np.maximum(0, 1 - np.abs((axis[:, None] + 0.5) * 4 - np.arange(5))) for axis in (y, x))
    image += np.einsum("hi,wj,ijc->hwc", down, across, cells, optimize=True)
    for _ in range(rng.integers(3)):                    # the rim of a plate, a joint of the wall
        angle = rng.uniform(0, 2 * math.pi)
        beyond = (y[:, None] * math.sin(angle) + x * math.cos(angle) > rng.uniform(0.1, 0.5))[..., None]
        image += beyond * (rng.normal(0, 0.15) + rng.normal(0, 0.05, 3))
    scratches = rng.uniform(-0.6, 0.6, (rng.integers(4), 3, 2))
    if len(scratches):
        scratch = _distance([_bernstein(3) @ points for points in scratches], size)
        image += _ink(scratch, rng.uniform(0.01, 0.03), size)[..., None] * rng.normal(0, 0.2)
    return image.clip(0.02, 0.98)
