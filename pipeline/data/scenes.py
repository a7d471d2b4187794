"""Procedural indoor rooms that stand in for NYUv2: no files, no download, every pixel follows from a seed.

How: six slabs and some hundred boxes, ellipsoids and cylinders form furniture; one ray per pixel finds class, depth and
normal exactly; lamps, shadow rays, surface patterns and a camera make the image; then a Kinect's flaws are put back.
Depth is noisy and normals are fitted to it, as NYUv2's are; they, the classes and the images are spread as NYUv2's:
tests/test_scenes.py has its figures. 40 ms at 96x128, 158 ms at 288x384, one busy core of two, 2026-11-28, by
`python -m timeit -s "from pipeline.data import scenes" "scenes.read('train', 'train-00000', (96, 128), {})"`
World axes: x, z along the floor, y up. Camera axes: x right, y down, z forward. Metres. All scenes share one
focal length, as with one real camera; without it metric depth could not be learnt.
"""

import math

import numpy as np

from pipeline.data import KINDS as KINDS
from pipeline.data import raycast
from pipeline.data.raycast import BALL, BLOTCH, BOX, CHECK, CYLINDER, PART, PLAIN, PRINT, SKY, SPINES, TILE, WAVE
from pipeline.runtime.errors import UserError

CLASSES = ("bed", "books", "ceiling", "chair", "floor", "furniture", "objects", "picture", "sofa", "table",
           "tv", "wall", "window")
BED, BOOKS, CEILING, CHAIR, FLOOR, FURNITURE, OBJECTS, PICTURE, SOFA, TABLE, TV, WALL, WINDOW = range(13)
VOID, SPLITS = -1, ("train", "test")
TITLE, STANDS_FOR, TASKS = "rendered rooms", "NYUv2", ("semantic", "depth", "normal")
FIELD_OF_VIEW_RAD = math.radians(58.5)      # horizontal
BASELINE_M = 0.075                          # Kinect projector to camera: sets the width of depth shadows
NOISE_M, FARTHEST_M = 0.00065, 10            # of the sensed depth: its noise at 1 m, and where the sensor's range ends

# Hue, saturation, value, cycles per metre; gloss; patterns. Shared, so that colour betrays no class.
STUFFS = {
    "wood": ((.03, .11), (.25, .7), (.1, .6), (.3, .9), (1.5, 6), .08, (WAVE, WAVE, TILE, BLOTCH)),
    "paint": ((0, 1), (0, .3), (.4, .9), (.2, .6), (.5, 5), 0, (PLAIN, PLAIN, BLOTCH, WAVE)),
    "white": ((0, .2), (0, .1), (.65, .9), (1, 2), (1, 2), .04, (PLAIN, PLAIN, TILE, BLOTCH)),
    "tiles": ((0, .3), (0, .5), (.1, .85), (1.5, 4), (1.2, 4), .1, (TILE, TILE, CHECK)),
    "fabric": ((0, 1), (0, .7), (.1, .8), (.5, 5), (1, 5), 0, (CHECK, WAVE, BLOTCH, PRINT)),
    "plastic": ((0, 1), (0, .85), (.05, .9), (.5, 4), (3, 10), .2, (PLAIN, PRINT, WAVE)),
    "dark": ((0, 1), (0, .3), (.02, .2), (1, 2), (1, 2), .5, (PLAIN, BLOTCH)),
    "print": ((0, 1), (.1, .7), (.2, .9), (.8, 3), (.8, 3), .05, (PRINT,)),
    "spines": ((0, 1), (.1, .6), (.2, .8), (22, 40), (4, 6), .03, (SPINES,)),
    "sky": ((.2, .65), (0, .3), (.6, 1), (.3, .8), (.3, .8), .5, (SKY,)),
}

# Pieces as `raycast.build` reads them: x along the wall, z out of it.
FEET = ((-.46, .04), (.46, .04), (-.46, .96), (.46, .96))
PIECES = {
    "bed": (((1, 1.8), (.5, .65), (1.9, 2.1)), ("wood dark", "white paint", "fabric paint", "fabric"), [
        (BED, 0, 0, .15, .5, 1, .5, 1), (BED, 0, 0, 0, .01, 1.1, 1.8, .03), (BED, 1, 0, .6, .5, .97, .4, .97),
        (BED, 2, 0, .45, .66, 1.03, .58, .69), ("things", 8, 0, 1.03, .65, .8, .5),
        *((OBJECTS, 3, x, .93, .16, .4, .5, .2, BALL) for x in (-.22, .22))]),
    "sofa": (((1, 2.4), (.7, .95), (.85, 1)), ("fabric fabric dark wood", "fabric paint?"), [
        (SOFA, 0, 0, .07, .5, .84, .38, .92), (SOFA, 0, 0, .07, .12, .84, .93, .24),
        *((SOFA, 0, x, .05, .5, .1, .65, 1) for x in (-.45, .45)),
        *((SOFA, 0, x, .4, .6, .4, .14, .8) for x in (-.2, .2)), (OBJECTS, 1, .2, .5, .4, .3, .5, .2, BALL)]),
    "chair": (((.4, .54), (.8, 1.05), (.4, .54)), ("wood dark white", "wood fabric plastic dark"), [
        (CHAIR, 1, 0, .46, .5, 1, .07, 1), (CHAIR, 1, 0, .62, .05, .98, .36, .08),
        *((CHAIR, 0, x, 0, z, .09, .48 if z > .5 else 1, .09) for x, z in FEET)]),
    "table": (((.9, 1.8), (.45, .78), (.6, 1)), ("wood wood white plastic", "wood dark white", "white?"), [
        (TABLE, 0, 0, .93, .5, 1, .07, 1), *((TABLE, 1, x, 0, z, .06, .94, .06) for x, z in FEET),
        ("things", 14, 0, 1, .5, .9, .8), ("chair", 2, .25, 0, 1.2, 2), ("chair", 2, -.22, 0, -.3, 0)]),
    "screen": (((.5, 1.1), (.35, .7), (.2, .2)), ("dark", "dark dark dark print"), [
        (TV, 0, 0, .1, .5, 1, .9, .3), (TV, 1, 0, .15, .64, .92, .8, .06), (TV, 0, 0, 0, .5, .3, .2, 1)]),
    "cabinet": (((.6, 2), (.5, 1.9), (.35, .8)), ("tiles tiles wood white dark", "white?"), [
        (FURNITURE, 0, 0, 0, .5, 1, .97, .96), (FURNITURE, 0, 0, .97, .5, 1.03, .03, 1),
        ("things", 16, 0, 1, .5, .9, .8), ("screen", 1, 0, 1, .1, 0)]),
    "shelf": (((.7, 1.7), (1, 2.1), (.28, .38)), ("wood white dark", "spines?", "spines?", "spines?"), [
        (FURNITURE, 0, 0, 0, .04, 1, 1, .05), *((FURNITURE, 0, x, 0, .5, .03, 1, 1) for x in (-.5, .5)),
        *((FURNITURE, 0, 0, y, .5, 1, .02, 1) for y in (.04, .36, .68, .98)),
        *((BOOKS, slot, .2 * slot - .4, .32 * slot - .26, .45, .5, .24, .7) for slot in (1, 2, 3)),
        *(("things", 5, 0, y, .5, .9, .7) for y in (.06, .38, .7, 1))]),
    "window": (((.7, 2.2), (.6, 1), (.1, .12)), ("white wood", "sky", "white wood?", "fabric?"), [
        (WINDOW, 0, 0, 1, .15, 1, 1.4, .3), (WINDOW, 1, 0, 1.06, .2, .94, 1.28, .3),
        (WINDOW, 0, 0, 1.05, .3, .05, 1.3, .3), (WINDOW, 2, 0, 1.9, .5, 1, .5, .3),
        *((WINDOW, 3, x, .2, .7, .3, 2.3, .6) for x in (-.5, .5))]),
    "picture": (((.4, 1.2), (1.1, 1.5), (.03, .04)), ("wood dark white", "print print fabric"), [
        (PICTURE, 0, 0, 1, .5, 1, .45, 1), (PICTURE, 1, 0, 1.04, .6, .86, .37, 1)]),
    "box": (((.2, .8), (.2, .8), (.2, .7)), ("wood fabric plastic print", "fabric plastic?"), [
        (OBJECTS, 0, 0, 0, .5, 1, 1, 1), (OBJECTS, 1, 0, .9, .5, .9, .5, .9, BALL)]),
    "lamp": (((.3, .5), (.5, 1.7), (.3, .5)), ("dark wood white", "white fabric"), [
        (OBJECTS, 0, 0, 0, .5, .2, .9, .2, CYLINDER), (OBJECTS, 1, 0, .7, .5, 1, .3, 1, CYLINDER)]),
    "carton": (((.06, .35), (.05, .28), (.06, .3)), ("plastic print",), [(OBJECTS, 0, 0, 0, 0, 1, 1, 1)]),
    "can": (((.06, .2), (.08, .28), (.06, .2)), ("plastic",), [(OBJECTS, 0, 0, 0, 0, 1, 1, 1, CYLINDER)]),
    "pile": (((.2, .3), (.03, .15), (.15, .22)), ("print plastic",), [(BOOKS, 0, 0, 0, 0, 1, 1, 1)]),
    "scrap": (((.08, .3), (.05, .25), (.08, .25)), ("plastic fabric",), [(VOID, 0, 0, 0, 0, 1, 1, 1)]),
}
THINGS = ("carton", "can", "carton", "can", "carton", "can", "pile", "scrap", "scrap")
LOOSE, HANGING = ("box", "table", "box", "chair", "box", "lamp", "table", "box") * 6, ("window", "picture") * 4
ROOMS = (("bed", "cabinet", "cabinet", "cabinet", "cabinet", "shelf"),
         ("sofa", "cabinet", "table", "cabinet", "shelf", "cabinet"),
         ("cabinet", "table", "cabinet", "sofa", "cabinet", "cabinet"),
         ("cabinet", "bed", "cabinet", "sofa", "cabinet"))


Options = raycast.Options


def classes(options):
    return CLASSES


def ids(split, count, options):
    """The first `count` sample names of a split; a longer list starts with a shorter one."""
    raycast.checked(Options, options, "scenes")
    return [f"{split}-{index:05d}" for index in range(count)]


def rays(size):
    """(H, W, 3) float32 directions through the pixel centres, z = 1; a point in metres is depth * ray."""
    return raycast.rays(size, FIELD_OF_VIEW_RAD)


def read(split, name, size, options):
    """One sample at size (H, W), a pure function of (options, split, name, size).

    image (H, W, 3) float32 in [0, 1]; label (H, W) int8, index into CLASSES, -1 void; depth (H, W) float32,
    metres along the optical axis, 0 invalid; normal (H, W, 3) float32, unit, camera axes, (0, 0, 0) invalid.
    """
    options, (head, number) = raycast.checked(Options, options, "scenes"), name.split("-")
    assert head == split, (split, name)
    if min(size) < 32:
        raise UserError(f"`datasets.scenes.size` should be at least 32 pixels a side; found {list(size)}")
    seeds = np.random.SeedSequence(options["seed"], spawn_key=(SPLITS.index(split), int(number)))
    # The scene's generator never sees the size, so one name is one room at every size.
    scene_rng, pixel_rng = map(np.random.default_rng, seeds.spawn(2))
    parts, room_m, origin, axes = _room(scene_rng)
    grid = rays(size)
    depth, index = raycast.trace(parts, origin, axes, grid)
    seen = {field: parts[field][index] for field in PART.names}         # per pixel, (H, W, ...)
    point = origin + depth[..., None] * (grid @ axes)
    normal, albedo = raycast.surface(seen, point, depth * (grid[0, 1, 0] - grid[0, 0, 0]))
    image = _photograph(scene_rng, parts, seen, room_m, point, normal, albedo)
    image += np.float32(options["noise"]) * pixel_rng.standard_normal(image.shape, np.float32)
    label, valid = _flaws(scene_rng, seen, depth, normal @ axes.T, grid, options["holes"])
    depth = _sensed(scene_rng, depth)
    return {"image": np.clip(image, 0, 1), "label": label, "depth": np.where(valid, depth, 0),
            "normal": np.where(valid[..., None], _fitted(depth, grid), 0)}


def _paint(rng, *stuffs):
    return raycast.paint(rng, [STUFFS[stuff] for stuff in stuffs])


def _room(rng):
    """Parts (P,), room size (3,), camera origin (3,) and axes (3, 3) right, down, forward; metres."""
    # The camera looks at the wall z = length, `away_m` off, or up to 40 degrees aside; by symmetry this loses no room.
    away_m = np.clip(math.exp(rng.normal(math.log(4), 0.36)), 1.7, 9.5)
    width, height, length = room_m = np.array([np.clip(away_m * rng.uniform(0.7, 1.5), 2.2, 9), rng.uniform(2.4, 3),
                                               away_m + rng.uniform(0.3, 1.5)])
    eye = np.array([width * rng.uniform(0.2, 0.8), rng.uniform(1.1, 1.7), length - away_m])
    x, z, wide, long, walls = width / 2, length / 2, width + 1, length + 1, _paint(rng, "paint", "white")
    parts = [(BOX, FLOOR, (x, -0.5, z), (wide, 0.5, long), 0.0, _paint(rng, "wood", "tiles", "fabric")),
             (BOX, CEILING, (x, height, z), (wide, 0.5, long), 0.0, _paint(rng, "white"))]
    parts += [(BOX, WALL, (at, 0, z), (0.5, height, long), 0.0, walls) for at in (-0.25, width + 0.25)]
    parts += [(BOX, WALL, (x, 0, at), (wide, height, 0.5), 0.0, walls) for at in (-0.25, length + 0.25)]
    piece, taken = [0, 1, 2, 2, 2, 2], {True: np.empty((0, 2, 2, 1)), False: np.empty((0, 2, 2, 1))}
    many = round(2.5 * away_m)
    for name in HANGING[:rng.integers(1, 6)] + ROOMS[rng.integers(4)] + LOOSE[:rng.integers(many, 3 * many)]:
        made, hung, loose = raycast.build(rng, name, PIECES, STUFFS, THINGS), name in HANGING, name in LOOSE
        if rng.random() < 0.1:                      # a thing that nobody named
            made = [(kind, VOID, *rest) for kind, _, *rest in made]
        to, turn, ground = _places(rng, made, loose, room_m)
        low, high = ground
        away = np.hypot(*np.maximum(0, np.maximum(low - eye[::2, None], eye[::2, None] - high))) > 0.8
        inside = ((low > -0.01) & (high < room_m[::2, None] + 0.01)).all(0)
        apart = ((low > taken[hung][:, 1]) | (taken[hung][:, 0] > high)).any(1).all(0)
        for at in np.flatnonzero((away | hung) & inside & apart)[:1]:
            taken[hung] = np.append(taken[hung], ground[None, ..., at:at + 1], 0)
            # Small things are instances of their own; the parts of furniture are one instance.
            piece += [len(piece) + i if part[1] in (OBJECTS, BOOKS, VOID) else -sum(map(len, taken.values()))
                      for i, part in enumerate(made)]
            parts += raycast.moved(made, (to[0, at], 0, to[1, at]), turn[at])
    yaw, pitch = math.atan2(width / 2 - eye[0], length - eye[2]) + rng.uniform(-0.7, 0.7), rng.normal(0.24, 0.1)
    forward = np.array([math.sin(yaw) * math.cos(pitch), -math.sin(pitch), math.cos(yaw) * math.cos(pitch)])
    level, roll = np.array([-math.cos(yaw), 0, math.sin(yaw)]), rng.normal(0, 0.05)
    right = math.cos(roll) * level + math.sin(roll) * np.cross(forward, level)
    axes = np.stack([right, np.cross(forward, right), forward])
    parts = raycast.tabled(parts, piece)
    parts["colours"][:, 1] *= rng.uniform(0.2, 1.3, (len(parts), 1))
    return parts, *(array.astype(np.float32) for array in (room_m, eye, axes))


def _places(rng, made, loose, room_m, tries=20):
    """Some places for a piece, along a wall or loose in the room: x and z (2, tries), turn (tries,), and the least and
    largest x and z of the ground that it covers there (2, 2, tries)."""
    width, _, length = room_m
    side, out = rng.integers(3, size=tries), rng.uniform(0, 0.6 * length if loose else 0.06, tries)
    along = rng.random(tries) * np.array((width, length, length))[side]
    to = np.stack([np.choose(side, (along, out, width - out)), np.choose(side, (length - out, along, along))])
    turn = np.array((math.pi, math.pi / 2, -math.pi / 2))[side] + rng.normal(0, 0.5, tries) * loose
    at, size = np.array([part[2:4] for part in made]).swapaxes(0, 1)[..., ::2]
    low, high = (at - size / 2).min(0), (at + size / 2).max(0)
    (x, z), (wide, deep), c, s = (low + high) / 2, (high - low) / 2, np.cos(turn), np.sin(turn)
    middle = to + [c * x + s * z, c * z - s * x]
    half = np.stack([abs(c) * wide + abs(s) * deep, abs(s) * wide + abs(c) * deep])
    return to, turn, np.stack([middle - half, middle + half])


def _photograph(rng, parts, seen, room_m, point, normal, albedo):
    """Image (H, W, 3) float32, still free of noise: light, exposure, white balance, gamma, blur."""
    glow, panes = seen["pattern"] == SKY, parts["centre"][parts["pattern"] == SKY]
    daylight = np.float32((0.1, 2, 3, 5)[rng.integers(4)])
    lamps = [room_m * rng.uniform((0.25, 0.9, 0.25), (0.75, 0.93, 0.75)) for _ in range(rng.integers(1, 3))]
    if len(panes) and daylight > 1:
        lamps.insert(0, panes[0] + 0.15 * (room_m / 2 - panes[0]))
    # Every second pixel a side is enough for the shadows of the first lamp, and softens them.
    lamps, coarse = np.float32(lamps), np.moveaxis(point[::2, ::2], -1, 0)
    lit, from_lamp = np.ones(coarse.shape[1:], bool), coarse - lamps[0][:, None, None]
    for part in parts[6:][parts[6:]["half"].max(1) > 0.15]:
        lit &= raycast.enter(part, lamps[0], from_lamp) > 0.985
    lit = raycast.soften(lit.repeat(2, 0).repeat(2, 1)[:glow.shape[0], :glow.shape[1], None].astype(np.float32))
    corners = (np.exp(np.abs(point) / -0.3) + np.exp(np.abs(room_m - point) / -0.3)) * (1 - np.abs(normal))
    ambient = (1 + normal @ np.float32((0.1, 0.25, 0))) * np.exp(-0.6 * corners.sum(-1))
    light = albedo * ambient[..., None] * np.float32(rng.uniform(0.1, 0.35))
    for lamp, power in zip(lamps, (lit, np.float32(0.4), np.float32(0.4)), strict=False):
        way = lamp - point
        square = np.vecdot(way, way)[..., None]
        cosine = np.maximum(np.vecdot(way, normal)[..., None] / np.sqrt(square), 0)
        light += albedo * power * cosine / (0.6 + 0.25 * square)
    light *= np.exp(0.25 * raycast.patches(rng, glow.shape, (5,)))[..., None]
    light = np.where(glow[..., None], albedo * daylight, light / np.mean(light))
    exposure = np.float32(math.exp(rng.uniform(math.log(0.22), math.log(0.6))) * np.exp(rng.normal(0, 0.08, 3)))
    image = np.clip(exposure * light, 0, 1) ** np.float32(1 / rng.uniform(1.1, 1.7))
    return image + np.float32(rng.uniform(0, 0.8)) * (raycast.soften(image) - image)


def _sensed(rng, depth):
    """Depth (H, W) with the sensor's noise, which grows with the distance and is stronger in some places."""
    noise = raycast.patches(rng, depth.shape, (40,)) + 1.5 * raycast.patches(rng, depth.shape, (16,))
    noise *= np.exp(1.2 * raycast.patches(rng, depth.shape, (12,)))
    return np.minimum(depth + NOISE_M * depth ** 2.5 * noise, FARTHEST_M).astype(np.float32)


def _fitted(depth, grid):
    """Unit normals (H, W, 3) of the planes through each pixel's point and its neighbours', as NYUv2's are made: they
    shake with the depth's noise."""
    k, point, sides = max(1, round(depth.shape[1] / 64)), depth[..., None] * grid, []
    for axis in (1, 0):
        along = np.moveaxis(point, axis, 0)
        step = along[k:] - along[:-k]
        before, after = np.concatenate([step[:k], step]), np.concatenate([step, step[-k:]])
        own = np.abs(after[..., 2:]) < np.abs(before[..., 2:])      # the side that lies on the same surface
        sides.append(np.moveaxis(np.where(own, after, before), 0, axis))
    normal = np.cross(sides[1], sides[0])
    return normal / np.linalg.norm(normal, axis=-1, keepdims=True)


def _flaws(rng, seen, depth, normal, grid, holes):
    """Label (H, W) with voids; where depth is valid (H, W)."""
    label, band = seen["label"].astype(np.int8), np.zeros(depth.shape, bool)
    k = max(1, round(depth.shape[1] / 128))
    for axis in (0, 1):
        thing, mask = (np.moveaxis(array, axis, 0) for array in (seen["piece"], band))
        differs = thing[k:] != thing[:-k]
        mask[k:] |= differs
        mask[:-k] |= differs
    patches = raycast.patches(rng, depth.shape)
    border, strip = np.ones(depth.shape, bool), round(rng.uniform(0, 0.01) * depth.shape[1])
    border[strip:depth.shape[0] - strip, strip:depth.shape[1] - strip] = False
    # The projector sits to the left: a pixel is in shadow if one further left has a larger x + disparity.
    reach = (grid[0, :, 0] + BASELINE_M / depth) / (grid[0, 1, 0] - grid[0, 0, 0])
    shadow = np.maximum.accumulate(reach, 1) > reach + 0.3
    cosine = np.vecdot(normal, grid) / np.linalg.norm(grid, axis=-1)
    unseen = shadow + 0.7 * (cosine > -0.15) + (depth > 9) + seen["gloss"] + 0.5 * (label == WINDOW)
    score, spread = patches + 9 * border + 3 * unseen, min(0.5, 0.98 / max(holes, 0.01) - 1)
    valid = score <= np.quantile(score, 1 - holes * (1 + rng.uniform(-spread, spread)))
    label[band & (patches > 0.2) | border] = VOID
    return label, valid
