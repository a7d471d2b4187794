"""Where a student reads one teacher's features while it trains: the store's arrays in a tier, or the teacher itself.

    batch(index, image, taps) -> {tap: (unit features (B, P, C), mean squared norm (B,))}
    prefetch(index, taps)        the next batch, when the present one's distances are known; it is read meanwhile
    describe()
"""

import os
import zlib

import numpy as np
import torch

import kernels.dispatch
from kernels.packing import normalise
from pipeline.runtime import distributed
from pipeline.runtime.errors import UserError
from pipeline.runtime.prefetch import Prefetch, Room, positions, rows
from pipeline.teachers import networks


def roomiest(needed, device):
    """The fastest tier that `needed` bytes fit in: four fifths of the free GPU memory, half of the free RAM, disk."""
    if device.type == "cuda" and needed < 0.8 * torch.cuda.mem_get_info(device)[0]:
        return "gpu"
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except ValueError:                     # macOS does not say; the page cache serves the files
        return "disk"
    return "ram" if needed * distributed.neighbours() < 0.5 * free else "disk"


class Live:
    """A teacher that runs with every batch. `batch_statistics`: its batch norm takes each batch's own statistics, as
    in the released KD4MTL, which never puts its teachers in eval mode; nothing can be cached then."""

    def __init__(self, run, task, classes, device, batch_statistics=False):
        self.task, self.batch_statistics = task, batch_statistics
        self.network = networks.load(run, task, classes, device).train(batch_statistics)

    def prefetch(self, index, taps):
        pass

    @torch.no_grad()
    def predict(self, image):
        """The teacher's prediction (B, C_t, H, W)."""
        return self.network(image)[0][self.task]

    @torch.no_grad()
    def batch(self, index, image, taps):
        features = self.network.features(image)[self.task]
        return {tap: normalise(features[tap]) for tap in taps}

    def describe(self):
        return f"live, batch norm in {'train' if self.batch_statistics else 'eval'} mode"


class Cached:
    """Stored features of one teacher. Every image's checksum is checked once, when it is first read."""

    def __init__(self, folder, manifest, place, device):
        self.folder, self.manifest, self.place, self.device = folder, manifest, place, device
        self.unchecked = {tap: set(range(len(manifest["ids"]))) for tap in manifest["shapes"]}
        self.files = {tap: self.open(tap) for tap in manifest["shapes"]}
        self.energy = {tap: torch.tensor(values, dtype=torch.float64, device=device)
                       for tap, values in manifest["energy"].items()}
        # the fused kernels are done with a batch when they return; the reference's backward pass reads it again
        self.ahead = Prefetch(self.read, device, 1 if kernels.dispatch.choose(device) != "reference" else 2)
        if place in ("gpu", "ram"):
            whole = list(range(len(manifest["ids"])))
            self.arrays = {tap: self.from_disk(tap, whole, fresh).to(device if place == "gpu" else "cpu")
                           for tap in manifest["shapes"]}
        self.room = Room(device)

    def open(self, tap):
        """(offset of the first image, shape of one, numpy type) of a file that is as the manifest says."""
        path, shape = self.folder / f"{tap}.npy", tuple(self.manifest["shapes"][tap])
        try:
            array = np.load(path, mmap_mode="r")
        except Exception as mistake:           # numpy reports a damaged header through many types
            raise self.damage(path, mistake) from None
        if array.shape != shape or array.dtype != self.manifest["dtype"]:
            raise self.damage(path, f"{array.dtype} {array.shape}, expected {self.manifest['dtype']} {shape}")
        return array.offset, shape[1:], array.dtype

    def from_disk(self, tap, index, room):
        """Images (B, P, C) of `index`, read straight into their place, checked when first met."""
        path, (offset, shape, kind) = self.folder / f"{tap}.npy", self.files[tap]
        out = room(tap, (len(index), *shape), getattr(torch, kind.name))
        with open(path, "rb", buffering=0) as file:
            for image, i in zip(out.numpy(), index, strict=True):
                place, got = memoryview(image).cast("B"), 0
                file.seek(offset + i * len(place))
                while got < len(place):
                    more = file.readinto(place[got:])
                    if not more:
                        raise self.damage(path, f"it ends within image {self.manifest['ids'][i]}")
                    got += more
                if i in self.unchecked[tap]:
                    if zlib.crc32(place) != self.manifest["crc32"][tap][i]:
                        raise self.damage(path, f"checksum of image {self.manifest['ids'][i]}")
                    self.unchecked[tap].discard(i)
        return out

    def damage(self, path, what):
        return UserError(f"{path} is damaged ({what}); {anew(self.folder)}")

    def read(self, key, room):
        index, taps = key
        if self.place == "disk":
            return [self.from_disk(tap, index, room) for tap in taps]
        return [rows(self.arrays[tap], index, room, tap) for tap in taps]

    def prefetch(self, index, taps):
        if self.place == "disk" or (self.place == "ram" and self.device.type != "cpu"):
            self.ahead.prefetch((tuple(index), tuple(taps)))

    def batch(self, index, image, taps):
        places = positions(index, self.device)
        if self.place == "gpu":
            stored = [self.arrays[tap][places] for tap in taps]
        elif self.place == "ram" and self.device.type == "cpu":           # there at once
            stored = self.read((index, taps), self.room)
        else:
            stored = self.ahead.get((tuple(index), tuple(taps)))
        return {tap: (x, self.energy[tap][places]) for tap, x in zip(taps, stored, strict=True)}

    def describe(self):
        return f"{self.manifest['bytes'] / 1e6:.0f} MB {self.manifest['dtype']} in {self.place}"


def anew(folder):
    """What mends stored features."""
    return (f"remove {folder} and run the same command again: the features are rebuilt and training goes on from its "
            "last epoch")


def fresh(_, shape, dtype):
    return torch.empty(shape, dtype=dtype)
