"""Files of every kind that ingest reads with a unique string in every place that can hold one, and broken copies of them; asserts nothing."""

from __future__ import annotations

import csv
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from canaries import Canaries
from dicom_files import image, segmentation, slices
from PIL import Image, PngImagePlugin
from pydicom.datadict import DicomDictionary, dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import MediaStorageDirectoryStorage

from hepdist.ingest.dicom_header import quiet

TEXTS = ("AE", "CS", "LO", "LT", "SH", "ST", "UC", "UR", "UT")
_STRUCTURE = """
SpecificCharacterSet Modality ImageType PhotometricInterpretation SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID
FrameOfReferenceUID BurnedInAnnotation PatientID PresentationLUTShape VOILUTFunction RescaleType ConversionType PixelPaddingValue
SegmentationType SegmentationFractionalType DimensionOrganizationType SegmentsOverlap LossyImageCompression LossyImageCompressionMethod
LossyImageCompressionRatio SegmentSequence ReferencedSeriesSequence SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence
ModalityLUTSequence VOILUTSequence PixelValueTransformationSequence DimensionIndexSequence DimensionOrganizationSequence
PresentationLUTSequence SourceImageSequence IconImageSequence DimensionOrganizationUID
"""
STRUCTURE = frozenset(_STRUCTURE.split())
"""What decides whether and how a file is read; all else is filled."""
_USUAL = """
PatientName PatientBirthDate PatientAddress OtherPatientIDs PatientComments PatientAge AccessionNumber InstitutionName StudyDate
InstitutionAddress StationName ReferringPhysicianName PhysiciansOfRecord OperatorsName StudyDescription SeriesDescription SeriesDate
ContentDate AcquisitionDateTime ImageComments ProtocolName StudyID DeviceSerialNumber Manufacturer BodyPartExamined
ManufacturerModelName SoftwareVersions RequestAttributesSequence AnatomicRegionSequence RequestingPhysician
"""
USUAL = frozenset(_USUAL.split())


def fill(dataset: FileDataset, canaries: Canaries, part: int = 0, parts: int = 1) -> FileDataset:
    """Put a canary into every other text, name, date, UID and sequence of the DICOM standard, private blocks, file meta and preamble.

    part of parts: fill only each parts-th of the 4,000 elements, from this one on; those that every hospital fills always.
    """
    dataset.SpecificCharacterSet = "GB18030"
    for place, (number, (vr, vm, _, _, keyword)) in enumerate(DicomDictionary.items()):
        if (place - part) % parts and keyword not in USUAL:
            continue
        tag = Tag(number)
        vr = vr.split(" or ")[0]
        if keyword and keyword not in STRUCTURE and tag.group not in (0, 2, 4) and (tag.group & 0xFF00) not in (0x5000, 0x6000):
            value = _value(vr, canaries)
            if value is not None and vm[0] in "123":
                dataset.add(DataElement(tag, vr, [value] * int(vm[0]) if vm[0] != "1" else value))
    for overlay in ("60000022", "60001500", "50000022", "50002500"):  # labels and descriptions of overlays and curves
        dataset.add_new(int(overlay, 16), "LO", canaries.text())
    for group in (0x0009, 0x0019, 0x0029, 0x7FE1):
        block = dataset.private_block(group, canaries.text(), create=True)
        nested = Dataset()
        nested.add_new(0x00100010, "PN", canaries.name())
        for offset, vr, value in ((1, "LO", canaries.text()), (2, "UN", canaries.text().encode()), (3, "SQ", Sequence([nested]))):
            block.add_new(offset, vr, value)
    dataset.DataSetTrailingPadding = canaries.text().encode()
    dataset.PatientID = canaries.text()
    dataset.file_meta.SourceApplicationEntityTitle = canaries.text()
    dataset.file_meta.ImplementationVersionName = canaries.text()
    dataset.file_meta.PrivateInformationCreatorUID = canaries.uid()
    dataset.file_meta.PrivateInformation = canaries.text().encode()
    dataset.preamble = canaries.text().encode().ljust(128, b"\0")
    return dataset


def _value(vr: str, canaries: Canaries) -> Any:
    if vr in TEXTS:
        return canaries.text()
    if vr == "PN":
        return canaries.name()
    if vr == "UI":
        return canaries.uid()
    if vr == "DA":
        return canaries.date()
    if vr == "DT":
        return f"{canaries.date()}112233.123456"
    if vr == "SQ":
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = canaries.text(), "SCT", canaries.text()
        item.PatientName, item.TextValue, item.ReferencedSOPInstanceUID, item.Date = (
            canaries.name(), canaries.text(), canaries.uid(), canaries.date(),
        )  # fmt: skip
        return Sequence([item])
    return None


def radiographs(folder: Path, canaries: Canaries, count: int = 4) -> list[FileDataset]:
    """CR images of as many patients in a folder and files of planted names, and broken ones of every kind beside them."""
    made = []
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 4096, (16, 16)).astype(np.uint16)
        dataset = fill(
            image(pixels, "CR", f"{i}", study=f"{i}", StudyInstanceUID=canaries.uid(), SeriesInstanceUID=canaries.uid()), canaries, i, count
        )
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = canaries.uid()
        _save(dataset, folder / canaries.text() / f"{canaries.text()}.dcm")
        made.append(dataset)
    for i, change in enumerate(BROKEN):
        broken = fill(
            image(np.full((16, 16), i, np.uint16), "CR", f"broken{i}", study=f"b{i}", StudyInstanceUID=canaries.uid()), canaries, i, 40
        )
        broken.SOPInstanceUID = broken.file_meta.MediaStorageSOPInstanceUID = canaries.uid()
        for keyword, value in change.items():
            vr = "LO" if value is PLANTED else broken[keyword].VR if keyword in broken else dictionary_VR(keyword)
            broken.add(DataElement(keyword, vr, canaries.text() if value is PLANTED else value))
        _save(broken, folder / canaries.text() / canaries.text())
    whole = next(folder.rglob("*.dcm")).read_bytes()
    for cut in (100, 140, 400, len(whole) // 2, len(whole) - 300):
        (folder / f"{canaries.text()}.dcm").write_bytes(whole[:cut])
    for name in (f".{canaries.text()}", f"{canaries.text()}.txt", f"{canaries.text()}.dcm"):
        (folder / name).write_text(f"kept with {canaries.text()} in it")  # alone, its file hash would be the hash of a canary
    directory(folder / "DICOMDIR", canaries)
    return made


class _Planted:
    pass


PLANTED = _Planted()
BROKEN: tuple[dict[str, Any], ...] = (
    {"PixelData": b"\1\2\3\4"}, {"PixelData": b""}, {"BitsAllocated": 13}, {"PhotometricInterpretation": "PALETTE COLOR"}, {"Rows": 0},
    {"NumberOfFrames": PLANTED}, {"InstanceNumber": PLANTED}, {"SliceThickness": PLANTED}, {"WindowCenter": PLANTED, "WindowWidth": PLANTED},
    {"ImagePositionPatient": PLANTED}, {"PixelSpacing": PLANTED}, {"RescaleSlope": PLANTED}, {"Modality": PLANTED},
    {"PhotometricInterpretation": PLANTED}, {"SOPClassUID": PLANTED}, {"BurnedInAnnotation": "YES"}, {"ImageType": PLANTED},
    {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.11"}, {"SpecificCharacterSet": PLANTED},
    {"SeriesInstanceUID": ""},
)  # fmt: skip
"""What is changed in a whole image to break it; PLANTED: a text where a number or a defined term belongs."""


def volume(folder: Path, canaries: Canaries, count: int = 4, depth: int = 4, meaning: bool = False) -> None:
    """CT series of as many patients, each with a segmentation; meaning: a canary in the Code Meaning that names the mask's class."""
    for i in range(count):
        voxels = np.random.default_rng(i).integers(0, 2000, (depth, 16, 16)).astype(np.int16)
        series = slices(voxels, series=f"s{i}", study=f"v{i}", patient=canaries.text())
        study, uid, patient = canaries.uid(), canaries.uid(), canaries.text()
        frame = canaries.uid()
        for dataset in series:
            dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study, uid, frame
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = canaries.uid()
        mask = np.zeros(voxels.shape, bool)
        mask[1:3, 4:9, 4:9] = True
        labelled = segmentation(series, {"Liver": mask[::-1]})
        labelled.SOPInstanceUID = labelled.file_meta.MediaStorageSOPInstanceUID = canaries.uid()
        for part, dataset in enumerate([*series, labelled]):
            fill(dataset, canaries, part, depth + 1 if i == 0 else 40)
            dataset.PatientID = patient
        labelled.SegmentSequence[0].SegmentLabel = canaries.text()
        labelled.SegmentSequence[0].SegmentDescription = canaries.text()
        if meaning:
            labelled.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeMeaning = canaries.text()
        for dataset in [*series, labelled]:
            _save(dataset, folder / canaries.text() / canaries.text())
    (folder / canaries.text()).write_bytes(next(p for p in folder.rglob("*") if p.is_file()).read_bytes()[:-200])


def directory(path: Path, canaries: Canaries) -> None:
    """A DICOMDIR of one patient."""
    dataset = image(np.zeros((2, 2), np.uint8), "CR", "directory")
    del dataset.PixelData
    for keyword in ("SOPClassUID", "SOPInstanceUID"):
        delattr(dataset, keyword)
    record = Dataset()
    record.DirectoryRecordType, record.PatientID, record.PatientName = "PATIENT", canaries.text(), canaries.name()
    record.ReferencedFileID = [canaries.text(), canaries.text()]
    dataset.FileSetID, dataset.DirectoryRecordSequence = canaries.text(), Sequence([record])
    dataset.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = canaries.uid()
    dataset.save_as(path, enforce_file_format=True)


def nifti(folder: Path, canaries: Canaries, count: int = 8, planted_classes: bool = False) -> None:
    """Decathlon pairs with planted header texts, extensions, names and dataset.json, and broken ones; planted_classes: also class names."""
    broken = iter(("truncated", "nan", "classes", "shape", "garbage"))
    for i in range(count + 5):
        case, fault = canaries.text(), "" if i < count else next(broken)
        voxels = np.random.default_rng(i).normal(100, 20, (8, 9, 10)).astype(np.float32)
        labels = np.zeros((8, 9, 10 + (fault == "shape")), np.uint8)
        labels[2:5, 2:5, 2:5] = 9 if fault == "classes" else 1
        if fault == "nan":
            voxels[0, 0, 0] = np.nan
        for kind, array in (("imagesTr", voxels), ("labelsTr", labels)):
            made = nib.Nifti1Image(array, np.diag([1.0, 1, 2, 1]))
            header: Any = made.header
            header["descrip"], header["db_name"], header["aux_file"] = (canaries.text().encode() for _ in range(3))
            header["intent_name"] = canaries.text().encode()
            for code in (4, 6, 44):  # AFNI's XML, a comment, an unknown code
                header.extensions.append(nib.nifti1.Nifti1Extension(code, canaries.text().encode()))
            path = folder / kind / f"{case}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            made.to_filename(path)
            if fault == "truncated" and kind == "imagesTr":
                path.write_bytes(path.read_bytes()[:-60])
            if fault == "garbage" and kind == "imagesTr":
                path.write_bytes(canaries.text().encode() * 20)
    (folder / "imagesTr" / f"{canaries.text()}.nii.gz").write_bytes(b"")
    (folder / canaries.text()).mkdir()
    description = {key: canaries.text() for key in ("name", "description", "reference", "licence", "tensorImageSize")}
    description |= {"modality": {"0": canaries.text()}, "labels": {"0": "background", "1": canaries.text() if planted_classes else "liver"}}
    description |= {"training": [{"image": canaries.text(), "label": canaries.text()}]}
    (folder / "dataset.json").write_text(json.dumps(description))


def pictures(folder: Path, canaries: Canaries, count: int = 12) -> list[str]:
    """PNG and JPEG with text chunks, EXIF and comments, and broken ones; returns the relative names of the sound ones."""
    names = []
    for i in range(count):
        pixels = Image.fromarray(np.random.default_rng(i).integers(0, 256, (14, 14), dtype=np.uint8))
        exif = Image.Exif()
        for tag in (0x010E, 0x010F, 0x0110, 0x0131, 0x013B, 0x8298, 0x0132):
            exif[tag] = canaries.text()
        chunks = PngImagePlugin.PngInfo()
        for key in ("Title", "Author", "Description", "Comment", canaries.text()):
            chunks.add_text(key, canaries.text(), zip=key == "Comment")
            chunks.add_itxt(key, canaries.name())
        path = folder / canaries.text() / f"{canaries.text()}.{'jpg' if i % 3 == 0 else 'tif' if i % 3 == 1 else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            pixels.save(path, pnginfo=chunks, exif=exif)
        elif path.suffix == ".jpg":
            pixels.save(path, exif=exif, comment=canaries.text())
        else:
            pixels.save(path, tiffinfo={270: canaries.text(), 315: canaries.text(), 306: canaries.text()})
        names.append(path.relative_to(folder).as_posix())
    for name in names[:3]:
        whole = (folder / name).read_bytes()
        for cut in (60, len(whole) // 2, len(whole) - 12):
            (folder / f"{canaries.text()}{Path(name).suffix}").write_bytes(whole[:cut])
    (folder / f"{canaries.text()}.png").write_text(
        f"kept with {canaries.text()} in it"
    )  # alone, its file hash would be the hash of a canary
    header = struct.pack(">IIBBBBB", 1 << 30, 1 << 30, 8, 0, 0, 0, 0)
    (folder / f"{canaries.text()}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + b"\0\0\0\0")
    (folder / f"{canaries.text()}.txt").write_text(
        f"kept with {canaries.text()} in it"
    )  # alone, its file hash would be the hash of a canary
    return names


def table(path: Path, header: list[str], rows: Iterator[list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def _save(dataset: FileDataset, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with quiet():  # what writing nonsense makes pydicom say is not what reading it does
        dataset.save_as(path, enforce_file_format=False)
