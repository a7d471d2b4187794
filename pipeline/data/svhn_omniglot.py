"""SVHN (or MNIST) and Omniglot as people have them on disk, split as in the Visual Decathlon.

    svhn_root/train_32x32.mat                                          73,257 digits, a MATLAB 5 file, read by
                                                                       scipy, of the extra `mat`
    mnist_root/MNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte  60,000 and 10,000, as torchvision unpacks them
    omniglot_root[/omniglot-py]/images_{background,evaluation}/ALPHABET/CHARACTER/*.png    1,623 characters x 20

Digits: Netzer et al. 2011; drawings: Lake et al. 2015; split: Rebuffi et al. 2017 (arXiv:1705.08045), whose sizes are
re-created by seeded permutations: of SVHN's training digits 47,217 to train and 26,040 to test ("val" there, on which
KD4MTL's Table 1 is measured), of each character's drawings 12 and 4 and 4 that nothing reads. MNIST, for where SVHN
cannot be had, keeps its own split. Ink is 1 on 0. A drawing at 32x32 takes 0.3 ms and a digit 0.03 ms once its file is
read, 2 s for a full-sized train_32x32.mat (of noise) with `check`, one thread of a busy 2-core Xeon, 2026-11-21, by
`time python -c "from pipeline.data import svhn_omniglot as s; s.check({}, {'train': dict.fromkeys(s.pair.TASKS)})"`
"""

import functools
import math
import os
import struct
from typing import Literal

import numpy as np
import PIL.Image

from pipeline.data import files, pair
from pipeline.options.mistakes import resolved
from pipeline.options.types import Folder, Natural, Section
from pipeline.runtime.errors import UserError

KINDS = pair.KINDS
TITLE, TASKS = "SVHN and Omniglot", pair.TASKS
DIGITS = {"svhn": {"train": 47_217, "test": 26_040}, "mnist": {"train": 60_000, "test": 10_000}}
CHARACTERS, DRAWINGS = 1623, 20
SHARES = {"train": (0, 12), "test": (12, 16)}       # of a character's drawings, shuffled
SIDES = {"svhn": 32, "mnist": 28, "omniglot": 105}
IDX = {"train": "train", "test": "t10k"}
# Mean and standard deviation on the training images: of SVHN and Omniglot as published with Universal Representations
# (Li, Liu & Bilen, arXiv:2204.02744), of MNIST as in PyTorch's example.
MOMENTS = {"svhn": ((0.4376821, 0.4437697, 0.47280442), (0.19803012, 0.20101562, 0.19703614)),
           "mnist": ((0.1307,) * 3, (0.3081,) * 3), "omniglot": ((0.08099839,) * 3, (0.27046935,) * 3)}
FETCH = {
    "svhn": "from torchvision.datasets.utils import download_url; "
            "download_url('http://ufldl.stanford.edu/housenumbers/train_32x32.mat', '{}')",
    "mnist": "from torchvision.datasets import MNIST; MNIST('{}', download=True)",
    "omniglot": "from torchvision.datasets import Omniglot; "
                "[Omniglot('{}', background=b, download=True) for b in (True, False)]",
}


def check(options, counts):
    """UserError unless the images that `counts`, {"train": {"digits": n or None, ...}, ...}, asks for can be read.

    Reads the digits whole and the headers of the drawings.
    """
    options = _checked(options)
    for split, count in counts.items():
        for name in ids(split, count, options):
            if name.startswith("characters/"):
                _opened(_drawing(name, options)).close()


def ids(split, count, options):
    """Names "digits/<place in the file>" and "characters/<path of the drawing>"; every class once before any twice."""
    options = _checked(options)
    (first, last), characters = SHARES[split], _characters(options["omniglot_root"])
    count = pair.counted(split, count, {"digits": DIGITS[options["digits"]][split],
                                        "characters": (last - first) * len(characters)})
    _digits(split, options)
    seeds = [np.random.default_rng(seed) for seed in np.random.SeedSequence(options["seed"]).spawn(2)]
    numbers = DIGITS[options["digits"]]
    if options["digits"] == "mnist":
        order = seeds[0].permutation(numbers[split])
    else:                                               # one file holds both
        order = seeds[0].permutation(sum(numbers.values()))
        order = order[:numbers["train"]] if split == "train" else order[numbers["train"]:]
    shuffled = seeds[1].permuted(np.tile(np.arange(DRAWINGS), (len(characters), 1)), axis=1)
    turns, folders = seeds[1].permutation(len(characters)), list(characters)
    drawings = [f"characters/{folders[c]}/{characters[folders[c]][shuffled[c, i]]}"
                for i in range(first, last) for c in turns]
    return [*(f"digits/{i}" for i in order[:count["digits"]]), *drawings[:count["characters"]]]


def classes(options):
    folders = _characters(_checked(options)["omniglot_root"])
    return {"digits": tuple("0123456789"), "characters": tuple(folder.split("/", 1)[1] for folder in folders)}


def moments(options):
    return {"digits": MOMENTS[_checked(options)["digits"]], "characters": MOMENTS["omniglot"]}


def read(split, name, size, options):
    """One sample at size (H, W), H = W; see `pipeline.data.pair`."""
    options, (task, rest) = _checked(options), name.split("/", 1)
    if size[0] != size[1]:
        raise UserError(f"protocols.<name>.data asks for {size[0]} x {size[1]} (height x width), but digits "
                      "and drawings are square: set `height` and `width` to one number")
    if task == "digits":
        images, labels = _digits(split, options)
        stored, label = images[int(rest)].astype(np.float32) / 255, labels[int(rest)]
    else:
        stored = 1 - _grey(_drawing(name, options))
        label = _places(options["omniglot_root"])[rest.rsplit("/", 1)[0]]
    image = files.resized("image", np.ascontiguousarray(np.atleast_3d(stored)), tuple(size))
    return pair.sample(np.array(np.broadcast_to(image, (*size, 3)), order="C"), task, label)


class Options(Section):
    digits: Literal["svhn", "mnist"] = "svhn"
    svhn_root: Folder = "data/svhn"
    mnist_root: Folder = "data/mnist"
    omniglot_root: Folder = "data/omniglot"
    seed: Natural = 0                                 # of the split


def called(options):
    """What stands above a table."""
    return TITLE if options["digits"] == "svhn" else "MNIST and Omniglot"


def comparable(options):
    """Tasks whose printed numbers may stand beside ours: the paper has SVHN."""
    return TASKS if options["digits"] == "svhn" else ()


def _checked(options):
    return resolved(Options, options, "datasets.svhn_omniglot").model_dump()


def _missing(path, what, root):
    return UserError(f"{path} is not there: set `datasets.svhn_omniglot.{what}_root`, or download it by "
                   f'python -c "{FETCH[what].format(root)}"')


def _digits(split, options):
    """Images (N, h, w) or (N, h, w, 3) uint8 and labels (N,) 0..9 of the file that holds the split."""
    if options["digits"] == "svhn":
        return _svhn(options["svhn_root"])
    return _mnist(options["mnist_root"], split)


@functools.lru_cache(2)
def _svhn(root):
    scipy = files.package("scipy.io", "svhn_omniglot.digits: svhn", "digits: mnist")
    path, side = os.path.join(os.path.expanduser(root), "train_32x32.mat"), SIDES["svhn"]
    try:
        with open(path, "rb") as file:
            head = file.read(19)
    except FileNotFoundError:
        raise _missing(path, "svhn", root) from None
    if not head.startswith(b"MATLAB 5.0"):
        raise UserError(f"{path} begins with {head!r}, not as a MATLAB 5.0 file does: download it again, or save it by "
                      "MATLAB's `save -v7`")
    try:
        stored = scipy.loadmat(path)
    except Exception:       # scipy meets damaged files with OSError, ValueError, TypeError, zlib.error and more
        raise UserError(f"{path} is damaged or cut short ({os.path.getsize(path)} bytes): download it again") from None
    found = {name: array for name, array in stored.items()
             if isinstance(array, np.ndarray) and array.dtype.kind in "iuf"}
    if not {"X", "y"} <= set(found):
        raise UserError(f"{path} holds the variables {sorted(found)}, expected X and y: download it again")
    images, labels, number = found["X"], found["y"].ravel(), sum(DIGITS["svhn"].values())
    if images.shape[:3] != (side, side, 3) or images.ndim != 4 or images.dtype != np.uint8:
        raise UserError(f"{path} holds X as {images.dtype} {images.shape}, expected uint8 ({side}, {side}, 3, N): "
                      "download it again")
    if (images.shape[3], labels.size) != (number, number):
        raise UserError(f"{path} holds {images.shape[3]} images and {labels.size} labels, expected {number} of both: "
                      "put train_32x32.mat there, not the test or extra file")
    _refuse(path, labels, 10)
    return images.transpose(3, 0, 1, 2), labels.astype(int) % 10     # 10 stands for 0


@functools.lru_cache(2)
def _mnist(root, split):
    arrays = []
    for part, shape in (("images-idx3", (SIDES["mnist"],) * 2), ("labels-idx1", ())):
        path = os.path.join(os.path.expanduser(root), "MNIST", "raw", f"{IDX[split]}-{part}-ubyte")
        expected = struct.pack(f">{2 + len(shape)}I", 0x801 + len(shape), DIGITS["mnist"][split], *shape)
        try:
            with open(path, "rb") as file:
                head, content = file.read(len(expected)), file.read()
        except FileNotFoundError:
            raise _missing(path, "mnist", root) from None
        if head != expected or len(content) != math.prod((DIGITS["mnist"][split], *shape)):
            raise UserError(f"{path} holds {len(content)} bytes behind the header {head.hex()}, expected "
                          f"{math.prod((DIGITS['mnist'][split], *shape))} behind {expected.hex()}: download it again")
        arrays.append(np.frombuffer(content, np.uint8).reshape(-1, *shape))
    _refuse(path, arrays[1], 9)
    return arrays


def _refuse(path, labels, most):
    bad = ~((labels >= 0) & (labels <= most) & (labels == np.rint(labels)))
    if bad.any():
        raise UserError(f"{path} holds the label {labels[bad.argmax()]} at {bad.argmax()}, but labels are 0..{most}: "
                      "download it again")


@functools.lru_cache(2)
def _characters(root):
    """{"images_<part>/ALPHABET/CHARACTER": sorted names of its 20 drawings}, in sorted order."""
    base, found = _base(root), {}
    for part in ("images_background", "images_evaluation"):
        if not os.path.isdir(os.path.join(base, part)):
            raise _missing(os.path.join(base, part), "omniglot", root)
        for alphabet in _folders(os.path.join(base, part)):
            for character in _folders(os.path.join(base, part, alphabet)):
                folder = f"{part}/{alphabet}/{character}"
                found[folder] = sorted(entry for entry in os.listdir(os.path.join(base, folder))
                                       if entry.endswith(".png") and not entry.startswith("."))
                if len(found[folder]) != DRAWINGS:
                    raise UserError(f"{base}/{folder} holds {len(found[folder])} drawings (*.png), expected "
                                  f"{DRAWINGS}: unpack Omniglot there again")
    if len(found) != CHARACTERS:
        raise UserError(f"{base}/images_{{background,evaluation}} hold {len(found)} characters, expected {CHARACTERS}: "
                      "unpack both of Omniglot's archives there again")
    return found


@functools.lru_cache(2)
def _places(root):
    return {folder: i for i, folder in enumerate(_characters(root))}


def _folders(path):
    return sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith("."))


def _base(root):
    root = os.path.expanduser(root)
    below = os.path.join(root, "omniglot-py")           # where torchvision unpacks
    return below if os.path.isdir(below) else root


def _drawing(name, options):
    return os.path.join(_base(options["omniglot_root"]), name.removeprefix("characters/"))


def _opened(path):
    """The picture with its header read and its size checked, its pixels not."""
    side = SIDES["omniglot"]
    try:
        picture = PIL.Image.open(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read as a picture ({error.strerror or 'damaged'}): unpack Omniglot there "
                      "again") from None
    if picture.size != (side, side):
        picture.close()
        raise UserError(f"{path} is {picture.size[1]} x {picture.size[0]}, expected {side} x {side}: unpack Omniglot "
                      "there again, not resized")
    return picture


def _grey(path):
    """(105, 105) float32 as stored, ink 0 on paper 1."""
    with _opened(path) as picture:
        try:
            grey = np.asarray(picture.convert("L"), np.float32) / 255
        except OSError:
            raise UserError(f"{path} is damaged or cut short: unpack Omniglot there again") from None
    if grey.mean() < 0.5:
        raise UserError(f"{path} is {1 - grey.mean():.0%} black, but drawings are black ink on white: unpack Omniglot "
                      "there again, not inverted")
    return grey
