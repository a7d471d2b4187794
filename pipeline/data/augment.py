"""Augmentation on the device: random scale, crop and mirror of a batch (MTAN's NYUv2 loader; KD4MTL's follow-up).

A scale s of SCALES is drawn, an s-th of the image cut out at a random place and brought back to full size; half of the
images are mirrored. Images are resized bilinearly with corners aligned, targets by nearest pixel, so that none is a
mixture (the released code interpolates normals, and leaves them short); what else a target has to undergo, its task
says (`zoom`, `mirror`). On Cityscapes XTasC-Net (arXiv:2111.14122) leaves depth as it is, and masks of valid pixels
uncut: `zoom_depth: false`, `crop_masks: false`.
"""

import torch
import torch.nn.functional as F

from pipeline import tasks

SCALES = (1.0, 1.2, 1.5)


def draw(seed, count, height, width):
    """One epoch's draws, (count, 6) float32 on the host: scale, height, width, top and left of the cut, mirrored."""
    drawn = torch.rand(count, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    scale = torch.tensor(SCALES, dtype=torch.float64)[(drawn[:, 0] * len(SCALES)).long()]
    size = torch.stack([(height / scale).floor(), (width / scale).floor()], 1)
    corner = (drawn[:, 1:3] * (torch.tensor([height, width]) - size + 1)).floor()
    return torch.cat([scale[:, None], size, corner, (drawn[:, 3:] < 0.5)], 1).float()


def apply(image, targets, drawn, names, how):
    """image and targets as `Split.batch` gives them, of pixels all; drawn (B, 6), rows of `draw`, on their device.

    names: the tasks whose targets are scaled and mirrored as they have it; others' are cut and mirrored as arrays. how:
    the row's switches and `inverse_depth`, for the tasks' `zoom`. Without `crop_masks` the targets of tasks that are
    UNCUT have beside them <kind>_mask, (B, H, W) or (B, 1, H, W) bool, the whole image's valid pixels, mirrored.
    """
    batch, device = torch.arange(len(drawn), device=image.device)[:, None, None], image.device
    scale, heights, widths, top, left, mirrored = drawn[..., None].unbind(1)             # each (B, 1)
    height, width = image.shape[-2:]
    rows, columns = torch.arange(height, device=device)[None], torch.arange(width, device=device)[None]
    columns = torch.where(mirrored > 0, width - 1 - columns, columns)
    y, x = top + rows * ((heights - 1) / (height - 1)), left + columns * ((widths - 1) / (width - 1))
    x, y = 2 * x[:, None] / (width - 1) - 1, 2 * y[..., None] / (height - 1) - 1            # of the whole, -1 to 1
    grid = torch.stack(torch.broadcast_tensors(x, y), -1)
    image = F.grid_sample(image, grid.to(image.dtype), align_corners=True, padding_mode="border")
    near = ((top + (rows * heights / height).floor()).long()[..., None],
            (left + (columns * widths / width).floor()).long()[:, None])
    out = {kind: target[batch, *near] if target.dim() == 3 else
           target.permute(0, 2, 3, 1)[batch, *near].permute(0, 3, 1, 2) for kind, target in targets.items()}
    for task in map(tasks.load, names):
        out[task.target] = task.mirror(task.zoom(out[task.target], scale[:, 0], how), mirrored[:, 0])
    return image, out if how["crop_masks"] else out | whole_masks(targets, mirrored[:, 0] > 0, names)


def whole_masks(targets, mirrored, names):
    """Where the targets of images are valid, mirrored where `mirrored` (B,) says."""
    masks = {}
    for task in map(tasks.load, names):
        if task.facts.uncut:
            mask, target = task.valid(targets[task.target]), targets[task.target]
            mask = torch.where(mirrored.view(-1, 1, 1), mask.flip(-1), mask)
            masks[f"{task.target}_mask"] = mask[:, None] if target.dim() == 4 else mask
    return masks
