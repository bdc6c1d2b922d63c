"""One NIfTI volume's bytes as an oriented array with its geometry; refuses what can't be believed, and reads no more than its header needs.

NIfTI-1 and -2, as one file or as a pair of .hdr and .img, packed by gzip or not (https://nifti.nimh.nih.gov/nifti-1).
"""

from __future__ import annotations

import gzip
import io
import logging
import math
import zlib
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

# Nearest to an axial DICOM slice as it is displayed: x to the patient's left, y to the back, z to the head
AXES = ("L", "P", "S")
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
LARGEST = 2 << 30
"""Bytes of voxels in one file; a float32 CT of 512 x 512 x 600 has 0.6 GiB."""
HEADER = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
"""By the number that a file opens with."""
MILLIMETRES = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 0.001}
SCANNER = 1
"""The transform code that means the scanner's own coordinates; 2 and more are another scan's, or an atlas's."""
TRAILING = 1 << 20
"""Bytes after the voxels that are let pass."""
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


def read_nifti(data: bytes, header: bytes | None = None) -> Volume:
    """Decode a volume, turned and mirrored (never resampled) to the closest of L, P, S along W, H, D.

    data: the bytes of .nii, .nii.gz, or of .img with those of .hdr as `header`. A fourth axis is the channel, as in the
    Medical Segmentation Decathlon. Raises UnreadableVolume.
    """
    facts = _header(_unpacked(data if header is None else header, 540, whole=False), paired=header is not None)
    try:
        shape = tuple(int(n) for n in facts.get_data_shape())
        dtype = facts.get_data_dtype()
        first = int(facts.get_data_offset())
    except Exception:  # a damaged header can make the parser raise anything
        raise UnreadableVolume("not-an-image", "is not a NIfTI file") from None
    if len(shape) == 5 and shape[3] == 1:  # the NIfTI standard's place for vectors
        shape = (*shape[:3], shape[4])
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise UnreadableVolume("unsupported", f"has {len(shape)} axes; a volume has 3, or 4 with channels")
    if dtype.kind not in "iuf":
        kind = "colour" if dtype.fields else str(dtype)
        raise UnreadableVolume("unsupported", f"holds voxels of type {kind}; only whole and real numbers are intensities")
    affine = voxel_affine(facts, shape)
    size = math.prod(shape) * dtype.itemsize
    if size > LARGEST:
        raise UnreadableVolume("unsupported", f"its header promises {size} bytes of voxels; {LARGEST >> 30} GiB are the most")
    data = _unpacked(data, first + size, whole=True)
    if first < 0 or first + size > len(data):
        raise UnreadableVolume("truncated", f"its header promises {first + size} bytes, it holds {len(data)}")
    voxels = np.frombuffer(data, dtype, math.prod(shape), first).reshape(shape, order="F")
    voxels = _scaled(voxels.astype(dtype.newbyteorder("="), copy=False), facts)
    lies = io_orientation(affine)
    if np.isnan(lies).any():
        raise UnreadableVolume("geometry", "its affine maps two axes onto one")
    turn = ornt_transform(lies, axcodes2ornt(AXES))
    affine = RAS_TO_LPS @ affine @ inv_ornt_aff(turn, shape[:3])
    voxels = apply_orientation(voxels, turn)
    voxels = voxels.transpose(2, 1, 0)[None] if voxels.ndim == 3 else voxels.transpose(3, 2, 1, 0)
    affine = affine[:, [2, 1, 0, 3]]
    d, h, w = (float(s) for s in np.linalg.norm(affine[:3, :3], axis=0))
    return Volume(voxels, (d, h, w), affine)


def _header(data: bytes, paired: bool) -> nib.Nifti1Header:
    size = next((s for s in HEADER if data[:4] in (s.to_bytes(4, "little"), s.to_bytes(4, "big"))), None)
    if size is None:
        raise UnreadableVolume("not-an-image", "is not a NIfTI file")
    if len(data) < size:
        raise UnreadableVolume("truncated", "ends inside its header")
    magic = data[344:348] if size == 348 else data[4:8]
    if magic[:3] not in (b"n+1", b"n+2", b"ni1", b"ni2"):
        raise UnreadableVolume("unsupported", "is in the Analyze format, which doesn't say how the patient lies; convert it to NIfTI")
    if (magic[1:2] == b"i") != paired:
        raise UnreadableVolume("unpaired", "is one of a pair of .hdr and .img by its header, and alone by its name, or the other way round")
    try:
        return HEADER[size](data[:size])  # without its extensions: texts that nobody reads
    except Exception:  # a damaged header can make the parser raise anything
        raise UnreadableVolume("not-an-image", "is not a NIfTI file") from None


def voxel_affine(facts: nib.Nifti1Header, shape: tuple[int, ...]) -> np.ndarray:
    """float64[4, 4], voxel index to RAS millimetres: the sform, else the qform, else the voxel size alone, as the standard says.

    Where sform and qform disagree, the one in the scanner's coordinates is taken if the other is not.
    """
    try:
        sform, sform_code = facts.get_sform(coded=True)
        qform, qform_code = facts.get_qform(coded=True)
        affine = np.array(facts.get_best_affine(), np.float64)
        scale = MILLIMETRES[facts.get_xyzt_units()[0]]
    except Exception:  # a quaternion longer than 1, an unknown unit
        raise UnreadableVolume("geometry", "its header's map from voxels to millimetres is not valid") from None
    if sform is not None and qform is not None:
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape[:3]])).reshape(3, -1).T
        apart = float(np.abs(apply_affine(sform, corners) - apply_affine(qform, corners)).max())
        if not apart <= 0.5 * float(np.linalg.norm(affine[:3, :3], axis=0).min()):
            if (sform_code == SCANNER) == (qform_code == SCANNER):
                raise UnreadableVolume("geometry", f"its sform and qform place a corner {apart * scale:.1f} mm apart")
            affine = np.array(sform if sform_code == SCANNER else qform, np.float64)
    affine[:3] *= scale
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise UnreadableVolume("geometry", "its affine is not a valid map from voxels to millimetres")
    return affine


def _scaled(voxels: np.ndarray, facts: nib.Nifti1Header) -> np.ndarray:
    """After scl_slope and scl_inter; whole numbers stay such where they are only shifted (a CT's -1024)."""
    try:
        slope, shift = facts.get_slope_inter()
    except Exception:  # an infinite shift
        raise UnreadableVolume("unsupported", "its intensity scale is not a number") from None
    if slope is not None and (slope, shift) != (1, 0):
        if slope == 1 and shift == round(shift) and voxels.dtype.kind in "iu" and voxels.dtype.itemsize <= 2 and abs(shift) < 2**30:
            moved = voxels.astype(np.int32) + np.int32(shift)
            fits = np.iinfo(np.int16).min <= moved.min() and moved.max() <= np.iinfo(np.int16).max
            return moved.astype(np.int16) if fits else moved
        exact = np.dtype(np.float32 if voxels.dtype.itemsize <= 2 else np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # infinite values are found with the others
            voxels = voxels.astype(exact) * exact.type(slope) + exact.type(shift)
    if voxels.dtype.kind == "f" and voxels.dtype.itemsize != 4:
        with np.errstate(over="ignore"):
            voxels = voxels.astype(np.float32)
    return voxels


def _unpacked(data: bytes, size: int, whole: bool) -> bytes:
    """The first `size` bytes of a file that may be gzip. whole: all of it, which is hardly more, checked to its end."""
    if data[:2] != b"\x1f\x8b":
        return data if whole else data[:size]
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            found = file.read(size + TRAILING if whole else size)
            if whole and file.read(1):
                raise UnreadableVolume("unsupported", "unpacks to more than its header promises")
    except EOFError:
        raise UnreadableVolume("truncated", "its gzip data ends before its end mark") from None
    except (zlib.error, OSError):
        raise UnreadableVolume("truncated", "its gzip data is damaged") from None
    return found
