"""What the rest of the pipeline sees of a data set: compact arrays that `prepare` wrote, and a manifest.

A reader (scenes, nyuv2; one file each) gives `CLASSES`, `ids(split, count, options)` and
`read(split, name, size, options)` -> one sample:

    image   (H, W, 3) float32 in [0, 1]        label  (H, W) int8, -1 void
    depth   (H, W) float32 metres, 0 invalid   normal (H, W, 3) float32 unit vectors, zeros invalid
                                               x right, y down, z forward

`prepare` stores them as `ROOT/{train,test}/{image,label,depth,normal}.npy`: uint8, int8, float16, float16 (half a
per mille of the depth, 0.03 degrees of the normals). Nothing downstream reads the raw files.
"""

import hashlib
import importlib
import json
import pathlib

import numpy as np
import torch

from pipeline.ahead import Ahead, positions, rows
from pipeline.problem import Problem

ROOT = pathlib.Path("out/data")
KINDS = {"image": np.uint8, "label": np.int8, "depth": np.float16, "normal": np.float16}


def reader(name):
    return importlib.import_module(f"pipeline.data.{name}")


def load_manifest(root=ROOT):
    """The prepared data's manifest. `Problem` when `prepare` has not run."""
    try:
        return json.loads((root / "manifest.json").read_text())
    except FileNotFoundError:
        raise Problem(f"{root}/manifest.json is not there; run `make prepare`") from None
    except ValueError as mistake:
        raise Problem(f"{root}/manifest.json is damaged ({mistake}); run `dvc repro --force prepare`") from None


def fingerprint(manifest):
    """Hex digest of everything the manifest says: arrays' checksums, ids, size."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


class Split:
    """One split on the device: `split.batch(index)` -> (image, targets) for a list of positions.

    image (B, 3, H, W) float32 in [0, 1], channels last; targets: label (B, H, W) int64, depth (B, 1, H, W) float32,
    normal (B, 3, H, W) float32. `ids` are the images' names, in the arrays' order. What does not fit in half of a
    GPU's free memory stays on the host; `expect(index)` then sends the next batch ahead.
    """

    def __init__(self, name, device, root=ROOT):
        manifest = load_manifest(root)
        self.ids, self.classes, self.size = manifest["ids"][name], manifest["classes"], manifest["size"]
        self.device = device
        arrays = {kind: open_array(root / name / f"{kind}.npy", (len(self.ids), *self.size)) for kind in KINDS}
        # CUDA takes a copy once; a CPU reads the memory map, so that only touched pages cost memory.
        needed = sum(array.nbytes for array in arrays.values())
        self.resident = device.type == "cpu" or needed < 0.5 * torch.cuda.mem_get_info(device)[0]
        self.arrays = {kind: torch.from_numpy(array).to(device if self.resident else "cpu")
                       for kind, array in arrays.items()}
        self.ahead = Ahead(lambda key, room: [rows(array, key, room, kind) for kind, array in self.arrays.items()],
                           device)

    def __len__(self):
        return len(self.ids)

    def expect(self, index):
        if not self.resident:
            self.ahead.expect(tuple(index))

    def batch(self, index):
        if self.resident:
            places = positions(index, self.device)
            raw = [array[places] for array in self.arrays.values()]
        else:
            raw = self.ahead.get(tuple(index))
        image, label, depth, normal = raw                         # in the order of KINDS
        image = image.permute(0, 3, 1, 2).float().div_(255)        # a view in channels-last order, kept by float()
        targets = {"label": label.long(), "depth": depth[:, None].float(),
                   "normal": normal.permute(0, 3, 1, 2).float()}
        return image, targets


def open_array(path, lead):
    """Memory-map one prepared array; `Problem` if it is missing, cut short or not (N, H, W, ...) = `lead`."""
    try:
        # copy-on-write, because torch wants writable memory; nothing is ever written
        array = np.load(path, mmap_mode="c")
    except (OSError, ValueError, EOFError) as mistake:
        raise Problem(f"{path} cannot be read ({mistake}); run `dvc repro --force prepare`") from None
    if array.shape[:3] != lead or array.dtype != KINDS[path.stem]:
        raise Problem(f"{path} is {array.dtype} {array.shape}, expected {KINDS[path.stem].__name__} {lead}...; "
                      "run `dvc repro --force prepare`")
    return array
