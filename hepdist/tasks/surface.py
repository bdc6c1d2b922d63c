"""Distances between the surfaces of two regions, in millimetres."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def surface_distance_95(pred: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float]) -> float:
    """95th percentile of the symmetric surface distance (HD95), in millimetres.

    pred, truth: bool[H, W] or bool[D, H, W]; spacing_mm: in the order of the axes. Both empty gives 0.0, one empty gives inf.
    Huttenlocher et al., 1993; MONAI's definition: the larger of the two directed 95th percentiles, surfaces by 1-voxel erosion.
    """
    from scipy.ndimage import binary_erosion, distance_transform_edt, find_objects

    if not pred.any() or not truth.any():
        return 0.0 if pred.any() == truth.any() else float("inf")
    # Only the box that holds both regions matters; the margin keeps surfaces at its border from touching it.
    box = find_objects((pred | truth).astype(np.uint8))[0]
    pred, truth = np.pad(pred[box], 1), np.pad(truth[box], 1)
    edges = [region & ~binary_erosion(region) for region in (pred, truth)]
    directed = [distance_transform_edt(~edges[1 - i], sampling=spacing_mm)[edges[i]] for i in (0, 1)]
    return float(max(np.percentile(d, 95) for d in directed))
