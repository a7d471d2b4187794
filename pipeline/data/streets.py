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
from pipeline.data.raycast import BALL, BOX, LANES, PANES
from pipeline.data.street_pieces import (
    CATEGORIES,
    CATEGORY,
    FRONTS,
    HEAVEN,
    LIGHT,
    PERSON,
    PIECES,
    PLANT,
    ROAD,
    ROWS,
    SIDEWALK,
    STUFFS,
    TERRAIN,
    TRAFFIC,
    TRAIN_CLASSES,
    VOID,
)
from pipeline.runtime.errors import UserError
from pipeline.tasks import from_raw

INVERSE_DEPTH = True
KINDS = {"image": np.uint8, "label": np.int8, "depth": np.float32, "instance": np.int16, "offset": np.float32,
         "disparity": np.float32}
SPLITS = ("train", "test")
TITLE, STANDS_FOR, TASKS = "rendered streets", "Cityscapes", ("semantic", "depth", "instance", "disparity")
BASELINE_M, FOCAL_PX, WIDTH_PX = 0.209, 2262.5, 2048        # Cityscapes' stereo rig
FIELD_OF_VIEW_RAD = 2 * math.atan(WIDTH_PX / 2 / FOCAL_PX)  # horizontal
SEARCH_PX = 126             # the matcher's largest disparity; nearer things have none
FARTHEST_M = 2000           # stands for infinity where a point is needed


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
    inverse depth p / 65535, 0 invalid; instance (H, W) int16, a number for each person, rider and vehicle, else 0;
    offset (H, W, 2) float32, from the middle of what is seen of that, in pixels of an image 2048 wide; disparity (H, W)
    float32, p / 2729.07.
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
    offset = from_raw.offsets(instance)
    offset[instance > 0] *= np.float32(WIDTH_PX / size[1])
    return {"image": np.clip(image, 0, 1), "label": label, "depth": inverse, "instance": instance, "offset": offset,
            "disparity": from_raw.disparity(np.rint(inverse * 65535))}


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
