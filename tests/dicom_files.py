"""Small DICOM files for the tests: slices, radiographs, segmentations and structure sets, written with pydicom and highdicom; and what ingest makes of them."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    RTStructureSetStorage,
    generate_uid,
)

from hepdist.ingest.dicom import DicomSource
from hepdist.ingest.files import Files
from hepdist.ingest.sample import Finding, Sample

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CLASSES = {"CT": CTImageStorage, "MR": MRImageStorage, "CR": ComputedRadiographyImageStorage}


def uid(*names: object) -> str:
    """The same UID for the same names, so that a test's files are the same each time."""
    return generate_uid(entropy_srcs=[str(n) for n in names])


def image(
    pixels: np.ndarray, modality: str, instance: str, series: str = "1", study: str = "1", patient: str = "P1", **tags: Any
) -> FileDataset:
    """A valid single-frame image; tags: any keyword, None removes it."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = CLASSES.get(modality, ComputedRadiographyImageStorage)
    dataset.SOPInstanceUID = uid("instance", study, series, instance)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid("study", study), uid("series", study, series)
    dataset.FrameOfReferenceUID = uid("frame", study)
    dataset.PatientID, dataset.PatientName, dataset.Modality = patient, "Doe^Jane", modality
    dataset.PatientBirthDate = dataset.PatientSex = dataset.StudyDate = dataset.StudyTime = dataset.StudyID = dataset.AccessionNumber = ""
    dataset.ReferringPhysicianName, dataset.Manufacturer, dataset.SeriesNumber, dataset.InstanceNumber = "", "", 1, 1
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    dataset.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, int(pixels.dtype.kind == "i")
    if pixels.dtype == np.float64:
        dataset.DoubleFloatPixelData = pixels.astype("<f8").tobytes()
    elif pixels.dtype.kind == "f":
        dataset.FloatPixelData = pixels.astype("<f4").tobytes()
    else:
        dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
        dataset["PixelData"].VR = "OW" if pixels.dtype.itemsize > 1 else "OB"
    for keyword, value in tags.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPClassUID = UID(dataset.SOPClassUID)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def slices(
    volume: np.ndarray, step: float = 2.5, origin: tuple[float, float, float] = (-10.0, -20.0, 100.0), **tags: Any
) -> list[FileDataset]:
    """volume[D, H, W] as a series along the normal, the last slice first; rescaled by intercept -1024 where it is CT."""
    tags = {"modality": "CT", "ImageOrientationPatient": list(AXIAL), "PixelSpacing": [0.5, 0.75], "SliceThickness": step} | tags
    if tags["modality"] == "CT":
        tags = {"RescaleSlope": 1, "RescaleIntercept": -1024} | tags
    modality = tags.pop("modality")
    direction = np.array(tags["ImageOrientationPatient"])
    normal = np.cross(direction[:3], direction[3:])
    return [
        image(
            plane, modality, f"{tags.get('series', '1')}-{d}",
            ImagePositionPatient=[round(float(x), 6) for x in np.array(origin) + d * step * normal], **tags,
        )
        for d, plane in reversed(list(enumerate(volume)))
    ]  # fmt: skip


def save(datasets: list[FileDataset] | FileDataset, folder: Path, names: list[str] | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    every = datasets if isinstance(datasets, list) else [datasets]
    for index, dataset in enumerate(every):
        dataset.save_as(folder / (names[index] if names else f"{dataset.Modality}{len(list(folder.iterdir()))}"), enforce_file_format=True)


def enhanced(volume: np.ndarray, step: float = 2.5, origin: tuple[float, float, float] = (-10.0, -20.0, 100.0)) -> FileDataset:
    """The same series as `slices` in one Enhanced CT object, its frames in reverse order."""
    dataset = image(volume[0], "CT", "enhanced", SOPClassUID=EnhancedCTImageStorage, ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])
    dataset.NumberOfFrames = len(volume)
    dataset.PixelData = volume[::-1].tobytes()
    shared, measures, orientation, rescale = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.75], step
    orientation.ImageOrientationPatient = list(AXIAL)
    rescale.RescaleSlope, rescale.RescaleIntercept = 1, -1024
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([orientation])
    shared.PixelValueTransformationSequence = Sequence([rescale])
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for d in reversed(range(len(volume))):
        frame, place = Dataset(), Dataset()
        place.ImagePositionPatient = [origin[0], origin[1], origin[2] + d * step]
        frame.PlanePositionSequence = Sequence([place])
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    return dataset


def segmentation(source: list[FileDataset], masks: dict[str, np.ndarray], **placed: Any) -> FileDataset:
    """A DICOM SEG of `source` (in its order): {'Liver' | 'Neoplasm': bool[D, H, W]}; placed: further arguments of highdicom's class."""
    kinds = {"Liver": codes.SCT.Liver, "Neoplasm": codes.SCT.Neoplasm}
    descriptions = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=f"CANARY label {number}",
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=kinds[name],
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, name in enumerate(masks, 1)
    ]
    made: FileDataset = highdicom.seg.Segmentation(
        source_images=source,
        pixel_array=np.stack(list(masks.values()), axis=-1).astype(np.uint8),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        series_instance_uid=uid("seg series"),
        series_number=2,
        sop_instance_uid=uid("seg", *masks),
        instance_number=1,
        manufacturer="hepdist",
        manufacturer_model_name="tests",
        software_versions="1",
        device_serial_number="1",
        **placed,
    )
    return made


def structures(source: list[FileDataset], regions: dict[str, list[np.ndarray]], instance: str = "structures", **types: str) -> FileDataset:
    """An RT structure set drawn on `source`: {ROI name: contours float[n, 3] in mm}; types: interpreted type by ROI name."""
    dataset = image(np.zeros((1, 1), np.uint8), "RTSTRUCT", instance, SOPClassUID=RTStructureSetStorage)
    for keyword in ("Rows", "Columns", "PixelData", "BitsAllocated", "BitsStored", "HighBit", "SamplesPerPixel", "PixelRepresentation"):
        delattr(dataset, keyword)
    dataset.StudyInstanceUID, dataset.PatientID = source[0].StudyInstanceUID, source[0].PatientID
    dataset.StructureSetLabel = "CANARY"
    frame, study, series = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = source[0].SeriesInstanceUID
    series.ContourImageSequence = Sequence(_reference(s) for s in source)
    study.ReferencedSOPInstanceUID, study.RTReferencedSeriesSequence = source[0].StudyInstanceUID, Sequence([series])
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = source[0].FrameOfReferenceUID, Sequence([study])
    dataset.ReferencedFrameOfReferenceSequence = Sequence([frame])
    named, contoured, observed = [], [], []
    for number, (name, contours) in enumerate(regions.items(), 1):
        roi, drawn, about = Dataset(), Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = number, name, source[0].FrameOfReferenceUID
        drawn.ReferencedROINumber, about.ReferencedROINumber, about.ObservationNumber = number, number, number
        about.RTROIInterpretedType = types.get(name, "")
        drawn.ContourSequence = Sequence()
        for points in contours:
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
            contour.ContourData = [round(float(x), 4) for x in np.ravel(points)]
            drawn.ContourSequence.append(contour)
        named.append(roi)
        contoured.append(drawn)
        observed.append(about)
    dataset.StructureSetROISequence, dataset.ROIContourSequence = Sequence(named), Sequence(contoured)
    dataset.RTROIObservationsSequence = Sequence(observed)
    return dataset


def _reference(source: FileDataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    return item


def stored_values() -> np.ndarray:
    """uint16[6, 8, 10] stored values, 1024 above their HU."""
    return np.random.default_rng(0).integers(0, 3000, (6, 8, 10), dtype=np.uint16)


def everything(source: DicomSource) -> list[Sample | Finding]:
    return [*source.findings, *(found for item in source.items for found in source.read(item))]


def ingested(folder: Path, **options: Any) -> tuple[list[Sample], list[Finding]]:
    source = DicomSource(Files(folder), **options)
    rows = everything(source)
    samples = [r for r in rows if isinstance(r, Sample)]
    findings = [r for r in rows if isinstance(r, Finding)]
    accounted = {f.file for f in findings} | {f for s in samples for f in s.files}
    assert accounted == set(Files(folder).names)
    return samples, findings


def outcomes(findings: list[Finding]) -> set[tuple[str, str]]:
    return {(f.outcome, f.check) for f in findings}


def unpacked(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder
