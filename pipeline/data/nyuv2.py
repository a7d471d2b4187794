"""NYUv2: 13 classes, depth in metres, surface normals; `source: mat` is read by nyuv2_mat, `mtan` here.

MTAN's download:

    ROOT/{train,val}/{image,label,depth,normal}/{i}.npy     i = 0 .. N-1, not zero-padded; N = 795 and 654

Frames: Silberman et al. 2012; normals: Eigen & Fergus 2015; arrays: Liu et al. 2019 (MTAN, arXiv:1803.10704).
Their "val" is the official test split and is called "test" here; there is no validation split.
"""

import math
import os
import re

import numpy as np

from pipeline.data import nyuv2_mat
from pipeline.problem import Problem

CLASSES = ("bed", "books", "ceiling", "chair", "floor", "furniture", "objects",
           "picture", "sofa", "table", "tv", "wall", "window")

FOLDERS = {"train": "train", "test": "val"}
# kind: (shapes allowed behind (H, W), allowed dtypes). MTAN's dtypes are undocumented, so any float is taken;
# integers only where they cannot hide another unit (depth in millimetres, normals coded as colours).
KINDS = {
    "image": (((3,),), (np.floating, np.uint8)),
    "label": (((),), (np.floating, np.integer)),
    "depth": (((1,), ()), (np.floating,)),
    "normal": (((3,),), (np.floating,)),
}
FARTHEST_M = 100          # the sensor sees about 10 m; float millimetres begin above this
SLACK = 1e-3             # float16 and earlier resampling may overshoot the ends of a range by this much
ASPECT_TOLERANCE = 1.02  # room for rounding to whole pixels; beyond it objects are squeezed, normals wrong
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def check(options: dict, counts: dict) -> None:
    """Raise Problem unless the images that `counts`, {"train": int or None, ...}, asks for can be read.

    Looks at folder listings and at the headers and lengths of the files, not at the values of images.
    """
    if options["source"] == "mat":
        nyuv2_mat.check(options)
    for split, count in counts.items():
        names = ids(split, count, options)
        if options["source"] == "mtan":
            for name in names:
                _stored_size(split, name, options)


def ids(split: str, count: int | None, options: dict) -> list[str]:
    """Names "<split>/0", "<split>/1", ... in numeric order: `count` of the N images, None for all.

    Frames are ordered by scene and the first `count` would be a few rooms, so the choice is spread evenly.
    """
    mat = options["source"] == "mat"
    total = nyuv2_mat.count(split, options) if mat else _count(split, options)
    count = total if count is None else count
    if not 1 <= count <= total:
        place = nyuv2_mat.path_of(nyuv2_mat.SPLITS, options) if mat else _folder(split, options)
        raise Problem(f"protocols.<name>.data.{split} asks for {count} images but {place} holds {total}: set a number "
                      f"from 1 to {total}")
    return [f"{split}/{i * total // count}" for i in range(count)]


def read(split: str, name: str, size: tuple, options: dict) -> dict:
    """One sample, all arrays C-ordered at `size` = (H, W).

    image (H, W, 3) float32 in [0, 1]; label (H, W) int8, class 0..12, -1 void; depth (H, W) float32, metres,
    0 invalid; normal (H, W, 3) float32, MTAN's as stored (unit only up to its resampling), (0, 0, 0) invalid.
    """
    size, mat = tuple(size), options["source"] == "mat"
    stored = nyuv2_mat.size(options) if mat else _stored_size(split, name, options)
    aspects = size[1] * stored[0], size[0] * stored[1]
    if max(aspects) > ASPECT_TOLERANCE * min(aspects):
        place = f"the window `crop: {options['crop']}`" if mat else _path(split, "image", name, options)
        raise Problem(f"{place} is {stored[0]} x {stored[1]} (height x width) "
                      f"but protocols.<name>.data asks for {size[0]} x {size[1]}: choose a `height` and "
                      f"`width` whose ratio is the stored one within {ASPECT_TOLERANCE - 1:.0%}")
    sample = (nyuv2_mat.read(split, name, options) if mat else
              {kind: _values(kind, _path(split, kind, name, options)) for kind in KINDS})
    if size != stored:
        sample = {kind: _average(array, size) if kind == "image" else _nearest(array, size)
                  for kind, array in sample.items()}
    return sample


def _folder(split, options):
    return os.path.join(os.path.expanduser(options["root"]), FOLDERS[split])


def _path(split, kind, name, options):
    return os.path.join(_folder(split, options), kind, f"{name.removeprefix(f'{split}/')}.npy")


def _count(split, options):
    """N of a split, after making sure that each of its four folders holds exactly 0.npy .. (N-1).npy."""
    root = options["root"]
    if not root or not os.path.isdir(os.path.expanduser(root)):
        raise Problem(f"datasets.nyuv2.root is {root!r}, which is not a folder: set it to MTAN's unpacked "
                      "NYUv2, which holds train/ and val/, or to the original .mat files with `source: mat`, or set "
                      "`data: scenes`, which needs no files")
    totals = {}
    for kind in KINDS:
        folder = os.path.join(_folder(split, options), kind)
        try:
            matches = [re.fullmatch(r"(0|[1-9][0-9]*)\.npy", entry) for entry in os.listdir(folder)]
        except OSError as error:
            raise Problem(f"the folder {folder} cannot be listed ({error.strerror}): datasets.nyuv2.root "
                          f"must hold {{train,val}}/{{{','.join(KINDS)}}}, as in MTAN's NYUv2") from None
        numbers = {int(match[1]) for match in matches if match}
        if not numbers:
            raise Problem(f"the folder {folder} holds no files 0.npy, 1.npy, ... (without zero padding): "
                          "unpack MTAN's NYUv2 there again")
        if max(numbers) >= len(numbers):
            missing = min(set(range(len(numbers))) - numbers)
            raise Problem(f"{folder}/{missing}.npy is missing although the numbers go up to {max(numbers)}: "
                          "copy it again, or renumber the files of all four kinds from 0 without a hole")
        totals[kind] = len(numbers)
    if len(set(totals.values())) > 1:
        found = ", ".join(f"{kind} {total}" for kind, total in totals.items())
        raise Problem(f"the folders in {_folder(split, options)} hold unequal numbers of files ({found}): "
                      "copy the missing ones again, every image needs all four kinds")
    return totals["image"]


def _stored_size(split, name, options):
    """(H, W) that the headers of one image's four files agree on."""
    paths = {kind: _path(split, kind, name, options) for kind in KINDS}
    sizes = {kind: _header(kind, path) for kind, path in paths.items()}
    height, width = sizes["image"]
    for kind, size in sizes.items():
        if size != (height, width):
            raise Problem(f"{paths[kind]} is {size[0]} x {size[1]} but {paths['image']} is {height} x "
                          f"{width}: replace the wrong file, the four kinds of one image share one size")
    return height, width


def _header(kind, path):
    """(H, W) of a .npy file whose dtype, shape and length are right for `kind`; the values stay unread."""
    try:
        with open(path, "rb") as file:
            shape, _, dtype = HEADERS[np.lib.format.read_magic(file)](file)
            start, length = file.tell(), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise Problem(f"{path} cannot be read ({error.strerror}): copy it again or permit reading") from None
    except Exception:  # numpy's parser meets damaged headers with ValueError, TokenError, KeyError and more
        raise Problem(f"{path} is not a .npy file or its header is damaged: copy it again") from None
    shapes, dtypes = KINDS[kind]
    if dtype.hasobject:
        raise Problem(f"{path} holds pickled Python objects, refused because loading them can run code: "
                      "save it again as a plain float array")
    if not any(np.issubdtype(dtype, allowed) for allowed in dtypes):
        expected = " or ".join(allowed.__name__ for allowed in dtypes)
        raise Problem(f"{path} has dtype {dtype}, expected {expected} for {kind}: save it again as such")
    if len(shape) < 2 or shape[2:] not in shapes or min(shape) < 1:
        expected = " or ".join(f"({', '.join(['H', 'W', *map(str, rest)])})" for rest in shapes)
        raise Problem(f"{path} has shape {shape}, expected {expected} for {kind}: save it again like that")
    needed = start + math.prod(shape) * dtype.itemsize
    if length < needed:
        raise Problem(f"{path} is truncated ({length} bytes where its header says {needed}): copy it again")
    return shape[:2]


def _values(kind, path):
    """One array, its values checked, in the dtype of the sample and C order."""
    stored = np.load(path, allow_pickle=False)
    if kind == "label":
        array = np.asarray(stored, np.float64, order="C")  # keeps fractions and huge integers visible
        good = (array >= -1) & (array < len(CLASSES)) & (array == np.rint(array))
        _refuse(path, array, ~good, f"labels are 0..{len(CLASSES) - 1}, or -1 for void: map yours to these")
        return array.astype(np.int8)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes inf, refused below
        array = np.asarray(stored, np.float32, order="C")
    if kind == "image" and stored.dtype == np.uint8:
        return array / np.float32(255)
    if kind == "image":
        _refuse(path, array, ~((array >= -SLACK) & (array <= 1 + SLACK)),
                "float images are in [0, 1]: divide by 255, or save them as uint8 in 0..255")
        return array.clip(0, 1)
    if kind == "depth":
        array = array.reshape(array.shape[:2])
        _refuse(path, array, ~((array >= 0) & (array < FARTHEST_M)),
                f"depth is in metres, 0..{FARTHEST_M}: divide millimetres by 1000, mark invalid pixels with 0")
        return array
    _refuse(path, array, ~(np.abs(array) <= 1 + SLACK),
            "normals have components in [-1, 1]: save unit vectors, and (0, 0, 0) where invalid")
    return array


def _refuse(path, array, bad, rule):
    if bad.any():
        where = tuple(int(i) for i in np.unravel_index(bad.argmax(), bad.shape))
        raise Problem(f"{path} holds {array[where]:.9g} at {where}, but {rule}")


# Both resizers centre output pixel i at (i + 1/2) * stored / size, in stored pixels from the border.
def _average(array, size):
    """(h, w, 3) -> (H, W, 3), bilinear; the triangle widens when shrinking, so every stored pixel counts."""
    import torch  # late, because `check` and `ids` do without

    planes = torch.from_numpy(array).permute(2, 0, 1)[None]
    planes = torch.nn.functional.interpolate(planes, size, mode="bilinear", antialias=True)
    return planes[0].permute(1, 2, 0).clamp(0, 1).contiguous().numpy()


def _nearest(array, size):
    """(h, w, ...) -> (H, W, ...): the stored pixel under each centre, in integers; ties go right and down."""
    rows = (2 * np.arange(size[0]) + 1) * array.shape[0] // (2 * size[0])
    columns = (2 * np.arange(size[1]) + 1) * array.shape[1] // (2 * size[1])
    return array[rows[:, None], columns]
