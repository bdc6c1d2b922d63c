"""Which DICOM images a cell of a label table means, and whose they are where headers, table and options differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dicom_files import image, save

from hepdist.ingest.detect import open_source
from hepdist.ingest.files import Files
from hepdist.ingest.sample import Finding, Sample
from hepdist.ingest.spec import IngestSpec


def radiographs(folder: Path, patients: dict[str, str]) -> None:
    """patients: PatientID by file name; each image is a study of its own."""
    for number, (name, patient) in enumerate(patients.items()):
        pixels = np.random.default_rng(number).integers(0, 4096, (12, 10), dtype=np.uint16)
        save(image(pixels, "CR", name, series=name, study=name, patient=patient), folder, [name])


def read(folder: Path, table: str, **options) -> tuple[dict[str, tuple[str, object]], list[tuple[str, str]]]:
    """Patient and label by file, and file and check of the findings. table: content of the label table, whose cells are parted by spaces."""
    path = folder.parent / "t.csv"
    path.write_text(table.replace(" ", ",").replace("/", "\n"))
    source = open_source(Files(folder), IngestSpec(labels_table=str(path), **options))
    found = [*source.findings, *(thing for item in source.items for thing in source.read(item))]
    samples = {s.files[0]: (s.patient, s.label) for s in found if isinstance(s, Sample)}
    return samples, sorted((f.file.removeprefix(str(path)), f.check) for f in found if isinstance(f, Finding))


def test_a_cell_of_a_file_column_means_the_file_before_the_patient_of_that_number(tmp_path: Path) -> None:
    radiographs(tmp_path / "s", {"1.dcm": "2", "2.dcm": "1", "3.dcm": "1"})
    samples, findings = read(tmp_path / "s", "filename label/1 one/2 two/3 three")
    assert not findings
    assert samples == {"1.dcm": ("2", "one"), "2.dcm": ("1", "two"), "3.dcm": ("1", "three")}


def test_a_cell_of_a_patient_column_means_no_file_of_that_number(tmp_path: Path) -> None:
    radiographs(tmp_path / "s", {"1.dcm": "2", "2.dcm": "1", "3.dcm": "1"})
    samples, findings = read(tmp_path / "s", "patient_id label/1 one/3 three")
    assert samples == {"1.dcm": ("2", None), "2.dcm": ("1", "one"), "3.dcm": ("1", "one")}
    assert findings == [("#2", "unknown-image")]


def test_where_headers_name_no_patient_the_table_does(tmp_path: Path) -> None:
    """Each study would count as a patient, so that two of one might train and test."""
    radiographs(tmp_path / "s", {"a.dcm": "", "b.dcm": "", "c.dcm": "", "d.dcm": "P4"})
    samples, findings = read(tmp_path / "s", "filename patient_id label/a.dcm X1 ill/b.dcm X1 well/d.dcm X1 well")
    assert samples == {"a.dcm": ("X1", "ill"), "b.dcm": ("X1", "well"), "d.dcm": ("P4", "well")}
    assert findings == [("c.dcm", "unknown-patient")]


def test_an_unlisted_image_is_taken_where_its_path_says_whose_it_is_or_nothing_trains_on_it(tmp_path: Path) -> None:
    radiographs(tmp_path / "s", {"a_1.dcm": "", "b_2.dcm": ""})
    table = "filename patient_id label/a_1.dcm X1 ill"
    assert read(tmp_path / "s", table, patient_pattern="_([0-9])")[0] == {"a_1.dcm": ("1", "ill"), "b_2.dcm": ("2", None)}
    samples, findings = read(tmp_path / "s", table, allow_unlabelled=True)
    assert samples["a_1.dcm"] == ("X1", "ill")
    assert samples["b_2.dcm"][1] is None
    assert not findings


def test_an_image_that_the_table_gives_to_two_patients_is_quarantined_where_the_table_decides(tmp_path: Path) -> None:
    radiographs(tmp_path / "s", {"a.dcm": "P1", "b.dcm": "P2"})
    table = "filename patient_id label/a.dcm X1 ill/a.dcm X2 ill/b.dcm X2 well"
    assert read(tmp_path / "s", table) == ({"a.dcm": ("P1", "ill"), "b.dcm": ("P2", "well")}, [])
    assert read(tmp_path / "s", table, patient_key="patient_id") == ({"b.dcm": ("X2", "well")}, [("a.dcm", "identity")])


def test_an_image_without_a_row_is_quarantined_where_the_table_was_asked_whose_images_are(tmp_path: Path) -> None:
    """Its header has another name for the patient, who may be one of the table's."""
    radiographs(tmp_path / "s", {"a.dcm": "P1", "b.dcm": "P2"})
    samples, findings = read(tmp_path / "s", "filename subject label/a.dcm X1 ill", patient_key="subject")
    assert samples == {"a.dcm": ("X1", "ill")}
    assert findings == [("b.dcm", "unknown-patient")]


def test_the_patient_column_of_an_emr_table_changes_no_patient(tmp_path: Path) -> None:
    radiographs(tmp_path / "s", {"a.dcm": "P1", "b.dcm": "P2"})
    table = "filename patient_id label/a.dcm X1 ill/b.dcm X2 well"
    samples, _ = read(tmp_path / "s", table, emr="labs.csv", patient_key="hospital number")
    assert samples == {"a.dcm": ("P1", "ill"), "b.dcm": ("P2", "well")}


@pytest.mark.parametrize("strict", [True, False])
def test_a_table_of_other_images_stops_no_prediction(tmp_path: Path, strict: bool) -> None:
    radiographs(tmp_path / "s", {"a.dcm": "P1"})
    if strict:
        with pytest.raises(Exception, match=r"^no row of the label table names a file, series, study or patient of the source"):
            read(tmp_path / "s", "filename label/z.dcm ill")
    else:
        samples, findings = read(tmp_path / "s", "filename label/z.dcm ill", allow_unlabelled=True)
        assert samples == {"a.dcm": ("P1", None)}
        assert findings == [("#1", "unknown-image")]
