"""One NIfTI file's bytes as an oriented array with its geometry; refuses what can't be believed."""

from __future__ import annotations

import logging
import zlib
from dataclasses import dataclass
from typing import cast

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

# Nearest to an axial DICOM slice as it is displayed: x to the patient's left, y to the back, z to the head
AXES = ("L", "P", "S")
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
LARGEST = 8 << 30
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL + 1)  # its warnings quote the file


class UnreadableVolume(Exception):
    """check: the audit's slug; the message: its reason."""

    def __init__(self, check: str, reason: str):
        super().__init__(reason)
        self.check = check


@dataclass
class Volume:
    voxels: np.ndarray
    """[C, D, H, W] in the stored dtype, after the header's scaling where it has one."""
    spacing: tuple[float, float, float]
    """mm along D, H, W."""
    affine: np.ndarray
    """float64[4, 4]: index (d, h, w) to DICOM patient coordinates (LPS), mm."""


def read_nifti(data: bytes) -> Volume:
    """Decode .nii or .nii.gz bytes, turned and mirrored (never resampled) to the closest of L, P, S along W, H, D.

    A fourth axis is the channel, as in the Medical Segmentation Decathlon. Raises UnreadableVolume.
    """
    image = _open(data)
    shape = image.shape
    if len(shape) == 5 and shape[3] == 1:  # the NIfTI standard's place for vectors
        shape = (*shape[:3], shape[4])
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise UnreadableVolume("unsupported", f"has {len(shape)} axes; a volume has 3, or 4 with channels")
    affine = image.affine
    if affine is None or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise UnreadableVolume("geometry", "its affine is not a valid map from voxels to millimetres")
    try:
        voxels = np.asanyarray(image.dataobj)
    except (OSError, ValueError, EOFError, ImageFileError) as error:
        raise UnreadableVolume("truncated", f"its voxels can't be read ({type(error).__name__})") from None
    if voxels.dtype.kind not in "iuf":
        raise UnreadableVolume("unsupported", f"holds voxels of type {voxels.dtype}")
    if voxels.dtype.kind == "f" and voxels.dtype.itemsize != 4:
        voxels = voxels.astype(np.float32)
    lies = io_orientation(affine)
    if np.isnan(lies).any():
        raise UnreadableVolume("geometry", "its affine maps two axes onto one")
    turn = ornt_transform(lies, axcodes2ornt(AXES))
    affine = RAS_TO_LPS @ affine @ inv_ornt_aff(turn, image.shape[:3])
    voxels = apply_orientation(voxels.reshape(shape), turn)
    voxels = voxels.transpose(2, 1, 0)[None] if voxels.ndim == 3 else voxels.transpose(3, 2, 1, 0)
    affine = affine[:, [2, 1, 0, 3]]
    d, h, w = (float(s) for s in np.linalg.norm(affine[:3, :3], axis=0))
    return Volume(voxels.astype(voxels.dtype.newbyteorder("="), copy=False), (d, h, w), affine)


def _open(data: bytes) -> nib.Nifti1Image:
    if data[:2] == b"\x1f\x8b":
        try:
            unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
            data = unpacker.decompress(data, LARGEST)
        except zlib.error:
            raise UnreadableVolume("truncated", "its gzip data is damaged") from None
        if unpacker.unconsumed_tail:
            raise UnreadableVolume("unsupported", f"unpacks to more than {LARGEST >> 30} GiB")
        if not unpacker.eof:
            raise UnreadableVolume("truncated", "its gzip data ends before its end mark")
    try:
        kind = nib.Nifti2Image if data[:4] in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c") else nib.Nifti1Image
        image = kind.from_bytes(data)
        needed = int(cast(ArrayProxy, image.dataobj).offset) + int(np.prod([int(n) for n in image.shape])) * image.get_data_dtype().itemsize
    except Exception:  # a damaged header can make the parser raise anything
        raise UnreadableVolume("not-an-image", "is not a NIfTI file") from None
    if needed > len(data):
        raise UnreadableVolume("truncated", f"its header promises {needed} bytes, it holds {len(data)}")
    return image
