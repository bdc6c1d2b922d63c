"""FHIR R4: bundles, NDJSON and folders become the table that the same values in CSV would be; conditions are texts, not features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hepdist.errors import IngestError
from hepdist.ingest.emr import read_table
from hepdist.ingest.emr_read import TableFiles
from hepdist.ingest.fhir import is_fhir

Resource = dict[str, Any]
ICD10, SNOMED, LOINC = "http://hl7.org/fhir/sid/icd-10", "http://snomed.info/sct", "http://loinc.org"


def patient(number: int, **more: Any) -> Resource:
    mrn = {"type": {"coding": [{"code": "MR"}]}, "system": "urn:hospital", "value": f"MRN{number}"}
    identifiers = [{"system": "urn:insurance", "value": f"INS{number}"}, mrn]
    return {"resourceType": "Patient", "id": f"p{number}", "identifier": identifiers, "gender": "female" if number % 2 else "male", **more}


def observation(subject: str, code: str, value: Any, unit: str = "", day: str = "2020-01-01", **more: Any) -> Resource:
    quantity = {"valueQuantity": {"value": value, "unit": unit, "code": unit}} if unit or not isinstance(value, dict) else value
    return {
        "resourceType": "Observation", "status": "final", "subject": {"reference": subject}, "effectiveDateTime": f"{day}T08:30:00+01:00",
        "code": {"coding": [{"system": LOINC, "code": code}]}, **quantity, **more,
    }  # fmt: skip


def condition(subject: str, system: str, code: str, **more: Any) -> Resource:
    return {"resourceType": "Condition", "subject": {"reference": subject}, "code": {"coding": [{"system": system, "code": code}]}, **more}


RESOURCES = [
    patient(1, birthDate="1960-01-02"),
    patient(2, birthDate="1900"),
    patient(3),
    observation("Patient/p1", "1975-2", 2.0, "mg/dL"),
    observation("https://server/fhir/Patient/p1", "14631-6", 17.1, "umol/L", "2020-02-01"),
    observation("urn:uuid:1", "1742-6", 55, "[iU]/L"),
    observation("Patient/p2", "1742-6", 35, "U/L"),
    observation("Patient/p2", "777-3", 210, "10*3/uL"),
    observation("Patient/p2", "1834-1", {"valueQuantity": {"value": 3, "comparator": "<", "unit": "ng/mL"}}),
    observation("Patient/p1", "5195-3", {"valueCodeableConcept": {"coding": [{"display": "Positive"}]}}),
    observation("Patient/p2", "5195-3", {"valueCodeableConcept": {"coding": [{"display": "Negative"}]}}),
    observation("Patient/p1", "99999-9", 7, "furlong"),
    observation("Patient/p1", "12345-6", 7, "mg"),
    observation("Patient/p2", "12345-6", 8, "mg"),
    observation("Patient/p2", "85354-9", {}, component=[observation("", "8480-6", 120, "mm[Hg]"), observation("", "8462-4", 80, "mm[Hg]")]),
    condition("Patient/p1", ICD10, "B18.1"),
    condition("Patient/p1", SNOMED, "61977001"),
    condition("Patient/p3", ICD10, "K75.4"),
    condition("Patient/p2", ICD10, "B18.2", verificationStatus={"coding": [{"code": "refuted"}]}),
    {"resourceType": "DiagnosticReport", "status": "final", "subject": {"reference": "Patient/p1"}, "conclusion": "CANARY liver"},
    {"resourceType": "Medication", "id": "CANARY"},
]


def bundle(tmp_path: Path, resources: list[Resource]) -> Path:
    path = tmp_path / "bundle.json"
    entries = [{"fullUrl": f"urn:uuid:{i + 1}", "resource": resource} for i, resource in enumerate(resources)]
    path.write_text(json.dumps({"resourceType": "Bundle", "type": "collection", "entry": entries}))
    return path


def test_a_bundle_becomes_values_units_and_visits(tmp_path: Path) -> None:
    emr = read_table(bundle(tmp_path, RESOURCES))
    assert {c.name: (c.kind, c.unit) for c in emr.sequence_columns} == {"bilirubin_total": ("number", "µmol/L")}
    assert emr.sequences["MRN1"].days.tolist() == [0, 31]
    assert emr.sequences["MRN1"].values[:, 0].tolist() == pytest.approx([34.208, 17.1], rel=1e-4)
    assert {c.name: (c.kind, c.unit) for c in emr.columns} == {
        "sex": ("category", ""), "age": ("number", "years"), "afp": ("number", "µg/L"), "alt": ("number", "U/L"),
        "diastolic_pressure": ("number", "mm[Hg]"), "hbsag": ("category", ""), "loinc_12345-6": ("number", "mg"),
        "platelets": ("number", "10^9/L"), "systolic_pressure": ("number", "mm[Hg]"),
    }  # fmt: skip
    assert emr.rows["MRN1"] == {
        "sex": 0.0, "age": 60.0, "afp": None, "alt": 55.0, "diastolic_pressure": None, "hbsag": 1.0, "loinc_12345-6": 7.0,
        "platelets": None, "systolic_pressure": None,
    }  # fmt: skip
    second = emr.rows["MRN2"]
    assert (second["age"], second["platelets"], second["afp"], second["hbsag"], second["systolic_pressure"]) == (90, 210, 3, 0, 120)
    assert set(emr.rows) == {"MRN1", "MRN2", "MRN3"}


def test_conditions_and_reports_are_texts_for_labels_only(tmp_path: Path) -> None:
    emr = read_table(bundle(tmp_path, RESOURCES), keep_texts=("icd10", "snomed", "report"))
    assert emr.texts == {
        "MRN1": {"icd10": ["B18.1"], "snomed": ["61977001"], "report": ["CANARY liver"]},
        "MRN3": {"icd10": ["K75.4"]},
    }
    assert "CANARY" not in repr((emr.columns, emr.sequence_columns, emr.findings))


def test_every_resource_that_is_not_used_is_found(tmp_path: Path) -> None:
    wrong = [
        observation("", "1742-6", 1, "U/L"),
        observation("Patient/p1", "1742-6", 1, "stones"),
        observation("Patient/p1", "1742-6", 99, "U/L", status="entered-in-error"),
        {"resourceType": "Observation", "subject": "CANARY"},
    ]
    emr = read_table(bundle(tmp_path, RESOURCES + wrong))
    found = {f.file.removeprefix("bundle.json#"): f.check for f in emr.findings if f.check not in ("not-a-feature", "detection-limit")}
    assert found == {
        "others": "resource-kind", "12": "rare-code", "19": "untrue", "22": "no-patient-key", "23": "unit", "24": "untrue",
        "25": "not-fhir", "4": "no-date",
    }  # fmt: skip
    assert "CANARY" not in repr(emr.findings)
    assert "furlong" not in repr((emr.columns, emr.findings))
    assert emr.rows["MRN1"]["alt"] == 55


def test_ndjson_and_folders_give_what_a_bundle_gives(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    (folder / "deep").mkdir(parents=True)
    named = [r for r in RESOURCES if r["resourceType"] != "Medication" and r.get("subject", {}).get("reference") != "urn:uuid:1"]
    (folder / "Patient.ndjson").write_text("\n".join(json.dumps(r) for r in named[:3]))
    (folder / "deep/others.ndjson").write_text("\n".join(json.dumps(r) for r in named[3:9]) + "\n{broken\n")
    for i, resource in enumerate(named[9:]):
        (folder / f"{i}.json").write_text(json.dumps(resource))
    from_folder, from_bundle = read_table(folder), read_table(bundle(tmp_path, named))
    assert (from_folder.rows, from_folder.columns) == (from_bundle.rows, from_bundle.columns)
    assert from_folder.sequences.keys() == from_bundle.sequences.keys()
    assert ("deep/others.ndjson#7", "truncated") in {(f.file, f.check) for f in from_folder.findings}
    assert len(from_folder.files) == 2 + len(named[9:])


@pytest.mark.parametrize(("asked", "key"), [(None, "MRN1"), ("id", "p1"), ("urn:insurance", "INS1")])
def test_the_identifier_that_names_patients_can_be_chosen(tmp_path: Path, asked: str | None, key: str) -> None:
    assert key in read_table(bundle(tmp_path, RESOURCES), patient_key=asked).rows


def test_json_that_is_not_fhir_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}')
    table = TableFiles.at(tmp_path / "a.json")
    assert table is not None and not is_fhir(table)
    with pytest.raises(IngestError, match="holds no FHIR resource of a patient"):
        read_table(bundle(tmp_path, [{"resourceType": "Medication"}]))


def test_a_reference_to_a_version_is_to_its_patient_and_an_unknown_one_to_nobody_else(tmp_path: Path) -> None:
    """Patients 1 and 2, whose record numbers are the ids of two others that have no resource."""
    people = [{"resourceType": "Patient", "id": str(i), "identifier": [{"value": str(i + 7)}]} for i in (1, 2)]
    values = [("Patient/1/_history/3", 10), ("https://server/fhir/Patient/2/_history/1", 20), ("Patient/8", 30), ("Patient/5", 40)]
    readings = [observation(subject, "1742-6", value, "U/L") for subject, value in values]
    emr = read_table(bundle(tmp_path, [*people, *readings]))
    assert {patient: row["alt"] for patient, row in emr.rows.items()} == {"8": 10, "9": 20, "Patient/8": 30, "5": 40}
