"""The pipeline's heavy operations. Public names are the names in `kernels.reference`, which is their specification."""

from kernels.dispatch import combine, feature_distance, gramian, min_norm
from kernels.packing import normalise, pack, unpack

__all__ = ["combine", "feature_distance", "gramian", "min_norm", "normalise", "pack", "unpack"]
