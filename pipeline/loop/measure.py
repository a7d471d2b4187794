"""The one evaluation pass, used while training and by stage `evaluate` alike."""

import torch

from pipeline.runtime import distributed
from pipeline.tasks.tally import Tally

PIXELS = 2**19          # a forward, or 16 images; no dataset-level metric depends on it


@torch.no_grad()
def measure(model, split, tasks, official_batch, device, on_predictions=lambda predictions: None, costly=False):
    """All metrics of `model` on the whole of `split`, in eval mode: {protocol: {...}}, as `Tally.results`.

    on_predictions: is given the predictions of every chunk of images. costly: metrics that say so are measured too.
    """
    model.eval()
    batches = range(0, len(split), official_batch)
    index = [i for begin in distributed.share(batches) for i in range(begin, min(begin + official_batch, len(split)))]
    tally = Tally(tasks, split.classes, device, official_batch, index[0], len(split), costly)
    batch = max(16, PIXELS // (split.size[0] * split.size[1]))
    size = max(batch // official_batch, 1) * official_batch
    for begin in range(0, len(index), size):
        image, targets = split.batch(index[begin:begin + size])
        predictions = model(image)[0]
        tally.update(predictions, targets)
        on_predictions(predictions)
    return tally.results()
