"""Two classifications in one data set, `digits` and `characters`: every image is labelled for one of the two.

KD4MTL's Table 1 (Li & Bilen 2020, arXiv:2007.06889). A reader (glyphs, svhn_omniglot) gives `KINDS` and, with `split`
"train" or "test" and `count` {"digits": n, "characters": m}, a number or None for all,

    ids(split, count, options)         names, digits first; a smaller count is a prefix of a larger one, per task
    read(split, name, size, options)   {"image": (H, W, 3) float32 in [0, 1], "digits": int, "characters": int}, the
                                       ints positions in `classes`, -1 for the task that has no label here
    classes(options)                   {"digits": names, "characters": names}
    moments(options)                   {"digits": (mean, std), "characters": (mean, std)}, three channels each, of the
                                       images; a domain's images are normalised by its own
"""

import numpy as np

from pipeline.runtime.errors import UserError

TASKS = ("digits", "characters")
KINDS = {"image": np.uint8, "digits": np.int16, "characters": np.int16}


def sample(image, task, label):
    return {"image": image} | dict.fromkeys(TASKS, -1) | {task: int(label)}


def counted(split, count, there):
    """{task: number of images} that `count` asks for; `there` says how many exist, None for any number."""
    key = f"protocols.<name>.data.{split}"
    if not isinstance(count, dict) or set(count) != set(TASKS):
        raise UserError(f"{key} is {count!r}: give a number of images for each task, {{digits: n, characters: m}}")
    for task, most in there.items():
        number = most if count[task] is None else count[task]
        if type(number) is not int or not 1 <= number <= (most or number):
            rule = "a whole number from 1" + (f" to {most}" if most else "")
            rule += ": drawn images have no end" if count[task] is None else ""
            raise UserError(f"{key}.{task} is {count[task]!r}, not {rule}")
    return {task: most if count[task] is None else count[task] for task, most in there.items()}
