"""Adding DICOM series, NIfTI cases and EMR tables to a cohort: the form is the cohort's, and what it can't hold is in the audit."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest
from dicom_files import image, save, slices, uid
from test_ingest_append import APPEND, NAMES, audit_of, contents, reasons, rows_of

from hepdist.errors import IngestError
from hepdist.ingest import ingest
from hepdist.ingest.reidentify import reidentify
from hepdist.shards.format import decode
from hepdist.shards.manifest import SPLITS, Manifest

pytestmark = pytest.mark.usefixtures("salt")


def ct(folder: Path, patient: str, study: str, depth: int = 4, seed: int | None = None, **tags: object) -> None:
    """A series of `depth` slices of 12 x 12; the same slices whatever the depth."""
    values = np.random.default_rng(sum(map(ord, patient + study)) if seed is None else seed)
    volume = values.integers(0, 2000, (8, 12, 12), dtype=np.int16)[:depth]
    save(slices(volume, series=study, study=study, patient=patient, **tags), folder / study)


def table_of(folder: Path, text: str, name: str = "emr.csv") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def labels(folder: Path, patients: range, name: str = "emr.csv") -> list[str]:
    lines = [f"{p},{p % 2}" for p in map(int, patients)]
    return [f"emr={table_of(folder, chr(10).join(['patient_id,sick', *(f'P{line}' for line in lines)]), name)}", "label=sick"]


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    """A cohort of ten patients with a CT series each."""
    for p in range(10):
        ct(tmp_path / "a", f"P{p}", f"s{p}")
    ingest(str(tmp_path / "a"), str(tmp_path / "cohort"), labels(tmp_path, range(10)))
    return tmp_path


def test_a_slice_more_of_a_series_that_is_there_is_quarantined_and_nothing_is_lost(volumes):
    before = contents(volumes / "cohort/shards")
    ct(volumes / "b", "P3", "s3", depth=5)  # four slices that are there, and a fifth
    ct(volumes / "b", "P20", "s20")
    ingest(str(volumes / "b"), str(volumes / "cohort"), [*labels(volumes, range(30)), APPEND])
    assert len(rows_of(volumes / "cohort")) == 11
    left_out = [row for row in audit_of(volumes / "cohort") if row["outcome"] == "quarantined" and row["check"] == "changed"]
    assert [row["series"] for row in left_out] == [NAMES.of("series", uid("series", "s3", "s3"))]
    assert "a series with other slices" in left_out[0]["reason"]
    # 40 old files keep their rows; of the new ones there are four more, and one that is left out
    outcomes = [row["outcome"] for row in audit_of(volumes / "cohort") if row["source_sha256"] and row["series"]]
    assert (outcomes.count("ingested"), outcomes.count("quarantined")) == (44, 1)
    assert {k: v for k, v in contents(volumes / "cohort/shards").items() if k in before} == before
    headers = pq.read_table(volumes / "cohort/headers.parquet")["series"].to_pylist()
    assert len(headers) == 11 and NAMES.of("series", uid("series", "s20", "s20")) in headers


def test_new_slices_alone_are_no_second_volume_of_their_series(volumes):
    ct(volumes / "whole", "P3", "s3", depth=8)
    (volumes / "b").mkdir()
    by_position = sorted((volumes / "whole/s3").iterdir(), key=lambda p: -int(p.name[2:]))
    for path in by_position[4:]:
        path.rename(volumes / "b" / path.name)
    ingest(str(volumes / "b"), str(volumes / "cohort"), [*labels(volumes, range(10)), APPEND])
    assert len(rows_of(volumes / "cohort")) == 10
    assert [row["check"] for row in audit_of(volumes / "cohort") if row["outcome"] == "quarantined"] == ["changed"] * 4


def test_a_new_study_of_a_known_patient_joins_its_split_and_another_modality_stays_out(volumes):
    split = {row["patient"]: row["split"] for row in rows_of(volumes / "cohort").values()}
    for p in range(10):
        ct(volumes / "b", f"P{p}", f"t{p}", seed=100 + p)
    for p in range(20, 40):  # more MR than CT in this source
        ct(volumes / "b", f"P{p}", f"m{p}", modality="MR")
    ingest(str(volumes / "b"), str(volumes / "cohort"), [*labels(volumes, range(40)), APPEND])
    rows = rows_of(volumes / "cohort")
    assert len(rows) == 20
    assert {row["patient"]: row["split"] for row in rows.values()} == split
    assert ("modality", "modality MR; this cohort is CT") in reasons(volumes / "cohort", "ignored")


def test_what_the_cohorts_form_cant_hold_is_quarantined_with_the_reason(volumes):
    tensors = Manifest.load(volumes / "cohort").tensors
    save(
        slices(np.random.default_rng(1).integers(0, 9, (4, 16, 12), dtype=np.int16), series="w", study="w", patient="P50"), volumes / "b/w"
    )
    ct(volumes / "b", "P51", "x51", step=5.0)
    ct(volumes / "b", "P52", "x52", RescaleSlope=0.5)
    ct(volumes / "b", "P53", "x53")
    manifest = ingest(str(volumes / "b"), str(volumes / "cohort"), [*labels(volumes, range(60)), APPEND])
    assert manifest.tensors == tensors
    assert len(rows_of(volumes / "cohort")) == 11
    assert reasons(volumes / "cohort", "quarantined") >= {
        ("geometry", "its size is 4x16x12, the cohort's 4x12x12, and no column could say where it was cut"),
        ("geometry", "its spacing is 5 x 0.5 x 0.75 mm, the cohort's 2.5 x 0.5 x 0.75 mm, and its volumes are not resampled"),
        ("dtype", "it holds values that int16, as which the cohort stores images, can't"),
    }


def test_a_label_that_is_no_class_of_the_cohort_is_quarantined(volumes):
    ct(volumes / "b", "P60", "x60")
    ct(volumes / "b", "P61", "x61")
    table = table_of(volumes, "patient_id,sick\nP60,2\nP61,1\n", "more.csv")
    manifest = ingest(str(volumes / "b"), str(volumes / "cohort"), [f"emr={table}", "label=sick", APPEND])
    assert manifest.label_names == ("0", "1")
    assert manifest.counts["audit"]["label-unknown"] == 4  # slices
    added = rows_of(volumes / "cohort")[NAMES.of("sample", uid("series", "x61", "x61"))]
    assert added["label"] == 1


def test_the_map_of_a_cohort_that_was_added_to_leads_back_from_old_and_new_pseudonyms(tmp_path):
    (tmp_path / "key").write_text("correct horse battery staple")
    options = [f"reidentification_map={tmp_path / 'map'}", f"reidentification_key={tmp_path / 'key'}"]
    for p in range(4):
        ct(tmp_path / ("a" if p < 3 else "b"), f"P{p}", f"s{p}")
    ingest(str(tmp_path / "a"), str(tmp_path / "cohort"), options)
    ingest(str(tmp_path / "b"), str(tmp_path / "cohort"), [*options, APPEND])
    assert {e.raw for e in reidentify(tmp_path / "map", tmp_path / "key") if e.kind == "patient"} == {"P0", "P1", "P2", "P3"}


def radiographs(folder: Path, patients: range) -> str:
    for p in patients:
        pixels = np.random.default_rng(p).integers(0, 4096, (16, 16), dtype=np.uint16)
        save(image(pixels, "CR", f"i{p}", series=f"x{p}", study=f"x{p}", patient=f"P{p}"), folder)
    return str(folder)


EMR = "patient_id,ward,alt [U/L],sex,Zacharias,sick\n" + "\n".join(
    f"P{p},{'abc'[p % 3]},{30 + p},{'mf'[p % 2]},{'uv'[p % 2]},{'yes' if p % 3 else 'no'}" for p in range(20)
)


def emr_rows(cohort: Path) -> dict[str, tuple[list[float], list[int]]]:
    manifest, found = Manifest.load(cohort), {}
    for shard in manifest.shards:
        table = pq.read_table(cohort / shard.path)
        values, missing = (decode(manifest.fields[name], table[name]) for name in ("emr", "emr_missing"))
        found |= dict(zip(table["patient"].to_pylist(), zip(values.tolist(), missing.tolist(), strict=True), strict=True))
    return found


def test_emr_columns_of_the_cohort_are_known_again_in_a_table_of_few_rows(tmp_path):
    source = radiographs(tmp_path / "a", range(20))
    first = ingest(source, str(tmp_path / "cohort"), [f"emr={table_of(tmp_path, EMR)}", "label=sick"])
    assert [c.name for c in first.emr] == ["column 1", "alt", "sex", "column 4"]  # a name that may be a person's isn't told
    # other order, another unit, a new column, a category that isn't known, no ward for one, a class in another order
    more = "sick,Zacharias,alt [ukat/L],patient_id,ward,height\nyes,v,2,P30,c,170\nno,w,,P31,,160\n"
    source = radiographs(tmp_path / "b", range(30, 33))
    second = ingest(source, str(tmp_path / "cohort"), [f"emr={table_of(tmp_path, more, 'more.csv')}", "label=sick", APPEND])
    rows = emr_rows(tmp_path / "cohort")
    of = {p: rows[NAMES.of("patient", f"P{p}")] for p in (0, 30, 31, 32)}
    assert of[0] == ([0, 30, 1, 0], [0, 0, 0, 0])
    assert of[30] == ([2, 120, 0, 1], [0, 0, 1, 0])  # 2 µkat/L are 120 U/L
    assert of[31] == ([0, 0, 0, 0], [1, 1, 1, 1])
    assert of[32] == ([0, 0, 0, 0], [1, 1, 1, 1])
    told = reasons(tmp_path / "cohort", "ignored")
    assert ("not-a-feature", "column 6 is no feature: the cohort doesn't have it") in told
    assert ("unknown-category", "row 2, column 2 holds a value that is none of the cohort's categories; taken as missing") in told
    assert [c.name for c in second.emr] == [c.name for c in first.emr]
    assert [c.missing_share for c in second.emr] == pytest.approx([2 / 23, 2 / 23, 3 / 23, 2 / 23])
    assert second.normalisation == first.normalisation
    labelled = rows_of(tmp_path / "cohort")
    patients = {row["patient"]: row["label"] for row in labelled.values()}
    assert [patients[NAMES.of("patient", f"P{p}")] for p in (0, 30, 31, 32)] == [0, 1, 0, None]
    other = table_of(tmp_path, "patient_id,alt [mmHg]\nP40,3\n", "other.csv")
    ingest(radiographs(tmp_path / "c", range(40, 41)), str(tmp_path / "cohort"), [f"emr={other}", APPEND])
    assert emr_rows(tmp_path / "cohort")[NAMES.of("patient", "P40")] == ([0, 0, 0, 0], [1, 1, 1, 1])
    told = reasons(tmp_path / "cohort", "ignored")
    assert ("not-a-feature", "column 2 is no feature: its unit can't be converted to the cohort's") in told


def test_a_table_that_grew_adds_its_new_rows_alone(tmp_path):
    first = ingest(table_of(tmp_path, EMR), str(tmp_path / "cohort"), ["label=sick"])
    before = emr_rows(tmp_path / "cohort")
    grown = EMR.replace("P3,a,33", "P3,a,99") + "\n" + "\n".join(f"P{p},a,{p},m,u,no" for p in range(20, 25))
    second = ingest(table_of(tmp_path, grown, "emr2.csv"), str(tmp_path / "cohort"), ["label=sick", APPEND])
    after = emr_rows(tmp_path / "cohort")
    assert [sum(m.rows(s) for s in SPLITS) for m in (first, second)] == [20, 25]
    assert {p: after[p] for p in before} == before
    told = ("duplicate", "its patient is in the cohort already; the values there stay as they are")
    assert sum((row["check"], row["reason"]) == told for row in audit_of(tmp_path / "cohort")) == 20
    whole = contents(tmp_path / "cohort")
    ingest(str(tmp_path / "emr2.csv"), str(tmp_path / "cohort"), ["label=sick", APPEND])
    assert contents(tmp_path / "cohort") == whole


def test_rows_without_a_patient_cant_be_told_from_those_that_are_there(tmp_path):
    text = "alt,sex,sick\n" + "\n".join(f"{p},{'mf'[p % 2]},{'yes' if p % 3 else 'no'}" for p in range(20))
    ingest(table_of(tmp_path, text), str(tmp_path / "cohort"), ["label=sick"])
    with pytest.raises(IngestError, match=r"^no column of the table names the patient, so new rows can't be told from those of the cohort"):
        ingest(table_of(tmp_path, text + "\n7,m,no", "more.csv"), str(tmp_path / "cohort"), ["label=sick", APPEND])


def test_visits_are_added_in_the_cohorts_length_and_order(tmp_path):
    lines = [f"P{p},{'mf'[p % 2]},{d},{10 * p + d},{p + d},{'yes' if p % 3 else 'no'}" for p in range(20) for d in (0, 7, 9)]
    text = "id,sex,day,alt,bili,sick\n" + "\n".join(lines)
    first = ingest(table_of(tmp_path, text), str(tmp_path / "cohort"), ["label=sick"])
    assert first.tensors["sequence"]["shape"] == [3, 2]
    more = "id,bili,day,alt,sick\nP30,5,2,,yes\nP31,1,3,7,no\nP31,2,5,8,no\nP31,3,7,9,no\nP31,4,9,10,no\n"
    second = ingest(table_of(tmp_path, more, "more.csv"), str(tmp_path / "cohort"), ["label=sick", APPEND])
    found = {}
    for shard in second.shards:
        table = pq.read_table(tmp_path / "cohort" / shard.path)
        names = ("sequence", "sequence_missing", "sequence_gap", "sequence_length", "emr_missing")
        arrays = [decode(second.fields[name], table[name]).tolist() for name in names]
        found |= dict(zip(table["patient"].to_pylist(), zip(*arrays, strict=True), strict=True))
    one, other = (found[NAMES.of("patient", p)] for p in ("P30", "P31"))
    assert one == ([[0, 5], [0, 0], [0, 0]], [[1, 0], [1, 1], [1, 1]], [0, 0, 0], [1], [1])
    assert other == ([[8, 2], [9, 3], [10, 4]], [[0, 0]] * 3, [0, 2, 2], [3], [1])
    assert [c.missing_share for c in second.sequence] == pytest.approx([1 / 64, 0])  # of 60, 1 and 3 visits kept
    with pytest.raises(
        IngestError, match=r"^the cohort holds visits, but no column of the EMR table says their day; name it with emr_time="
    ):
        ingest(table_of(tmp_path, "id,alt,sick\nP40,3,no\nP41,4,yes", "flat.csv"), str(tmp_path / "cohort"), ["label=sick", APPEND])


def cases(folder: Path, numbers: range, labels: dict[str, str], value: int) -> str:
    """Volumes whose mask holds `value` in a corner."""
    for i in numbers:
        voxels = np.random.default_rng(i).integers(0, 200, (8, 8, 8), dtype=np.uint8)
        mask = np.zeros((8, 8, 8), np.uint8)
        mask[:2, :2, :2] = value
        for name, array in (("imagesTr", voxels), ("labelsTr", mask)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / name / f"case{i}.nii.gz")
    (folder / "dataset.json").write_text(json.dumps({"labels": labels, "modality": {"0": "MR"}}))
    return str(folder)


def test_masks_of_another_numbering_are_brought_to_the_cohorts_by_the_names_of_their_classes(tmp_path):
    first = ingest(
        cases(tmp_path / "a", range(10), {"0": "background", "1": "liver", "2": "tumor"}, 2), str(tmp_path / "cohort"), ["label_names=x"]
    )
    assert first.fields["mask"].classes == ("background", "liver", "tumor")
    ingest(cases(tmp_path / "b", range(10, 15), {"0": "background", "1": "tumor", "2": "liver"}, 1), str(tmp_path / "cohort"), [APPEND])
    ingest(cases(tmp_path / "c", range(15, 17), {"0": "background", "1": "spleen", "2": "liver"}, 1), str(tmp_path / "cohort"), [APPEND])
    manifest = Manifest.load(tmp_path / "cohort")
    assert (manifest.generation, sum(manifest.rows(s) for s in SPLITS)) == (2, 15)
    for shard in manifest.shards:
        masks = decode(manifest.fields["mask"], pq.read_table(tmp_path / "cohort" / shard.path)["mask"])
        assert [np.unique(mask).tolist() for mask in masks] == [[0, 2]] * len(masks)
    assert manifest.counts["train"]["classes"] == {"background": 9, "liver": 0, "tumor": 9}
    assert manifest.counts["audit"]["label-unknown"] == 4  # image and mask of two cases


def test_a_source_of_another_kind_is_refused(tmp_path):
    ingest(cases(tmp_path / "a", range(6), {"0": "background", "1": "liver"}, 1), str(tmp_path / "cohort"))
    with pytest.raises(IngestError, match=r"^the source is of the kind 'dicom', the cohort of 'nifti'; make a cohort of its own of it$"):
        ingest(radiographs(tmp_path / "b", range(3)), str(tmp_path / "cohort"), [APPEND])
