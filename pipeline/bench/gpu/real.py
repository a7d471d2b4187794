"""Part e of `make gpu`: train Table 2's main rows for as many of the paper's epochs as the seconds allow.

    python -m pipeline.bench.gpu.real FOLDER seconds=N [nyuv2=FOLDER] [size=144x192] [width=1.0] [images=N]
                                        [most=200]

SegNet under the protocol `paper` (batch 2, Adam 1e-4) in bfloat16: a teacher a task, Uniform, Ours (mid and last). With
`nyuv2`, MTAN's arrays of NYUv2 in that folder, whatever their size; else rendered rooms. An epoch of a teacher is timed
first; the number of epochs follows from it, and the rate is halved after half of them, as the paper's after 100 of 200.
The teachers and Uniform train beside each other, since networks of this size leave most of a GPU idle.
"""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np

from kernels import figures
from pipeline import evaluate, features, prepare, rows, table
from pipeline.bench.gpu.dag import path
from pipeline.config import params, reading
from pipeline.loop.epoch import train_epoch
from pipeline.loop.state import Run
from pipeline.runtime import device, files
from pipeline.runtime.errors import UserError, run
from pipeline.runtime.row import read

SHARE = 0.8                # of the seconds left that training may take: the rest is starting, features and measurement
OURS, BESIDE = 1.3, {"cuda": 2.0, "cpu": 4.0}      # in epochs of a teacher: one of Ours, and one of four at once
TEACHERS = ("semantic", "depth", "normal")


def main(folder, *words):
    end = time.monotonic() + float(word(words, "seconds"))
    place = pathlib.Path(folder)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    real = word(words, "nyuv2", "")
    real = str(pathlib.Path(real).resolve()) if real else ""
    with contextlib.chdir(place):
        tree = experiment(real, size_of(real) or tuple(map(int, word(words, "size", "144x192").split("x"))),
                          float(word(words, "width", "1.0")), int(word(words, "images", "0")))
        write(tree, 1)
        prepare.main("rooms")
        taken = probe()
        fit = SHARE * (end - time.monotonic()) / ((OURS + BESIDE[device.pick().type]) * taken)
        all_of_them = paper()["train"]["default"]["epochs"]
        epochs = max(1, min(int(word(words, "most", str(all_of_them))), int(fit)))
        print(f"an epoch takes {taken:.2f} s: {epochs} of the paper's {all_of_them} epochs", flush=True)
        write(tree, epochs)
        at_once([("teacher", task) for task in TEACHERS] + [("baseline", "uniform")])
        for task in TEACHERS:
            features.main("rooms", "teacher", "segnet", task, "0")
        at_once([("student", "ours")])
        for group, name in [*(("teacher", task) for task in TEACHERS), ("baseline", "uniform"), ("student", "ours")]:
            evaluate.main("rooms", group, "segnet", name, "0")
        table.main("rooms", "table2")
        print(pathlib.Path("out/tables/table2.md").read_text())
        note(tree, epochs, real)


def paper():
    """The protocol of the paper as the project ships it."""
    return reading.read(files.PROJECT / params.TOP)["protocols"]["paper"]


def word(words, key, default=None):
    for given in words:
        if given.startswith(key + "="):
            return given.partition("=")[2]
    if default is None:
        raise UserError(f"{key}= is missing, as at the top of the file")
    return default


def size_of(real):
    """(height, width) of a folder of MTAN's arrays, which are not resized; None without one."""
    if not real:
        return None
    file = pathlib.Path(real) / "train/image/0.npy"
    if not file.exists():
        raise UserError(f"{file} is not there; nyuv2= names a folder with {{train,val}}/{{image,label,depth,normal}}")
    return np.load(file, mmap_mode="r").shape[:2]


def experiment(real, size, width, images):
    """Table 2's suite with SegNet alone."""
    tree = reading.read(files.PROJECT / params.TOP)
    tree |= {"protocol": "paper", "data": "nyuv2" if real else "scenes", "seeds": [0],
             "paper": str(files.PROJECT / tree["paper"])}
    if real:
        tree["datasets"]["nyuv2"] |= {"source": "mtan", "root": real, "normals": "published"}
    for group, wanted in (("teacher", TEACHERS), ("baseline", ["uniform"]), ("student", ["ours"]), ("wide", []),
                          ("ablation", [])):
        tree[group] |= {"models": ["segnet"], "rows": list(wanted)}
    tree["tables"] |= {"ablation": [], "wide": []}
    tree["printed"] = {"table2": tree["printed"]["table2"]}
    count = {name: len(list((pathlib.Path(real) / folder / "image").glob("*.npy"))) if real else images or most
             for name, folder, most in (("train", "train", 64), ("test", "val", 16))}
    tree["protocols"]["paper"]["data"] = {"height": size[0], "width": size[1], **count}
    tree["protocols"]["paper"]["train"]["default"] |= {"width": width, "precision": "bfloat16"}
    return tree


def write(tree, epochs):
    """params.yaml and the rows for so many epochs."""
    tree["protocols"]["paper"]["train"]["default"] |= {"epochs": epochs, "step_every": max(1, epochs // 2)}
    params.TOP.write_text(reading.text(tree))
    rows.main("rooms")


def probe():
    """Seconds of an epoch of a teacher, its measurement included: of the second, since the first warms up."""
    training = Run(read("train", "rooms", "teacher", f"segnet-{TEACHERS[0]}-s0"), "probe")
    train_epoch(training, 0)
    begun = time.monotonic()
    train_epoch(training, 1)
    return time.monotonic() - begun


def at_once(runs):
    started = [subprocess.Popen([sys.executable, "-m", "pipeline.train", "rooms", group, "segnet", name, "0"],
                                env=os.environ | {"PYTHONPATH": path()}) for group, name in runs]
    if any([process.wait() for process in started]):
        raise UserError("a training failed; what it said stands above")


def note(tree, epochs, real):
    cells = json.loads(pathlib.Path("out/tables/table2.json").read_text())["cells"]
    data, train = tree["protocols"]["paper"]["data"], paper()["train"]["default"]
    figures.note("real", data="NYUv2" if real else "rendered rooms", epochs=epochs, of=train["epochs"],
                 images=data["train"], size=[data["height"], data["width"]], cells=cells,
                 paper_steps=paper()["data"]["train"] // train["batch"] * train["epochs"],
                 cost={name: json.loads(pathlib.Path(f"out/rooms/{group}/segnet-{name}-s0/cost.json").read_text())
                       for group, name in (("baseline", "uniform"), ("student", "ours"))})


if __name__ == "__main__":
    run(main, *sys.argv[1:])
