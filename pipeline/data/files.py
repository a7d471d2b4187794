"""What the readers of files share: MTAN's numbered arrays, a sentence for what is wrong with them, another size.

MTAN's arrays lie in FOLDER/{image,label,depth,...}/{i}.npy, i = 0 .. N-1, not zero-padded (Liu et al. 2019,
arXiv:1803.10704).
"""

import importlib
import os
import re

import numpy as np

from pipeline.runtime.errors import UserError
from pipeline.tasks.labels import likeness

SLACK = 1e-3             # float16 and earlier resampling may overshoot the ends of a range by this much
ASPECT_TOLERANCE = 1.02  # room for rounding to whole pixels; beyond it objects are squeezed, normals wrong


def package(name, setting, instead):
    """A package of the extra `mat`, which only the option `datasets.SETTING` needs; `instead` does without."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"`datasets.{setting}` needs {name.partition('.')[0]}, which is not installed: run "
                      f"`.venv/bin/pip install -e '.[mat]'`, or set `{instead}`") from None


def listed(folder):
    """Sorted names of what a folder holds."""
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be listed ({error.strerror}): unpack the data set there again, or "
                      "mend its section in `datasets`") from None


def numbered(parent, kinds):
    """N, after making sure that the folder PARENT/KIND of every kind holds exactly 0.npy .. (N-1).npy."""
    totals = {}
    for kind in kinds:
        folder = os.path.join(parent, kind)
        matches = [re.fullmatch(r"(0|[1-9][0-9]*)\.npy", entry) for entry in listed(folder)]
        numbers = {int(match[1]) for match in matches if match}
        if not numbers:
            raise UserError(f"the folder {folder} holds no files 0.npy, 1.npy, ... (without zero padding): unpack "
                          "MTAN's arrays there again")
        if max(numbers) >= len(numbers):
            missing = min(set(range(len(numbers))) - numbers)
            raise UserError(f"{folder}/{missing}.npy is missing although the numbers go up to {max(numbers)}: copy it "
                          "again, or renumber the files of all kinds from 0 without a hole")
        totals[kind] = len(numbers)
    if len(set(totals.values())) > 1:
        found = ", ".join(f"{kind} {total}" for kind, total in totals.items())
        raise UserError(f"the folders in {parent} hold unequal numbers of files ({found}): copy the missing ones "
                      "again, every image needs a file of each kind")
    return len(numbers)


def swapped(found, wanted):
    """A word more where a (height, width) that is not the one wanted is so the other way round."""
    return "; height and width look swapped" if tuple(found) == tuple(wanted)[::-1] != tuple(found)[::-1] else ""


def one_size(sizes):
    """The (H, W) on which the files of one image agree; `sizes`: {path: (H, W)}, the image's first."""
    (image, (height, width)), *others = sizes.items()
    for path, size in others:
        if size != (height, width):
            raise UserError(f"{path} is {size[0]} x {size[1]} but {image} is {height} x {width}"
                            f"{swapped(size, (height, width))}: replace the wrong file, the files of one image share "
                            "one size")
    return height, width


def check_ratio(place, stored, size):
    """Refuse a size (H, W) in which what is stored at `place` in another would be squeezed."""
    aspects = size[1] * stored[0], size[0] * stored[1]
    if max(aspects) > ASPECT_TOLERANCE * min(aspects):
        turned = size[0] * stored[0], size[1] * stored[1]
        turned = "; height and width look swapped" if max(turned) <= ASPECT_TOLERANCE * min(turned) else ""
        raise UserError(f"{place} is {stored[0]} x {stored[1]} (height x width) but protocols.<name>.data asks "
                      f"for {size[0]} x {size[1]}{turned}: choose a `height` and `width` whose ratio is the stored one "
                      f"within {ASPECT_TOLERANCE - 1:.0%}")


def load(kind, path, classes):
    """One of MTAN's arrays in C order and the dtype of a sample, its header already checked.

    image (H, W, 3) float32 in [0, 1]; label (H, W) int8, 0 .. classes - 1, -1 void; depth (H, W) and others float32 as
    stored, their values for the reader to check.
    """
    stored = np.load(path, allow_pickle=False)
    if kind == "label":
        array = np.asarray(stored, np.float64, order="C")  # keeps fractions and huge integers visible
        good = (array >= -1) & (array < classes) & (array == np.rint(array))
        if not good.all():
            refuse(path, array, ~good, f"labels are 0..{classes - 1}, or -1 for void: "
                   f"{likeness(set(np.unique(array).tolist()), classes)}")
        return array.astype(np.int8)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes inf, which is refused
        array = np.asarray(stored, np.float32, order="C")
    if kind == "image" and stored.dtype == np.uint8:
        return array / np.float32(255)
    if kind == "image":
        refuse(path, array, ~((array >= -SLACK) & (array <= 1 + SLACK)),
               "float images are in [0, 1]: divide by 255, or save them as uint8 in 0..255")
        return array.clip(0, 1)
    return array.reshape(array.shape[:2]) if kind == "depth" else array


def refuse(path, array, bad, rule):
    """Name the first value of `array` where `bad` is true, its place and the rule that it breaks."""
    if bad.any():
        where = tuple(int(i) for i in np.unravel_index(bad.argmax(), bad.shape))
        raise UserError(f"{path} holds {array[where]:.9g} at {where}, but {rule}")


def resized(kind, array, size, image="bilinear"):
    """One array of a sample at size (H, W): an image bilinear over all stored pixels or nearest, any other nearest."""
    if array.shape[:2] == size:
        return array
    return (bilinear if (kind, image) == ("image", "bilinear") else nearest)(array, size)


# Both resizers centre output pixel i at (i + 1/2) * stored / size, in stored pixels from the border.
def bilinear(array, size):
    """(h, w, C) -> (H, W, C) in [0, 1]; the triangle widens when shrinking, so every stored pixel counts."""
    import torch  # late, because `check` and `ids` of the readers do without

    planes = torch.from_numpy(array).permute(2, 0, 1)[None]
    planes = torch.nn.functional.interpolate(planes, size, mode="bilinear", antialias=True)
    return planes[0].permute(1, 2, 0).clamp(0, 1).contiguous().numpy()


def nearest(array, size):
    """(h, w, ...) -> (H, W, ...): the stored pixel under each centre, in integers; ties go right and down."""
    rows = (2 * np.arange(size[0]) + 1) * array.shape[0] // (2 * size[0])
    columns = (2 * np.arange(size[1]) + 1) * array.shape[1] // (2 * size[1])
    return array[rows[:, None], columns]
