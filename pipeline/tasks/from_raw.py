"""Targets that readers make of what data sets store, as Aligned-MTL (arXiv:2305.19000) does; no torch."""

import numpy as np

VOID = -32768.0         # both components where there is no instance; no offset is as large, and 0 is a true one
PER = 2729.0680031169923


def offsets(instance):
    """instance (H, W) of whole numbers, one for each instance, 0 for none -> (H, W, 2) float32: rows below and columns
    right of the mean row and column of all pixels with the same number, in pixels of this map; VOID where it is 0."""
    known, number = np.unique(instance, return_inverse=True)
    number, out = number.reshape(-1), np.empty((*instance.shape, 2), np.float32)
    pixels = np.bincount(number)
    for axis, places in enumerate(np.indices(instance.shape, sparse=True)):
        places = np.broadcast_to(places, instance.shape)
        means = np.bincount(number, places.reshape(-1)) / pixels
        out[..., axis] = places - means[number].reshape(instance.shape)
    out[instance == 0] = VOID
    return out


def disparity(stored):
    """Cityscapes' 16-bit numbers p, 1 + 256 times the disparity in pixels, 0 for none -> p / PER, float32."""
    return np.asarray(stored, np.float32) / np.float32(PER)
