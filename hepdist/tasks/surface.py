"""Distances to and between the surfaces of regions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def surface_distance_95(pred: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float]) -> float:
    """95th percentile of the symmetric surface distance (HD95), in millimetres.

    pred, truth: bool[H, W] or bool[D, H, W]; spacing_mm: in the order of the axes. Both empty gives 0.0, one empty gives inf.
    Huttenlocher et al., 1993; MONAI's definition: the larger of the two directed 95th percentiles, surfaces by 1-voxel erosion.
    """
    return surface_agreement(pred, truth, spacing_mm, 0.0)[0]


def surface_agreement(pred: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float], tolerance_mm: float) -> tuple[float, float]:
    """HD95 as `surface_distance_95` has it, and the normalised surface Dice (NSD) at a tolerance.

    NSD: share of the voxels of both surfaces that lie within the tolerance of the other one. Both empty gives nan, one empty gives 0.
    Nikolov et al., 2021, in MONAI's definition, which counts the voxels of a surface instead of its area.
    """
    from scipy.ndimage import binary_erosion, find_objects

    if not pred.any() or not truth.any():
        return (float("inf"), 0.0) if pred.any() != truth.any() else (0.0, float("nan"))
    # Only the box that holds both regions matters; the margin keeps surfaces at its border from touching it.
    box = find_objects((pred | truth).astype(np.uint8))[0]
    pred, truth = np.pad(pred[box], 1), np.pad(truth[box], 1)
    edges = [region & ~binary_erosion(region) for region in (pred, truth)]
    del pred, truth
    percentiles, near, voxels = [], 0, 0
    for i in (0, 1):
        apart = _distances(edges[i], edges[1 - i], spacing_mm)
        near += int(np.count_nonzero(apart <= tolerance_mm))
        voxels += len(apart)
        percentiles.append(float(np.percentile(apart, 95, overwrite_input=True)))
    return max(percentiles), near / voxels


def signed_distance(region: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """float32 like region: each voxel's distance to it, and inside, below zero, to its own border; 0 in its outermost voxels.

    region: bool[H, W] or bool[D, H, W]; spacing in any unit, in the order of the axes: the smallest is the unit of the outcome. All zeros
    where the region is empty or everything, since there is no border. Kervadec et al., 2019; equal to MONAI's BoundaryLoss at equal sides.
    """
    from scipy.ndimage import distance_transform_edt

    if not region.any() or region.all():
        return np.zeros(region.shape, np.float32)
    sides = np.asarray(spacing, dtype=np.float64) / min(spacing)
    outside, inside = distance_transform_edt(~region, sampling=sides), distance_transform_edt(region, sampling=sides)
    return np.where(region, 1 - inside, outside).astype(np.float32)


def _distances(points: np.ndarray, surface: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """float32[n]: from each voxel of `points` to the nearest of `surface`, both bool[D, H, W] or bool[H, W].

    distance_transform_edt's own distances need 48 bytes a voxel of the box, its indices 12; only those at `points` are asked for.
    """
    from scipy.ndimage import distance_transform_edt

    nearest = distance_transform_edt(~surface, sampling=spacing_mm, return_distances=False, return_indices=True)
    found, done = np.empty(np.count_nonzero(points), np.float32), 0
    for first, plane in enumerate(points):  # a plane at a time: a noisy prediction is all surface
        place = np.nonzero(plane)
        here = np.stack([np.full(len(place[0]), first), *place])
        apart = (nearest[(slice(None), first, *place)] - here) * np.array(spacing_mm)[:, None]
        found[done : done + len(place[0])] = np.sqrt((apart**2).sum(axis=0))
        done += len(place[0])
    return found
