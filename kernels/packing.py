"""How teacher features are kept: unit length over channels, pixel-major (B, P, D) with P = H * W, in a storage type."""

import torch

EPSILON = 1e-6      # KD4MTL's released code adds it to the squared norm, inside the root


def normalise(feature):
    """(B, D, H, W) or (B, D) teacher features -> unit pixel-major (B, P, D), and the mean squared norm (B,) float64.

    g = f / sqrt(|f|^2 + eps) per pixel. |g|^2 = 1 - eps / (|f|^2 + eps) is 0 on a dead pixel, not 1: with its mean
    beside g the distance is exact whatever g is stored in.
    """
    f = feature.flatten(2).transpose(1, 2) if feature.ndim == 4 else feature[:, None]
    norm2 = f.square().sum(-1, keepdim=True)
    return f * torch.rsqrt(norm2 + EPSILON), (norm2.double() / (norm2.double() + EPSILON)).mean((1, 2))


def pack(unit, dtype):
    """Unit features (B, P, D) in a storage type: torch.float32, float16 or uint8 (255 x share of the pixel's maximum).

    uint8 holds no scale, since `unpack` makes the vector unit again; it needs features >= 0 (after a ReLU).
    """
    if dtype != torch.uint8:
        return unit.to(dtype)
    if unit.min() < 0:
        raise ValueError(f"uint8 features must not be negative, found {unit.min():.3g}; "
                         "set `features.dtype: float16` in params.yaml")
    return (unit * (255 / unit.amax(-1, keepdim=True).clamp_min(1e-12))).round().to(torch.uint8)


def unpack(stored):
    """Stored features (B, P, D) -> unit float32 (float64 stays); an all-zero pixel stays zero."""
    if stored.dtype != torch.uint8:
        return stored if stored.dtype == torch.float64 else stored.float()
    unit = stored.float()
    return unit * torch.rsqrt(unit.square().sum(-1, keepdim=True).clamp_min(1e-12))
