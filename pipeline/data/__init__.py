"""What the rest of the pipeline sees of a data set: compact arrays that `prepare` wrote, and a manifest.

A reader (one file each: scenes, nyuv2, streets, cityscapes; glyphs, svhn_omniglot as pair.py says) gives
`KINDS`, {kind: numpy type}, `classes(options)`, `ids(split, count, options)` and `read(split, name, size, options)` ->
one sample, some of

    image   (H, W, 3) float32 in [0, 1]        label  (H, W) int8, -1 void
    depth   (H, W) float32, 0 invalid          normal (H, W, 3) float32 unit vectors, zeros invalid
            metres, or inverse depth                  x right, y down, z forward
    digits, characters   a class, -1 where the image has no such label

`prepare` stores them as `out/<suite>/data/{train,test}/<kind>.npy`; float16 costs half a per mille of a depth and 0.03
degrees of a normal, inverse depth stays float32. Nothing downstream reads the raw files.
"""

import hashlib
import importlib
import json
import pathlib

import numpy as np
import torch

from pipeline.runtime.errors import UserError
from pipeline.runtime.prefetch import Prefetch, positions, rows

KINDS = {"image": np.uint8, "label": np.int8, "depth": np.float16, "normal": np.float16}       # of rooms
TARGETS = ("label", "depth", "normal", "digits", "characters")
BEHIND = {"image": (3,), "normal": (3,)}          # axes behind (H, W)
FLAT = ("digits", "characters")                   # a number an image


def reader(name):
    return importlib.import_module(f"pipeline.data.{name}")


def folder(suite):
    return pathlib.Path(f"out/{suite}/data")


def shape(kind, size):
    """Shape of one image's `kind`."""
    return () if kind in FLAT else (*size, *BEHIND.get(kind, ()))


def load_manifest(suite):
    """The prepared data's manifest. `UserError` when `prepare` has not run."""
    path = folder(suite) / "manifest.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} is not there; run `dvc repro prepare-{suite}`") from None
    except ValueError as mistake:
        raise UserError(f"{path} is damaged ({mistake}); run `dvc repro --force prepare-{suite}`") from None


def fingerprint(manifest):
    """Hex digest of everything the manifest says: arrays' checksums, ids, size."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


class Split:
    """One split on the device: `split.batch(index)` -> (image, targets) for a list of positions.

    image (B, 3, H, W) float32, channels last, in [0, 1], or normalised by its domain's moments; targets, those there
    are: label (B, H, W) int64, depth (B, 1, H, W) float32, normal (B, 3, H, W) float32, digits and characters (B,)
    int64. `ids` are the images' names, in the arrays' order; `classes` {task: names}; `domains` {task: range of
    positions} where each image is labelled for one task only, else empty; `inverse_depth`: depth is that. What does
    not fit in half of a GPU's free memory stays on the host; `prefetch(index)` then sends the next batch ahead.
    """

    def __init__(self, suite, name, device):
        manifest, place = load_manifest(suite), folder(suite) / name
        self.ids, self.classes, self.size = manifest["ids"][name], manifest["classes"], manifest["size"]
        self.domains = {task: range(*ends) for task, ends in manifest["domains"].get(name, {}).items()}
        self.inverse_depth, self.device = manifest["inverse_depth"], device
        kinds = ["image", *(kind for kind in TARGETS if kind in manifest["stored"])]
        arrays = {kind: open_array(place / f"{kind}.npy", (len(self.ids), *shape(kind, self.size)),
                                   manifest["stored"][kind], suite) for kind in kinds}
        # CUDA takes a copy once; a CPU reads the memory map, so that only touched pages cost memory.
        needed = sum(array.nbytes for array in arrays.values())
        self.resident = device.type == "cpu" or needed < 0.5 * torch.cuda.mem_get_info(device)[0]
        self.arrays = {kind: torch.from_numpy(array).to(device if self.resident else "cpu")
                       for kind, array in arrays.items()}
        self.ahead = Prefetch(lambda key, room: [rows(array, key, room, kind) for kind, array in self.arrays.items()],
                           device)
        # (domains, mean and deviation, channels) of a domain's images
        self.moments = torch.tensor([manifest["moments"][task] for task in self.domains], device=device)

    def __len__(self):
        return len(self.ids)

    def prefetch(self, index):
        if not self.resident:
            self.ahead.prefetch(tuple(index))

    def batch(self, index):
        if self.resident:
            places = positions(index, self.device)
            raw = [array[places] for array in self.arrays.values()]
        else:
            raw = self.ahead.get(tuple(index))
        raw = dict(zip(self.arrays, raw, strict=True))
        image = raw.pop("image").permute(0, 3, 1, 2).float().div_(255)      # a channels-last view, kept by float()
        if self.domains:
            mean, deviation = self.moments[positions(self.domain(index), self.device)][..., None, None].unbind(1)
            image = (image - mean) / deviation
        return image, {kind: FORMS[kind](array) for kind, array in raw.items()}

    def domain(self, index):
        """The number of each image's domain."""
        return [next(n for n, places in enumerate(self.domains.values()) if i in places) for i in index]


FORMS = {"label": lambda x: x.long(), "depth": lambda x: x[:, None].float(),
         "normal": lambda x: x.permute(0, 3, 1, 2).float(), "digits": lambda x: x.long(),
         "characters": lambda x: x.long()}


def open_array(path, wanted, kind, suite):
    """Memory-map one prepared array; `UserError` if it is missing, cut short or not of this shape and type."""
    try:
        # copy-on-write, because torch wants writable memory; nothing is ever written
        array = np.load(path, mmap_mode="c")
    except (OSError, ValueError, EOFError) as mistake:
        raise UserError(f"{path} cannot be read ({mistake}); run `dvc repro --force prepare-{suite}`") from None
    if array.shape != wanted or array.dtype != kind:
        raise UserError(f"{path} is {array.dtype} {array.shape}, expected {kind} {wanted}; run `dvc repro --force "
                      f"prepare-{suite}`")
    return array
