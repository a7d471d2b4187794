"""Other distances than KD4MTL's between adapted student features and a teacher's (Universal Representations, Li, Liu &
Bilen, arXiv 2204.02744), all on unit vectors over channels and 0 where they agree.

    l1       sum over channels of |s - g|, mean over images and pixels
    cosine   1 - <s, g>, mean over images and pixels
    cka      1 - linear CKA (Kornblith et al. 2019), every pixel of the batch a sample

`l2`, the paper's own, is `kernels.feature_distance`.
"""

import torch

from kernels.packing import normalise, unpack


def distance(kind, adapted, stored):
    """adapted (B, D, H, W) or (B, D), stored (B, P, D) as `pack` has it -> scalar, differentiable in adapted."""
    student = normalise(adapted.to(torch.promote_types(adapted.dtype, torch.float32)))[0]
    return LOSSES[kind](student, unpack(stored).to(student.dtype))


def l1(s, g):
    return (s - g).abs().sum(-1).mean()


def cosine(s, g):
    return (1 - (s * g).sum(-1)).mean()


def cka(s, g):
    s, g = (x.flatten(0, 1) - x.flatten(0, 1).mean(0) for x in (s, g))
    scale = ((s.T @ s).square().sum() * (g.T @ g).square().sum()).clamp_min(1e-24).sqrt()
    return 1 - (g.T @ s).square().sum() / scale


LOSSES = {"l1": l1, "cosine": cosine, "cka": cka}
