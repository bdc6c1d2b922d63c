"""The DICOM source: samples from the images and volumes that the plan found; grouping, geometry and pixels live in dicom_*.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from hepdist.ingest.dicom_header import Plane, Refused
from hepdist.ingest.dicom_pixels import display_values, modality_values, pixel_spacing, read_pixels
from hepdist.ingest.dicom_plan import ImageItem, VolumeItem, plan
from hepdist.ingest.files import Files
from hepdist.ingest.sample import Finding, Sample


class DicomSource:
    """Radiographs and other single images as grey display values; CT, MR and PT series as volumes in their own unit (HU in CT).

    Opening it reads every header once; `read` decodes one item at a time. Files are found by content, so names, extensions
    and folders don't matter. An image's `affine` maps (d, h, w) to millimetres in LPS, as DICOM has it.
    Raises IngestError where the modality asked for isn't there.
    """

    kind = "dicom"
    label_names: tuple[str, ...] = ()
    multilabel = False

    def __init__(
        self,
        files: Files,
        *,
        modality: str | None = None,
        least_slices: int = 2,
        allow_burned_in: bool = False,
        display: Literal["uint8", "uint16"] = "uint8",
        skip: frozenset[str] = frozenset(),
    ):
        """modality: keep this one (CR, DX, DR and RG are one); None: the one most studies have. least_slices: fewer are no
        volume. allow_burned_in: keep secondary captures and images marked BurnedInAnnotation. display: depth of single
        images. skip: names read by another door, such as the EMR table, which then appear in no finding.
        """
        self._files = files
        self._levels = 255 if display == "uint8" else 65535
        found = plan(files, modality, least_slices, allow_burned_in, skip)
        self.items, self.findings = found.items, found.findings
        self.modality, self.mask_classes = found.modality, found.mask_classes

    def read(self, item: ImageItem | VolumeItem) -> Iterator[Sample | Finding]:
        try:
            if isinstance(item, ImageItem):
                yield self._image(item)
            else:
                yield from self._volume(item)
        except Refused as refused:
            for name in item.files:
                yield Finding(name, "quarantined", refused.check, refused.reason, item.header.study, item.header.series)

    def _image(self, item: ImageItem) -> Sample:
        header = item.header
        dataset, pixels = read_pixels(self._files, header.file)
        return Sample(
            key=item.key,
            patient=header.patient,
            study=header.study,
            series=header.series,
            image=display_values(dataset, pixels, self._levels)[None],
            image_unit=f"display 0..{self._levels}",
            spacing=pixel_spacing(dataset),
            files=item.files,
        )

    def _volume(self, item: VolumeItem) -> Iterator[Sample | Finding]:
        header = item.header
        try:
            image = stacked(self._planes(item), item.stack.shape)
        except _BadFile as bad:
            for name in (n for n in (*item.files, *(s.file for s in item.segmentations)) if n != bad.file):
                yield Finding(name, "quarantined", "incomplete", "another file of the series can't be read", header.study, header.series)
            yield Finding(bad.file, "quarantined", bad.refused.check, bad.refused.reason, header.study, header.series)
            return
        mask, files = None, item.files
        if item.segmentations:
            from hepdist.ingest.dicom_seg import read_mask  # highdicom takes a second to import

            indices, refused = read_mask(self._files, item.segmentations, item.stack, self.mask_classes)
            for name, why in refused.items():
                yield Finding(name, "quarantined", why.check, why.reason, header.study, header.series)
            used = tuple(s.file for s in item.segmentations if s.file not in refused)
            mask, files = (indices[None] if used else None), (*files, *used)
        yield Sample(
            key=item.key,
            patient=header.patient,
            study=header.study,
            series=header.series,
            image=image[None],
            image_unit="HU" if header.modality == "CT" else "raw",
            mask=mask,
            spacing=item.stack.spacing,
            affine=item.stack.affine,
            files=files,
        )

    def _planes(self, item: VolumeItem) -> Iterator[np.ndarray]:
        """Modality values [H, W] of each plane in order; a multi-frame file is decoded once."""
        current: str | None = None
        for plane in item.stack.planes:
            try:
                if plane.file != current:
                    dataset, pixels = read_pixels(self._files, plane.file)
                    current = plane.file
                yield modality_values(dataset, plane.frame, _frame(pixels, plane))
            except Refused as refused:
                raise _BadFile(plane.file, refused) from None


class _BadFile(Exception):
    def __init__(self, file: str, refused: Refused):
        super().__init__(refused.reason)
        self.file, self.refused = file, refused


def stacked(planes: Iterator[np.ndarray], shape: tuple[int, int, int]) -> np.ndarray:
    """[D, H, W] as int16 where all values fit, else uint16 (integers up to 65535), else float32."""
    volume = np.empty(shape, np.int16)
    for d, plane in enumerate(planes):
        if volume.dtype != np.float32 and not _fits(plane, volume.dtype):
            wider = np.uint16 if not d or volume[:d].min() >= 0 else np.float32
            volume = volume.astype(wider if _fits(plane, np.dtype(wider)) else np.float32)
        volume[d] = plane
    return volume


def _fits(plane: np.ndarray, dtype: np.dtype) -> bool:
    if dtype == np.float32:
        return True
    limits = np.iinfo(dtype)
    return plane.dtype.kind in "iu" and plane.min() >= limits.min and plane.max() <= limits.max


def _frame(pixels: np.ndarray, plane: Plane) -> np.ndarray:
    """One plane's pixels [H, W]. Raises Refused where the object is in colour, which no volume is."""
    frame = pixels if pixels.ndim == 2 else pixels[plane.frame] if pixels.shape[1:] == plane.size else None
    if frame is None or frame.shape != plane.size:
        raise Refused("colour", "a slice in colour, which is no CT, MR or PT measurement")
    return frame
