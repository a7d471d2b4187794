"""NYUv2: 13 classes, depth in metres, surface normals; `source: mat` is read by nyuv2_mat, `mtan` here.

MTAN's download:

    ROOT/{train,val}/{image,label,depth,normal}/{i}.npy     i = 0 .. N-1, not zero-padded; N = 795 and 654

Frames: Silberman et al. 2012; normals: Eigen & Fergus 2015; arrays: Liu et al. 2019 (MTAN, arXiv:1803.10704).
Their "val" is the official test split and is called "test" here; there is no validation split.
"""

import math
import os
from typing import Literal

import numpy as np
from pydantic import model_validator

from pipeline.data import KINDS as KINDS
from pipeline.data import files, nyuv2_mat
from pipeline.options.types import Folder, Section
from pipeline.runtime.errors import UserError

CLASSES = ("bed", "books", "ceiling", "chair", "floor", "furniture", "objects",
           "picture", "sofa", "table", "tv", "wall", "window")

TITLE, TASKS = "NYUv2", ("semantic", "depth", "normal")
FOLDERS = {"train": "train", "test": "val"}
# kind: (shapes allowed behind (H, W), allowed dtypes). MTAN's dtypes are undocumented, so any float is taken;
# integers only where they cannot hide another unit (depth in millimetres, normals coded as colours).
FORMS = {
    "image": (((3,),), (np.floating, np.uint8)),
    "label": (((),), (np.floating, np.integer)),
    "depth": (((1,), ()), (np.floating,)),
    "normal": (((3,),), (np.floating,)),
}
FARTHEST_M = 100  # the sensor sees about 10 m; float millimetres begin above this
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class Options(Section):
    source: Literal["mtan", "mat"]
    root: Folder
    normals: Literal["published", "derived"]
    depth: Literal["raw", "filled"]
    crop: Literal["toolbox", "border16"]

    @model_validator(mode="after")
    def the_mat_has_no_normals(self):
        if (self.source, self.normals) == ("mat", "published"):
            raise ValueError("`normals` is 'published' but with `source: mat` there are none in the files; set "
                             "`normals: derived`, which fits them to the depth")
        return self


def described(options):
    """What stands behind the name above a table."""
    made = (f", from its authors' .mat files ({options['depth']} depth, window {options['crop']}), not MTAN's arrays, "
            "the paper's" if options["source"] == "mat" else "")
    return made + ("; normals fitted to the depth, not the published ones, so the paper's normal columns are not shown"
                   if options["normals"] == "derived" else "")


def comparable(options):
    """Tasks whose printed numbers may stand beside ours: fitted normals are others."""
    return TASKS if options["normals"] == "published" else TASKS[:2]


def classes(options: dict) -> tuple:
    return CLASSES


def check(options: dict, counts: dict) -> None:
    """Raise UserError unless the images that `counts`, {"train": int or None, ...}, asks for can be read.

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
        raise UserError(f"protocols.<name>.data.{split} asks for {count} images but {place} holds {total}: set "
                      f"a number from 1 to {total}")
    return [f"{split}/{i * total // count}" for i in range(count)]


def read(split: str, name: str, size: tuple, options: dict) -> dict:
    """One sample, all arrays C-ordered at `size` = (H, W).

    image (H, W, 3) float32 in [0, 1]; label (H, W) int8, class 0..12, -1 void; depth (H, W) float32, metres,
    0 invalid; normal (H, W, 3) float32, MTAN's as stored (unit only up to its resampling), (0, 0, 0) invalid.
    """
    size, mat = tuple(size), options["source"] == "mat"
    stored = nyuv2_mat.size(options) if mat else _stored_size(split, name, options)
    place = f"the window `crop: {options['crop']}`" if mat else _path(split, "image", name, options)
    files.check_ratio(place, stored, size)
    sample = (nyuv2_mat.read(split, name, options) if mat else
              {kind: _values(kind, _path(split, kind, name, options)) for kind in FORMS})
    return {kind: files.resized(kind, array, size) for kind, array in sample.items()}


def _folder(split, options):
    return os.path.join(os.path.expanduser(options["root"]), FOLDERS[split])


def _path(split, kind, name, options):
    return os.path.join(_folder(split, options), kind, f"{name.removeprefix(f'{split}/')}.npy")


def _count(split, options):
    """N of a split, after making sure that each of its four folders holds exactly 0.npy .. (N-1).npy."""
    root = options["root"]
    if not root or not os.path.isdir(os.path.expanduser(root)):
        raise UserError(f"datasets.nyuv2.root is {root!r}, which is not a folder: set it to MTAN's unpacked "
                      "NYUv2, which holds train/ and val/, or to the original .mat files with `source: mat`, or set "
                      "`data: scenes`, which needs no files")
    return files.numbered(_folder(split, options), FORMS)


def _stored_size(split, name, options):
    """(H, W) that the headers of one image's four files agree on."""
    return files.one_size({(path := _path(split, kind, name, options)): _header(kind, path) for kind in FORMS})


def _header(kind, path):
    """(H, W) of a .npy file whose dtype, shape and length are right for `kind`; the values stay unread."""
    try:
        with open(path, "rb") as file:
            shape, _, dtype = HEADERS[np.lib.format.read_magic(file)](file)
            start, length = file.tell(), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): copy it again or permit reading") from None
    except Exception:  # numpy's parser meets damaged headers with ValueError, TokenError, KeyError and more
        raise UserError(f"{path} is not a .npy file or its header is damaged: copy it again") from None
    shapes, dtypes = FORMS[kind]
    if dtype.hasobject:
        raise UserError(f"{path} holds pickled Python objects, refused because loading them can run code: "
                      "save it again as a plain float array")
    if not any(np.issubdtype(dtype, allowed) for allowed in dtypes):
        expected = " or ".join(allowed.__name__ for allowed in dtypes)
        raise UserError(f"{path} has dtype {dtype}, expected {expected} for {kind}: save it again as such")
    if len(shape) < 2 or shape[2:] not in shapes or min(shape) < 1:
        expected = " or ".join(f"({', '.join(['H', 'W', *map(str, rest)])})" for rest in shapes)
        raise UserError(f"{path} has shape {shape}, expected {expected} for {kind}: save it again like that")
    needed = start + math.prod(shape) * dtype.itemsize
    if length < needed:
        raise UserError(f"{path} is truncated ({length} bytes where its header says {needed}): copy it again")
    return shape[:2]


def _values(kind, path):
    """One array, its values checked, in the dtype of the sample and C order."""
    array = files.load(kind, path, len(CLASSES))
    if kind == "depth":
        files.refuse(path, array, ~((array >= 0) & (array < FARTHEST_M)),
                     f"depth is in metres, 0..{FARTHEST_M}: divide millimetres by 1000, mark invalid pixels with 0")
    if kind == "normal":
        files.refuse(path, array, ~(np.abs(array) <= 1 + files.SLACK),
                     "normals have components in [-1, 1]: save unit vectors (n / 127.5 - 1 of colours), and (0, 0, 0) "
                     "where invalid")
    return array
