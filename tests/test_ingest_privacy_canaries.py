"""Nothing unique in a source occurs in any byte of a cohort, a log line or an error, in any usual encoding; and the search would find it."""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import canary_files
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import pytest
from canaries import ENCODINGS, Canaries, listening, search
from PIL import Image
from salts import SALT

from hepdist.errors import HepdistError
from hepdist.ingest import ingest
from hepdist.ingest.headers import header_row, write_headers
from hepdist.ingest.pseudonym import Pseudonyms
from hepdist.ingest.reidentify import MapWriter
from hepdist.shards.manifest import Manifest

pytestmark = pytest.mark.usefixtures("salt")


@pytest.fixture
def canaries() -> Canaries:
    return Canaries()


def leaks_of(canaries: Canaries, source: Path, out: Path, *options: str) -> tuple[list[str], BaseException | None]:
    """What gets out of one ingest: into the folder `out`, its prints, log lines and warnings, and the error it ends with, if any."""
    with listening() as heard:
        ingest(str(source), str(out / "cohort"), list(options))
    if heard.error is not None and not isinstance(heard.error, HepdistError):
        raise heard.error
    return search(canaries, out) + [f"said: {leak}" for leak in canaries.leaks(heard.said)], heard.error


def rows_of(cohort: Path) -> int:
    return sum(pq.read_metadata(path).num_rows for path in (cohort / "shards").glob("*.parquet"))


def outcomes(cohort: Path) -> dict[str, int]:
    found = pq.read_table(cohort / "audit.parquet")["outcome"].to_pylist()
    return {outcome: found.count(outcome) for outcome in set(found)}


def test_no_text_name_date_uid_or_private_element_of_radiographs_gets_out(tmp_path, canaries):
    canary_files.radiographs(tmp_path / "in", canaries, count=6)
    leaks, error = leaks_of(canaries, tmp_path / "in", tmp_path / "out")
    assert (leaks, error) == ([], None)
    assert len(canaries.planted) > 4000
    assert rows_of(tmp_path / "out/cohort") >= 6
    assert outcomes(tmp_path / "out/cohort")["quarantined"] >= 15


def test_no_text_of_series_and_their_segmentations_gets_out(tmp_path, canaries):
    canary_files.volume(tmp_path / "in", canaries)
    leaks, error = leaks_of(canaries, tmp_path / "in", tmp_path / "out")
    assert ([leak for leak in leaks if "study_date" not in leak], error) == ([], None)  # as below
    assert rows_of(tmp_path / "out/cohort") >= 3  # a cut copy of one slice takes its series with it


def test_a_mask_class_is_named_by_its_code_and_not_by_the_text_beside_it(tmp_path, canaries):
    canary_files.volume(tmp_path / "in", canaries, meaning=True)
    leaks, error = leaks_of(canaries, tmp_path / "in", tmp_path / "out")
    # a shifted date may happen to be another of the thousands of planted ones
    assert ([leak for leak in leaks if "study_date" not in leak], error) == ([], None)
    classes = Manifest.load(tmp_path / "out/cohort").fields["mask"].classes
    assert classes[0] == "background" and len(classes) == 2


def test_no_header_text_extension_or_name_of_nifti_files_gets_out(tmp_path, canaries):
    canary_files.nifti(tmp_path / "in", canaries)
    leaks, error = leaks_of(canaries, tmp_path / "in", tmp_path / "out")
    assert (leaks, error) == ([], None)
    assert rows_of(tmp_path / "out/cohort") == 8


def test_a_class_name_of_dataset_json_that_is_no_ordinary_word_stays_in(tmp_path, canaries):
    canary_files.nifti(tmp_path / "in", canaries, planted_classes=True)
    leaks, error = leaks_of(canaries, tmp_path / "in", tmp_path / "out")
    assert (leaks, error) == ([], None)


def test_no_chunk_exif_comment_or_name_of_pictures_gets_out(tmp_path, canaries):
    names = canary_files.pictures(tmp_path / "in", canaries)
    rows = ([name, "well" if i % 2 else "ill", canaries.text(), canaries.text()] for i, name in enumerate(names))
    canary_files.table(tmp_path / "in" / f"{canaries.text()}.csv", ["file", "label", "patient", canaries.text()], rows)
    leaks, error = leaks_of(canaries, tmp_path / "in", tmp_path / "out")
    assert (leaks, error) == ([], None)
    assert rows_of(tmp_path / "out/cohort") == 12


def emr(folder: Path, canaries: Canaries, doctor: Callable[[int], str], header: str = "notes") -> Path:
    """Pictures and a table of their patients with planted names, dates, free text, and a doctor's name; returns the table."""
    patients = [canaries.text() for _ in range(12)]
    for i, patient in enumerate(patients):
        path = folder / "images" / f"{patient}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (12, 12), dtype=np.uint8)).save(path)
    rows = [
        [p, canaries.name(), f"{canaries.date()}", str(20 + i), canaries.text() if i == 3 else "m" if i % 2 else "f",
         canaries.text() if i == 5 else f"{30 + i}.5", doctor(i), canaries.text(), "ill" if i % 2 else "well"]
        for i, p in enumerate([*patients, canaries.text(), patients[0]])
    ]  # fmt: skip
    rows.append([canaries.text(), canaries.text()])
    path = folder / f"{canaries.text()}.csv"
    canary_files.table(path, ["patient_id", "name", "admitted", "age", "sex", "alt [U/L]", "seen by", header, "class"], iter(rows))
    return path


def test_no_cell_of_an_emr_table_gets_out(tmp_path, canaries):
    path = emr(tmp_path / "in", canaries, lambda i: canaries.text())
    leaks, error = leaks_of(canaries, tmp_path / "in/images", tmp_path / "out", f"emr={path}", "label=class")
    assert (leaks, error) == ([], None)
    assert rows_of(tmp_path / "out/cohort") == 12


def test_a_doctor_of_several_patients_is_no_named_category(tmp_path, canaries):
    doctors = canaries.text(), canaries.text()
    path = emr(tmp_path / "in", canaries, lambda i: doctors[i % 2])
    leaks, error = leaks_of(canaries, tmp_path / "in/images", tmp_path / "out", f"emr={path}", "label=class")
    assert (leaks, error) == ([], None)


def test_a_column_whose_header_is_no_ordinary_word_keeps_its_values_and_loses_its_name(tmp_path, canaries):
    path = emr(tmp_path / "in", canaries, lambda i: canaries.text())
    text = path.read_text(encoding="utf-8").replace("age", canaries.text(), 1)
    path.write_text(text, encoding="utf-8")
    leaks, error = leaks_of(canaries, tmp_path / "in/images", tmp_path / "out", f"emr={path}", "label=class")
    assert (leaks, error) == ([], None)


def test_a_label_of_one_patient_that_is_no_ordinary_word_is_no_class(tmp_path, canaries):
    names = canary_files.pictures(tmp_path / "in", canaries)
    rows = ([name, canaries.text() if i == 4 else "well" if i % 2 else "ill"] for i, name in enumerate(names))
    canary_files.table(tmp_path / "in/labels.csv", ["file", "label"], rows)
    leaks, error = leaks_of(canaries, tmp_path / "in", tmp_path / "out")
    assert (leaks, error) == ([], None)


def test_folders_named_for_patients_are_no_classes(tmp_path, canaries):
    for folder in (canaries.text(), canaries.text(), canaries.text(), canaries.text(), canaries.text()):
        for i in range(3):
            path = tmp_path / "in" / folder / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.default_rng(len(canaries.planted) + i).integers(0, 256, (12, 12), dtype=np.uint8)).save(path)
    leaks, _ = leaks_of(canaries, tmp_path / "in", tmp_path / "out")
    assert leaks == []


@pytest.mark.parametrize(
    "options",
    [
        ["label=finding"],
        ["emr=TABLE", "label=lacking"],
        ["emr=TABLE", "patient_key=lacking"],
        ["emr=TABLE", "emr_columns=lacking"],
        ["emr=TABLE", "patient_key=seen by"],
        ["emr=UNKEYED"],
        ["emr=EMPTY"],
        ["emr=TWICE"],
        ["emr=GARBAGE"],
        ["labels_table=TABLE"],
        ["modality=MR"],
        ["classes=a,b", "masks=require"],
    ],
)
def test_no_refusal_of_a_whole_source_quotes_it(tmp_path, canaries, options):
    table = emr(tmp_path / "in", canaries, lambda i: canaries.text(), canaries.text())
    lines = table.read_text(encoding="utf-8").splitlines(keepends=True)
    made = {"TABLE": "".join(lines), "UNKEYED": "".join(lines).replace("patient_id", canaries.text(), 1), "EMPTY": lines[0]}
    made |= {"TWICE": lines[0].replace("age", canaries.text(), 1).replace("sex", canaries.planted[-1], 1) + lines[1]}
    made |= {"GARBAGE": f'"{canaries.text()}' + "\0\ufffe" * 9}
    for name, text in made.items():
        path = tmp_path / "in" / f"{name}{canaries.text()}.{'xlsx' if name == 'GARBAGE' else 'csv'}"
        path.write_text(text, encoding="utf-8")
        options = [option.replace(f"={name}", f"={path}") for option in options]
    leaks, error = leaks_of(canaries, tmp_path / "in/images", tmp_path / "out", *options)
    assert isinstance(error, HepdistError)
    assert leaks == []


@pytest.mark.parametrize("kind", ["radiographs", "nifti", "pictures"])
def test_a_source_of_broken_files_alone_is_refused_without_a_word_of_it(tmp_path, canaries, kind):
    source = tmp_path / "in"
    getattr(canary_files, kind)(tmp_path / "whole", canaries, count=2)
    for path in sorted(p for p in (tmp_path / "whole").rglob("*") if p.is_file()):
        there = source / path.relative_to(tmp_path / "whole")
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    if kind == "nifti":
        shutil.copy(tmp_path / "whole/dataset.json", source)
    leaks, error = leaks_of(canaries, source, tmp_path / "out", *(["label_pattern=(.)\\.", "masks=ignore"] if kind == "pictures" else []))
    assert leaks == []
    assert isinstance(error, HepdistError)


def test_no_text_of_a_header_gets_into_the_headers_table(tmp_path, canaries):
    canary_files.radiographs(tmp_path / "in", canaries, count=6)
    canary_files.volume(tmp_path / "in", canaries, count=2)
    names, rows = Pseudonyms(SALT.encode()), []
    (tmp_path / "out").mkdir()
    with listening() as heard:
        for path in sorted(p for p in (tmp_path / "in").rglob("*") if p.is_file()):
            try:
                dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True)
            except Exception:
                continue
            rows.append(header_row(dataset, names))
        write_headers(tmp_path / "out/headers.parquet", rows)
    assert heard.error is None
    assert search(canaries, tmp_path / "out") == []
    table = pq.read_table(tmp_path / "out/headers.parquet").to_pandas()
    assert set(table["manufacturer"]) <= {"other", ""} and "CT" in set(table["modality"])


def test_a_re_identification_map_shows_nothing_to_who_has_no_key(tmp_path, canaries):
    (tmp_path / "key").write_text("correct horse battery staple")
    (tmp_path / "out").mkdir()
    with MapWriter(tmp_path / "out/map", tmp_path / "key", Pseudonyms(SALT.encode()), tmp_path / "cohort") as entries:
        for _ in range(500):
            entries.add("patient", canaries.text())
            entries.add("file", canaries.name())
    assert search(canaries, tmp_path / "out") == []


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("where", ["file", "parquet", "parquet metadata", "file name"])
def test_the_search_finds_a_planted_leak(tmp_path, canaries, encoding, where):
    texts = [canaries.text(), canaries.uid(), canaries.name()]
    if where == "file name" and encoding not in (
        "utf-8",
        "lower case",
        "hex",
        "quoted for a URL",
        "url-safe base64",
        "unsalted sha256",
        "md5",
    ):
        pytest.skip("no file name holds this")
    for i, text in enumerate(texts):
        if "utf" not in encoding and "latin" in encoding and i == 2:
            continue
        leaking = tmp_path / f"out{i}"
        leaking.mkdir()
        data = b"before" + ENCODINGS[encoding](text) + b"\nafter"
        if where == "file":
            (leaking / "shard").write_bytes(data)
        elif where == "file name":
            (leaking / ENCODINGS[encoding](text).decode()).write_bytes(b"")
        elif where == "parquet":
            pq.write_table(pa.table({"a": [b"", data]}), leaking / "a.parquet", compression="zstd")
        else:
            field = pa.field("a", pa.int64(), metadata={"meaning": data})
            pq.write_table(pa.table({"a": [1]}, schema=pa.schema([field], metadata={"b": data})), leaking / "a.parquet")
        assert search(canaries, leaking), (text, encoding, where)


def test_the_search_finds_dates_and_hears_prints_logs_warnings_and_errors(tmp_path, canaries):
    said = canaries.text()
    for speak in (
        lambda: print(said),
        lambda: os.write(2, said.encode()),
        lambda: logging.getLogger("any.library").debug("%s", said),
        lambda: warnings.warn(said, stacklevel=1),
        lambda: [][said],  # type: ignore[call-overload]
        lambda: {}[said],
    ):
        with listening() as heard:
            speak()
        assert speak is not None and (canaries.leaks(heard.said) or isinstance(heard.error, TypeError))
    text = canaries.date()
    for written in (text, f"{text[:4]}-{text[4:6]}-{text[6:]}", f"{text[6:]}.{text[4:6]}.{text[:4]}"):
        assert canaries.leaks(f"on {written}".encode())
    assert canaries.leaks(b"2012-01-31 and 20200101, SOMATOM, 0123456789abcdef") == []


def test_a_copy_of_a_cohort_that_keeps_one_raw_key_is_caught(tmp_path, canaries):
    canary_files.pictures(tmp_path / "in", canaries)
    leaks, _ = leaks_of(canaries, tmp_path / "in", tmp_path / "out", r"label_pattern=(.)\.\w+$")
    assert leaks == []
    shard = next((tmp_path / "out/cohort/shards").glob("train*.parquet"))
    table = pq.read_table(shard)
    spoilt = [*table["patient"].to_pylist()[:-1], canaries.planted[0]]
    pq.write_table(table.set_column(table.column_names.index("patient"), "patient", pa.array(spoilt)), shard, compression="zstd")
    assert search(canaries, tmp_path / "out")
