"""What a cleaned header keeps, how dates and UIDs move, which words may leave, and who can undo a pseudonym."""

from __future__ import annotations

import datetime
import math
import stat

import numpy as np
import pyarrow.parquet as pq
import pytest
from dicom_files import image, uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from salts import SALT

from hepdist.errors import IngestError, RecipeError
from hepdist.ingest.deidentify import age_in_years, deidentify, read_date
from hepdist.ingest.headers import header_row, write_headers
from hepdist.ingest.pseudonym import LARGEST_SHIFT, Pseudonyms
from hepdist.ingest.reidentify import FRAME, Entry, MapWriter, reidentify
from hepdist.ingest.spec import parse_options
from hepdist.ingest.vocabulary import code_meaning, is_ordinary, safe_names

NAMES = Pseudonyms(SALT.encode())


def radiograph(**tags: object) -> Dataset:
    return image(np.zeros((4, 4), np.uint8), "CR", "1", **({"patient": "P-17", "StudyDate": "20200131"} | tags))


def days_between(one: str, other: str) -> int:
    first, second = read_date(one), read_date(other)
    assert first is not None and second is not None
    return (second - first).days


def test_dates_of_a_patient_go_back_by_the_same_days_and_keep_their_intervals():
    early = deidentify(radiograph(SeriesDate="20200201", AcquisitionDateTime="20200301120000"), NAMES)
    late = deidentify(radiograph(study="2", StudyDate="20210131"), NAMES)
    shift = NAMES.shift_days("P-17")
    assert 1 <= shift <= LARGEST_SHIFT
    assert days_between(early.StudyDate, "20200131") == shift
    assert days_between(early.StudyDate, late.StudyDate) == 366
    assert days_between(early.StudyDate, str(early.SeriesDate)) == 1
    assert str(early.AcquisitionDateTime) == (datetime.date(2020, 3, 1) - datetime.timedelta(shift)).strftime("%Y%m%d")


def test_shifts_depend_on_the_patient_and_on_the_salt():
    shifts = {NAMES.shift_days(f"P-{i}") for i in range(200)}
    assert len(shifts) > 180 and min(shifts) >= 1 and max(shifts) <= LARGEST_SHIFT
    assert NAMES.shift_days("P-17") != Pseudonyms(b"another salt for tests, as long.").shift_days("P-17")


def test_uids_are_replaced_alike_in_every_file_and_those_of_the_standard_stay():
    one, other = (deidentify(radiograph(SOPInstanceUID=uid(i)), NAMES) for i in "ab")
    assert one.StudyInstanceUID == other.StudyInstanceUID != radiograph().StudyInstanceUID
    assert one.SOPInstanceUID != other.SOPInstanceUID
    assert one.SOPInstanceUID == one.file_meta.MediaStorageSOPInstanceUID
    assert one.SOPClassUID == radiograph().SOPClassUID
    assert one.StudyInstanceUID.startswith("2.25.") and len(one.StudyInstanceUID) <= 64 and one.StudyInstanceUID.is_valid


def test_free_text_private_and_byte_elements_go_on_every_level():
    dataset, nested = radiograph(PatientComments="she said", StudyDescription="Dr Y", KVP="80"), Dataset()
    nested.CodeValue, nested.CodeMeaning, nested.PersonName, nested.Date = "T-1", "text", "Doe^Jane", "20200131"
    nested.private_block(0x0009, "ACME", create=True).add_new(1, "LO", "secret")
    dataset.AnatomicRegionSequence = Sequence([nested])
    dataset.private_block(0x0009, "ACME", create=True).add_new(1, "LO", "secret")
    before = dataset.to_json()
    cleaned = deidentify(dataset, NAMES)
    assert dataset.to_json() == before
    assert "PatientComments" not in cleaned and "StudyDescription" not in cleaned and "PixelData" not in cleaned
    assert not any(element.tag.is_private for element in cleaned.iterall())
    assert cleaned.AnatomicRegionSequence[0].CodeValue == "T-1"
    assert "CodeMeaning" not in cleaned.AnatomicRegionSequence[0]
    assert cleaned.AnatomicRegionSequence[0].PersonName == "ANONYMIZED"  # the profile's dummy
    assert cleaned.KVP == 80


def test_a_cleaned_header_says_how_it_was_cleaned():
    cleaned = deidentify(radiograph(), NAMES)
    assert (cleaned.PatientIdentityRemoved, cleaned.LongitudinalTemporalInformationModified) == ("YES", "MODIFIED")
    assert [item.CodeValue for item in cleaned.DeidentificationMethodCodeSequence] == ["113100", "113107", "113108"]
    assert cleaned.PatientID == str(cleaned.PatientName) == NAMES.of("patient", "P-17")


@pytest.mark.parametrize(
    ("tags", "age"),
    [
        ({"PatientAge": "045Y"}, 45), ({"PatientAge": "097Y"}, 90), ({"PatientAge": "090Y"}, 90), ({"PatientAge": "004M"}, 4 / 12),
        ({"PatientAge": "003D"}, 0), ({"PatientBirthDate": "20100131"}, 10), ({"PatientBirthDate": "20100201"}, 9),
        ({"PatientBirthDate": "19000101"}, 90), ({"PatientBirthDate": "20190630"}, 7 / 12), ({}, None), ({"PatientBirthDate": "2010"}, None),
        ({"PatientBirthDate": "20300101"}, None),
    ],
)  # fmt: skip
def test_age_is_in_whole_years_or_months_and_ninety_at_most(tags, age):
    assert age_in_years(radiograph(**tags)) == (None if age is None else pytest.approx(age))


def test_a_header_row_holds_listed_words_and_numbers_only():
    row = header_row(
        radiograph(
            Manufacturer="SIEMENS Healthineers", ManufacturerModelName="SOMATOM Definition Flash of Dr X", BodyPartExamined="CHEST", KVP="120",
            SliceThickness="2.5", MagneticFieldStrength="1.5", PatientSex="F", PatientAge="045Y",
        ),
        NAMES,
    )  # fmt: skip
    assert row["patient"] == NAMES.of("patient", "P-17") and row["study"] == NAMES.of("study", str(radiograph().StudyInstanceUID))
    assert [row[k] for k in ("modality", "body_part", "manufacturer", "sex")] == ["CR", "chest", "Siemens", "F"]
    assert set(str(row["model"]).split()) == {"Somatom", "Definition", "Flash"}
    assert [row[k] for k in ("age_years", "kvp", "slice_thickness_mm", "field_strength_t")] == [45, 120, 2.5, 1.5]


def test_what_no_list_knows_is_other_or_empty():
    row = header_row(radiograph(Manufacturer="Jane's Workshop", BodyPartExamined="JANE", Modality="JANE", PatientSex="JANE", KVP=""), NAMES)
    assert [row[k] for k in ("manufacturer", "body_part", "modality", "sex")] == ["other", "", "", ""]
    assert math.isnan(float(row["kvp"])) and math.isnan(float(row["age_years"]))


def test_the_headers_table_does_not_depend_on_the_order_of_reading(tmp_path):
    rows = [header_row(radiograph(study=str(i)), NAMES) for i in range(5)]
    write_headers(tmp_path / "a.parquet", rows)
    write_headers(tmp_path / "b.parquet", [*rows[::-1], rows[2]])
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert pq.read_metadata(tmp_path / "a.parquet").num_rows == 5


@pytest.mark.parametrize(
    "text",
    ["No Finding", "0=Blood Donor", "0s=suspect Blood Donor", "Pneumonia/Viral/COVID-19", "vertebrae_L5", "T1a", "alk.phos", "RT_PCR_positive",
     "non-enhancing tumor", "轻度阳性", "Anterior", "male"],
)  # fmt: skip
def test_medical_and_everyday_words_are_ordinary(text):
    assert is_ordinary(text)


@pytest.mark.parametrize(
    "text", ["Zhang Wei", "张伟", "J. Smith", "jds", "12345", "2019-03-04", "12.11.19", "555 123 456", "QXKZJVWP000001"]
)
def test_names_identifiers_dates_and_initials_are_not_ordinary(text):
    assert not is_ordinary(text)


def test_a_text_that_is_not_ordinary_loses_its_name_and_keeps_its_place():
    assert safe_names(["male", "Zhang Wei", "Li Na"], "value") == ("male", "value 2", "value 3")
    assert safe_names(["male", "Zhang Wei"], "value", declared=["Zhang Wei"]) == ("male", "Zhang Wei")


def test_a_code_is_named_by_the_code_system_and_never_by_the_file():
    assert code_meaning("SCT", "10200004") == code_meaning("SRT", "T-62000") == "Liver"
    assert code_meaning("SCT", "1") == code_meaning("99LOCAL", "10200004") == ""


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "map.key"
    path.write_text("correct horse battery staple\n")
    return path


def write_map(path, key, cohort, entries) -> None:
    with MapWriter(path, key, NAMES, cohort) as writer:
        for kind, raw in entries:
            writer.add(kind, raw)


def test_a_map_leads_from_pseudonyms_back_to_raw_keys(tmp_path, key):
    raw = [("patient", "P-17"), ("patient", "张伟"), ("file", "a/b.dcm"), ("patient", "P-17"), ("study", "")]
    write_map(tmp_path / "map", key, tmp_path / "cohort", raw)
    assert set(reidentify(tmp_path / "map", key)) == {Entry(k, NAMES.of(k, r), r) for k, r in raw if r}
    assert [e.raw for e in reidentify(tmp_path / "map", key, [NAMES.of("patient", "张伟")[:6] + "…"])] == ["张伟"]
    assert stat.S_IMODE((tmp_path / "map").stat().st_mode) == 0o600
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map", "map.key"]


def test_a_map_of_several_frames_is_read_whole(tmp_path, key, monkeypatch):
    monkeypatch.setattr("hepdist.ingest.reidentify.FRAME", 10)
    write_map(tmp_path / "map", key, tmp_path / "cohort", [("sample", str(i)) for i in range(95)])
    assert sorted(int(e.raw) for e in reidentify(tmp_path / "map", key)) == list(range(95)) and FRAME > 10


@pytest.mark.parametrize("change", ["cut at a frame", "cut", "bit", "longer", "other key"])
def test_a_map_that_was_changed_or_cut_or_another_key_is_refused(tmp_path, key, monkeypatch, change):
    monkeypatch.setattr("hepdist.ingest.reidentify.FRAME", 10)
    write_map(tmp_path / "map", key, tmp_path / "cohort", [("sample", str(i)) for i in range(25)])
    data = (tmp_path / "map").read_bytes()
    start = data.index(b"\n") + 17
    first = start + 4 + int.from_bytes(data[start : start + 4], "little")
    spoilt = {"cut at a frame": data[:first], "cut": data[:-3], "bit": data[:-1] + bytes([data[-1] ^ 1]), "longer": data + b"\0"}
    (tmp_path / "map").write_bytes(spoilt.get(change, data))
    if change == "other key":
        key.write_text("another horse, another staple")
    with pytest.raises(IngestError, match="can't be opened"):
        list(reidentify(tmp_path / "map", key))


def test_a_map_or_its_key_inside_the_cohort_is_refused(tmp_path, key):
    with pytest.raises(IngestError, match=r"reidentification_map.*inside the cohort"):
        MapWriter(tmp_path / "cohort/map", key, NAMES, tmp_path / "cohort")
    with pytest.raises(IngestError, match=r"reidentification_key.*inside the cohort"):
        MapWriter(tmp_path.parent / "elsewhere", key, NAMES, tmp_path)
    assert not (tmp_path.parent / "elsewhere").exists()


def test_a_file_that_is_no_map_is_not_replaced_and_a_failed_run_leaves_the_old_map(tmp_path, key):
    (tmp_path / "thesis").write_text("years of work")
    with pytest.raises(IngestError, match="is no such map"):
        MapWriter(tmp_path / "thesis", key, NAMES, tmp_path / "cohort")
    write_map(tmp_path / "map", key, tmp_path / "cohort", [("patient", "old")])
    with pytest.raises(AssertionError):  # a kind that there is none of, after an entry that could be written
        write_map(tmp_path / "map", key, tmp_path / "cohort", [("patient", "new"), ("street", "Main")])
    assert [e.raw for e in reidentify(tmp_path / "map", key)] == ["old"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map", "map.key", "thesis"]


def test_a_map_needs_a_key_and_a_key_of_some_length(tmp_path, key):
    with pytest.raises(RecipeError, match="reidentification_key"):
        parse_options(["reidentification_map=x"])
    key.write_text("short")
    with pytest.raises(IngestError, match="at least 16"):
        MapWriter(tmp_path / "map", key, NAMES, tmp_path / "cohort")
