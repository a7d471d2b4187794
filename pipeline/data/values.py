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


def check(samples, manifest):
    """samples: what the reader gave of some images; manifest: that of `prepare`, as it is before the work."""
    given = {kind: [sound(sample, kind, manifest) for sample in samples] for kind in manifest["stored"]}
    image(given["image"], manifest)
    for kind, own in tasks.of_kinds(manifest["stored"]).items():
        of_task(own, given[kind], manifest)
        for array in given[kind]:
            storable(own, array, manifest)


def check_stored(folder, manifest):
    """What takes all images to be seen, before the manifest says that they are there: labels that are no classes, and
    classes that never occur in either split."""
    for kind, own in tasks.of_kinds(manifest["stored"]).items():
        if np.dtype(manifest["stored"][kind]).kind in "iu":
            of_task(own, [one for split in manifest["ids"] for one in np.load(
                f"{folder}/{split}/{kind}.npy", mmap_mode="r")], manifest)


def of_task(own, given, manifest):
    """What the task's file says of its targets, an array an image; `check` has what `prepare` wrote likewise."""
    try:
        for doubt in tasks.load(own.name).check(given, manifest) or ():
            print(f"warning: `{own.target}` of `data: {manifest['data']}`: {doubt}", file=sys.stderr)
    except ValueError as mistake:
        raise refused(own.target, manifest, mistake) from None


def refused(kind, manifest, why):
    return UserError(f"`{kind}` of `data: {manifest['data']}`: {why}")


def sound(sample, kind, manifest):
    """One array of a sample, of the right shape and finite."""
    reader, wanted = f"pipeline/data/{manifest['data']}.py", data.shape(kind, manifest["size"])
    if kind not in sample:
        raise refused(kind, manifest, f"`read` of {reader} gives {', '.join(sample)}; let it give {kind}, or take it "
                      "out of KINDS")
    array = np.asarray(sample[kind])
    if array.shape != wanted:
        raise refused(kind, manifest, f"`read` of {reader} gives the shape {array.shape}, expected {wanted}"
                      f"{swapped(array.shape[:2], wanted[:2])}; give that")
    if not np.isfinite(array).all():
        raise refused(kind, manifest, f"{np.count_nonzero(~np.isfinite(array))} values are not finite; put "
                      f"{'-1' if np.dtype(manifest['stored'][kind]).kind in 'iu' else '0'} where there is none")
    return array


def image(given, manifest):
    least, most = (float(of(list(map(of, given)))) for of in (np.min, np.max))
    if least < -SLACK or most > 1 + SLACK:
        raise refused("image", manifest, f"values are {least:.4g}..{most:.4g}, expected 0..1"
                      + ("; they look like 0..255: divide by 255" if 0 <= least and most <= 255 else ""))
    if most < 1.5 / 255:
        raise refused("image", manifest, f"no value is above {most:.4g}: they look like floats in 0..1 that were saved "
                      "as whole numbers; save floats, or multiply by 255 before")
    if most < DARK:
        print(f"warning: `image` of `data: {manifest['data']}`: no value is above {most:.4g} of 1", file=sys.stderr)


def storable(own, array, manifest):
    """Refuse what the stored type turns into something else: a class into another, a small number into 0, which says
    that there is none, a large one into infinity."""
    kind, kept = own.target, np.dtype(manifest["stored"][own.target])
    with np.errstate(over="ignore", invalid="ignore"):
        stored = array.astype(kept)
    if kept.kind in "iu":
        changed, what = stored != array, "another number"
    elif np.isinf(stored).any():
        changed, what = np.isinf(stored), "infinite"
    else:
        behind = tuple(range(array.ndim - len(own.behind), array.ndim))
        changed, what = (array != 0).any(behind) & ~(stored != 0).any(behind), "0 (none)"
    if changed.any():
        raise refused(kind, manifest, f"{np.mean(changed):.2%} of the values become {what} in {kept}, in which KINDS "
                      f"of pipeline/data/{manifest['data']}.py stores them; name a wider type there, or scale them")
