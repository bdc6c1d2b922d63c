"""RT structure sets as regions on an image's grid: closed planar contours, filled by the rule of their voxels' centres."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from matplotlib.path import Path as Polygon
from pydicom.dataset import Dataset

from hepdist.ingest.dicom_pixels import read_dataset
from hepdist.ingest.dicom_refused import Refused, quiet
from hepdist.ingest.dicom_regions import Region, region
from hepdist.ingest.dicom_series import Stack
from hepdist.ingest.files import Files

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
OFF_PLANE = 0.3
"""Slices by which a contour's points may leave the plane of the slice that they are drawn on."""


def read_structures(files: Files, name: str, wanted: dict[int, int], stack: Stack) -> list[Region]:
    """The regions of interest `wanted` (ROI Number: class index) on the image's grid.

    A voxel is inside where its centre is inside an odd number of the contours of its slice, so that a contour within
    another one is a hole (the keyhole technique of PS3.3 C.8.8.6.3 gives the same). Points and open contours enclose nothing.
    Raises Refused with check 'geometry' where contours don't lie on slices of the image or skip slices between them.
    """
    dataset = read_dataset(files, name)
    found = []
    try:
        with quiet():
            for item in dataset.get("ROIContourSequence") or ():
                index = wanted.get(int(item.ReferencedROINumber))
                if index is not None and (one := region(index, _filled(item, stack))) is not None:
                    found.append(one)
    except Refused:
        raise
    except Exception:  # an object that breaks the standard can make the parser raise anything; the message may quote it
        raise Refused("segmentation", "the structure set breaks the DICOM standard") from None
    if not found:
        raise Refused("segmentation", "the structure set encloses no voxel of the image")
    return found


def _filled(roi: Dataset, stack: Stack) -> np.ndarray:
    to_index = np.linalg.inv(stack.affine)
    by_slice: dict[int, list[np.ndarray]] = defaultdict(list)
    for contour in roi.get("ContourSequence") or ():
        if contour.get("ContourGeometricType") not in CLOSED:
            continue
        points = np.array(contour.ContourData, float).reshape(-1, 3)
        index = points @ to_index[:3, :3].T + to_index[:3, 3]
        level = round(float(index[:, 0].mean()))
        if np.abs(index[:, 0] - level).max() > OFF_PLANE:
            raise Refused("geometry", "contours of a structure set that don't lie on the slices of the image")
        by_slice[level].append(index[:, 1:])
    levels = sorted(by_slice)
    if len(levels) > 2 and np.diff(levels).min() > 1:
        raise Refused("geometry", f"contours {np.diff(levels).min()} slices of the image apart, with nothing between them")
    voxels = np.zeros(stack.shape, bool)
    for level in levels:
        if 0 <= level < len(voxels):
            for outline in by_slice[level]:
                _flip_inside(voxels[level], outline)
    return voxels


def _flip_inside(plane: np.ndarray, outline: np.ndarray) -> None:
    """Turn over the voxels of bool[H, W] whose centre lies inside one outline float[n, 2] of (h, w) indices."""
    low = np.maximum(np.floor(outline.min(axis=0)), 0).astype(int)
    high = np.minimum(np.ceil(outline.max(axis=0)) + 1, plane.shape).astype(int)
    if (low >= high).any():
        return
    h, w = np.mgrid[low[0] : high[0], low[1] : high[1]]
    inside = Polygon(outline, closed=False).contains_points(np.stack([h.ravel(), w.ravel()], axis=1))
    plane[low[0] : high[0], low[1] : high[1]] ^= inside.reshape(h.shape)
