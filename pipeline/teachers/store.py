"""The frozen teachers' features on disk: one memory-mappable file a teacher and tap, found by identity.

    .work/features/<identity>/{mid,last}.npy    (N, P, C) unit vectors, pixel-major, float32 | float16 | uint8
    .work/features/<identity>/manifest.json     ids, shapes, CRC-32 and mean squared norm of every image
    out/<suite>/features/<model>-s<seed>/<task>.json   what DVC tracks: the identity, bytes, the parity gate's figures

Identity = sha256 of the teacher's weights, its epoch rule, taps, preprocessing, image manifest, storage type,
batch-norm mode and the code that computes them. The bulk is no DVC output: 34 GB are neither hashed nor copied, and
A -> B -> A finds them again. A missing bulk is rebuilt from the teacher, a stale one never used, a damaged one named.

FEATURES = auto | gpu | ram | disk | live says where a student reads them; it changes no result beyond rounding.
"""

import hashlib
import json
import os
import pathlib
import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from kernels.packing import normalise, pack, unpack
from pipeline import data
from pipeline.options import code
from pipeline.runtime import distributed, documents, files, row
from pipeline.runtime.errors import UserError
from pipeline.runtime.progress import Line
from pipeline.teachers import networks, sources

BULK = files.WORK / "features"
# Images a teacher forward and a write, and those of small pictures; fixed, so that a rebuild gives the same bits.
BATCH, SMALL = 8, 512
CHECKED = 16               # images that the parity gate compares
TRACKED = {"identity": str, "bytes": int}
PROGRESS = {"images": int, "crc32": dict, "energy": dict}
MANIFEST = {"identity": str, "bytes": int, "ids": list, "dtype": str, "shapes": dict, "crc32": dict, "energy": dict,
            "parity": dict}
# cosine and absolute difference between stored and live unit features that rounding explains
PARITY = {"float32": (0.999999, 1e-6), "float16": (0.999999, 1e-3), "uint8": (0.9999, 5e-3)}


def manifest_file(run, task):
    own = networks.row_of(run, task)
    return pathlib.Path(f"out/{own['suite']}/features/{own['model']}-s{own['seed']}/{task}.json")


def identity(run, task):
    """The directory's name: everything that decides the features' bytes."""
    path, own = networks.weights_file(run, task), networks.row_of(run, task)
    stage = row.address(own, "teacher")
    if not path.exists():
        raise UserError(f"{path} is not there; run `dvc repro {stage}`")
    documents.check_run(path.parent, lambda: row.redo(path.parent, stage), path.name)
    facts = {"weights": files.digest(path), "features": run["features"], "preprocessing": "image / 255",
             "data": data.fingerprint(data.load_manifest(own["data"]["folder"])), "batch_norm": "running",
             "code": code.digest([__name__, f"models.{own['model']}"])}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def build(run, task, split, device):
    """Write one teacher's features of `split` and pass them through the parity gate; returns the bulk's manifest.

    Goes on after a kill from the last whole batch. `UserError` before any work when the disk is too small.
    """
    name = identity(run, task)
    teacher = networks.load(run, task, split.classes, device)
    dtype = getattr(torch, run["features"]["dtype"])
    with torch.no_grad():
        probe = teacher.features(split.batch([0])[0])[task]
    shapes = {tap: (len(split), x[0, 0].numel(), x.shape[1]) for tap, x in probe.items()}
    needed = sum(int(np.prod(shape)) for shape in shapes.values()) * dtype.itemsize
    free = shutil.disk_usage(files.PROJECT if not BULK.exists() else BULK).free
    partial = BULK / f"{name}.partial"
    writer = Writer(partial, shapes, run["features"]["dtype"])
    free += needed * writer.images // len(split)
    print(f"features of {task}: {needed / 1e6:.1f} MB predicted, {free / 1e9:.1f} GB free")
    if needed > free:
        raise UserError(f"the {task} teacher's features need {needed:,} bytes but {BULK} has {free:,} free; make room, "
                      "set `features.dtype: uint8`, or lower `train` or the size in the protocol's `data`")
    writer.open()
    batch = batch_of(split)
    line = Line(f"features {run['model']}-{task}-s{run['seed']}", len(split))
    with ThreadPoolExecutor(1) as thread:                 # the teacher computes while the batch before it is written
        written = None
        for begin in range(writer.images, len(split), batch):
            index = list(range(begin, min(begin + batch, len(split))))
            stored, energies = encode(teacher, split.batch(index)[0], task, dtype)
            if written:
                written.result()
            written = thread.submit(writer.append, stored, energies)
            line.step(index[-1] + 1)
        if written:
            written.result()
    arrays, done = writer.arrays, writer.done
    actual = sum((partial / f"{tap}.npy").stat().st_size for tap in shapes)
    cosine, gap = parity(teacher, split, task, arrays, name)
    line.close(f"{actual / 1e6:.1f} MB written; parity: cosine {cosine:.7f}, largest difference {gap:.1e}")
    bounds = PARITY[run["features"]["dtype"]]
    if not (cosine > bounds[0] and gap < bounds[1]):
        raise UserError(f"stored {task} features differ from the live teacher's (cosine {cosine:.6f}, bound "
                      f"{bounds[0]}; "
                      f"difference {gap:.1e}, bound {bounds[1]}); remove {partial} and run the same command again")
    manifest = {"identity": name, "bytes": actual, "ids": split.ids, "dtype": run["features"]["dtype"],
                "shapes": shapes, "crc32": done["crc32"], "energy": done["energy"],
                "parity": {"images": min(CHECKED, len(split)), "cosine": cosine, "largest_difference": gap}}
    writer.close()
    whole = documents.sealed(BULK / name / "manifest.json", manifest)            # where it will lie in a moment
    files.write(partial / "manifest.json", json.dumps(whole).encode())
    (partial / "progress.json").unlink()
    shutil.rmtree(BULK / name, ignore_errors=True)
    os.replace(partial, BULK / name)
    return bulk(name)


def batch_of(split):
    return SMALL if split.domains else BATCH


class Writer:
    """Features of images in their order, batch by batch, into a folder; goes on after the last whole batch."""

    def __init__(self, folder, shapes, kind):
        self.folder, self.shapes, self.kind = folder, shapes, np.dtype(kind)
        try:
            self.done = documents.read(folder / "progress.json", str, PROGRESS)
        except UserError:                  # what is damaged costs time alone
            self.begin()

    def begin(self):
        self.done = {"images": 0, "crc32": {tap: [] for tap in self.shapes}, "energy": {tap: [] for tap in self.shapes}}

    @property
    def images(self):
        return self.done["images"]

    def open(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self.arrays = self.mapped("r+" if self.images else "w+")
        except Exception as mistake:       # numpy reports a damaged file through many types
            print(f"{self.folder} is damaged ({type(mistake).__name__}); its features begin anew")
            self.begin()
            self.arrays = self.mapped("w+")
        # written as files: through a memory map, what is larger than memory is written at half the speed
        self.files = {tap: open(self.folder / f"{tap}.npy", "r+b", buffering=0) for tap in self.shapes}
        self.thread = ThreadPoolExecutor(1)

    def mapped(self, mode):
        arrays = {tap: np.lib.format.open_memmap(self.folder / f"{tap}.npy", mode, self.kind, shape)
                  for tap, shape in self.shapes.items()}
        if {tap: array.shape for tap, array in arrays.items()} != self.shapes:
            raise ValueError("another shape")
        return arrays

    def append(self, stored, energies):
        """{tap: (B, P, C) numpy}, {tap: B mean squared norms}."""
        for tap, images in stored.items():
            sums = self.thread.map(zlib.crc32, images)
            left = memoryview(images).cast("B")
            self.files[tap].seek(self.arrays[tap].offset + self.images * (len(left) // len(images)))
            while left:
                left = left[self.files[tap].write(left):]
            self.done["crc32"][tap] += sums
            self.done["energy"][tap] += energies[tap]
        self.done["images"] += len(images)
        documents.write(self.folder / "progress.json", self.done)

    def close(self):
        for file in self.files.values():
            os.fsync(file.fileno())
            file.close()


@torch.no_grad()
def encode(teacher, image, task, dtype):
    """Images -> {tap: stored (B, P, C) numpy}, {tap: mean squared norms}."""
    stored, energies = {}, {}
    for tap, feature in teacher.features(image)[task].items():
        unit, energy = normalise(feature)
        stored[tap], energies[tap] = pack(unit, dtype).cpu().contiguous().numpy(), energy.tolist()
    return stored, energies


@torch.no_grad()
def parity(teacher, split, task, arrays, name):
    """Recompute some images: the lowest per-image cosine and the largest difference to what is stored.

    Each is recomputed among the neighbours it was stored with. In a batch of another size a convolution rounds
    differently, and where two pixels of a pooling window tie, SegNet's unpooling turns one bit into another place.
    """
    chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(int(name[:8], 16)))[:CHECKED].tolist()
    cosine, gap = 1.0, 0.0
    batch = batch_of(split)
    for begin in sorted({i - i % batch for i in chosen}):
        index = list(range(begin, min(begin + batch, len(split))))
        for tap, feature in teacher.features(split.batch(index)[0])[task].items():
            live = normalise(feature)[0].cpu().double()
            for i in set(index) & set(chosen):
                kept = unpack(torch.from_numpy(np.array(arrays[tap][i]))).double()
                gap = max(gap, (live[i - begin] - kept).abs().max().item())
                if kept.any() or live[i - begin].any():        # two dead maps agree
                    same = torch.nn.functional.cosine_similarity(live[i - begin].flatten(), kept.flatten(), 0)
                    cosine = min(cosine, same.item())
    return cosine, gap


def load_bulk(run, task):
    """The bulk's manifest, or None when it has to be built. `UserError` if the tracked manifest is missing or stale."""
    path, name = manifest_file(run, task), identity(run, task)
    stage = row.address(networks.row_of(run, task), "features")
    tracked = documents.read(path, lambda: row.redo(path, stage), TRACKED)["identity"]
    if tracked != name:
        raise UserError(f"{path} is stale: it belongs to features {tracked}, teacher and data now call for {name}; run "
                      f"`dvc repro {stage}`")
    return bulk(name)


def bulk(name):
    """The manifest of the features of this identity, None where there are none; `UserError` if it is not as written."""
    path = BULK / name / "manifest.json"
    try:
        return documents.read(path, lambda: sources.anew(path.parent), MANIFEST)
    except documents.Missing:
        return None


def open_for(run, task, split, device):
    """One teacher's features for a student, as `pipeline/teachers/sources.py` has them."""
    place = os.environ.get("FEATURES", "auto")
    if place not in ("auto", "gpu", "ram", "disk", "live"):
        raise UserError(f"FEATURES is {place!r}; it can be auto, gpu, ram, disk or live")
    augment = run["train"]["augment"]
    if augment != "none" and place not in ("auto", "live"):
        raise UserError(f"FEATURES is {place!r} and `augment` {augment!r}, but cached features are those of whole "
                      "images; set FEATURES=live or auto, or `augment: none`")
    if place == "live" or augment != "none":
        return sources.Live(run, task, split.classes, device)
    with distributed.one_by_one():
        manifest = load_bulk(run, task)
        if manifest is None:
            print(f"features of {task} are missing under {BULK}; rebuilding them from the teacher")
            manifest = build(run, task, split, device)
    if place == "auto":
        place = sources.roomiest(manifest["bytes"], device)
    elif place == "gpu" and device.type != "cuda":
        raise UserError("FEATURES is 'gpu' but the run is on the CPU; set FEATURES=ram or DEVICE=cuda")
    return sources.Cached(BULK / manifest["identity"], manifest, place, device)
