"""One split of a suite's prepared data on the device: batches of images and of the tasks' targets."""

import torch

from pipeline import data, tasks
from pipeline.runtime.prefetch import Prefetch, positions, rows


def formed(stored):
    """Stored arrays of a batch -> the target: whole numbers are classes, (B, H, W) or (B,) int64; measures (B, H, W)
    or (B, H, W, C) become (B, C, H, W) float32."""
    if not stored.is_floating_point():
        return stored.long()
    return (stored[:, None] if stored.dim() == 3 else stored.permute(0, 3, 1, 2)).float()


class Split:
    """One split on the device: `split.batch(index)` -> (image, targets) for a list of positions.

    image (B, 3, H, W) float32, channels last, in [0, 1], or normalised by its domain's moments; targets {kind: as
    `formed` has it} of the tasks `names` and of what their losses read, or of all tasks that the data set has, each
    thinned by the suite's `target_stride`, which `whole_batch` leaves to whoever augments them. `ids`
    are the images' names, in the arrays' order; `classes` {task: names}; `domains` {task: range of positions} where
    each image is labelled for one task only, else empty; `inverse_depth`: depth is that. What does not fit in half of
    a GPU's free memory stays on the host; `prefetch(index)` then sends the next batch ahead.
    """

    def __init__(self, folder, name, device, names=None):
        manifest = data.load_manifest(folder)
        self.ids, self.classes, self.size = manifest["ids"][name], manifest["classes"], manifest["size"]
        self.domains = {task: range(*ends) for task, ends in manifest["domains"].get(name, {}).items()}
        self.inverse_depth, self.stride, self.device = manifest["inverse_depth"], manifest["target_stride"], device
        kinds = tasks.of_kinds(manifest["stored"])
        if names is not None:
            read = {kind for own in map(tasks.facts, names) for kind in (own.target, *own.reads)}
            kinds = [kind for kind in kinds if kind in read]
        arrays = data.open_arrays(folder, manifest, name, ("image", *kinds))
        # CUDA takes a copy once; a CPU reads the memory map, so that only touched pages cost memory.
        needed = sum(array.nbytes for array in arrays.values())
        self.resident = device.type == "cpu" or needed < 0.5 * torch.cuda.mem_get_info(device)[0]
        self.arrays = {kind: torch.from_numpy(array).to(device if self.resident else "cpu")
                       for kind, array in arrays.items()}
        self.ahead = Prefetch(lambda key, room: [rows(array, key, room, kind) for kind, array in self.arrays.items()],
                           device)
        # (domains, mean and deviation, channels) of a domain's images
        self.moments = torch.tensor([manifest["moments"][task] for task in self.domains], device=device)

    def __len__(self):
        return len(self.ids)

    def prefetch(self, index):
        if not self.resident:
            self.ahead.prefetch(tuple(index))

    def batch(self, index):
        image, targets = self.whole_batch(index)
        return image, self.thinned(targets)

    def thinned(self, targets):
        """Of each square of `target_stride` pixels a side the one right below its middle: {kind: (B, ..., h, w)}."""
        if self.stride == 1:
            return targets
        return {kind: target[..., self.stride // 2::self.stride, self.stride // 2::self.stride]
                for kind, target in targets.items()}

    def whole_batch(self, index):
        if self.resident:
            places = positions(index, self.device)
            raw = [array[places] for array in self.arrays.values()]
        else:
            raw = self.ahead.get(tuple(index))
        raw = dict(zip(self.arrays, raw, strict=True))
        image = raw.pop("image").permute(0, 3, 1, 2).float().div_(255)      # a channels-last view, kept by float()
        if self.domains:
            mean, deviation = self.moments[positions(self.domain(index), self.device)][..., None, None].unbind(1)
            image = (image - mean) / deviation
        return image, {kind: formed(array) for kind, array in raw.items()}

    def domain(self, index):
        """The number of each image's domain."""
        return [next(n for n, places in enumerate(self.domains.values()) if i in places) for i in index]
