"""Stage `features`: run one frozen teacher over the training images once and keep what students distil.

    python -m pipeline.features rooms teacher segnet semantic 0

Writes the tracked manifest out/rooms/features/segnet-s0/semantic.json; the bulk lies in .work/features/<identity>/.
Where the protocol augments images, features are not stored: teachers run live.
"""

import sys

from pipeline import data
from pipeline.data.split import Split
from pipeline.runtime import device, documents
from pipeline.runtime.errors import run
from pipeline.runtime.row import read
from pipeline.teachers import store


def main(suite, group, model, task, seed):
    row = read("features", suite, group, f"{model}-{task}-s{seed}")
    where = device.pick()
    data.hold_to(row)
    split, name = Split(row["data"]["folder"], "train", where, [task]), store.identity(row, task)
    if row["train"]["augment"] == "none":
        manifest = store.bulk(name) or store.build(row, task, split, where)
        tracked = {key: manifest[key] for key in ("identity", "bytes", "dtype", "shapes", "parity")}
    else:
        tracked = {"identity": name, "bytes": 0}
        print(f"features of {task}: not stored, since students see other cuts of the images (augment "
              f"{row['train']['augment']}); their teachers run live")
    path = store.manifest_file(row, task)
    documents.write(path, tracked)


if __name__ == "__main__":
    run(main, *sys.argv[1:])
