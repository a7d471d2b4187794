"""Stage `features`: run one frozen teacher over the training images once and keep what students distil.

    python -m pipeline.features rooms segnet semantic 0

Writes the tracked manifest out/rooms/features/segnet-s0/semantic.json; the bulk lies in .work/features/<identity>/.
Where the protocol augments images, features are not stored: teachers run live.
"""

import json
import sys

from pipeline import data
from pipeline.config import params
from pipeline.runtime import device, files
from pipeline.runtime.errors import run
from pipeline.teachers import store


def main(suite, model, task, seed):
    chosen = params.load()
    row = chosen.resolve(suite, "teacher", model, task, seed) | {"features": chosen.features.model_dump()}
    where = device.pick()
    split, name = data.Split(suite, "train", where), store.identity(row, task)
    if row["train"]["augment"] == "none":
        manifest = kept(name) or store.build(row, task, split, where)
        tracked = {key: manifest[key] for key in ("identity", "bytes", "dtype", "shapes", "parity")}
    else:
        tracked = {"identity": name, "bytes": 0}
        print(f"features of {task}: not stored, since students see other cuts of the images (augment "
              f"{row['train']['augment']}); their teachers run live")
    path = store.manifest_file(row, task)
    files.write(path, (json.dumps(tracked, indent=1) + "\n").encode())


def kept(identity):
    """The manifest of features that are already there whole, else None."""
    try:
        return json.loads((store.BULK / identity / "manifest.json").read_text())
    except (FileNotFoundError, ValueError):
        return None


if __name__ == "__main__":
    run(main, *sys.argv[1:])
