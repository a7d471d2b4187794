"""The pipeline's heavy operations. Public names are the names in `kernels.reference`, which is their specification."""

from kernels.dispatch import combine, feature_distance, gramian, min_norm
from kernels.packing import normalise, pack, unpack

DECIDES_NUMBERS = False          # these are names; a run's digest of code holds the operations that it asks for
__all__ = ["combine", "feature_distance", "gramian", "min_norm", "normalise", "pack", "unpack"]
