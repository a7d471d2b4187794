"""What the rest of the pipeline sees of a data set: compact arrays that `prepare` wrote, and a manifest.

A reader (one file each: scenes, nyuv2, streets, cityscapes; glyphs, svhn_omniglot as pair.py says) gives
`KINDS`, {kind: numpy type}, `classes(options)`, `ids(split, count, options)` and `read(split, name, size, options)` ->
one sample, some of

    image   (H, W, 3) float32 in [0, 1]        label  (H, W) int8, -1 void
    depth   (H, W) float32, 0 invalid          normal (H, W, 3) float32 unit vectors, zeros invalid
            metres, or inverse depth                  x right, y down, z forward
    digits, characters   a class, -1 where the image has no such label
    any other            what a file of `pipeline.tasks` has as its TARGET

and may have `INVERSE_DEPTH`, True where depth is that, `check(options, counts)`, which raises `UserError` before any
work, and `moments(options)`. Whole numbers are classes, others are measures. `values` looks at some images before
`prepare` writes any, and a task's file says what its targets may be.

`prepare` stores them as `out/<suite>/data/{train,test}/<kind>.npy`; float16 costs half a per mille of a depth and 0.03
degrees of a normal, inverse depth stays float32. Nothing downstream reads the raw files. `split` has them on a device.
"""

import hashlib
import json
import pathlib

import numpy as np

from pipeline import tasks
from pipeline.runtime import documents
from pipeline.runtime.errors import UserError
from pipeline.runtime.row import of_suite, read, redo

MANIFEST = {"data": str, "options": dict, "size": list, "classes": dict, "stored": dict, "inverse_depth": bool,
            "moments": dict, "ids": {"train": list, "test": list}, "domains": dict, "sha256": dict}
KINDS = {"image": np.uint8, "label": np.int8, "depth": np.float16, "normal": np.float16}       # of rooms


def shape(kind, size):
    """Shape of one image's `kind`, `image` or a task's target, as stored; size (H, W)."""
    if kind == "image":
        return (*size, 3)
    own = tasks.of_kinds([kind])[kind]
    return () if own.flat else (*size, *own.behind)


def load_manifest(folder):
    """The manifest of prepared data, in out/<suite>/data. `UserError` when `prepare` has not run, or wrote another."""
    path = pathlib.Path(folder) / "manifest.json"
    try:
        return documents.read(path, lambda: redo(folder, stage(folder)), MANIFEST)
    except documents.Missing:
        raise UserError(f"{path} is not there; run `dvc repro {stage(folder)}`") from None


def hold_to(row):
    """`UserError` unless a row's data are there, prepared as the row asks."""
    wanted, manifest = row["data"], load_manifest(row["data"]["folder"])
    asked = {"data": wanted["reader"], "options": wanted["options"], "size": [wanted["height"], wanted["width"]]}
    for key, value in asked.items():
        if manifest[key] != value:
            raise UserError(f"{wanted['folder']} was prepared with the {key} {manifest[key]}, but the row asks for "
                            f"{value}; run `dvc repro {stage(wanted['folder'])}`")


def stage(folder):
    """The stage that prepares a folder out/<suite>/data, as DVC takes it."""
    suite = pathlib.Path(folder).parent.name
    return of_suite(suite, "hold-out" if "held_out" in read("prepare", suite, "data") else "prepare")


def fingerprint(manifest):
    """Hex digest of everything the manifest says: arrays' checksums, ids, size."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def open_arrays(folder, manifest, split, kinds):
    """{kind: memory map} of a split's prepared arrays; `UserError` unless each is the one that `prepare` wrote."""
    found = {}
    for kind in kinds:
        path = pathlib.Path(folder) / split / f"{kind}.npy"
        documents.check(path, manifest["sha256"].get(f"{split}/{kind}.npy"), lambda: redo(folder, stage(folder)))
        # copy-on-write, because torch wants writable memory; nothing is ever written
        found[kind] = np.load(path, mmap_mode="c")
    return found
