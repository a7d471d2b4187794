"""Augmentation on the device: random scale, crop and mirror of a batch (MTAN's NYUv2 loader; KD4MTL's follow-up).

A scale s of SCALES is drawn, an s-th of the image cut out at a random place and brought back to full size, its depth
divided by s; half of the images are mirrored, their normals too. Images are resized bilinearly with corners aligned,
targets by nearest pixel, so that none is a mixture (the released code interpolates normals, and leaves them short).
On Cityscapes XTasC-Net (arXiv:2111.14122) leaves depth as it is, and masks of valid pixels uncut: `zoom_depth: false`,
`crop_masks: false`.
"""

import torch
import torch.nn.functional as F

SCALES = (1.0, 1.2, 1.5)


def draw(seed, count, height, width):
    """One epoch's draws, (count, 6) float32 on the host: scale, height, width, top and left of the cut, mirrored."""
    drawn = torch.rand(count, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    scale = torch.tensor(SCALES, dtype=torch.float64)[(drawn[:, 0] * len(SCALES)).long()]
    size = torch.stack([(height / scale).floor(), (width / scale).floor()], 1)
    corner = (drawn[:, 1:3] * (torch.tensor([height, width]) - size + 1)).floor()
    return torch.cat([scale[:, None], size, corner, (drawn[:, 3:] < 0.5)], 1).float()


def apply(image, targets, drawn, inverse=False, zoom_depth=True, crop_masks=True):
    """image and targets as `Split.batch` gives them, of pixels all; drawn (B, 6), rows of `draw`, on their device.

    inverse: depth is inverse depth, which is multiplied by s; without zoom_depth it stays as it is. Without crop_masks
    the targets have label_mask (B, H, W) and depth_mask (B, 1, H, W) too, the whole image's valid pixels, mirrored.
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
    out = {"label": targets["label"][batch, *near]} if "label" in targets else {}
    for kind in targets.keys() & {"depth", "normal"}:
        out[kind] = targets[kind].permute(0, 2, 3, 1)[batch, *near].permute(0, 3, 1, 2)
    if "depth" in out and zoom_depth:
        s = scale[..., None, None].to(out["depth"])
        out["depth"] = out["depth"] * s if inverse else out["depth"] / s
    if "normal" in out:
        x_mirrored = torch.cat([1 - 2 * mirrored, torch.ones_like(mirrored), torch.ones_like(mirrored)], 1)
        out["normal"] = out["normal"] * x_mirrored[..., None, None].to(out["normal"])
    return image, out if crop_masks else out | whole_masks(targets, mirrored[:, 0] > 0)


def whole_masks(targets, mirrored):
    """Where label and depth of the images are valid, mirrored where `mirrored` (B,) says."""
    valid = {f"{kind}_mask": targets[kind] != void for kind, void in (("label", -1), ("depth", 0)) if kind in targets}
    return {name: torch.where(mirrored.view(-1, *[1] * (mask.dim() - 1)), mask.flip(-1), mask)
            for name, mask in valid.items()}
