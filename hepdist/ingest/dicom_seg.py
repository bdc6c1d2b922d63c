"""DICOM segmentations as regions on an image's grid: placed by patient geometry in a volume, by SOP instance on a single image."""

from __future__ import annotations

import highdicom
import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import pack_bits
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from hepdist.ingest.dicom_header import functional_group
from hepdist.ingest.dicom_pixels import decode, read_dataset
from hepdist.ingest.dicom_refused import Refused, quiet
from hepdist.ingest.dicom_regions import Region, placed
from hepdist.ingest.dicom_series import Stack
from hepdist.ingest.files import Files

PLAIN = (ImplicitVRLittleEndian, ExplicitVRLittleEndian)
BROKEN = "the segmentation breaks the DICOM standard or is no regular volume"
LABELMAP = "LABELMAP"


def read_segmentation(files: Files, name: str, wanted: dict[int, int], stack: Stack) -> list[Region]:
    """The segments `wanted` (number: class index) on the image's grid. Fractional segments count from one half. Raises Refused."""
    dataset = read_dataset(files, name)
    pixels = None if dataset.file_meta.get("TransferSyntaxUID") in PLAIN else decode(dataset)
    found = []
    try:
        with quiet():
            plain = dataset if pixels is None else _uncompressed(dataset, pixels)
            segmentation = highdicom.seg.Segmentation.from_dataset(plain, copy=False)
            for number, index in wanted.items():
                volume = segmentation.get_volume(segment_numbers=[number], rescale_fractional=True)
                found.append(placed(index, volume.array[..., 0] >= 0.5, volume.affine, stack))
    except Refused:
        raise
    except Exception:  # an object that breaks the standard can make the reader raise anything; the message may quote it
        raise Refused("segmentation", BROKEN) from None
    return [region for region in found if region is not None]


def read_image_segmentation(
    files: Files, name: str, wanted: dict[int, int], instance: str, size: tuple[int, int]
) -> list[tuple[int, np.ndarray]]:
    """Class index and bool[H, W] of each frame that was drawn on one image. Raises Refused with 'geometry' where sizes differ."""
    dataset = read_dataset(files, name)
    pixels = decode(dataset)
    frames = pixels[None] if pixels.ndim == 2 else pixels
    try:
        with quiet():
            top = float(dataset.get("MaximumFractionalValue") or 1)
            labels = str(dataset.get("SegmentationType")) == LABELMAP
            here = [n for n in range(len(frames)) if _drawn_on(dataset, n) in ("", instance)]
            if here and frames.shape[1:] != size:
                raise Refused("geometry", f"a segmentation of {frames.shape[1:]} pixels of an image of {size}")
            if labels:
                return [(index, frames[n] == number) for n in here for number, index in wanted.items()]
            numbered = [(_segment_number(dataset, n), frames[n] >= top / 2) for n in here]
    except Refused:
        raise
    except Exception:
        raise Refused("segmentation", BROKEN) from None
    return [(wanted[number], voxels) for number, voxels in numbered if number in wanted]


def _segment_number(dataset: Dataset, frame: int) -> int:
    group = functional_group(dataset, frame, "SegmentIdentificationSequence")
    return int(group.ReferencedSegmentNumber) if group is not None else 1


def _drawn_on(dataset: Dataset, frame: int) -> str:
    """The SOP instance that a frame was derived from; empty where it doesn't say and there is but one image that it can be."""
    group = functional_group(dataset, frame, "DerivationImageSequence")
    sources = group.get("SourceImageSequence") if group is not None else None
    if sources:
        return str(sources[0].ReferencedSOPInstanceUID)
    instances = [i for series in dataset.get("ReferencedSeriesSequence") or () for i in series.get("ReferencedInstanceSequence") or ()]
    if len(instances) > 1:
        raise Refused("segmentation", "a segmentation of several images whose frames don't say which is whose")
    return ""


def _uncompressed(dataset: Dataset, pixels: np.ndarray) -> Dataset:
    """The same object with plain little-endian frames, so that highdicom reads what only our decoder can."""
    packed = pack_bits(pixels) if dataset.BitsAllocated == 1 else pixels.astype("<u1" if dataset.BitsAllocated == 8 else "<u2").tobytes()
    dataset.PixelData = packed
    dataset["PixelData"].is_undefined_length = False
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset
