"""Masks and restored images as files beside the input's: NIfTI on the voxel grid of the input file, PNG of a picture's size."""

from __future__ import annotations

import gzip
import io
from collections.abc import Sequence

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, io_orientation, ornt_transform
from PIL import Image

from hepdist.ingest.files import Files
from hepdist.ingest.nifti import RAS_TO_LPS, voxel_affine
from hepdist.ingest.volumes import HEADER, VOXELS


def nifti_like(files: Files, names: Sequence[str], array: np.ndarray, affine: np.ndarray, step: float = 1.0) -> bytes:
    """.nii.gz of array[(C,) D, H, W] on the grid of the file that it was read from: its shape and affine, no other word of its header.

    names: the files of the case, the first of which says the grid; affine: of the array's voxels, as ingest turned them (LPS);
    step: as for `nifti`.
    """
    first = names[0]
    base = VOXELS.sub("", first)
    header = next((name for name in names if name != first and HEADER.search(name) and HEADER.sub("", name) == base), first)
    kept = _header(files.read(header))
    return nifti(array, affine, kept.get_best_affine(), kept, step)


def nifti(
    array: np.ndarray, affine: np.ndarray, target: np.ndarray | None = None, kept: nib.Nifti1Header | None = None, step: float = 1.0
) -> bytes:
    """.nii.gz of array[(C,) D, H, W] whose voxels lie by `affine` (LPS, from (d, h, w)), turned to the axes of `target` (RAS, from (i, j, k)).

    step: what readers multiply the stored numbers by.
    """
    own = RAS_TO_LPS @ affine[:, [2, 1, 0, 3]]
    voxels = array.transpose(2, 1, 0) if array.ndim == 3 else array.transpose(3, 2, 1, 0)
    if target is not None:
        lies = target if kept is None else voxel_affine(kept, kept.get_data_shape())  # which of its two transforms ingest believed
        voxels = apply_orientation(voxels, ornt_transform(io_orientation(own), io_orientation(lies)))
        own = target
    image = nib.Nifti1Image(np.asarray(voxels), own, dtype=voxels.dtype)
    if step != 1:
        image.header.set_slope_inter(step, 0)
    if kept is not None:
        image.header.set_xyzt_units(*kept.get_xyzt_units()[:1])
        for code, setter in ((kept["sform_code"], image.set_sform), (kept["qform_code"], image.set_qform)):
            setter(own, int(code) or 1)
    return gzip.compress(image.to_bytes(), compresslevel=4, mtime=0)


def png(array: np.ndarray) -> bytes:
    """Of array[H, W], uint8 or uint16."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def displayed(image: np.ndarray, unit: str) -> np.ndarray:
    """A restored picture [1, H, W] as stored values: whole numbers of the depth that its unit says."""
    deep = unit != "display 0..255"
    return np.rint(image[0].clip(0, 65535 if deep else 255)).astype(np.uint16 if deep else np.uint8)


def _header(data: bytes) -> nib.Nifti1Header:
    plain = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    kind = nib.Nifti2Header if plain[:4] in ((540).to_bytes(4, "little"), (540).to_bytes(4, "big")) else nib.Nifti1Header
    return kind(plain[: 540 if kind is nib.Nifti2Header else 348])
