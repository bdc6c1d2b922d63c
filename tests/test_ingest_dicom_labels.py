"""Labels of DICOM images from a table beside them and from their paths, and options that DICOM and tables can't follow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dicom_files import image, save, slices, stored_values, uid

from hepdist.errors import IngestError
from hepdist.ingest import ingest
from hepdist.ingest.detect import open_source
from hepdist.ingest.files import Files
from hepdist.ingest.sample import Finding, Sample
from hepdist.ingest.spec import IngestSpec
from hepdist.shards.manifest import SPLITS

pytestmark = pytest.mark.usefixtures("salt")


def radiographs(folder: Path, count: int = 6, patients: int = 6) -> None:
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 4096, (12, 10), dtype=np.uint16)
        save(image(pixels, "CR", str(i), series=str(i), study=str(i), patient=f"P{i % patients}"), folder / f"case{i}", [f"im{i}.dcm"])


def read(folder: Path, **options) -> tuple[list[Sample], list[Finding]]:
    source = open_source(Files(folder), IngestSpec(**options))
    found = [*source.findings, *(thing for item in source.items for thing in source.read(item))]
    return [f for f in found if isinstance(f, Sample)], [f for f in found if isinstance(f, Finding)]


def table(path: Path, header: str, rows: list[tuple[object, ...]]) -> Path:
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]))
    return path


NAMES = {
    "filename": lambda i: f"im{i}.dcm",
    "path": lambda i: f"C:\\export\\case{i}\\im{i}.dcm",
    "image": lambda i: f"case{i}",  # its folder
    "SOPInstanceUID": lambda i: uid("instance", i, i, i),
    "SeriesInstanceUID": lambda i: uid("series", i, i),
    "StudyInstanceUID": lambda i: uid("study", i),
    "PatientID": lambda i: f"P{i}",
}


@pytest.mark.parametrize("header", NAMES)
def test_a_row_names_images_by_file_folder_instance_series_study_or_patient(tmp_path: Path, header: str) -> None:
    radiographs(tmp_path / "source")
    rows = [(NAMES[header](i), "ab"[i % 2], f"S{i}", f"2020-01-0{i + 1}") for i in range(6)]
    labels = table(tmp_path / "t.csv", f"{header},label,site,study_date", rows)
    samples, findings = read(tmp_path / "source", labels_table=str(labels))
    assert not findings
    assert sorted((s.patient, s.label, s.site, s.date.day) for s in samples) == [(f"P{i}", "ab"[i % 2], f"S{i}", i + 1) for i in range(6)]


def test_a_table_in_the_source_is_found_and_every_row_is_accounted_for(tmp_path: Path) -> None:
    radiographs(tmp_path / "source", 40)
    rows = [*((f"im{i}.dcm", "ill" if i % 2 else "well") for i in range(38)), ("im3.dcm", "well"), ("ghost.dcm", "ill")]
    table(tmp_path / "source/labels.csv", "filename,label", rows)
    manifest = ingest(str(tmp_path / "source"), str(tmp_path / "cohort"))
    assert {n: sum(manifest.counts[s]["classes"][n] for s in SPLITS) for n in manifest.label_names} == {"ill": 18, "well": 19}
    assert sum(manifest.rows(s) for s in SPLITS) == 40
    assert sum(manifest.counts[s]["patients"] for s in SPLITS) == 6
    assert manifest.counts["audit"] == {"ambiguous": 1, "ignored": 0, "ingested": 41, "quarantined": 2, "unknown-image": 1}


def test_all_volumes_of_a_series_and_all_images_of_a_patient_have_the_row_s_label(tmp_path: Path) -> None:
    volume = stored_values()
    for phase in (1, 2):
        for one in slices(volume, AcquisitionNumber=phase):
            one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = uid(phase, one.SOPInstanceUID)
            save(one, tmp_path / "source")
    labels = table(tmp_path / "t.csv", "patient_id,label", [("P1", "ill")])
    samples, findings = read(tmp_path / "source", labels_table=str(labels))
    assert not findings
    assert [(s.image.shape, s.label) for s in samples] == [((1, 6, 8, 10), "ill")] * 2  # type: ignore[union-attr]


def test_whose_an_image_is_its_header_says_unless_an_option_says_otherwise(tmp_path: Path) -> None:
    radiographs(tmp_path / "source", 6, patients=1)
    labels = table(tmp_path / "t.csv", "filename,patient_id,label", [(f"im{i}.dcm", f"X{i // 2}", "ab"[i % 2]) for i in range(6)])
    assert {s.patient for s in read(tmp_path / "source", labels_table=str(labels))[0]} == {"P0"}
    named, _ = read(tmp_path / "source", labels_table=str(labels), patient_key="patient_id")
    assert sorted(s.patient for s in named) == ["X0", "X0", "X1", "X1", "X2", "X2"]
    found, _ = read(tmp_path / "source", label_pattern=r"im([01])", patient_pattern=r"^case([0-9])/")
    assert sorted((s.patient, s.label) for s in found) == [("0", "0"), ("1", "1"), *((str(i), None) for i in range(2, 6))]


def test_a_name_that_several_folders_share_is_told_of(tmp_path: Path) -> None:
    for i in range(3):
        save(image(stored_values()[i], "CR", str(i), study=str(i), patient=f"P{i}"), tmp_path / f"source/p{i}", ["IM1"])
    labels = table(tmp_path / "t.csv", "file,label", [("IM1", "a"), ("p1/IM1", "b")])
    samples, findings = read(tmp_path / "source", labels_table=str(labels))
    assert sorted((s.patient, s.label) for s in samples) == [("P0", None), ("P1", "b"), ("P2", None)]
    assert [(f.check, f.reason) for f in findings] == [("ambiguous", "names files or folders of several places")]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"mask_pattern": "^(.*)_m"}, r"'mask_pattern' tells masks by their files' names, which say nothing in DICOM; name the folders of"),
        ({"label": "finding"}, r"'label' is 'finding', a column, but there is no table; add emr=TABLE.csv or labels_table=TABLE.csv"),
        ({"site_key": "ward"}, r"'site_key' is 'ward', a column, but there is no table"),
        ({"date_key": "day"}, r"'date_key' is 'day', a column, but there is no table"),
    ],
)
def test_options_that_dicom_cannot_follow_are_refused(tmp_path: Path, options: dict[str, str], sentence: str) -> None:
    radiographs(tmp_path)
    with pytest.raises(IngestError, match=sentence):
        read(tmp_path, **options)


def test_a_label_table_of_other_images_is_refused(tmp_path: Path) -> None:
    radiographs(tmp_path / "source")
    labels = table(tmp_path / "t.csv", "filename,label", [(f"other{i}.dcm", "a") for i in range(6)])
    with pytest.raises(IngestError, match=r"^no row of the label table names a file, series, study or patient of the source"):
        read(tmp_path / "source", labels_table=str(labels))


def test_the_study_column_of_an_emr_table_may_be_named(tmp_path: Path) -> None:
    radiographs(tmp_path / "source", 20, patients=20)
    emr = table(tmp_path / "t.csv", "examination,alt", [(uid("study", i), i) for i in range(20)])
    manifest = ingest(str(tmp_path / "source"), str(tmp_path / "cohort"), [f"emr={emr}", "emr_key=study", "patient_key=examination"])
    assert [(c.name, c.missing_share) for c in manifest.emr] == [("alt", 0)]


LABS = [(f"P{p}", "ABCD"[p % 4], f"2020-{1 + p // 4:02d}-03", 20 + p, p % 2) for p in range(40)]


def test_a_table_that_is_the_source_is_split_by_its_sites(tmp_path: Path) -> None:
    source = table(tmp_path / "t.csv", "patient_id,hospital,seen,alt,label", LABS)
    manifest = ingest(str(source), str(tmp_path / "cohort"), ["label=label", "split_by=site"])
    assert manifest.split_rule["kind"] == "site"
    assert manifest.split_rule["sites"] == 4
    assert sorted(manifest.rows(split) for split in SPLITS) == [10, 10, 20]
    with pytest.raises(
        IngestError, match=r"split_by=site needs the site of each row, and no column of the table has its name; give site_key="
    ):
        ingest(str(table(tmp_path / "u.csv", "patient_id,alt", [(p, p) for p in range(9)])), str(tmp_path / "none"), ["split_by=site"])


def test_sites_that_share_a_patient_count_as_one(tmp_path: Path) -> None:
    visits = [*((*row[:3], row[3]) for row in LABS), ("P0", "B", "2021-01-01", 9)]  # P0 was in A
    source = table(tmp_path / "t.csv", "patient_id,ward,date,alt", visits)
    manifest = ingest(str(source), str(tmp_path / "cohort"), ["split_by=site", "site_key=ward"])
    assert manifest.split_rule["sites"] == 3


def test_a_table_that_is_the_source_is_split_by_its_dates(tmp_path: Path) -> None:
    source = table(tmp_path / "t.csv", "patient_id,hospital,seen,alt,label", LABS)
    samples, _ = read(source, split_by="date", date_key="seen")
    assert {s.patient: s.date.isoformat() for s in samples} == {row[0]: row[2] for row in LABS}  # type: ignore[union-attr]
    manifest = ingest(str(source), str(tmp_path / "cohort"), ["label=label", "split_by=date", "date_key=seen"])
    assert [manifest.rows(split) for split in SPLITS] == [24, 8, 8]
