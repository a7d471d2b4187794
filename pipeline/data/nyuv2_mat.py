"""NYUv2 from its authors' own files, all in one folder: what MTAN's arrays were made from.

    ROOT/nyu_depth_v2_labeled.mat   MATLAB v7.3, which is HDF5 with the axes reversed: images uint8, labels 0..894,
                                    depths (in-painted) and rawDepths (holes 0) in metres, 1449 frames of 480 x 640
    ROOT/splits.mat                 MATLAB v5: trainNdxs (795) and testNdxs (654), frames counted from 1
    ROOT/classMapping40.mat         MATLAB v5: mapClass, the 40-class id of classes 1..894

Frames, split, window and camera: Silberman et al. 2012 with their toolbox; 40 classes: Gupta et al. 2013; 13 classes:
Couprie et al. 2013. h5py and scipy are the extra `mat`, imported when needed. `nyuv2` resizes what this file reads.
"""

import contextlib
import os

import numpy as np

from pipeline.data.files import package
from pipeline.runtime.errors import UserError

FRAMES, HEIGHT, WIDTH, IDS = 1449, 480, 640, 894
COUNTS = {"train": 795, "test": 654}
LABELED, SPLITS, CLASSES40 = "nyu_depth_v2_labeled.mat", "splits.mat", "classMapping40.mat"
ORIGINS = {LABELED: "the labeled dataset on the page of NYU Depth Dataset V2 (Silberman, NYU)",
           SPLITS: "the train/test split of Silberman et al. 2012, on the page of Indoor Segmentation and Support "
                   "Inference (Silberman, NYU)",
           CLASSES40: "part of Gupta et al. 2013's code and of ankurhanda's nyuv2-meta-data on GitHub"}
DEPTHS = {"raw": "rawDepths", "filled": "depths"}
# Rows and columns kept, from 0: the toolbox's 45:471, 41:601, inside which the depth was projected, and 16 pixels less
# a side. Which of them MTAN took is not known; both cut off the white frame of about 8 pixels.
WINDOWS = {"toolbox": np.s_[44:471, 40:601], "border16": np.s_[16:464, 16:624]}
# The 13-class id less 1 of the 40-class ids 0 (void), 1..40.
CLASS13 = np.array([
    0, 12, 5, 6, 1, 4, 9, 10, 12, 13, 6, 8, 6, 13, 10, 6, 13, 6, 7, 7, 5, 7, 3, 2, 6, 11, 7, 7, 7, 7, 7,
    7, 6, 7, 7, 7, 7, 7, 7, 6, 7], np.int8) - np.int8(1)
FOCAL_PX = 519.46961, 518.85790      # rows, columns; the colour camera, to which the depth was projected
CENTRE_PX = 252.73617, 324.58245     # from 0; the toolbox counts from 1

# The plane fit: a window of 13 x 13 pixels, every other one, those within 5 % of the middle's depth, 16 of 49 at least.
REACH, STEP, SAME, ENOUGH = 6, 2, 0.05, 16
NEEDED = "nyuv2.source: mat", "source: mtan"       # what needs the extra packages, what does without
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


def check(options: dict) -> None:
    """Raise UserError unless the packages, the files, their variables, the splits and the class map are right.

    The frames' values stay unread; `read` refuses labels above 894 and depths that are no depths.
    """
    with _labeled(options) as (path, file):
        h5py = package("h5py", *NEEDED)
        for variable, (channels, kind) in {"images": ((3,), np.uint8), "labels": ((), np.integer),
                                           DEPTHS[options["depth"]]: ((), np.floating)}.items():
            stored, expected = file.get(variable), (FRAMES, *channels, WIDTH, HEIGHT)
            if not isinstance(stored, h5py.Dataset):
                raise UserError(f"{path} has no variable {variable} (it has {', '.join(sorted(file)) or 'none'}): "
                              f"{_again(LABELED)}")
            if stored.shape != expected:
                raise UserError(f"{path}: {variable} has shape {stored.shape}, expected {expected} (HDF5 order, "
                              f"MATLAB's reversed): {_again(LABELED)}")
            if not np.issubdtype(stored.dtype, kind):
                raise UserError(f"{path}: {variable} has dtype {stored.dtype}, expected {kind.__name__}: "
                              f"{_again(LABELED)}")
    _class13(options)
    frames = np.concatenate([_frames(split, options) for split in COUNTS])
    found, times = np.unique(frames, return_counts=True)
    if times.max() > 1:
        raise UserError(f"{path_of(SPLITS, options)} has frame {found[times.argmax()]} more than once in trainNdxs and "
                      f"testNdxs, which must not overlap: {_again(SPLITS)}")


def count(split: str, options: dict) -> int:
    """Number of frames of a split."""
    return len(_frames(split, options))


def size(options: dict) -> tuple:
    """(H, W) of what `read` gives: the frame within `crop`."""
    return tuple(cut.stop - cut.start for cut in WINDOWS[options["crop"]])


def path_of(file: str, options: dict) -> str:
    return os.path.join(os.path.expanduser(options["root"]), file)


def read(split: str, name: str, options: dict) -> dict:
    """The frame "<split>/i", i-th of its split, within the window `crop`; not resized.

    image (H, W, 3) float32 in [0, 1]; label (H, W) int8, class 0..12, -1 void; depth (H, W) float32, metres,
    0 invalid; normal (H, W, 3) float32 unit vectors fitted to the depth, (0, 0, 0) invalid.
    """
    frame, class13 = _frames(split, options)[int(name.removeprefix(f"{split}/"))] - 1, _class13(options)
    variable = DEPTHS[options["depth"]]
    with _labeled(options) as (path, file):
        image, label, depth = (file[of][frame].T for of in ("images", "labels", variable))
    depth = depth.astype(np.float32)
    _refuse(path, "labels", frame, label, (label < 0) | (label > IDS), f"classes are 0..{IDS}")
    _refuse(path, variable, frame, depth, ~((depth >= 0) & np.isfinite(depth)),
            "depth is in metres and finite, 0 where there is none")
    sample = {"image": image / np.float32(255), "label": class13[label], "depth": depth, "normal": planes(depth)}
    return {kind: np.ascontiguousarray(array[WINDOWS[options["crop"]]]) for kind, array in sample.items()}


def planes(depth):
    """Unit normals (H, W, 3) float32 towards the camera, fitted to a frame's depth (H, W) in metres; zeros where there
    is no depth or less than a third of the window lies on one surface.

    Along the rays (x, y, 1) of a plane 1 / depth = a x + b y + c, with (a, b, c) along its normal: linear least
    squares, in the unit in which the sensor's noise is even.
    """
    inverse = np.divide(1, depth, out=np.zeros_like(depth, np.float32), where=depth > 0)
    around = np.lib.stride_tricks.sliding_window_view(np.pad(inverse, REACH), (2 * REACH + 1,) * 2)
    change = around[..., ::STEP, ::STEP].reshape(*depth.shape, -1) - inverse[..., None]
    same = (np.abs(change) < SAME * inverse[..., None]).astype(np.float32)      # without depth: nothing is the same
    v, u = np.mgrid[-REACH:REACH + 1:STEP, -REACH:REACH + 1:STEP].reshape(2, -1).astype(np.float32)
    linear = np.stack([np.ones_like(u), u, v], axis=1)
    square = np.stack([u * u, u * v, v * v], axis=1)
    n, su, sv = np.moveaxis(same @ linear, -1, 0)
    suu, suv, svv = np.moveaxis(same @ square, -1, 0)
    sw, suw, svw = np.moveaxis((same * change) @ linear, -1, 0)
    good = n >= ENOUGH
    n = np.where(good, n, 1)
    cuu, cuv, cvv = n * suu - su * su, n * suv - su * sv, n * svv - sv * sv
    cuw, cvw = n * suw - su * sw, n * svw - sv * sw
    determinant = np.where(good, cuu * cvv - cuv * cuv, 1)
    per_column, per_row = (cvv * cuw - cuv * cvw) / determinant, (cuu * cvw - cuv * cuw) / determinant
    row, column = np.ogrid[:depth.shape[0], :depth.shape[1]]
    level = inverse + (sw - per_column * su - per_row * sv) / n
    level -= per_column * (column - CENTRE_PX[1]) + per_row * (row - CENTRE_PX[0])
    normal = -np.stack([per_column * FOCAL_PX[1], per_row * FOCAL_PX[0], level], axis=-1)
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), np.float32(1e-12))
    return np.where(good[..., None], normal, np.float32(0))


def _again(file):
    return f"take the original again, {ORIGINS[file]}"


def _open(file, expected, options):
    """The path of a file of the MATLAB version `expected`, by its first bytes."""
    path = path_of(file, options)
    try:
        with open(path, "rb") as stream:
            head = stream.read(520)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): datasets.nyuv2.root, {options['root']!r}, must "
                      f"hold {file} with `source: mat`; it is {ORIGINS[file]}") from None
    hdf5 = HDF5_MAGIC in (head[:8], head[512:])
    found = "v7.3" if hdf5 else "v5" if head.startswith(b"MATLAB 5.0 MAT-file") else None
    if found != expected:
        flag = {"v7.3": "-v7.3", "v5": "-v7"}[expected]        # -v7 is v5, compressed
        raise UserError(f"{path} is {f'MATLAB {found}' if found else 'no .mat file'}, expected MATLAB {expected}: "
                      f"{_again(file)}" + (f", or save it in MATLAB with {flag}" if found else ""))
    return path


@contextlib.contextmanager
def _labeled(options):
    """(path, h5py.File) of the labeled frames; what HDF5 refuses to read is a UserError."""
    h5py, path = package("h5py", *NEEDED), _open(LABELED, "v7.3", options)
    try:
        with h5py.File(path) as file:
            yield path, file
    except (OSError, RuntimeError) as mistake:
        raise UserError(f"{path} is damaged or cut short ({' '.join(str(mistake).split())}): "
                        f"{_again(LABELED)}") from None


def _whole(file, variable, length, low, high, options):
    """A vector of `length` whole numbers low..high, int64, from a v5 file."""
    scipy, path = package("scipy.io", *NEEDED), _open(file, "v5", options)
    try:
        array = scipy.loadmat(path, variable_names=[variable]).get(variable)
        known = ", ".join(sorted(name for name, *_ in scipy.whosmat(path)))
    except Exception as mistake:  # scipy meets damaged files with ValueError, TypeError, zlib.error and its own
        raise UserError(f"{path} is damaged ({' '.join(str(mistake).split())}): {_again(file)}") from None
    if array is None:
        raise UserError(f"{path} has no variable {variable} (it has {known or 'none'}): {_again(file)}")
    if array.size != length or array.dtype.kind not in "iuf":
        raise UserError(f"{path}: {variable} has {array.size} values of {array.dtype}, expected {length} whole "
                      f"numbers: {_again(file)}")
    array = array.ravel().astype(np.float64)
    bad = ~((array >= low) & (array <= high) & (array == np.rint(array)))
    if bad.any():
        raise UserError(f"{path}: {variable} holds {array[bad.argmax()]:.9g} at place {bad.argmax() + 1}, expected "
                      f"whole numbers {low}..{high}: {_again(file)}")
    return array.astype(np.int64)


def _frames(split, options):
    return _whole(SPLITS, f"{split}Ndxs", COUNTS[split], 1, FRAMES, options)


def _class13(options):
    """int8 (895,): class 0..12 or -1 of every id 0..894."""
    return CLASS13[np.concatenate([[0], _whole(CLASSES40, "mapClass", IDS, 0, 40, options)])]


def _refuse(path, variable, frame, array, bad, rule):
    if bad.any():
        row, column = np.unravel_index(bad.argmax(), bad.shape)
        raise UserError(f"{path}: {variable}({row + 1}, {column + 1}, {frame + 1}) is {array[row, column]:.9g}, but "
                      f"{rule}: {_again(LABELED)}")
