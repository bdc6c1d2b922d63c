"""What a clinical table gives a cohort through the whole of ingest: visits, labels with evidence, rows without images, and a way back."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from salts import SALT
from typer.testing import CliRunner

from hepdist.cli import app
from hepdist.ingest import ingest
from hepdist.ingest.pseudonym import Pseudonyms
from hepdist.phantom import write_phantom
from hepdist.shards.format import decode
from hepdist.shards.manifest import SPLITS, Manifest

NAMES = Pseudonyms(SALT.encode())


pytestmark = pytest.mark.usefixtures("salt")


def rows_of(cohort: Path, manifest: Manifest) -> pa.Table:
    return pa.concat_tables([pq.read_table(cohort / shard.path) for shard in manifest.shards])


def tensor(manifest: Manifest, table: pa.Table, name: str) -> np.ndarray:
    return decode(manifest.fields[name], table[name])


def write_table(path: Path, header: list[str], rows: list[list[str]]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def write_images(folder: Path, patients: list[str]) -> Path:
    folder.mkdir(parents=True)
    for i, patient in enumerate(patients):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (10, 10), dtype=np.uint8)).save(folder / f"{patient}.png")
    return folder


def test_visits_of_a_patient_become_one_sequence_with_day_gaps(tmp_path):
    rows = [["a", "0", "10", "m"], ["a", "30", "", "m"], ["a", "45", "14", "m"], ["b", "0", "7", "f"]]
    rows += [[f"p{i}", str(7 * v), str(20 + i + v), "mf"[i % 2]] for i in range(10) for v in range(2)]
    write_table(tmp_path / "visits.csv", ["patient_id", "day", "alt [U/L]", "sex"], rows)
    manifest = ingest(str(tmp_path / "visits.csv"), str(tmp_path / "cohort"), ["emr_visits=3"])
    table = rows_of(tmp_path / "cohort", manifest)
    assert [c.name for c in manifest.sequence] == ["alt"] and [c.name for c in manifest.emr] == ["sex"]
    at = table["patient"].to_pylist().index(NAMES.of("patient", "a"))
    assert tensor(manifest, table, "sequence")[at].tolist() == [[10.0], [0.0], [14.0]]
    assert tensor(manifest, table, "sequence_missing")[at].tolist() == [[0], [1], [0]]
    assert tensor(manifest, table, "sequence_gap")[at].tolist() == [0.0, 30.0, 15.0]
    assert tensor(manifest, table, "sequence_length")[at].tolist() == [3]
    train = table.filter(pa.compute.equal(table["split"], "train"))
    there = tensor(manifest, train, "sequence_missing") == 0
    assert manifest.normalisation["sequence"]["mean"] == pytest.approx([tensor(manifest, train, "sequence")[there].mean()])


def test_real_pbcseq_is_234_sequences_of_1_to_16_visits(shared_data, tmp_path):
    source = shared_data / "emr/mayo_pbc/pbcseq.csv"
    manifest = ingest(str(source), str(tmp_path / "cohort"), ["label=status", "emr_drop=futime", "emr_visits=16"])
    frame = pd.read_csv(source)
    table = rows_of(tmp_path / "cohort", manifest)
    assert len(table) == frame["id"].nunique() == 234
    lengths = dict(zip(table["patient"].to_pylist(), tensor(manifest, table, "sequence_length")[:, 0].tolist(), strict=True))
    assert lengths == {NAMES.of("patient", str(key)): n for key, n in frame.groupby("id").size().items()}
    assert (min(lengths.values()), max(lengths.values())) == (1, 16)
    bili = [c.name for c in manifest.sequence].index("bili")
    of_one = frame[frame["id"] == frame["id"].iloc[0]].sort_values("day")
    at = table["patient"].to_pylist().index(NAMES.of("patient", str(frame["id"].iloc[0])))
    steps = len(of_one)
    assert np.allclose(tensor(manifest, table, "sequence")[at, :steps, bili], of_one["bili"])
    assert np.allclose(tensor(manifest, table, "sequence_gap")[at, 1:steps], np.diff(of_one["day"]))
    assert not {"status", "futime"} & {c.name for c in (*manifest.emr, *manifest.sequence)}


def test_labels_come_from_codes_and_reports_with_their_evidence_and_without_their_text(tmp_path):
    said = {"ill": ["B18.1", "慢性乙型病毒性肝炎。"], "well": ["J45.0", "No evidence of hepatitis."], "torn": ["B18.1", "未见肝炎征象。"]}
    patients = [f"{kind}{i}" for kind in said for i in range(6)]
    source = write_images(tmp_path / "images", patients)
    rows = [[p, *said[p[:-1]]] for p in patients]
    write_table(tmp_path / "emr.csv", ["patient_id", "icd10", "report"], rows)
    manifest = ingest(str(source), str(tmp_path / "cohort"), [f"emr={tmp_path / 'emr.csv'}", "label_rules=hepatitis"])
    table = rows_of(tmp_path / "cohort", manifest)
    labels = {
        p: None if label is None else manifest.label_names[label]
        for p, label in zip(table["patient"].to_pylist(), table["label"].to_pylist(), strict=True)
    }
    for patient in patients:
        label = labels[NAMES.of("patient", patient)]
        assert (label is None) == patient.startswith("torn")
    assert len({labels[NAMES.of("patient", p)] for p in patients if p.startswith("ill")}) == 1
    assert len(set(labels.values())) == 3
    evidence = pq.read_table(tmp_path / "cohort/labels.parquet").to_pandas()
    torn = evidence[evidence["key"] == NAMES.of("patient", "torn0")]
    assert set(torn["source"]) == {"icd10", "text"} and set(torn["ambiguous"]) == {"yes"} and set(torn["label"]) == {""}
    assert set(torn["polarity"]) == {"affirmed", "negated"}
    every = b"".join(p.read_bytes() for p in (tmp_path / "cohort").rglob("*") if p.is_file())
    assert "征象".encode() not in every and b"evidence of" not in every


def test_a_table_alone_is_labelled_by_rules_as_one_beside_images_is(tmp_path):
    said = {"ill": ["B18.1", "慢性乙型病毒性肝炎。"], "well": ["J45.0", "No evidence of hepatitis."]}
    rows = [[f"{kind}{i}", str(20 + i), *said[kind]] for kind in said for i in range(6)]
    write_table(tmp_path / "emr.csv", ["patient_id", "age", "icd10", "report"], rows)
    manifest = ingest(str(tmp_path / "emr.csv"), str(tmp_path / "cohort"), ["label_rules=hepatitis"])
    table = rows_of(tmp_path / "cohort", manifest)
    labels = dict(zip(table["patient"].to_pylist(), table["label"].to_pylist(), strict=True))
    assert len(labels) == 12 and None not in labels.values()
    for kind in said:
        assert len({labels[NAMES.of("patient", f"{kind}{i}")] for i in range(6)}) == 1
    assert [c.name for c in manifest.emr] == ["age"]


def test_rows_without_an_image_are_kept_with_a_mask_where_that_is_asked_for(tmp_path):
    patients = [f"p{i}" for i in range(10)]
    source = write_images(tmp_path / "images", patients)
    write_table(
        tmp_path / "emr.csv", ["patient_id", "age", "class"], [[f"p{i}", str(30 + i), "ill" if i % 2 else "well"] for i in range(14)]
    )
    options = [f"emr={tmp_path / 'emr.csv'}", "label=class"]
    strict = ingest(str(source), str(tmp_path / "strict"), options)
    assert sum(strict.rows(s) for s in SPLITS) == 10 and strict.counts["audit"]["unknown-patient"] == 4
    assert "image_missing" not in strict.tensors
    manifest = ingest(str(source), str(tmp_path / "kept"), [*options, "keep_unmatched=true"])
    table = rows_of(tmp_path / "kept", manifest)
    alone = {NAMES.of("patient", f"p{i}") for i in range(10, 14)}
    missing = dict(zip(table["patient"].to_pylist(), tensor(manifest, table, "image_missing")[:, 0].tolist(), strict=True))
    assert {p for p, m in missing.items() if m} == alone and len(missing) == 14
    images = tensor(manifest, table, "image")
    assert all((images[i] == 0).all() == (p in alone) for i, p in enumerate(table["patient"].to_pylist()))


def test_headers_of_dicom_series_are_beside_the_shards_with_shifted_dates(tmp_path):
    write_phantom(tmp_path / "files", 8, 0, ct=False)
    manifest = ingest(str(tmp_path / "files"), str(tmp_path / "cohort"), ["modality=CR"])
    headers = pq.read_table(tmp_path / "cohort/headers.parquet").to_pandas()
    assert set(headers["patient"]) == set(rows_of(tmp_path / "cohort", manifest)["patient"].to_pylist())
    assert set(headers["modality"]) <= {"CR", "DX"} and headers["study_date"].str.match(r"\d{4}-\d\d-\d\d").all()


def test_a_re_identification_map_leads_back_and_lies_outside_the_cohort(tmp_path):
    people = [f"patient-{i}" for i in range(10)]  # long enough never to stand in a cipher text by chance
    source = write_images(tmp_path / "images", people)
    write_table(
        source.parent / "labels.csv", ["file", "label"], [[f"{name}.png", "ill" if i % 2 else "well"] for i, name in enumerate(people)]
    )
    (tmp_path / "key").write_text("correct horse battery staple")
    given = [
        f"labels_table={tmp_path / 'labels.csv'}",
        f"reidentification_map={tmp_path / 'map'}",
        f"reidentification_key={tmp_path / 'key'}",
    ]
    ingest(str(source), str(tmp_path / "cohort"), given)
    wanted = NAMES.of("patient", "patient-3")
    told = CliRunner().invoke(app, ["reidentify", str(tmp_path / "map"), wanted, "--key", str(tmp_path / "key")])
    assert told.output.split() == ["patient", wanted, "patient-3"]
    assert b"patient-3" not in (tmp_path / "map").read_bytes()
    assert "patient-3" not in json.dumps(pq.read_table(tmp_path / "cohort/audit.parquet").to_pylist())
