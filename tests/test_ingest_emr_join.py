"""Rows find their samples by pseudonyms alone; tables that are the whole source; what the options of ingest make of a table."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path

import pytest

from hepdist.errors import IngestError
from hepdist.ingest.called import image_names
from hepdist.ingest.detect import open_source
from hepdist.ingest.emr import read_table
from hepdist.ingest.emr_read import TableFiles
from hepdist.ingest.files import Files
from hepdist.ingest.join import match, read_emr
from hepdist.ingest.pseudonym import Pseudonyms
from hepdist.ingest.sample import Sample
from hepdist.ingest.spec import parse_options
from hepdist.ingest.table import TableSource

NAMES = Pseudonyms(b"sixteen bytes or more")
TABLE = "patient_id,study_uid,file,alt\nP1,1.2,a.png,10\nP2,1.3,sub/b.png,20\nP3,1.4,c,30\n"


def table(tmp_path: Path, text: str = TABLE) -> Path:
    (tmp_path / "emr.csv").write_text(text)
    return tmp_path / "emr.csv"


def pseudonyms(kind: str, raw: Sequence[str]) -> list[str]:
    return [NAMES.of(kind, key) for key in raw]


def placed(path: Path) -> TableFiles:
    table = TableFiles.at(path)
    assert table is not None
    return table


def test_rows_find_all_samples_of_their_patient(tmp_path: Path) -> None:
    emr = read_table(table(tmp_path))
    names = {"s1": pseudonyms("patient", ["P1"]), "s2": pseudonyms("patient", ["P1"]), "s3": pseudonyms("patient", ["P9"])}
    found = match(emr, names, NAMES.of)
    assert found.rows == {"s1": "P1", "s2": "P1"}
    assert found.unmatched == ("P2", "P3")
    assert [(f.file, f.outcome, f.check) for f in found.findings] == [
        ("emr#2", "quarantined", "unknown-patient"),
        ("emr#3", "quarantined", "unknown-patient"),
    ]
    assert match(emr, names, NAMES.of, keep_unmatched=True).findings == []


def test_rows_of_studies_and_images_are_keyed_by_them(tmp_path: Path) -> None:
    studies = read_table(table(tmp_path), kind="study")
    assert match(studies, {"s": pseudonyms("study", ["1.3"])}, NAMES.of, kind="study").rows == {"s": "1.3"}
    images = read_table(table(tmp_path), kind="image")
    keys = {"s1": "x/a.png", "s2": "sub/b.png", "s3": "x/c.png"}
    names = {sample: pseudonyms("sample", image_names(key, "")) for sample, key in keys.items()}
    assert match(images, names, NAMES.of, kind="image").rows == {"s1": "a.png", "s2": "sub/b.png", "s3": "c"}


def test_a_file_name_that_two_folders_share_belongs_to_neither(tmp_path: Path) -> None:
    images = read_table(table(tmp_path), kind="image")
    names = {s: pseudonyms("sample", image_names(k, "")) for s, k in {"s1": "x/a.png", "s2": "y/a.png", "s3": "z/c.png"}.items()}
    found = match(images, names, NAMES.of, kind="image")
    assert found.rows == {"s3": "c"}
    assert {f.check for f in found.findings} == {"ambiguous", "unknown-image"}


def test_a_table_of_other_patients_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IngestError, match="no row of the EMR table belongs to a patient of the images; name its patient column"):
        match(read_table(table(tmp_path)), {"s": ["0" * 16]}, NAMES.of)


def test_one_table_is_a_source_of_samples_without_images(tmp_path: Path) -> None:
    rows = "\n".join(f"{'no' if i % 3 else 'yes'},{i}" for i in range(2500))
    source = open_source(Files(table(tmp_path, f"ill,alt\n{rows}\n")), parse_options(["label=ill"]))
    assert isinstance(source, TableSource)
    assert (source.kind, source.label_names, len(source.items)) == ("table", ("no", "yes"), 3)
    assert [(f.file, f.outcome, f.reason) for f in source.findings] == [
        ("emr.csv", "ingested", "no column names the patient, so each row is one")
    ]
    reader = pickle.loads(pickle.dumps(source))
    assert not hasattr(reader, "table")
    samples = [sample for item in source.items for sample in reader.read(item)]
    assert len({s.key for s in samples if isinstance(s, Sample)}) == 2500
    assert samples[3] == Sample("4", "4", label="yes")
    assert source.table.rows["4"] == {"alt": 3.0}


def test_a_folder_of_one_table_or_of_fhir_files_is_a_source_too(tmp_path: Path) -> None:
    table(tmp_path)
    (tmp_path / ".DS_Store").write_bytes(b"x")
    source = open_source(Files(tmp_path), parse_options([]))
    assert isinstance(source, TableSource)
    assert len(source.table.rows) == 3
    assert {f.file: f.outcome for f in source.findings if f.check != "not-a-feature"} == {"emr.csv": "ingested", ".DS_Store": "ignored"}
    folder = tmp_path / "fhir"
    folder.mkdir()
    for i in range(2):
        (folder / f"{i}.json").write_text(f'{{"resourceType": "Patient", "id": "{i}", "gender": "male"}}')
    assert [p for item in open_source(Files(folder), parse_options([])).items for p, *_ in item] == ["0", "1"]


def test_options_reach_the_table(tmp_path: Path) -> None:
    path = table(tmp_path, "7,0,999,yes\n7,30,5,yes\n8,0,6,no\n")
    (tmp_path / "d.yaml").write_text("key: id\ncolumns: {alt: {unit: U/L}}")
    options = ["emr_header=id,week,alt,ill", "emr_time=week", "emr_missing=999", f"emr_dictionary={tmp_path / 'd.yaml'}", "label=ill"]
    emr = read_emr(placed(path), parse_options(options))
    assert emr.sequences["7"].days.tolist() == [0, 30]
    assert emr.rows["7"] == {"alt": 5.0}  # one value only, so it never changes
    assert emr.labels == {"7": "yes", "8": "no"}


# Real tables


def test_hcv_alone_is_a_cohort_of_615_patients(shared_data: Path) -> None:
    source = open_source(Files(shared_data / "emr/uci_hcv/hcvdat0.csv"), parse_options(["label=Category"]))
    samples = [sample for item in source.items for sample in source.read(item)]
    assert len(samples) == 615
    assert source.label_names == ("0=Blood Donor", "0s=suspect Blood Donor", "1=Hepatitis", "2=Fibrosis", "3=Cirrhosis")


def test_covid_metadata_joins_by_image_with_one_row_an_image(shared_data: Path) -> None:
    options = ["emr_key=image", "label=finding"]
    emr = read_emr(placed(shared_data / "covid_cxr/metadata.csv"), parse_options(options))
    assert len(emr.rows) == 113
    assert sum(f.check == "duplicate-row" for f in emr.findings) == 3  # the three images of two patients
    assert "todo" not in emr.label_names
