"""Pixels to valid DICOM: chest X-rays as CR, slices as CT, liver masks as SEG; knows nothing of disease.

PS3.3 A.2 (CR), A.3 (CT) and A.51 (Segmentation). Every UID, date and name comes from the caller's `Person`, none from the clock.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

import highdicom
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    PYDICOM_IMPLEMENTATION_UID,
    UID,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)
from pydicom.valuerep import DA, DT, TM

from hepdist.phantom.streams import uid

TRANSFER_SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, JPEG2000Lossless, JPEGLSLossless)
BITS_STORED = (8, 10, 12, 16)
PHOTOMETRICS = ("MONOCHROME2", "MONOCHROME1")


@dataclass(frozen=True)
class Person:
    """Who was examined, where and when; names and numbers look like a hospital's and belong to nobody."""

    number: str
    name: str
    sex: str
    age: int
    """Years."""
    site: str
    date: datetime.date
    """Of the study."""
    seed: int
    """Of the cohort: with `number` it makes the UIDs."""

    def uid(self, what: str) -> str:
        return uid(self.seed, f"{self.number}/{what}")


@dataclass(frozen=True)
class Encoding:
    """How a chest X-ray is stored; all choices are lossless."""

    transfer_syntax: UID
    bits_stored: int
    photometric: str

    @classmethod
    def of(cls, index: int) -> Encoding:
        """All 40 encodings in 40 consecutive patients, all 5 transfer syntaxes in any 5."""
        return cls(TRANSFER_SYNTAXES[index % 5], BITS_STORED[index % 4], PHOTOMETRICS[(index + index // 20) % 2])


def stored_values(image: NDArray[np.float32], encoding: Encoding) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """A picture in 0..1, bone bright, as the detector's integers; MONOCHROME1 stores it inverted, since there 0 is white."""
    top = 2**encoding.bits_stored - 1
    values = np.round(np.clip(image, 0, 1) * top)
    if encoding.photometric == "MONOCHROME1":
        values = top - values
    return values.astype(np.uint8 if encoding.bits_stored == 8 else np.uint16)


def write_xray(path: Path, image: NDArray[np.float32], pixel_mm: float, person: Person, encoding: Encoding) -> None:
    """One postero-anterior chest X-ray as a CR file. image: [rows, columns] in 0..1, bone bright."""
    values = stored_values(image, encoding)
    ds = _base(person, "xray", ComputedRadiographyImageStorage, instance=1)
    ds.Modality = "CR"
    ds.StudyDescription = "Chest PA"
    ds.SeriesDescription = "Chest PA"
    ds.ProtocolName = "CHEST"
    ds.BodyPartExamined = "CHEST"
    ds.ViewPosition = "PA"
    ds.PatientOrientation = ["L", "F"]
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.KVP = "110"
    ds.DistanceSourceToDetector = "1800"
    ds.PlateType = "storage phosphor"
    ds.ImagerPixelSpacing = [pixel_mm, pixel_mm]
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.PhotometricInterpretation = encoding.photometric
    _set_pixels(ds, values, encoding.bits_stored)
    top = 2**encoding.bits_stored - 1
    ds.WindowCenter = str((top + 1) / 2)
    ds.WindowWidth = str(top + 1)
    ds.VOILUTFunction = "LINEAR"
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "00"
    _save(ds, path, encoding.transfer_syntax)


def ct_slices(volume: NDArray[np.int16], spacing_mm: tuple[float, float, float], person: Person) -> list[Dataset]:
    """An axial series, one Dataset a slice from the feet up. volume: Hounsfield units, (z to head, y to back, x to left)."""
    origin = [-(n - 1) / 2 * step for n, step in zip(volume.shape, spacing_mm, strict=True)]
    slices = []
    for index, plane in enumerate(volume):
        ds = _base(person, "ct", CTImageStorage, instance=index + 1)
        ds.Modality = "CT"
        ds.StudyDescription = "CT upper abdomen"
        ds.SeriesDescription = "Abdomen 5.0 soft tissue"
        ds.BodyPartExamined = "ABDOMEN"
        ds.PatientPosition = "HFS"
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.KVP = "120"
        ds.AcquisitionNumber = 1
        ds.FrameOfReferenceUID = person.uid("ct/frame of reference")
        ds.PositionReferenceIndicator = ""
        ds.PixelSpacing = [spacing_mm[1], spacing_mm[2]]
        ds.SliceThickness = spacing_mm[0]
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.ImagePositionPatient = [origin[2], origin[1], origin[0] + index * spacing_mm[0]]
        ds.PhotometricInterpretation = "MONOCHROME2"
        _set_pixels(ds, (plane + 1024).astype(np.uint16), bits_stored=12)
        ds.RescaleIntercept = "-1024"
        ds.RescaleSlope = "1"
        ds.RescaleType = "HU"
        ds.WindowCenter = "40"
        ds.WindowWidth = "400"
        slices.append(ds)
    return slices


def write_ct(folder: Path, slices: list[Dataset]) -> None:
    """One file a slice, named without extension and from the head down, against the order of InstanceNumber: only positions tell."""
    for index, ds in enumerate(slices):
        _save(ds, folder / f"I{len(slices) - index:07d}", ExplicitVRLittleEndian)


def write_liver_mask(path: Path, mask: NDArray[np.uint8], slices: list[Dataset], person: Person) -> None:
    """The liver as a binary DICOM SEG that references `slices`. mask: [slices, rows, columns] of 0 and 1, at least one 1."""
    liver = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label="Liver",
        segmented_property_category=codes.SCT.Organ,
        segmented_property_type=codes.SCT.Liver,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
        tracking_uid=person.uid("seg/tracking"),
        tracking_id="liver",
    )
    ds = highdicom.seg.Segmentation(
        source_images=slices,
        pixel_array=mask.astype(bool),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[liver],
        series_instance_uid=person.uid("seg/series"),
        series_number=2,
        sop_instance_uid=person.uid("seg/instance"),
        instance_number=1,
        manufacturer="hepdist",
        manufacturer_model_name="phantom",
        software_versions="1",
        device_serial_number="1",
        content_label="LIVER",
        content_date=person.date,
        content_time=_NOON,
        series_description="Liver",
    )
    # highdicom stamps the clock and draws UIDs of its own: the same seed must write the same bytes.
    ds.InstanceCreationDate, ds.InstanceCreationTime = DA(person.date), TM(_NOON)
    for equipment in ds.ContributingEquipmentSequence:
        equipment.ContributionDateTime = DT(datetime.datetime.combine(person.date, _NOON))
    for item in (*ds.DimensionOrganizationSequence, *ds.DimensionIndexSequence):
        item.DimensionOrganizationUID = person.uid("seg/dimensions")
    ds.save_as(path, enforce_file_format=True)


_NOON = datetime.time(12, 0)


def _base(person: Person, study: str, sop_class: UID, instance: int) -> Dataset:
    """What all images share: patient, study, series, equipment and SOP common modules."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = sop_class
    ds.SOPInstanceUID = person.uid(f"{study}/{instance}")
    ds.PatientName = person.name
    ds.PatientID = person.number
    ds.PatientBirthDate = f"{person.date.year - person.age}0101"
    ds.PatientSex = person.sex
    ds.PatientAge = f"{person.age:03d}Y"
    ds.StudyInstanceUID = person.uid(f"{study}/study")
    ds.SeriesInstanceUID = person.uid(f"{study}/series")
    ds.StudyID = "1"
    ds.SeriesNumber = 1
    ds.InstanceNumber = instance
    for level in ("Study", "Series", "Acquisition", "Content"):
        setattr(ds, f"{level}Date", DA(person.date))
        setattr(ds, f"{level}Time", TM(_NOON))
    ds.AccessionNumber = f"ACC{person.number[3:]}"
    ds.ReferringPhysicianName = "Referrer^Phantom"
    ds.InstitutionName = f"{person.site} Phantom Hospital"
    ds.Manufacturer = "hepdist phantom"
    ds.ManufacturerModelName = "phantom"
    return ds


def _set_pixels(ds: Dataset, values: NDArray[np.uint8] | NDArray[np.uint16], bits_stored: int) -> None:
    ds.SamplesPerPixel = 1
    ds.Rows, ds.Columns = values.shape
    ds.BitsAllocated = values.dtype.itemsize * 8
    ds.BitsStored = bits_stored
    ds.HighBit = bits_stored - 1
    ds.PixelRepresentation = 0
    ds.PixelData = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
    ds["PixelData"].VR = "OB" if ds.BitsAllocated == 8 else "OW"


def _save(ds: Dataset, path: Path, transfer_syntax: UID) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    ds.file_meta.ImplementationVersionName = "HEPDIST_PHANTOM"
    if transfer_syntax.is_compressed:
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.compress(transfer_syntax, generate_instance_uid=False)
    else:
        ds.file_meta.TransferSyntaxUID = transfer_syntax
    ds.save_as(path, enforce_file_format=True)
