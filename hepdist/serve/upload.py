"""The files of one request into a private folder, known by their first bytes alone; archives are unpacked under the request's limits."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from hepdist.ingest.dicom_header import LEADING_GROUPS
from hepdist.ingest.files import is_hidden
from hepdist.ingest.pictures import FORMATS
from hepdist.serve.limits import MIB, Limits, Problem, too_large

ZIP, GZIP = b"PK\x03\x04", b"\x1f\x8b"
EMPTY_ZIP = b"PK\x05\x06"
PICTURES = {b"\x89PNG\r\n\x1a\n": ".png", b"\xff\xd8\xff": ".jpg", b"BM": ".bmp", b"II*\0": ".tif", b"MM\0*": ".tif"}
NIFTI = {348: (".nii", 40, "i2", 344), 540: (".nii", 16, "i8", 4)}
"""By the number that a file opens with: its suffix, where its sizes are, their type, and where its magic is."""
HEADER = 540
ACCEPTED = "DICOM files, a zip of them, a single-file NIfTI (.nii, .nii.gz), PNG, JPEG, TIFF or BMP"


class Intake:
    """Writes files under numbers instead of their names, which may tell of a patient, and counts what they claim against the limits."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._folder, self._limits = folder, limits
        self._unpacked, self._voxels = 0, 0
        self.files = 0
        self.skipped = 0
        """Members of archives that are no images by their first bytes."""

    def take(self, uploads: Iterable[IO[bytes]]) -> None:
        """Raises Problem: 413, 415 or 422."""
        for number, upload in enumerate(uploads, 1):
            data = upload.read()
            if data.startswith((ZIP, EMPTY_ZIP)):
                for member in self._members(data, number):
                    self._keep(member, None)
            else:
                self._keep(data, number)
        if not self.files:
            raise Problem(415, "the upload holds no image that can be read", f"send {ACCEPTED}")

    def _keep(self, data: bytes, number: int | None) -> None:
        """number: of the upload; None: a member of an archive, which may hold other things too."""
        suffix, voxels = kind_of(data)
        if not suffix:
            if number is None:
                self.skipped += 1
                return
            if not data:
                raise Problem(422, f"file {number} is empty", "send the file again")
            raise Problem(415, f"file {number} is of no kind that is read here", f"send {ACCEPTED}")
        self.files += 1
        if self.files > self._limits.files:
            raise too_large("more files", f"{self._limits.files}")
        self.count(voxels)
        (self._folder / f"{self.files:05d}{suffix}").write_bytes(data)

    def count(self, voxels: int) -> None:
        """Add what some image claims, before it is decoded. Raises Problem."""
        self._voxels += voxels
        if self._voxels > self._limits.voxels:
            raise too_large("more voxels", f"{self._limits.voxels / 1e6:g} million")

    def _members(self, data: bytes, number: int) -> Iterator[bytes]:
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                inside = [m for m in archive.infolist() if not m.is_dir() and not is_hidden(m.filename)]
                if len(inside) > self._limits.files:
                    raise too_large("more files", f"{self._limits.files}")
                for member in inside:
                    if member.flag_bits & 1:
                        raise Problem(422, f"file {number} is an archive with a password", "send it without one")
                    left = self._limits.unpacked - self._unpacked
                    with archive.open(member) as stream:
                        unpacked = stream.read(left + 1)
                    if len(unpacked) > left:
                        raise too_large("archives that unpack to more", f"{self._limits.unpacked // MIB} MiB")
                    self._unpacked += len(unpacked)
                    yield unpacked
        except Problem:
            raise
        except Exception:  # a damaged archive can make the unpacker raise anything; its message may quote a name
            raise Problem(422, f"file {number} is an archive that can't be unpacked whole", "make the zip again") from None


def kind_of(data: bytes) -> tuple[str, int]:
    """The suffix that says how to read a file, and the voxels that its header claims (0 where others count them); '' for no image.

    Raises Problem for a header that claims what can't be.
    """
    if data[128:132] == b"DICM":
        return ".dcm", 0
    picture = next((suffix for magic, suffix in PICTURES.items() if data.startswith(magic)), None)
    if picture is not None:
        return picture, _pixels(data)
    volume = _nifti(data)
    if volume is not None:
        return volume
    return (".dcm", 0) if data[:2] in LEADING_GROUPS else ("", 0)  # older DICOM has no preamble


def _pixels(data: bytes) -> int:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:  # reads the header alone
            return int(np.prod(picture.size, dtype=np.int64))
    except Exception:  # what is wrong with it, the reader says
        return 0


def _nifti(data: bytes) -> tuple[str, int] | None:
    packed = data.startswith(GZIP)
    try:
        start = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, HEADER) if packed else data[:HEADER]
    except zlib.error:
        return None
    for order in ("little", "big"):
        found = NIFTI.get(int.from_bytes(start[:4], order))
        if found is None:
            continue
        suffix, at, kind, magic = found
        if start[magic : magic + 2] not in (b"n+", b"ni"):
            return None
        sizes = np.frombuffer(start, np.dtype(kind).newbyteorder("<" if order == "little" else ">"), 8, at).tolist()
        voxels = 1
        for size in sizes[1 : 1 + min(max(sizes[0], 0), 7)]:
            voxels *= max(size, 1)
        return suffix + (".gz" if packed else ""), voxels
    return None
