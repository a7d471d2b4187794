"""What stands in a rendered street: classes, what things are made of, pieces of parts, and where pieces stand."""

import numpy as np

from pipeline.data.raycast import BALL, BLOTCH, CHECK, CYLINDER, LANES, PANES, PLAIN, PRINT, TILE, WAVE

TRAIN_CLASSES = ("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation",
                 "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
(ROAD, SIDEWALK, BUILT, WALL, FENCE, POLE, LIGHT, SIGN, PLANT, TERRAIN, HEAVEN, PERSON, RIDER, CAR, TRUCK, BUS,
 TRAIN, MOTO, BIKE) = range(19)
CATEGORIES = ("flat", "construction", "object", "nature", "sky", "human", "vehicle")
CATEGORY = np.repeat(np.arange(7, dtype=np.int8), (2, 3, 3, 2, 1, 2, 6))      # of each train class
VOID = -1

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
