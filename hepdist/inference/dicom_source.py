"""The DICOM images that a case was read from, as SEG and SR objects refer to them: headers alone, in the order of the case's planes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from hepdist.ingest.dicom_items import ImageItem, VolumeItem
from hepdist.ingest.dicom_refused import quiet
from hepdist.ingest.files import Files

EXPECTED = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber", "StudyID",
    "ReferringPhysicianName",
)  # fmt: skip
"""Attributes of patient and study that must be there and may be empty (PS3.3 C.7.1.1 and C.7.2.1, type 2); real files lack them."""


class Unreferenced(Exception):
    """Why no object can refer to these images; quotes nothing from them."""


@dataclass(frozen=True)
class SourceImages:
    datasets: list[Dataset]
    """One a plane, in order; or the one multi-frame object that holds them all."""
    frames: tuple[int, ...] | None
    """Of each plane, its index in the one multi-frame object; None: the files are single frames."""

    @property
    def first(self) -> Dataset:
        return self.datasets[0]

    def laid(self, mask: np.ndarray) -> np.ndarray:
        """uint8[frames, H, W] in the order of the source's frames: a mask[D, H, W] or [H, W] in that of the planes."""
        planes = mask if mask.ndim == 3 else mask[None]
        if self.frames is None:
            return planes
        frames = np.zeros((int(self.first.NumberOfFrames), *planes.shape[1:]), planes.dtype)
        frames[list(self.frames)] = planes
        return frames


def source_images(files: Files, item: ImageItem | VolumeItem, frame: int) -> SourceImages:
    """frame: of an image, which of its file's frames the case is. Raises Unreferenced."""
    if isinstance(item, ImageItem):
        header = _header(files, item.header.file)
        if "ImagePositionPatient" not in header:  # a projection: pixels of the detector, which have no place in the patient
            for keyword in ("PixelSpacing", "FrameOfReferenceUID"):
                header.pop(Tag(keyword), None)
        return SourceImages([header], (frame,) if item.header.frames > 1 else None)
    planes = item.stack.planes
    names = list(dict.fromkeys(plane.file for plane in planes))
    headers = [_header(files, name) for name in names]
    if len(names) == 1 and int(headers[0].get("NumberOfFrames") or 1) > 1:
        return SourceImages(headers, tuple(plane.frame for plane in planes))
    if any(int(header.get("NumberOfFrames") or 1) > 1 for header in headers):
        raise Unreferenced("the volume lies in several multi-frame objects, which no DICOM SEG can refer to")
    return SourceImages(headers, None)


def _header(files: Files, name: str) -> Dataset:
    with quiet(), files.open(name) as stream:
        dataset = pydicom.dcmread(cast(Any, stream), force=True, stop_before_pixels=True)
        if dataset.file_meta.get("TransferSyntaxUID") is None:  # a file without file meta information
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if dataset.original_encoding[0] else ExplicitVRLittleEndian
        for keyword in EXPECTED:
            if keyword not in dataset:
                setattr(dataset, keyword, "")
    return dataset
