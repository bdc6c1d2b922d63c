"""The DICOM source: samples from the images and volumes that the plan found; grouping, geometry and pixels live in dicom_*.py."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, Literal, cast

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from hepdist.ingest.dicom_header import Header, Plane
from hepdist.ingest.dicom_items import ImageItem, Painted, VolumeItem
from hepdist.ingest.dicom_pixels import display_values, modality_values, pixel_spacing, read_frames, read_pixels
from hepdist.ingest.dicom_plan import Each, Wanted, plan
from hepdist.ingest.dicom_refused import Refused, quiet
from hepdist.ingest.files import Files
from hepdist.ingest.headers import TAGS, excerpt
from hepdist.ingest.sample import Finding, Sample

INCOMPLETE = Refused("incomplete", "another file of the series can't be read")


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
        frames: Literal["refuse", "first", "all"] = "refuse",
        classes: tuple[str, ...] = (),
        mask_folders: str | None = None,
        skip: frozenset[str] = frozenset(),
        each: Each = map,
    ):
        """modality: keep this one (CR, DX, DR and RG are one); None: the one most studies have. least_slices: fewer are no
        volume. allow_burned_in: keep secondary captures and images marked BurnedInAnnotation. display: depth of single
        images. frames: of a multi-frame object that is no volume (a cine). classes: of the masks, background first; empty:
        what the masks are called, where that may be told (vocabulary.is_anatomical). mask_folders: pattern of the folders whose series are
        masks; None: as dicom_mask_series finds them. skip: names read by another door, such as the EMR table, which then
        appear in no finding. each: like `map`, for the pass over the headers.
        """
        self._files = files
        self._levels = 255 if display == "uint8" else 65535
        found = plan(files, Wanted(modality, least_slices, allow_burned_in, frames, classes, mask_folders), skip, each)
        self.items, self.findings = found.items, found.findings
        self.modality, self.mask_classes = found.modality, found.mask_classes

    def __getstate__(self) -> dict[str, Any]:
        """Without what only planning needs: `read` works in any process, one item at a time."""
        return {name: value for name, value in self.__dict__.items() if name not in ("items", "findings")}

    def read(self, item: ImageItem | VolumeItem) -> Iterator[Sample | Finding]:
        try:
            with quiet():
                found = list(self._images(item) if isinstance(item, ImageItem) else self._volume(item))
            yield from found  # whole before the first is told: of a file that breaks off none is ingested
        except Refused as refused:
            yield from (_finding(item, name, refused) for name in item.files)
            yield from (_finding(item, name, INCOMPLETE) for mask in item.masks for name in mask.files)

    def _images(self, item: ImageItem) -> Iterator[Sample | Finding]:
        header, painted = item.header, self._painted(item)
        yield from (_finding(item, name, why) for name, why in painted.refused.items())
        mask = None if painted.mask is None else painted.mask[None]
        one_frame = header.frames == 1
        decoded = [read_pixels(self._files, header.file)] if one_frame else read_frames(self._files, header.file, range(item.frames))
        for frame, (dataset, pixels) in enumerate(decoded):
            yield Sample(
                key=f"{item.key}#{frame}" if frame else item.key,
                image=display_values(dataset, pixels, self._levels)[None],
                image_unit=f"display 0..{self._levels}",
                mask=mask,
                spacing=pixel_spacing(dataset),
                files=(*item.files, *painted.used),
                **_keys(header, dataset),
            )

    def _volume(self, item: VolumeItem) -> Iterator[Sample | Finding]:
        try:
            image = stacked(self._planes(item), item.stack.shape)
        except _BadFile as bad:
            for name in (*item.files, *(name for mask in item.masks for name in mask.files)):
                yield _finding(item, name, bad.refused if name == bad.file else INCOMPLETE)
            return
        painted = self._painted(item)
        yield from (_finding(item, name, why) for name, why in painted.refused.items())
        yield Sample(
            key=item.key,
            image=image[None],
            image_unit="HU" if item.header.modality == "CT" else "raw",
            mask=None if painted.mask is None else painted.mask[None],
            spacing=item.stack.spacing,
            affine=item.stack.affine,
            files=(*item.files, *painted.used),
            **_keys(item.header, self._header(item.header.file)),
        )

    def _header(self, name: str) -> Dataset:
        with self._files.open(name) as stream:
            return pydicom.dcmread(cast(Any, stream), force=True, stop_before_pixels=True, specific_tags=cast(Any, TAGS))

    def _planes(self, item: VolumeItem) -> Iterator[np.ndarray]:
        """Modality values [H, W] of each plane in order, one plane in memory at a time."""
        for name, group in groupby(item.stack.planes, key=lambda plane: plane.file):
            planes = list(group)
            try:
                if len(planes) == 1 and not planes[0].frame:
                    decoded: Iterable[tuple[Dataset, np.ndarray]] = [read_pixels(self._files, name)]
                else:
                    decoded = read_frames(self._files, name, [plane.frame for plane in planes])
                for plane, (dataset, pixels) in zip(planes, decoded, strict=True):
                    yield modality_values(dataset, plane.frame, _grey(pixels, plane))
            except Refused as refused:
                raise _BadFile(name, refused) from None

    def _painted(self, item: ImageItem | VolumeItem) -> Painted:
        if not item.masks:
            return Painted(None, (), {})
        from hepdist.ingest.dicom_paint import painted  # highdicom takes a second to import

        return painted(self._files, item)


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


def _grey(pixels: np.ndarray, plane: Plane) -> np.ndarray:
    """One plane's pixels [H, W]. Raises Refused where they are in colour, which no volume is, or of several frames."""
    if pixels.shape != plane.size:
        raise Refused("colour", "a slice in colour, which is no CT, MR or PT measurement")
    return pixels


def _keys(header: Header, dataset: Dataset) -> dict[str, Any]:
    """Raw keys of one file, and of its header what facts are taken from once it is cleaned."""
    of = {"patient": header.patient, "study": header.study, "series": header.series}
    return {**of, "site": header.facts.site, "date": header.facts.date, "header": excerpt(dataset)}


def _finding(item: ImageItem | VolumeItem, name: str, refused: Refused) -> Finding:
    return Finding(name, "quarantined", refused.check, refused.reason, item.header.study, item.header.series)
