"""`make bench-store`: the feature store beside the disk and memory it stands on, in one run.

    python -m pipeline.bench.store [images=795] [size=288x384] [width=1.0] [dtype=float16] [rounds=3]

Three teachers' features of so many images (drawn numbers; SegNet's taps), written by the store's writer and read in a
training's order, two images a step, by `sources.Cached` with its reading ahead. Beside it, in turns, as many bytes of a
plain file: written from one buffer and flushed to the device, read in pieces of an image, in drawn order, into one
buffer. What was written leaves the page cache before it is read, so that disk means disk. Checksums are checked in the
first epoch, as in training. At the end the tier `ram` beside copies from memory to memory. In .work/.
"""

import functools
import math
import os
import re
import shutil
import statistics
import sys
import time

import numpy as np
import torch

from kernels.packing import pack
from models.network import scaled
from models.segnet import CHANNELS
from pipeline.runtime import files
from pipeline.runtime.errors import UserError, run
from pipeline.runtime.progress import Line
from pipeline.teachers import sources, store

TEACHERS, STEP, IN_RAM = 3, 2, 100
FOLDER = files.WORK / "bench-store"
CPU = torch.device("cpu")


def main(*words):
    images, (height, width), scale, dtype, rounds = asked(words)
    channels = [scaled(c, scale) for c in CHANNELS["standard"]]
    shapes = {"mid": (images, (height // 32) * (width // 32), channels[-1]),
              "last": (images, height * width, channels[0])}
    kind = np.dtype(dtype)
    needed = TEACHERS * sum(int(np.prod(shape)) for shape in shapes.values()) * kind.itemsize
    free = shutil.disk_usage(".").free
    print(f"{images} images, {TEACHERS} teachers, {height}x{width}, {dtype}: {needed / 1e9:.1f} GB, {free / 1e9:.1f} "
          "GB free", flush=True)
    if needed > 0.9 * free:
        raise UserError(f"the benchmark writes {needed:,} bytes but {FOLDER} has {free:,} free; make room, or give "
                      "fewer images= or dtype=uint8")
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    try:
        measure(shapes, kind, needed, rounds)
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)


def asked(words):
    shapes = {"images": r"[1-9]\d*", "size": r"\d+x\d+", "width": r"\d+(\.\d+)?", "dtype": "float32|float16|uint8",
              "rounds": r"[1-9]\d*"}
    found = {"images": "795", "size": "288x384", "width": "1.0", "dtype": "float16", "rounds": "3"}
    for word in words:
        key, _, value = word.partition("=")
        if key not in shapes or not re.fullmatch(shapes[key], value):
            raise UserError(f"{word!r} is not understood; the words are images=795, size=288x384, width=1.0, "
                          "dtype=float16 and rounds=3")
        found[key] = value
    size = tuple(map(int, found["size"].split("x")))
    return int(found["images"]), size, float(found["width"]), found["dtype"], int(found["rounds"])


def measure(shapes, kind, needed, rounds):
    order = torch.randperm(shapes["last"][0], generator=torch.Generator().manual_seed(0)).tolist()
    batches = [order[i:i + STEP] for i in range(0, len(order) - STEP + 1, STEP)]
    drawn, plain = {tap: batch_of(shape, kind) for tap, shape in shapes.items()}, FOLDER / "plain"
    taken = {}
    for turn in range(rounds):
        line = Line(f"  round {turn + 1}/{rounds}", 5)
        clock = functools.partial(clocked, taken, line)
        clock("plain file written", write_plain, plain, drawn["last"], needed)
        clock("plain file read", read_plain, plain, drawn["last"][0], needed)
        plain.unlink()
        clock("store written", write_store, shapes, kind, drawn)
        teachers = [cached(i, shapes, kind, "disk") for i in range(TEACHERS)]
        for name in ("store read, first epoch", "store read"):
            forget(*FOLDER.glob("*/*.npy"))
            clock(name, epoch, teachers, batches)
        for folder in FOLDER.iterdir():
            shutil.rmtree(folder)
        line.close(", ".join(f"{name} {needed / values[-1] / 1e9:.2f}" for name, values in taken.items()) + " GB/s")
    speed = {name: needed / statistics.median(values) / 1e9 for name, values in taken.items()}
    print(f"  memory to memory, one thread: {memory(drawn['last']):.2f} GB/s")
    for name, plain in (("store written", "plain file written"), ("store read, first epoch", "plain file read"),
                        ("store read", "plain file read")):
        print(f"  {name}: {speed[name]:.2f} GB/s, {speed[name] / speed[plain]:.0%} of {speed[plain]:.2f} ({plain})")
    in_memory(shapes, kind, drawn, batches)


def in_memory(shapes, kind, drawn, batches):
    """The tier `ram`, with as many images as fit."""
    few = {tap: (min(IN_RAM, shape[0]), *shape[1:]) for tap, shape in shapes.items()}
    write_store(few, kind, drawn)
    teachers = [cached(i, few, kind, "ram") for i in range(TEACHERS)]
    batches = [[i % IN_RAM for i in index] for index in batches]
    numbers = TEACHERS * len(batches) * STEP * sum(math.prod(shape[1:]) for shape in few.values()) * kind.itemsize
    epoch(teachers, batches[:4])
    begun = time.perf_counter()
    epoch(teachers, batches)
    speed, threads = numbers / (time.perf_counter() - begun) / 1e9, torch.get_num_threads()
    whole = memory(drawn["last"], threads)
    print(f"  store read from RAM, {threads} threads: {speed:.2f} GB/s, {speed / whole:.0%} of {whole:.2f} (memory to "
          "memory, as many threads)")


def memory(array, threads=1):
    """GB/s of a copy between two buffers."""
    source, before = torch.from_numpy(array).flatten(), torch.get_num_threads()
    target = torch.empty_like(source)
    torch.set_num_threads(threads)
    taken = []
    for _ in range(5):
        begun = time.perf_counter()
        target.copy_(source)
        taken.append(time.perf_counter() - begun)
    torch.set_num_threads(before)
    return array.nbytes / statistics.median(taken) / 1e9


def batch_of(shape, kind):
    """(B, P, C) as `store.encode` gives them."""
    unit = torch.nn.functional.normalize(torch.rand(store.BATCH, *shape[1:]), dim=2)
    return pack(unit, getattr(torch, kind.name)).contiguous().numpy()


def clocked(taken, line, name, call, *arguments):
    begun = time.perf_counter()
    call(*arguments)
    taken.setdefault(name, []).append(time.perf_counter() - begun)
    line.step(len(taken), lambda: name)


def write_plain(path, buffer, needed):
    with open(path, "wb", buffering=0) as file:
        left, view = needed, memoryview(buffer).cast("B")
        while left > 0:
            left -= file.write(view[:left])
        os.fsync(file.fileno())
    forget(path)


def read_plain(path, buffer, needed):
    """Pieces of one image in a drawn order, into one buffer."""
    view = memoryview(buffer).cast("B")
    places = torch.randperm(needed // len(view), generator=torch.Generator().manual_seed(1)).tolist()
    with open(path, "rb", buffering=0) as file:
        for place in places:
            file.seek(place * len(view))
            got = 0
            while got < len(view):
                got += file.readinto(view[got:])


def write_store(shapes, kind, drawn):
    for i in range(TEACHERS):
        writer = store.Writer(FOLDER / str(i), shapes, kind.name)
        writer.open()
        for begin in range(0, shapes["last"][0], store.BATCH):
            count = min(store.BATCH, shapes["last"][0] - begin)
            writer.append({tap: array[:count] for tap, array in drawn.items()},
                          {tap: [1.0] * count for tap in shapes})
        writer.close()


def cached(i, shapes, kind, place):
    done = store.Writer(FOLDER / str(i), shapes, kind.name).done
    manifest = {"ids": list(range(shapes["last"][0])), "shapes": shapes, "dtype": kind.name, "bytes": 0,
                "crc32": done["crc32"], "energy": done["energy"]}
    return sources.Cached(FOLDER / str(i), manifest, place, CPU)


def epoch(teachers, batches):
    for source in teachers:
        source.prefetch(batches[0], ("mid", "last"))
    for index, following in zip(batches, [*batches[1:], None], strict=True):
        for source in teachers:
            source.batch(index, None, ("mid", "last"))
            if following:
                source.prefetch(following, ("mid", "last"))


def forget(*paths):
    """Out of the page cache; a system without the call reads from memory, which the figures then show."""
    for path in paths if hasattr(os, "posix_fadvise") else ():
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    run(main, *sys.argv[1:])
