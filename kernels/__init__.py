"""The pipeline's heavy operations. Public names are the names in `kernels.reference`, which is their specification."""

from kernels.reference import feature_distance, normalise, pack, unpack

__all__ = ["feature_distance", "normalise", "pack", "unpack"]
