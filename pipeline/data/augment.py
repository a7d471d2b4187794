"""Augmentation of a batch on the device: `crop` or `rotate`, and half of the images are mirrored.

crop (MTAN's NYUv2 loader; KD4MTL's follow-up): a scale s of SCALES is drawn, an s-th of the image cut out at a random
place and brought back to full size. rotate (Aligned-MTL on Cityscapes): the image is turned about its middle by up to
MOST_TURNED either way; what was not in it is black, and void in the targets. Images are read bilinearly, of a crop with
corners aligned, targets by nearest pixel, so that none is a mixture (the released code interpolates normals, and leaves
them short); what else a target has to undergo, its task says (`zoom`, `turn`, `mirror`). On Cityscapes XTasC-Net
(arXiv:2111.14122) leaves depth as it is, and masks of valid pixels uncut: `zoom_depth: false`, `crop_masks: false`.

NOTE: Aligned-MTL turns the stored images and takes the centre of what is left of an instance; here the centre turns
with the image.
"""

import math

import torch
import torch.nn.functional as F

from pipeline import tasks

SCALES = (1.0, 1.2, 1.5)
MOST_TURNED = math.radians(10)


def draw(way, seed, count, height, width):
    """One epoch's draws of `way`, rows of numbers, (count, n) float32 on the host, whose last is 1 of mirrored images.

    crop: scale, height, width, top and left of the cut; rotate: an angle, in radians and clockwise.
    """
    drawn = torch.rand(count, 4 if way == "crop" else 2, generator=torch.Generator().manual_seed(seed),
                       dtype=torch.float64)
    if way == "rotate":
        return torch.stack([MOST_TURNED * (2 * drawn[:, 0] - 1), drawn[:, 1] < 0.5], 1).float()
    scale = torch.tensor(SCALES, dtype=torch.float64)[(drawn[:, 0] * len(SCALES)).long()]
    size = torch.stack([(height / scale).floor(), (width / scale).floor()], 1)
    corner = (drawn[:, 1:3] * (torch.tensor([height, width]) - size + 1)).floor()
    return torch.cat([scale[:, None], size, corner, (drawn[:, 3:] < 0.5)], 1).float()


def apply(way, image, targets, drawn, names, how):
    """image and targets as `Split.whole_batch` gives them, of pixels all; drawn (B, n), rows of `draw` on their device.

    names: the tasks whose targets change as they have it; others' are read and mirrored as arrays. how: the row's
    switches and `inverse_depth`, for the tasks' `zoom`. Without `crop_masks` the targets of tasks that are UNCUT have
    beside them <kind>_mask, (B, H, W) or (B, 1, H, W) bool, the whole image's valid pixels, mirrored.
    """
    mirrored = drawn[:, -1]
    own = [tasks.load(name) for name in names]
    voids = {kind: 0 if target.is_floating_point() else -1 for kind, target in targets.items()} | {
        task.target: task.void for task in own}
    image, out = crop(image, targets, drawn) if way == "crop" else rotate(image, targets, drawn, voids)
    for task in own:
        target = out[task.target]
        target = task.zoom(target, drawn[:, 0], how) if way == "crop" else task.turn(target, drawn[:, 0])
        out[task.target] = task.mirror(target, mirrored)
    return image, out if how["crop_masks"] else out | whole_masks(targets, mirrored > 0, names)


def crop(image, targets, drawn):
    """The cuts of images and of targets as arrays, brought to full size and mirrored."""
    device = image.device
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
    return image, {kind: read(target, *near) for kind, target in targets.items()}


def rotate(image, targets, drawn, voids):
    """Images and targets as arrays, turned about their middles, then mirrored; voids: {kind: what the corners are}."""
    angle, mirrored = drawn[..., None, None].unbind(1)                                   # each (B, 1, 1)
    (height, width), device = image.shape[-2:], image.device
    y = torch.arange(height, device=device)[None, :, None] - (height - 1) / 2
    x = (torch.arange(width, device=device)[None, None] - (width - 1) / 2) * (1 - 2 * mirrored)
    x, y = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()          # from where it has come
    grid = torch.stack([2 * x / (width - 1), 2 * y / (height - 1)], -1)
    image = F.grid_sample(image, grid.to(image.dtype), align_corners=True)
    rows, columns = (torch.floor(at + side / 2).long() for at, side in ((y, height), (x, width)))
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    near = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    return image, {kind: torch.where(inside if target.dim() == 3 else inside[:, None], read(target, *near), voids[kind])
                   for kind, target in targets.items()}


def read(target, rows, columns):
    """target (B, H, W) or (B, C, H, W) at rows and columns, which together have the shape (B, H, W)."""
    batch = torch.arange(len(target), device=target.device)[:, None, None]
    if target.dim() == 3:
        return target[batch, rows, columns]
    return target.permute(0, 2, 3, 1)[batch, rows, columns].permute(0, 3, 1, 2)


def whole_masks(targets, mirrored, names):
    """Where the targets of images are valid, mirrored where `mirrored` (B,) says."""
    masks = {}
    for task in map(tasks.load, names):
        if task.facts.uncut:
            mask, target = task.valid(targets[task.target]), targets[task.target]
            mask = torch.where(mirrored.view(-1, 1, 1), mask.flip(-1), mask)
            masks[f"{task.target}_mask"] = mask[:, None] if target.dim() == 4 else mask
    return masks
