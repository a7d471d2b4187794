r"""Cityscapes, as MTAN's folders or as its own: 19 or 7 classes, inverse depth from stereo disparity.

    mtan      ROOT/{train,val}/{image,label_7,label_19,depth}/{i}.npy      i = 0 .. N-1, not zero-padded
    original  ROOT/leftImg8bit/{train,val}/CITY/CITY_SEQ_FRAME_leftImg8bit.png          8-bit RGB
              ROOT/gtFine/{train,val}/CITY/CITY_SEQ_FRAME_gtFine_labelIds.png           8-bit grey, ids 0..33
              ROOT/gtFine/{train,val}/CITY/CITY_SEQ_FRAME_gtFine_instanceIds.png        16-bit grey, for `instances`
              ROOT/disparity/{train,val}/CITY/CITY_SEQ_FRAME_disparity.png              16-bit grey, 0 invalid

Both hold 2975 and 500 images; "val" is called "test" here. Of label_7 and label_19 only the one in use has to be there.
A disparity of d pixels (of an image 2048 wide, d = 0.209 m * 2262.5 / metres) is stored as p = 256 * d + 1. The depth
that is given is p / 65535, as in MTAN's files, at every size the same; sky and far things are p near 1, tiny but valid.
An instance's id is 1000 times its label id plus a number, a crowd's its label id; what has neither is no instance.
XTasC-Net (arXiv:2111.14122) has (p - 1) / 65536, cut at 0.4922, just above 126 pixels, and the image nearest: of
1024x2048 at 128x256, row 8r + 4 and column 8c + 4 of all three files. A p of 1 becomes 0 there, which here is invalid.
70 ms from 1024x2048 PNGs (a rendered street) to 128x256, one thread of a busy 2-core Xeon, 2026-11-21, by
`python -m timeit -p -s "from pipeline.data import cityscapes as c; o = {'root': 'ROOT'}; n = c.ids('train', 1, o)[0]" \
    "c.read('train', n, (128, 256), o)"`

Images and labels: Cordts et al. 2016; arrays: Liu et al. 2019 (MTAN, arXiv:1803.10704).
"""

import os
import struct
from typing import Literal

import numpy as np
from PIL import Image

from pipeline.data import files
from pipeline.options.mistakes import resolved
from pipeline.options.types import Section
from pipeline.runtime.errors import UserError
from pipeline.tasks import from_raw

INVERSE_DEPTH = True
KINDS = {"image": np.uint8, "label": np.int8, "depth": np.float32, "offset": np.float32, "disparity": np.float32}
TRAIN_CLASSES = ("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation",
                 "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
CATEGORIES = ("flat", "construction", "object", "nature", "sky", "human", "vehicle")
CATEGORY = np.repeat(np.arange(7, dtype=np.int8), (2, 3, 3, 2, 1, 2, 6))                # of each train class
# Of each label id 0..33, -1 void. Train ids leave out parking, rail track, guard rail, bridge, tunnel, pole group,
# caravan and trailer, which the categories take in.
TRAIN_ID = np.full(34, -1, np.int8)
TRAIN_ID[[7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]] = range(19)
INSTANCES = np.arange(34) >= 24         # label ids that have them
CATEGORY_OF_ID = np.repeat(np.arange(-1, 7, dtype=np.int8), (7, 4, 6, 4, 2, 1, 2, 8))

TITLE, TASKS = "Cityscapes", ("semantic", "depth", "instance", "disparity")
FOLDERS = {"train": "train", "test": "val"}
PNGS = {  # kind: folder, end of the name, bits, PNG colour type (0 grey, 2 RGB)
    "image": ("leftImg8bit", "_leftImg8bit.png", 8, 2),
    "label": ("gtFine", "_gtFine_labelIds.png", 8, 0),
    "depth": ("disparity", "_disparity.png", 16, 0),
    "offset": ("gtFine", "_gtFine_instanceIds.png", 16, 0),
}
LOOKED_AT = 8            # labels whose values `check` looks at, at most
MOST = 0.4922            # of (p-1)/65536
SHAPES = {"image": ((3,),), "label": ((),), "depth": ((1,), ())}        # of .npy files, behind (H, W)


class Options(Section):
    layout: Literal["auto", "mtan", "original"] = "auto"
    root: str = ""
    classes: Literal[7, 19] = 19
    seven: Literal["categories", "train_ids"] = "categories"
    disparity: Literal["p/65535", "(p-1)/65536"] = "p/65535"
    image: Literal["bilinear", "nearest"] = "bilinear"
    instances: bool = False


def called(options):
    """What stands above a table."""
    return f"{TITLE}, {options['classes']} classes"


def described(options):
    """What stands behind the sizes above a table."""
    made = "" if options["layout"] == "mtan" else (f"; from the original tree, if that is what is there: 7 classes by "
                                                   f"{options['seven']}, disparity {options['disparity']}")
    return made + ("; image nearest" if options["image"] == "nearest" else "")


def lacks(options):
    """{task that these options leave out: what gives it}."""
    return {} if options["instances"] else {"instance": "`datasets.cityscapes.instances: true` and the original tree"}


def comparable(options):
    """Tasks whose printed numbers may stand beside ours: the papers have 7 classes."""
    return ("semantic", "depth") if options["classes"] == 7 else ()


def classes(options):
    """Names of the classes under `options`, in the order of the labels."""
    return TRAIN_CLASSES if _checked(options)["classes"] == 19 else CATEGORIES


def check(options, counts):
    """Raise UserError unless the images that `counts`, {"train": int or None, ...}, asks for can be read.

    Looks at folder listings and at the files' headers; of the original labels at some of their values too.
    """
    for split, count in counts.items():
        names, checked = ids(split, count, options), _checked(options)
        for name in names:
            _stored_size(split, name, checked)
        if checked["layout"] == "original":
            _refuse_train_ids(split, names[::len(names) // LOOKED_AT + 1], checked)


def _refuse_train_ids(split, names, options):
    """Ids of several images reach 21, vegetation, and more; trainIds, read as ids, would be other classes."""
    found = np.unique([value for name in names for value in np.unique(_png(_path(split, "label", name, options)))])
    most = found[found < len(TRAIN_ID)].max(initial=0)
    if most < 21:
        raise UserError(f"the label ids in {options['root']}/{PNGS['label'][0]}/{FOLDERS[split]} are {most} at most in "
                        f"{len(names)} images: they look like trainIds; take gtFine's labelIds")


def ids(split, count, options):
    """Names "train/0" or "train/CITY/CITY_SEQ_FRAME" in order: `count` of the N images spread evenly, None for all."""
    options = _checked(options)
    names = (_numbered if options["layout"] == "mtan" else _named)(split, options)
    count = len(names) if count is None else count
    if not 1 <= count <= len(names):
        raise UserError(f"`protocols.<name>.data.{split}` asks for {count} images but the "
                      f"`{FOLDERS[split]}` folders of {options['root']} hold {len(names)}: set a number from 1 to "
                      f"{len(names)}")
    return [f"{split}/{names[i * len(names) // count]}" for i in range(count)]


def read(split, name, size, options):
    """One sample at size (H, W): image bilinear over all stored pixels or, by `image`, nearest as label and depth are.

    image (H, W, 3) float32 in [0, 1]; label (H, W) int8, index into `classes(options)`, -1 void; depth (H, W) float32,
    inverse depth, 0 invalid; disparity (H, W) float32, p / 2729.07, 0 invalid; with `instances` offset (H, W, 2)
    float32, rows and columns from the middle of the instance in stored pixels, `from_raw.VOID` where there is none.
    """
    options, size = _checked(options), tuple(size)
    files.check_ratio(_path(split, "image", name, options), _stored_size(split, name, options), size)
    values = _from_npy if options["layout"] == "mtan" else _from_png
    found = {kind: files.resized(kind, values(kind, _path(split, kind, name, options), options), size, options["image"])
             for kind in _files(options)}
    p = found["depth"] * np.float32(65535) if options["layout"] == "mtan" else found["depth"]
    if options["disparity"] == "(p-1)/65536":
        found["depth"] = ((p - 1) / np.float32(65536)).clip(0, MOST)
    elif options["layout"] == "original":
        found["depth"] = p / np.float32(65535)
    return found | {"disparity": from_raw.disparity(p)}


def _files(options):
    """The kinds that have files of their own."""
    return [kind for kind in PNGS if kind != "offset" or options["instances"]]


def _checked(options):
    """Options over their defaults, the layout found, the root expanded."""
    options = resolved(Options, options, "datasets.cityscapes").model_dump()
    options["root"] = root = os.path.expanduser(options["root"])
    if not os.path.isdir(root):
        raise UserError(f"`datasets.cityscapes.root` is {root!r}, which is not a folder: set it to MTAN's unpacked "
                      "Cityscapes or to the folder that holds leftImg8bit, gtFine and disparity")
    if options["layout"] == "auto":
        found = {"mtan": os.path.isdir(f"{root}/train/image"), "original": os.path.isdir(f"{root}/leftImg8bit")}
        if sum(found.values()) != 1:
            raise UserError(f"{root} holds {'both' if all(found.values()) else 'neither'} train/image (MTAN's layout) "
                          f"{'and' if all(found.values()) else 'nor'} leftImg8bit (the original one): set "
                          "`datasets.cityscapes.layout`, or unpack the data there")
        options["layout"] = max(found, key=found.get)
    if (options["layout"], options["disparity"]) == ("mtan", "(p-1)/65536"):
        raise UserError(f"`datasets.cityscapes.disparity` is '(p-1)/65536' but MTAN's arrays in {root} hold p/65535 as "
                      "they are: set p/65535, or the original layout")
    if options["layout"] == "mtan" and options["instances"]:
        raise UserError(f"`datasets.cityscapes.instances` is true but MTAN's arrays in {root} hold none: set it to "
                        "false, or `root` to the original tree")
    return options


def _kind_folder(kind, options):
    """MTAN's folder of a kind; categories folded from the train ids are read from label_19."""
    if kind != "label":
        return kind
    return "label_7" if options["classes"] == 7 and options["seven"] == "categories" else "label_19"


def _path(split, kind, name, options):
    root, folder, name = options["root"], FOLDERS[split], name.removeprefix(f"{split}/")
    if options["layout"] == "mtan":
        return f"{root}/{folder}/{_kind_folder(kind, options)}/{name}.npy"
    return f"{root}/{PNGS[kind][0]}/{folder}/{name}{PNGS[kind][1]}"


def _numbered(split, options):
    """Numbers of MTAN's files."""
    kinds = [_kind_folder(kind, options) for kind in _files(options)]
    return range(files.numbered(os.path.join(options["root"], FOLDERS[split]), kinds))


def _named(split, options):
    """CITY/CITY_SEQ_FRAME of every image, after making sure that its other files are there."""
    found = {}
    for kind in _files(options):
        folder, ending, *_ = PNGS[kind]
        base = f"{options['root']}/{folder}/{FOLDERS[split]}"
        found[kind] = {f"{city}/{entry.removesuffix(ending)}"
                       for city in files.listed(base) if os.path.isdir(f"{base}/{city}")
                       for entry in files.listed(f"{base}/{city}")
                       if entry.startswith(f"{city}_") and entry.endswith(ending)}
        if not found[kind]:
            raise UserError(f"the folder {base} holds no files CITY/CITY_SEQ_FRAME{ending}: unpack Cityscapes' "
                          f"{folder} there again")
    for kind, names in found.items():
        lacking = sorted(found["image"] - names)
        if lacking:
            raise UserError(f"{_path(split, kind, lacking[0], options)} is missing although its image is there, and so "
                            f"are {len(lacking) - 1} more: every image needs its own, unpack {PNGS[kind][0]} again")
    return sorted(found["image"])


def _stored_size(split, name, options):
    """(H, W) that the headers of one image's files agree on."""
    header = _npy_header if options["layout"] == "mtan" else _png_header
    return files.one_size({(path := _path(split, kind, name, options)): header(kind, path) for kind in _files(options)})


def _png_header(kind, path):
    """(H, W) of a PNG of the right bit depth and colour type."""
    try:
        with open(path, "rb") as file:
            head = file.read(26)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): copy it again or permit reading") from None
    if len(head) < 26 or head[:8] != b"\x89PNG\r\n\x1a\n" or head[12:16] != b"IHDR":
        raise UserError(f"{path} is not a PNG file or its header is damaged: copy it again")
    width, height, bits, colour = struct.unpack(">IIBB", head[16:])
    if (bits, colour) != PNGS[kind][2:]:
        kinds = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}
        raise UserError(f"{path} is {bits}-bit {kinds.get(colour, colour)}, expected {PNGS[kind][2]}-bit "
                      f"{kinds[PNGS[kind][3]]}: take the file of Cityscapes' own {PNGS[kind][0]} package")
    return height, width


def _npy_header(kind, path):
    """(H, W) of a .npy file whose dtype, shape and length are right for its kind; the values stay unread."""
    try:
        array = np.lib.format.open_memmap(path, "r")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): copy it again or permit reading") from None
    except Exception:       # damaged headers meet numpy's parser, and cut files the memory map, with many exceptions
        raise UserError(f"{path} is not a plain .npy array, or cut short: copy it again") from None
    fits = np.issubdtype(array.dtype, np.floating) or (kind == "label" and np.issubdtype(array.dtype, np.integer)) or (
        kind == "image" and array.dtype == np.uint8)
    if not fits:
        raise UserError(f"{path} has dtype {array.dtype}, expected a float type for {kind}: save it again as such")
    if array.ndim < 2 or array.shape[2:] not in SHAPES[kind] or min(array.shape) < 1:
        expected = " or ".join(f"({', '.join(['H', 'W', *map(str, rest)])})" for rest in SHAPES[kind])
        raise UserError(f"{path} has shape {array.shape}, expected {expected} for {kind}: save it again like that")
    return array.shape[:2]


def _from_npy(kind, path, options):
    """One of MTAN's arrays, its values checked, in the dtype of the sample."""
    array = files.load(kind, path, 7 if _kind_folder(kind, options) == "label_7" else 19)
    if kind == "depth":
        files.refuse(path, array, ~((array >= 0) & (array <= 1)),
                     "depth is inverse depth, disparity p / 65535 in 0..1: save it so, and 0 where invalid")
    return _folded(array, options) if kind == "label" else array


def _png(path):
    """The values of a PNG."""
    try:
        with Image.open(path) as file:
            return np.array(file)                          # 16-bit grey is uint16, or int32 before Pillow 10
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is damaged ({error}): copy it again") from None


def _from_png(kind, path, options):
    """One PNG, its values checked, in the dtype and unit of the sample, of depth as stored."""
    stored = _png(path)
    if kind == "image":
        return stored / np.float32(255)
    if kind == "depth":
        return stored.astype(np.float32)
    if kind == "offset":
        return from_raw.offsets(_instances(path, stored))
    files.refuse(path, stored, stored >= len(TRAIN_ID),
                 f"label ids are 0..{len(TRAIN_ID) - 1}: take gtFine's labelIds, not trainIds, colours or instanceIds")
    by_id = options["classes"] == 7 and options["seven"] == "categories"
    return CATEGORY_OF_ID[stored] if by_id else _folded(TRAIN_ID[stored], options)


def _instances(path, ids):
    """The ids of instances, 0 elsewhere."""
    label = np.where(ids < 1000, ids, ids // 1000)
    known = label < len(TRAIN_ID)
    files.refuse(path, ids, ~known | (ids >= 1000) & ~INSTANCES[label * known],
                 "instance ids are label ids 0..33, or 1000 times one of 24..33 plus a number: unpack gtFine again")
    return np.where(INSTANCES[label] & (TRAIN_ID[label] >= 0), ids, 0)


def _folded(label, options):
    """Train classes into categories where `seven: train_ids` asks for it."""
    if options["classes"] == 7 and options["seven"] == "train_ids":
        return np.where(label < 0, label, CATEGORY[label])
    return label
