"""What classes are called in DICOM: SNOMED CT where a name is known, else a private code that says the name as it is."""

from __future__ import annotations

import hashlib
import re

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

PRIVATE = "99HEPDIST"
ML = Code("ml", "UCUM", "milliliter")
MM2 = codes.UCUM.SquareMillimeter
ONE = codes.UCUM.NoUnits

_ORGANS = {
    "adrenal": codes.SCT.AdrenalGland, "adrenal gland": codes.SCT.AdrenalGland, "aorta": codes.SCT.Aorta, "brain": codes.SCT.Brain,
    "colon": codes.SCT.Colon, "esophagus": codes.SCT.Esophagus, "oesophagus": codes.SCT.Esophagus, "gallbladder": codes.SCT.Gallbladder,
    "heart": codes.SCT.Heart, "hippocampus": codes.SCT.Hippocampus, "kidney": codes.SCT.Kidney, "kidneys": codes.SCT.Kidney,
    "liver": codes.SCT.Liver, "lung": codes.SCT.Lung, "lungs": codes.SCT.Lung, "pancreas": codes.SCT.Pancreas,
    "prostate": codes.SCT.Prostate, "spleen": codes.SCT.Spleen, "stomach": codes.SCT.Stomach,
    "left lung": Code("44029006", "SCT", "Left lung"), "right lung": Code("3341006", "SCT", "Right lung"),
    "left kidney": Code("18639004", "SCT", "Left kidney"), "right kidney": Code("9846003", "SCT", "Right kidney"),
}  # fmt: skip
_ABNORMAL = {
    "cancer": codes.SCT.Neoplasm, "edema": codes.SCT.Edema, "oedema": codes.SCT.Edema, "fibrosis": codes.SCT.Fibrosis,
    "lesion": codes.SCT.Lesion, "lesions": codes.SCT.Lesion, "mass": codes.SCT.Mass, "nodule": codes.SCT.Nodule,
    "tumor": codes.SCT.Neoplasm, "tumour": codes.SCT.Neoplasm, "tumors": codes.SCT.Neoplasm, "tumours": codes.SCT.Neoplasm,
}  # fmt: skip
_FINDINGS = {
    "cirrhosis": codes.SCT.CirrhosisOfLiver, "hepatitis": codes.SCT.Hepatitis, "normal": codes.SCT.Normal,
    "pneumonia": Code("233604007", "SCT", "Pneumonia"), "covid": Code("840539006", "SCT", "COVID-19"),
    "covid 19": Code("840539006", "SCT", "COVID-19"), "tuberculosis": Code("56717001", "SCT", "Tuberculosis"),
}  # fmt: skip


def segment_codes(name: str) -> tuple[Code, Code]:
    """Category and type of a segment of that name."""
    plain = _plain(name)
    if plain in _ORGANS:
        return codes.SCT.Organ, _ORGANS[plain]
    if plain in _ABNORMAL:
        return codes.SCT.MorphologicallyAbnormalStructure, _ABNORMAL[plain]
    last = plain.rpartition(" ")[2]  # 'liver tumour'
    if last in _ABNORMAL:
        return codes.SCT.MorphologicallyAbnormalStructure, _ABNORMAL[last]
    return codes.SCT.Tissue, private(name)


def finding_code(name: str) -> Code:
    """What a class of a classifier is a finding of."""
    plain = _plain(name)
    return (_FINDINGS | _ABNORMAL | _ORGANS).get(plain) or private(name)


def private(name: str) -> Code:
    """Value of at most 16 characters, as SH may hold; the meaning is the name."""
    return Code(hashlib.sha256(name.encode()).hexdigest()[:16], PRIVATE, name[:64])


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", " ", name).strip().lower()
