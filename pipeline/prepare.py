"""Stage `prepare`: read or render the chosen data set, write compact arrays and a manifest.

    python -m pipeline.prepare          out/data/{train,test}/{image,label,depth,normal}.npy, out/data/manifest.json
    python -m pipeline.prepare montage  out/montage.png: images, labels, depths and normals, to be looked at
"""

import json
import shutil
import sys

import numpy as np

from pipeline import checkpoint, data, params
from pipeline.problem import Problem, run
from pipeline.progress import Line


def main():
    chosen = params.load()
    images, options, reader = chosen.in_force.data, chosen.options(), data.reader(chosen.data)
    size, counts = (images.height, images.width), {"train": images.train, "test": images.test}
    if hasattr(reader, "check"):
        reader.check(options, counts)
    # image 3 B, label 1 B, depth 2 B, normal 6 B a pixel
    needed, free = sum(counts.values()) * size[0] * size[1] * 12, shutil.disk_usage(".").free
    if needed > free:
        raise Problem(f"the prepared data need {needed:,} bytes but the disk has {free:,} free; make room or "
                      f"lower `protocols.{chosen.protocol}.data.train`")
    names = {split: reader.ids(split, count, options) for split, count in counts.items()}
    for split in names:
        reader.read(split, names[split][0], size, options)      # a wrong size or scale is told before the work
    manifest = {"data": chosen.data, "options": options, "size": size, "classes": list(reader.CLASSES),
                "ids": names, "sha256": {}}
    shutil.rmtree(data.ROOT, ignore_errors=True)
    for split in names:
        manifest["sha256"] |= write(split, names[split], size, options, reader)
    (data.ROOT / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def write(split, names, size, options, reader):
    """One split's four arrays; returns {file: sha256}."""
    folder = data.ROOT / split
    folder.mkdir(parents=True)
    shapes = {"image": (*size, 3), "label": size, "depth": size, "normal": (*size, 3)}
    arrays = {kind: np.lib.format.open_memmap(folder / f"{kind}.npy", "w+", dtype, (len(names), *shapes[kind]))
              for kind, dtype in data.KINDS.items()}
    line = Line(f"prepare {split}", len(names))
    for i, name in enumerate(names):
        sample = reader.read(split, name, size, options)
        arrays["image"][i] = np.rint(sample["image"] * 255)
        for kind in ("label", "depth", "normal"):
            arrays[kind][i] = sample[kind]
        line.step(i + 1)
    line.close(f"{len(names)} images {size[0]}x{size[1]}")
    for array in arrays.values():
        array.flush()
    return {f"{split}/{kind}.npy": checkpoint.digest(folder / f"{kind}.npy") for kind in arrays}


def montage(rows=6):
    """A picture of the first samples of both splits: a person sees a wrong axis or class at once."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    classes = data.load_manifest()["classes"]
    figure, axes = pyplot.subplots(rows, 4, figsize=(12, 2.3 * rows), squeeze=False)
    colours = pyplot.get_cmap("tab20", len(classes))
    for row, axis in enumerate(axes):
        split = ("train", "test")[row % 2]
        image, label, depth, normal = (array[row // 2 * 7 % len(array)] for array in (
            np.load(data.ROOT / split / f"{kind}.npy", mmap_mode="r") for kind in data.KINDS))
        axis[0].imshow(image)
        axis[0].set_title(split)
        axis[1].imshow(np.where(label < 0, np.nan, label.astype(float)), cmap=colours, vmin=0, vmax=len(classes))
        axis[1].set_title(", ".join(classes[c] for c in np.unique(label[label >= 0])), fontsize=6)
        shown = axis[2].imshow(np.where(depth == 0, np.nan, depth.astype(float)), cmap="viridis")
        figure.colorbar(shown, ax=axis[2], label="m")
        axis[3].imshow((normal.astype(float) + 1) / 2)
        for panel in axis:
            panel.set_axis_off()
    figure.tight_layout()
    figure.savefig("out/montage.png", dpi=80)
    print("out/montage.png")


if __name__ == "__main__":
    run(montage if sys.argv[1:] == ["montage"] else main)
