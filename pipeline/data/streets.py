"""Procedural street scenes that stand in for Cityscapes: no files, no download, every pixel follows from a seed.

How: a straight road with lanes, sidewalks and house fronts, rows of pieces (houses, trees, poles, cars, people) along
it, seen from a car; `raycast` finds class and depth exactly; sun, sky, shadow rays, haze and a camera make the image;
then the flaws of stereo matching are put back. 78 ms at 128x256, one thread of a busy 2-core Xeon, 2026-11-21, by
`python -m timeit -p -s "from pipeline.data import streets" "streets.read('train', 'train-00000', (128, 256), {})"`
World axes: x to the right of the road's middle, y up, z along the road. Camera axes: x right, y down, z forward.
Metres; depth is inverse depth in Cityscapes' units, p / 65535 with integer p = 256 * disparity + 1 and the disparity in
pixels of an image 2048 wide: 126 px, 0.4922, at 3.75 m. Sky is disparity 0, so p = 1, valid where it is not a hole.
All scenes share Cityscapes' focal length and baseline.
"""

import math
from typing import Literal

import numpy as np

from pipeline.data import raycast
from pipeline.data.raycast import BALL, BLOTCH, BOX, CHECK, CYLINDER, LANES, PANES, PLAIN, PRINT, TILE, WAVE
from pipeline.runtime.errors import UserError

INVERSE_DEPTH = True
KINDS = {"image": np.uint8, "label": np.int8, "depth": np.float32, "instance": np.int16}
TRAIN_CLASSES = ("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation",
                 "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
(ROAD, SIDEWALK, BUILT, WALL, FENCE, POLE, LIGHT, SIGN, PLANT, TERRAIN, HEAVEN, PERSON, RIDER, CAR, TRUCK, BUS,
 TRAIN, MOTO, BIKE) = range(19)
CATEGORIES = ("flat", "construction", "object", "nature", "sky", "human", "vehicle")
CATEGORY = np.repeat(np.arange(7, dtype=np.int8), (2, 3, 3, 2, 1, 2, 6))      # of each train class
VOID, SPLITS = -1, ("train", "test")
TITLE, STANDS_FOR, TASKS = "rendered streets", "Cityscapes", ("semantic", "depth")
BASELINE_M, FOCAL_PX, WIDTH_PX = 0.209, 2262.5, 2048        # Cityscapes' stereo rig
FIELD_OF_VIEW_RAD = 2 * math.atan(WIDTH_PX / 2 / FOCAL_PX)  # horizontal
SEARCH_PX = 126             # the matcher's largest disparity; nearer things have none
FARTHEST_M = 2000           # stands for infinity where a point is needed

# Hue, saturation, value, cycles per metre; gloss; patterns. Greys and greens are shared, so that colour betrays little.
STUFFS = {
    "asphalt": ((.05, .65), (0, .1), (.2, .42), (.2, .8), (.1, .5), .02, (BLOTCH, PLAIN)),
    "lanes": ((.05, .65), (0, .1), (.2, .42), (.29, .29), (.12, .12), .02, (LANES,)),
    "slabs": ((.05, .65), (0, .15), (.25, .6), (1, 3), (1, 3), 0, (TILE, TILE, PLAIN, CHECK)),
    "ground": ((.06, .32), (.2, .6), (.2, .5), (.3, 2), (.3, 2), 0, (BLOTCH, WAVE)),
    "leaves": ((.14, .36), (.2, .65), (.12, .45), (.5, 3), (.5, 3), 0, (BLOTCH, WAVE)),
    "bark": ((.03, .12), (.1, .5), (.12, .4), (3, 9), (.5, 2), 0, (WAVE,)),
    "panes": ((0, .17), (.02, .5), (.25, .85), (.25, .55), (.28, .36), .05, (PANES,)),
    "plaster": ((0, .6), (0, .4), (.3, .85), (.1, .4), (.1, .4), 0, (PLAIN, BLOTCH, TILE)),
    "bricks": ((0, .09), (.2, .6), (.25, .6), (2, 4), (3, 6), 0, (TILE, CHECK)),
    "shop": ((0, 1), (0, .7), (.1, .6), (.3, .7), (.3, .5), .25, (PANES, PRINT, PLAIN)),
    "planks": ((.03, .4), (.1, .5), (.15, .7), (3, 8), (.2, .5), 0, (WAVE, TILE, CHECK)),
    "metal": ((.1, .65), (0, .2), (.15, .65), (1, 2), (1, 2), .1, (PLAIN,)),
    "lacquer": ((0, 1), (.3, .9), (.1, .8), (1, 2), (1, 2), .12, (PLAIN,)),
    "grey": ((0, 1), (0, .12), (.04, .85), (1, 2), (1, 2), .12, (PLAIN,)),
    "glass": ((.4, .65), (0, .3), (.03, .12), (1, 2), (1, 2), .5, (PLAIN,)),
    "rubber": ((0, 1), (0, .1), (.02, .07), (1, 2), (1, 2), 0, (PLAIN,)),
    "red": ((-.02, .02), (.8, .95), (.5, .9), (1, 2), (1, 2), .1, (PLAIN,)),
    "amber": ((.08, .13), (.8, .95), (.7, 1), (1, 2), (1, 2), .1, (PLAIN,)),
    "green": ((.36, .45), (.7, .95), (.5, 1), (1, 2), (1, 2), .1, (PLAIN,)),
    "blue": ((.58, .64), (.7, .95), (.35, .8), (1, 2), (1, 2), .1, (PLAIN,)),
    "white": ((0, 1), (0, .06), (.7, .95), (1, 2), (1, 2), .1, (PLAIN,)),
    "cloth": ((0, 1), (0, .6), (.05, .6), (1, 5), (1, 5), 0, (PLAIN, PLAIN, CHECK)),
    "jeans": ((.55, .68), (0, .5), (.05, .35), (1, 2), (1, 2), 0, (PLAIN,)),
    "skin": ((.03, .09), (.2, .6), (.15, .75), (1, 2), (1, 2), 0, (PLAIN,)),
}

# As `raycast.build` reads them. Fronts: x along the street, z towards it; vehicles look along +z, signs along -z.
WHEELS = ((-.44, -.31), (.44, -.31), (-.44, .31), (.44, .31))
PIECES = {
    "block": (((9, 26), (8, 22), (8, 14)), ("panes", "shop shop plaster", "plaster metal", "bricks plaster?", "metal?"),
        [(BUILT, 0, 0, 0, -.5, 1, 1, 1), (BUILT, 1, 0, 0, -.49, 1, .18, 1.02), (BUILT, 2, 0, 1, -.5, 1.02, .02, 1.04),
        (BUILT, 3, 0, 1, -.55, .9, .12, .8), (BUILT, 4, .2, .2, 0, .12, .7, .12)]),
    "house": (((7, 14), (5, 8), (7, 10)), ("panes", "bricks plaster?", "bark bricks", "planks", "plaster?"), [
        (BUILT, 0, 0, 0, -.5, 1, 1, 1), (BUILT, 1, -.25, 0, 0, .4, .9, .2), (BUILT, 2, 0, .98, -.5, 1.08, .07, 1.1),
        (BUILT, 2, 0, 1.05, -.5, .8, .2, .7), (BUILT, 3, .25, 0, 0, .12, .35, .02),
        (BUILT, 4, .3, 1.1, -.4, .08, .3, .06)]),
    "wall": (((5, 18), (1, 2.6), (.2, .4)), ("plaster bricks slabs", "slabs"), [(WALL, 0, 0, 0, -.5, 1, 1, 1),
        (WALL, 1, 0, 1, -.5, 1, .06, 1.2)]),
    "fence": (((5, 16), (.9, 1.9), (.06, .1)), ("planks planks metal", "planks metal"), [
        (FENCE, 0, 0, .06, -.5, 1, .85, .4), *((FENCE, 1, k / 8 - .5, 0, -.5, .015, 1, 1) for k in range(9))]),
    "railing": (((5, 12), (.9, 1.3), (.06, .1)), ("metal planks",), [
        *((FENCE, 0, 0, y, 0, 1, .07, .6) for y in (.15, .55, .93)),
        *((FENCE, 0, k / 12 - .5, 0, 0, .008, 1, 1) for k in range(13))]),
    "hedge": (((4, 14), (1, 2.2), (.8, 1.2)), ("leaves",), [(PLANT, 0, 0, 0, -.5, 1, 1, 1)]),
    "thicket": (((6, 12), (4, 9), (4, 6)), ("leaves", "leaves", "bark"), [(PLANT, 0, -.25, -.1, -.5, .7, .9, .9, BALL),
        (PLANT, 1, .3, -.1, -.4, .6, .6, .8, BALL), (PLANT, 1, .1, .2, -.8, .7, .8, .9, BALL),
        (PLANT, 2, .4, 0, -.2, .04, .7, .06, CYLINDER)]),
    "tree": (((3, 5.5), (5, 9), (3, 5.5)), ("bark", "leaves", "leaves"), [(PLANT, 0, 0, 0, 0, .07, .6, .07, CYLINDER),
        (PLANT, 1, 0, .42, 0, .7, .58, .7, BALL), (PLANT, 1, .25, .4, .1, .5, .35, .5, BALL),
        (PLANT, 2, -.25, .38, -.15, .55, .4, .5, BALL), (PLANT, 2, .05, .55, -.25, .5, .35, .5, BALL)]),
    "poplar": (((1.5, 3), (5, 11), (1.5, 3)), ("bark", "leaves"), [(PLANT, 0, 0, 0, 0, .1, .3, .1, CYLINDER),
        (PLANT, 1, 0, .12, 0, 1, .88, 1, BALL)]),
    "bush": (((.8, 2), (.7, 1.8), (.8, 1.6)), ("leaves",), [(PLANT, 0, 0, -.2, 0, .8, 1.1, .9, BALL),
        (PLANT, 0, .2, -.1, .1, .6, .8, .8, BALL)]),
    "lamp": (((1.4, 2.4), (5, 9), (.16, .24)), ("metal",), [(POLE, 0, 0, 0, 0, .08, 1, 1, CYLINDER),
        (POLE, 0, -.4, .98, 0, .8, .012, .4), (POLE, 0, -.75, .97, 0, .3, .02, 1)]),
    "mast": (((.22, .36), (6, 9), (.22, .36)), ("metal bark",), [(POLE, 0, 0, 0, 0, 1, 1, 1, CYLINDER)]),
    "bollard": (((.12, .2), (.8, 1.1), (.12, .2)), ("metal lacquer",), [(POLE, 0, 0, 0, 0, 1, 1, 1, CYLINDER)]),
    "sign": (((.7, .95), (2.4, 3.2), (.7, .95)), ("metal", "red blue amber white"), [
        (POLE, 0, 0, 0, 0, .1, 1, .1, CYLINDER), (SIGN, 1, 0, .72, -.1, .95, .28, .18, BALL)]),
    "board": (((.6, 1.6), (2.4, 3.4), (.6, .8)), ("metal", "blue blue white amber", "white?"), [
        (POLE, 0, 0, 0, 0, .1, 1, .12, CYLINDER), (SIGN, 1, 0, .7, -.1, 1, .3, .06),
        (SIGN, 2, .1, .78, -.11, .5, .08, .06)]),
    "signal": (((.34, .42), (3, 3.8), (.3, .36)), ("metal", "rubber metal", "red?", "amber?", "green?"), [
        (POLE, 0, 0, 0, .4, .35, .95, .4, CYLINDER), (LIGHT, 1, 0, .68, 0, 1, .3, .6),
        *((LIGHT, slot, 0, 1.06 - .09 * slot, -.3, .6, .07, .3, BALL) for slot in (2, 3, 4))]),
    "bin": (((.5, 1.2), (.6, 1.4), (.4, .9)), ("lacquer metal planks",), [(VOID, 0, 0, 0, 0, 1, 1, 1)]),
    "person": (((.42, .56), (1.55, 1.9), (.3, .42)), ("jeans cloth", "cloth", "skin bark", "cloth?"), [
        *((PERSON, 0, x, 0, 2 * x, .32, .5, .45, CYLINDER) for x in (-.2, .2)),
        (PERSON, 1, 0, .44, 0, .85, .42, .8, BALL), (PERSON, 1, 0, .55, 0, .9, .27, .6, CYLINDER),
        (PERSON, 2, 0, .85, 0, .36, .15, .6, BALL), (PERSON, 3, .5, .35, .1, .2, .25, .5)]),
    "car": (((1.68, 1.9), (1.4, 1.65), (3.8, 4.8)), ("grey grey grey lacquer", "glass", "rubber", "red", "white"), [
        (CAR, 0, 0, .16, 0, 1, .4, .96), (CAR, 0, 0, .2, 0, .97, .47, 1, BALL), (CAR, 0, 0, .55, -.07, .8, .44, .4),
        (CAR, 0, 0, .3, -.07, .9, .68, .64, BALL), (CAR, 1, 0, .6, -.07, .91, .27, .37),
        (CAR, 1, 0, .6, -.07, .72, .27, .61), *((CAR, 2, x, 0, z, .13, .4, .145, BALL) for x, z in WHEELS),
        *((CAR, slot, x, .4, z, .2, .1, .02) for x in (-.36, .36) for slot, z in ((3, -.48), (4, .48)))]),
    "van": (((1.85, 2.05), (1.9, 2.4), (4.6, 5.6)), ("grey grey white lacquer", "glass", "rubber", "red"), [
        (CAR, 0, 0, .12, -.06, 1, .84, .86), (CAR, 0, 0, .12, .4, .96, .42, .2), (CAR, 1, 0, .5, .3, 1.01, .3, .2),
        (CAR, 1, 0, .5, -.1, .8, .3, .96), *((CAR, 2, x, 0, z, .13, .3, .13, BALL) for x, z in WHEELS),
        *((CAR, 3, x, .35, -.485, .1, .15, .02) for x in (-.43, .43))]),
    "truck": (((2.3, 2.55), (2.8, 3.7), (6, 9)), ("lacquer white", "grey lacquer planks shop", "rubber", "glass",
        "red"), [(TRUCK, 0, 0, .15, .39, .96, .66, .21), (TRUCK, 1, 0, .3, -.12, 1, .7, .76),
        (TRUCK, 2, 0, .13, 0, .85, .12, .96), (TRUCK, 3, 0, .48, .4, .9, .24, .215),
        *((TRUCK, 2, x, 0, z, .14, .28, .12, BALL) for x, z in WHEELS),
        *((TRUCK, 4, x, .2, -.49, .15, .05, .02) for x in (-.36, .36))]),
    "bus": (((2.5, 2.55), (2.9, 3.3), (10, 13)), ("lacquer lacquer white amber", "glass", "rubber", "red", "amber?"), [
        (BUS, 0, 0, .1, 0, 1, .9, 1), (BUS, 1, 0, .42, 0, 1.01, .34, .95), (BUS, 1, 0, .45, 0, .88, .36, 1.005),
        *((BUS, 2, x, 0, z, .14, .3, .08, BALL) for x, z in WHEELS), (BUS, 4, 0, .86, 0, .6, .08, 1.01),
        *((BUS, 3, x, .2, -.5, .1, .1, .01) for x in (-.4, .4))]),
    "train": (((2.4, 2.65), (3.3, 3.6), (18, 30)), ("lacquer white red amber", "glass", "rubber", "white?"), [
        (TRAIN, 0, 0, .12, 0, 1, .83, 1), (TRAIN, 1, 0, .42, 0, 1.01, .3, .97), (TRAIN, 1, 0, .42, 0, .85, .36, 1.003),
        (TRAIN, 2, 0, .03, 0, .9, .1, .98), (TRAIN, 2, 0, .95, 0, .5, .06, .7),
        (TRAIN, 3, 0, .3, 0, 1.01, .06, 1.002)]),
    "motorcycle": (((.7, .85), (1.05, 1.2), (1.9, 2.2)), ("lacquer grey", "rubber"), [
        *((MOTO, 1, 0, 0, z, .22, .56, .3, BALL) for z in (-.34, .34)), (MOTO, 0, 0, .3, 0, .5, .42, .62, BALL),
        (MOTO, 1, 0, .6, -.15, .35, .14, .4), (MOTO, 1, 0, .85, .25, 1, .06, .05),
        (MOTO, 0, 0, .55, .28, .2, .35, .1)]),
    "bicycle": (((.5, .6), (1, 1.15), (1.6, 1.8)), ("lacquer metal", "rubber"), [
        *((BIKE, 1, 0, 0, z, .15, .63, .38, BALL) for z in (-.3, .3)), (BIKE, 0, 0, .3, 0, .1, .4, .36),
        (BIKE, 1, 0, .84, -.14, .3, .08, .14), (BIKE, 1, 0, .92, .24, .95, .06, .05),
        (BIKE, 0, 0, .5, .27, .08, .45, .05)]),
    "cyclist": (((.48, .6), (1.65, 1.85), (.9, 1)), ("jeans cloth", "cloth", "skin bark", "grey lacquer?"), [
        ("bicycle", 0, 0, 0, 0, 0), *((RIDER, 0, x, .15, .1, .28, .4, .22, CYLINDER) for x in (-.22, .22)),
        (RIDER, 1, 0, .48, .05, .85, .38, .4, BALL), (RIDER, 1, 0, .6, .2, .95, .1, .4),
        (RIDER, 2, 0, .84, .15, .38, .15, .22, BALL), (RIDER, 3, 0, .92, .13, .42, .09, .26, BALL)]),
    "biker": (((.5, .62), (1.6, 1.75), (.9, 1)), ("cloth", "cloth", "grey lacquer"), [("motorcycle", 0, 0, 0, -.1, 0),
        *((RIDER, 0, x, .25, .1, .35, .28, .35, CYLINDER) for x in (-.4, .4)),
        (RIDER, 1, 0, .45, -.05, .95, .4, .45, BALL), (RIDER, 1, 0, .6, .15, 1, .1, .4),
        (RIDER, 2, 0, .83, .05, .5, .17, .3, BALL)]),
}
FRONTS = {"town": ("block",) * 8 + ("wall", "wall", "fence", "railing", "thicket"),
          "suburb": ("house",) * 5 + ("wall", "fence") * 3 + ("hedge", "railing", "thicket", "block"),
          "park": ("thicket",) * 6 + ("wall", "fence") * 2 + ("hedge", "railing", "house")}
TRAFFIC = ("car",) * 14 + ("van", "van", "truck", "bus", "biker", "cyclist", "cyclist")
# Rows on a sidewalk: share of sidewalks that have them, pieces, from and to in metres from the kerb (None: its far
# side), gaps in metres, reach in metres, any heading (or that of the traffic).
ROWS = ((.6, ("tree", "tree", "poplar", "bush"), .7, .9, (3, 13), 80, True),
        (.9, ("lamp", "mast"), .4, .6, (14, 35), 80, False), (.8, ("sign", "board"), .4, 1.2, (8, 35), 60, False),
        (.5, ("signal",), .4, .6, (12, 60), 60, False), (.3, ("bollard",), .25, .3, (1.2, 3), 30, False),
        (.9, ("person",), .6, None, (.2, 12), 55, True),
        (.7, ("bicycle", "bicycle", "motorcycle", "bin", "bush", "cyclist"), .5, None, (2, 16), 45, True))


class Options(raycast.Options):
    holes: raycast.Holes = 0.15
    classes: Literal[7, 19] = 19


def classes(options):
    """Names of the classes under `options`, in the order of the labels."""
    return TRAIN_CLASSES if raycast.checked(Options, options, "streets")["classes"] == 19 else CATEGORIES


def ids(split, count, options):
    """The first `count` sample names of a split; a longer list starts with a shorter one."""
    raycast.checked(Options, options, "streets")
    return [f"{split}-{index:05d}" for index in range(count)]


def read(split, name, size, options):
    """One sample at size (H, W), a pure function of (options, split, name, size).

    image (H, W, 3) float32 in [0, 1]; label (H, W) int8, index into `classes(options)`, -1 void; depth (H, W) float32,
    inverse depth p / 65535, 0 invalid; instance (H, W) int16, a number for each person, rider and vehicle, else 0.
    """
    options, (head, number) = raycast.checked(Options, options, "streets"), name.split("-")
    assert head == split, (split, name)
    if min(size) < 32:
        raise UserError(f"`datasets.streets.size` should be at least 32 pixels a side; found {list(size)}")
    seeds = np.random.SeedSequence(options["seed"], spawn_key=(SPLITS.index(split), int(number)))
    # The scene's generator never sees the size, so one name is one street at every size.
    scene_rng, pixel_rng = map(np.random.default_rng, seeds.spawn(2))
    parts, origin, axes = _street(scene_rng)
    grid = raycast.rays(size, FIELD_OF_VIEW_RAD)
    metres, index = raycast.trace(parts, origin, axes, grid)
    seen = {field: parts[field][index] for field in parts.dtype.names}          # per pixel, (H, W, ...)
    image = _photograph(scene_rng, parts, seen, origin, metres, grid @ axes)
    image += np.float32(options["noise"]) * pixel_rng.standard_normal(image.shape, np.float32)
    label, inverse = _flaws(scene_rng, seen, metres, grid, options["holes"])
    instance = np.where((label >= PERSON) & (label == seen["label"]), seen["piece"], 0).astype(np.int16)
    if options["classes"] == 7:
        label = np.where(label == VOID, np.int8(VOID), CATEGORY[label])
    return {"image": np.clip(image, 0, 1), "label": label, "depth": inverse, "instance": instance}


def _row(rng, names, across, y, turn, start, stop, gaps, breach):
    """Pieces one behind the other from z = start to stop, x drawn from `across`, none inside `breach` (z, z)."""
    things, z = [], start + rng.uniform(0, gaps[1])
    while z < stop:
        made = raycast.build(rng, names[rng.integers(len(names))], PIECES, STUFFS)
        heading = rng.uniform(0, 2 * math.pi) if turn is None else turn + rng.normal(0, 0.02)
        along = 0 if abs(math.sin(heading)) > 0.7 else 2
        long = 2 * max(abs(part[2][along]) + part[3][along] / 2 for part in made)
        if not breach[0] - long < z < breach[1]:
            things.append(raycast.moved(made, (rng.uniform(*across), y, z + long / 2), heading))
        z += long + rng.uniform(*gaps)
    return things


def _slab(rng, label, stuff, x, y, z):
    """A box between x, its underside and top y, and z, each (low, high), as a thing of its own."""
    (x0, x1), (y0, y1), (z0, z1) = sorted(x), y, z
    return [(BOX, label, ((x0 + x1) / 2, y0, (z0 + z1) / 2), (x1 - x0, y1 - y0, z1 - z0), 0.0,
             raycast.paint(rng, [STUFFS[stuff]]))]


def _street(rng):
    """Parts (P,), camera origin (3,) and axes (3, 3) right, down, forward; metres. Part 0 is the sky, hit by no ray."""
    style, lanes = ("town", "town", "suburb", "park")[rng.integers(4)], (2, 2, 3, 4)[rng.integers(4)]
    lane = rng.uniform(2.8, 3.5)
    half, far, opening = lanes * lane / 2, rng.uniform(70, 180), rng.uniform(18, 70)
    breach = (opening, opening + rng.uniform(7, 13)) if rng.random() < 0.6 else (math.inf, math.inf)
    blocks = [(-30, min(breach[0], 600)), (breach[1], 600)][:1 + math.isfinite(breach[0])]
    own = int(rng.integers(lanes // 2 + lanes % 2, lanes))                      # right-hand traffic
    eye = np.array([(own + 0.5) * lane - half + rng.normal(0, 0.2), rng.uniform(1.15, 1.35), 0])
    things = [[(BOX, HEAVEN, (0, -99, 0), (1e-3,) * 3, 0.0, raycast.paint(rng, [STUFFS["white"]]))],
              _slab(rng, ROAD, "asphalt", (-200, 200), (-1, -0.01), (-30, 600))
              + _slab(rng, ROAD, ("lanes", "lanes", "asphalt")[rng.integers(3)], (-half, half), (-1, 0), (-30, 600))]
    for side in (-1, 1):
        parked = 2.2 * (rng.random() < 0.5)
        kerb, walk, strip = half + parked, rng.uniform(2, 6), rng.uniform(0, 4) * (rng.random() < 0.6)
        back, lot = kerb + walk, (SIDEWALK, "slabs") if style == "town" else (TERRAIN, "ground")
        verge, gap = rng.random() < 0.35, 1 if style == "town" else 5
        for block in blocks:
            things += [_slab(rng, SIDEWALK, "slabs", (side * kerb, side * back), (-1, 0.14), block),
                       _slab(rng, *lot, (side * back, side * 200), (-1, 0.15), block)]
            if verge:
                edges = side * (kerb + 0.2), side * (kerb + 1.6)
                things.append(_slab(rng, TERRAIN, "ground", edges, (-1, 0.17), block))
        things += _row(rng, FRONTS[style], [side * (back + strip)] * 2, 0.1, -side * math.pi / 2, -12, far, (0, gap),
                       breach)
        if parked:
            things += _row(rng, TRAFFIC[:16] + ("motorcycle",), [side * (kerb - 1.1)] * 2, 0, (side < 0) * math.pi, -2,
                           75, (0.6, rng.uniform(1, 15)), breach)
        for share, names, near, wide, gaps, reach, anyhow in ROWS:
            if rng.random() < share:
                across = sorted((side * (kerb + near), side * (wide + kerb if wide else back)))
                turn = None if anyhow else (side < 0) * math.pi
                things += _row(rng, names, across, 0.14, turn, 3, reach, gaps, breach)
        if breach[0] < 99:                                                      # what ends the crossing street
            end, x = raycast.build(rng, FRONTS[style][0], PIECES, STUFFS), side * (back + rng.uniform(20, 50))
            things.append(raycast.moved(end, (x, 0, sum(breach) / 2), -side * math.pi / 2))
    pool = TRAFFIC + ("train",) * (4 if rng.random() < 0.15 else 0)
    for k in range(lanes):
        x, start, gaps = (k + 0.5) * lane - half, 8 if k == own else 1, (3, rng.uniform(10, 60))
        things += _row(rng, pool, (x - 0.3, x + 0.3), 0, (x < -0.1) * math.pi, start, 90, gaps, (0, 0))
    things += _row(rng, ("person", "person", "cyclist"), (-half, half), 0, math.pi / 2, 11, 60, (5, 80), (0, 0))
    if rng.random() < 0.7:                                                      # what ends the street
        for x in range(-45, 46, 15):
            end = raycast.build(rng, FRONTS[style][0], PIECES, STUFFS)
            things.append(raycast.moved(end, (x, 0, far + rng.uniform(0, 9)), math.pi))
    yaw, pitch, roll = rng.normal(0, (0.04, 0.04, 0.15)[rng.integers(3)]), rng.normal(0.04, 0.01), rng.normal(0, 0.01)
    things.append(_bonnet(rng, eye, yaw, pitch))
    # A part under a tenth of a degree wide is left out.
    kept = things[:1] + [[part for part in thing if max(part[3]) > 0.002 * math.hypot(*np.subtract(part[2], eye))]
                         for thing in things[1:]]
    piece = [i * 32 + part[1] + 1 for i, thing in enumerate(kept) for part in thing]
    table = raycast.tabled([part for thing in kept for part in thing], np.unique(piece, return_inverse=True)[1])
    marked, glazed = table["pattern"] == LANES, table["pattern"] == PANES
    table["per_m"][marked, 0], table["phase"][marked], table["colours"][marked, 1] = 1 / lane, lanes / 2 % 1, 0.7
    table["colours"][glazed, 1] *= 0.3
    forward = np.array([math.sin(yaw) * math.cos(pitch), -math.sin(pitch), math.cos(yaw) * math.cos(pitch)])
    level = np.array([math.cos(yaw), 0, -math.sin(yaw)])
    right = math.cos(roll) * level + math.sin(roll) * np.cross(level, forward)
    axes = np.stack([right, np.cross(right, forward), forward])
    return table, *(array.astype(np.float32) for array in (eye, axes))


def _bonnet(rng, eye, yaw, pitch):
    """The car's own bonnet: void on the lowest 2 to 10 % of an image twice as wide as high."""
    strip, out, long, high = rng.uniform(0.02, 0.1), 1.5, 1.2, 0.35
    slope = math.tan(math.atan((1 - 2 * strip) * WIDTH_PX / 4 / FOCAL_PX) + pitch)      # of the ray that grazes it
    top = eye[1] - slope * out - math.hypot(high, slope * long) + high
    ball = (BALL, VOID, (0, top - 2 * high, out), (2.4, 2 * high, 2 * long), 0.0, raycast.paint(rng, [STUFFS["grey"]]))
    return raycast.moved([ball], (eye[0], 0, eye[2]), yaw)


def _photograph(rng, parts, seen, origin, metres, world):
    """Image (H, W, 3) float32, still free of noise: sun, sky, shadows, gloss, haze, exposure, gamma, blur."""
    point = origin + np.minimum(metres, FARTHEST_M)[..., None] * world
    look = world / np.linalg.norm(world, axis=-1, keepdims=True)
    pixel_m = np.minimum(metres, FARTHEST_M) * np.float32(2 * math.tan(FIELD_OF_VIEW_RAD / 2) / metres.shape[1])
    normal, albedo = raycast.surface(seen, point, 2 * pixel_m)
    # A coat of dirt: cells of 12 cm, each a shade of its own, strong on leaves.
    cell = np.floor(point * np.float32(8) + np.float32(0.37)) @ np.float32((12.99, 78.23, 37.72))
    shade = (np.sin(cell) * np.float32(43.758)) % 1 - np.float32(0.5)
    coat = np.where(np.isin(seen["label"], (PLANT, TERRAIN)), np.float32(1.2), np.float32(0.25))
    albedo *= (1 + coat * shade / (1 + (8 * pixel_m) ** 2))[..., None]
    cloudy = rng.random() < 0.4
    height, heading = 1.3 if cloudy else rng.uniform(0.25, 1.1), rng.uniform(0, 2 * math.pi)
    sun = np.float32((math.cos(height) * math.sin(heading), math.sin(height), math.cos(height) * math.cos(heading)))
    warm, blue = np.float32((1.1, 1, 0.85)), np.float32((0.85, 0.95, 1.15))
    power = np.float32(rng.uniform(0.15, 0.5) if cloudy else rng.uniform(1, 2.2))
    lit = raycast.sunlit(parts, point + np.float32(0.03) * normal, metres < 90, sun)
    light = albedo * (power * warm * (lit * np.maximum(normal @ sun, 0))[..., None]
                      + np.float32(0.45) * blue * (np.float32(0.6) + np.float32(0.4) * normal[..., 1:2]))
    zenith = np.float32(rng.uniform(0.8, 2) * (np.ones(3) if cloudy else np.array((0.45, 0.7, 1.1))))
    horizon = np.float32(rng.uniform(0.9, 1.6)) * np.float32((0.95, 1, 1.05))
    rise = look[..., 1]
    u, v = (3 * look[..., axis] / (np.abs(rise) + np.float32(0.15)) + np.float32(rng.uniform(0, 9)) for axis in (0, 2))
    clouds = np.clip(np.sin(u + np.sin(1.7 * v)) + np.sin(2.3 * v + np.sin(1.3 * u)) - rng.uniform(-1, 2), 0, 1)
    sky = horizon + np.clip(3 * rise, 0, 1)[..., None] * (zenith - horizon)
    sky = sky + np.float32(0.5) * clouds[..., None] * (np.float32(1.4) - sky)
    mirrored = rise - 2 * np.vecdot(look, normal) * normal[..., 1]
    light += (seen["gloss"] * np.clip(0.3 + 2 * mirrored, 0, 1))[..., None] * horizon * np.float32(0.6)
    light = np.where(((seen["label"] == LIGHT) & (seen["kind"] == BALL))[..., None], 2 * albedo, light)
    clear = np.exp(-metres / np.float32(math.exp(rng.uniform(5, 7.5))))[..., None]
    light = np.where(np.isinf(metres)[..., None], sky, light * clear + horizon * (1 - clear))
    exposure = np.float32(rng.uniform(0.12, 0.32) * np.exp(rng.normal(0, 0.03, 3))) / np.mean(np.minimum(light, 1.5))
    image = np.clip(exposure * light, 0, 1) ** np.float32(1 / rng.uniform(1.7, 2.3))
    return image + np.float32(rng.uniform(0, 0.6)) * (raycast.soften(image) - image)


def _flaws(rng, seen, metres, grid, holes):
    """Label (H, W) with voids; inverse depth (H, W) with the holes of stereo matching."""
    label, band, slope = seen["label"].astype(np.int8), np.zeros(metres.shape, bool), grid[0, 1, 0] - grid[0, 0, 0]
    for axis in (0, 1):
        thing, mask = (np.moveaxis(array, axis, 0) for array in (seen["piece"], band))
        mask[1:] |= thing[1:] != thing[:-1]
    noise = raycast.patches(rng, metres.shape)
    # The second camera sits to the right: hidden from it is what lies left of something nearer, or left of its image.
    reach = grid[0, :, 0] - BASELINE_M / metres
    hidden = np.minimum.accumulate(reach[:, ::-1], 1)[:, ::-1] < reach - 0.3 * slope
    hidden |= reach < grid[0, 0, 0] - slope / 2
    unseen = hidden + 0.5 * np.isinf(metres) + seen["gloss"] + 0.3 * (seen["label"] == PLANT)
    disparity = BASELINE_M * FOCAL_PX / metres
    score, spread = noise + 3 * unseen, min(0.5, 0.98 / max(holes, 0.01) - 1)
    valid = score <= np.quantile(score, 1 - holes * (1 + rng.uniform(-spread, spread)))
    label[band & (noise > 0.6)] = VOID
    return label, np.where(valid & (disparity <= SEARCH_PX), np.rint(256 * disparity + 1) / 65535, 0).astype(np.float32)
