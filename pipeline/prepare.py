"""Stage `prepare`: read or render a suite's data set, write compact arrays and a manifest.

    python -m pipeline.prepare rooms            out/rooms/data/{train,test}/<kind>.npy, out/rooms/data/manifest.json
    python -m pipeline.prepare search           a search: the searched suite's training images, a share held out
    python -m pipeline.prepare montage [rooms]  out/<suite>/montage.png: images and targets, to be looked at
"""

import functools
import math
import pathlib
import shutil
import sys

import numpy as np

from pipeline import data, tasks
from pipeline.data import readers, values
from pipeline.runtime import documents, files
from pipeline.runtime.errors import UserError, run
from pipeline.runtime.progress import Line
from pipeline.runtime.row import read


def main(suite):
    row = read("prepare", suite, "data")
    if "held_out" in row:
        return hold_out(row)
    wanted, options, name = row["data"], row["data"]["options"], row["data"]["reader"]
    size, counts = (wanted["height"], wanted["width"]), {split: wanted[split] for split in ("train", "test")}
    reader = readers.reader(name)
    kinds = {kind: reader.KINDS[kind] for kind in ("image", *row["targets"])}
    if hasattr(reader, "check"):
        reader.check(options, counts)
    check_room(row, kinds, sum(count for count in counts.values() if isinstance(count, int)))    # before all are named
    names = {split: reader.ids(split, count, options) for split, count in counts.items()}
    check_room(row, kinds, sum(map(len, names.values())))
    classes = reader.classes(options)
    manifest = {"data": name, "options": options, "size": size,
                "classes": classes if isinstance(classes, dict) else {"semantic": list(classes)},
                "stored": {kind: np.dtype(kept).name for kind, kept in kinds.items()},
                "inverse_depth": getattr(reader, "INVERSE_DEPTH", False), "target_stride": wanted["target_stride"],
                "moments": reader.moments(options) if hasattr(reader, "moments") else {}}
    seen = {split: {i: reader.read(split, names[split][i], size, options) for i in values.spread(names[split])}
            for split in names}
    for split, samples in seen.items():                         # a wrong size, scale or coding is told before the work
        values.check(samples.values(), split, manifest)

    def sample(split, i):
        return coded(seen[split].pop(i, None) or reader.read(split, names[split][i], size, options))
    write(row["data"]["folder"], manifest, {split: (names[split], functools.partial(sample, split)) for split in names})


def check_room(row, kinds, images):
    """`UserError` unless the disk has room for so many prepared images."""
    size = row["data"]["height"], row["data"]["width"]
    needed = images * sum(math.prod(data.shape(kind, size)) * np.dtype(kept).itemsize for kind, kept in kinds.items())
    if needed > (free := shutil.disk_usage(".").free):
        raise UserError(f"the prepared data need {needed:,} bytes but the disk has {free:,} free; make room or "
                        f"lower `protocols.{row['protocol']}.data.train` of the suite {row['suite']}")


def coded(sample):
    return sample | {"image": np.rint(sample["image"] * 255)}


def hold_out(row):
    """A search's own data: a drawn share of the training images, of each domain where there are several, as test."""
    search, folder = row["held_out"], row["data"]["folder"]
    source = data.load_manifest(search["of"])
    names, arrays = source["ids"]["train"], data.open_arrays(search["of"], source, "train", source["stored"])
    draw = np.random.default_rng(search["seed"])
    held = []
    for first, last in source["domains"].get("train", {"": (0, len(names))}).values():
        number = math.ceil(search["share"] * (last - first))
        if number == last - first:
            raise UserError(f"`search.hold_out` is {search['share']}, which leaves none of {number} images to train on")
        held += (first + draw.permutation(last - first)[:number]).tolist()
    parts = {"train": sorted(set(range(len(names))) - set(held)), "test": sorted(held)}
    manifest = {key: value for key, value in source.items() if key not in ("ids", "domains", "sha256")}
    write(folder, manifest, {split: ([names[i] for i in part], lambda i, part=part: {
        kind: array[part[i]] for kind, array in arrays.items()}) for split, part in parts.items()})


def write(folder, manifest, splits):
    """The arrays of {split: (names, position -> sample as stored)}, and the manifest with ids, domains and sha256."""
    root = pathlib.Path(folder)
    shutil.rmtree(root, ignore_errors=True)
    manifest |= {"ids": {}, "domains": {}, "sha256": {}}
    for split, (names, sample) in splits.items():
        (root / split).mkdir(parents=True)
        arrays = {kind: np.lib.format.open_memmap(root / split / f"{kind}.npy", "w+", kept, (
            len(names), *data.shape(kind, manifest["size"]))) for kind, kept in manifest["stored"].items()}
        line = Line(f"prepare {root.parent.name} {split}", len(names))
        for i in range(len(names)):
            for kind, value in sample(i).items():
                if kind in arrays:
                    arrays[kind][i] = value
            line.step(i + 1)
        line.close(f"{len(names)} images {manifest['size'][0]}x{manifest['size'][1]}")
        for array in arrays.values():
            array.flush()
        manifest["ids"][split] = names
        manifest["domains"] |= {split: ends} if (ends := domains(arrays)) else {}
        manifest["sha256"] |= {f"{split}/{kind}.npy": files.digest(root / split / f"{kind}.npy")
                               for kind in arrays}
    values.check_stored(root, manifest)
    documents.write(root / "manifest.json", manifest)


def domains(arrays):
    """{task: first and last position, plus one, of its images}, where an image has a label of one task only."""
    places = {own.name: np.flatnonzero(arrays[kind] >= 0) for kind, own in tasks.of_kinds(arrays).items() if own.flat}
    return {task: (int(at[0]), int(at[-1]) + 1) for task, at in places.items()}


def montage(*suites):
    """A picture of samples of both splits of these suites, or of all that are prepared: a person sees a wrong axis or
    class at once."""
    for suite in suites or sorted(path.parts[1] for path in pathlib.Path("out").glob("*/data/manifest.json")):
        picture(suite)


def picture(suite, rows=6):
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder = pathlib.Path(f"out/{suite}/data")
    manifest = data.load_manifest(folder)
    known = tasks.of_kinds(manifest["stored"])
    shown = ["image", *(kind for kind, own in known.items() if not own.flat)]
    columns = len(shown) if len(shown) > 1 else 8
    figure, axes = pyplot.subplots(rows, columns, figsize=(3 * columns if len(shown) > 1 else 12, 2.3 * rows),
                                   squeeze=False)
    for row, axis in enumerate(axes):
        split = ("train", "test")[row % 2]
        arrays = data.open_arrays(folder, manifest, split, manifest["stored"])
        for column, panel in enumerate(axis):
            drawn = row // 2 if len(shown) > 1 else row // 2 * columns + column       # of so many, evenly spread
            at = drawn * len(arrays["image"]) // (rows // 2 * (1 if len(shown) > 1 else columns))
            paint(figure, panel, shown[column % len(shown)], {kind: x[at] for kind, x in arrays.items()}, known,
                  manifest["classes"])
            panel.set_axis_off()
        axis[0].set_title(f"{split} {axis[0].get_title()}", fontsize=7)
    figure.tight_layout()
    path = f"out/{suite}/montage.png"
    figure.savefig(path, dpi=80)
    print(path)


def paint(figure, panel, kind, sample, known, classes):
    """One array of a sample as its task draws it; above an image stand the names of what it shows."""
    if kind != "image":
        return tasks.load(known[kind].name).paint(figure, panel, sample[kind], classes)
    panel.imshow(sample["image"])
    named = [tasks.load(own.name).told(sample[kind], classes) for kind, own in known.items() if own.flat]
    panel.set_title(", ".join(filter(None, named)), fontsize=7)


if __name__ == "__main__":
    run(*(montage, *sys.argv[2:]) if sys.argv[1:2] == ["montage"] else (main, *sys.argv[1:]))
