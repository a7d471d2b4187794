"""Whether arrays are what they say: a sample of a data set, as its reader gives it, is looked at before any work.

What cannot be right is a `UserError` that says what it looks like; what may be is one line of warning. What is right of
a target is said by its task's file, in `check`; here is what holds for images, shapes and the type that is stored.
"""

import sys

import numpy as np

from pipeline import data, tasks
from pipeline.data.files import SLACK, swapped
from pipeline.runtime.errors import UserError

DECIDES_NUMBERS = False
SAMPLE = 8                       # images of a split, evenly spread
DARK = 0.1                       # an image has something brighter


def spread(names):
    """Positions of the images that are looked at."""
    count = min(SAMPLE, len(names))
    return [i * len(names) // count for i in range(count)]


def check(samples, split, manifest):
    """samples: what the reader gave of some images of a split; manifest: `prepare`'s, as it is before the work."""
    for kind in manifest["stored"]:
        told(kind, split, manifest, looked_at(samples, kind, manifest))


def check_stored(folder, manifest):
    """What takes all images to be seen, before the manifest says that they are there: labels that are no classes, and
    classes that never occur in either split."""
    for kind, own in tasks.of_kinds(manifest["stored"]).items():
        if np.dtype(manifest["stored"][kind]).kind in "iu":
            stored = [one for split in manifest["ids"]
                      for one in np.load(f"{folder}/{split}/{kind}.npy", mmap_mode="r")]
            told(kind, " and ".join(manifest["ids"]), manifest, tasks.load(own.name).check(stored, manifest) or ())


def told(kind, split, manifest, doubts):
    """Print what may be right; `UserError` for the ValueError of what cannot be."""
    where = f"`{kind}` of `data: {manifest['data']}` ({split})"
    try:
        for doubt in doubts:
            print(f"warning: {where}: {doubt}", file=sys.stderr)
    except ValueError as mistake:
        raise UserError(f"{where}: {mistake}") from None


def looked_at(samples, kind, manifest):
    """What `told` takes, of one kind of array."""
    given = [sound(sample, kind, manifest) for sample in samples]
    if kind == "image":
        yield from image(given)
        return
    own = tasks.of_kinds([kind])[kind]
    yield from tasks.load(own.name).check(given, manifest) or ()
    for array in given:
        storable(array, own.behind, manifest["data"], np.dtype(manifest["stored"][kind]))


def sound(sample, kind, manifest):
    """One array of a sample, of the right shape and finite."""
    reader, wanted = f"pipeline/data/{manifest['data']}.py", data.shape(kind, manifest["size"])
    if kind not in sample:
        raise ValueError(f"`read` of {reader} gives {', '.join(sample)}; let it give {kind}, or take that out of KINDS")
    array = np.asarray(sample[kind])
    if array.shape != wanted:
        raise ValueError(f"`read` of {reader} gives the shape {array.shape}, expected {wanted}"
                         f"{swapped(array.shape[:2], wanted[:2])}; give that")
    if bad := np.count_nonzero(~np.isfinite(array)):
        raise ValueError(f"{bad} values are not finite; put "
                         f"{'-1' if np.dtype(manifest['stored'][kind]).kind in 'iu' else '0'} where there is none")
    return array


def image(given):
    least, most = (float(of(list(map(of, given)))) for of in (np.min, np.max))
    if least < -SLACK or most > 1 + SLACK:
        raise ValueError(f"values are {least:.4g}..{most:.4g}, expected 0..1"
                         + ("; they look like 0..255: divide by 255" if 0 <= least and most <= 255 else ""))
    if most == 0:
        raise ValueError(f"every value is 0 in all of {len(given)} images")
    if most < 1.5 / 255:
        raise ValueError(f"no value is above {most:.4g}: they look like floats in 0..1 that were saved as whole numbers"
                         "; save floats, or multiply by 255 before")
    if most < DARK:
        yield f"no value is above {most:.4g} of 1"


def storable(array, behind, name, kept):
    """Refuse what the stored type turns into something else: a class into another, a small number into 0, which says
    that there is none, a large one into infinity. behind: sizes of the axes behind (H, W)."""
    with np.errstate(over="ignore", invalid="ignore"):
        stored = array.astype(kept)
    axes = tuple(range(array.ndim - len(behind), array.ndim))
    if kept.kind in "iu":
        changed, what = stored != array, "another number"
    elif np.isinf(stored).any():
        changed, what = np.isinf(stored), "infinite"
    else:
        changed, what = (array != 0).any(axes) & ~(stored != 0).any(axes), "0 (none)"
    if changed.any():
        raise ValueError(f"{np.mean(changed):.2%} of the values become {what} in {kept}, in which KINDS of "
                         f"pipeline/data/{name}.py stores them; name a wider type there, or scale them")
