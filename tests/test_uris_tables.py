"""Tables, dictionaries and rules that options name, in an object store and inside archives, give the cohort that they give from a folder."""

from __future__ import annotations

import json
import tarfile
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hepdist.errors import IngestError, StoreError
from hepdist.ingest import ingest
from hepdist.place import place_of

pytest.importorskip("moto", reason="moto is not installed (pip install 'hepdist[dev]')")
NUMBER = count()
PATIENTS = range(1, 13)
DICTIONARY = "key: patient_id\nlabel: ill\ncolumns: {alt: {unit: U/L, missing: ['999']}}\n"


pytestmark = pytest.mark.usefixtures("salt")


def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "patient_id": [f"P{n:02}" for n in PATIENTS],
            "file": [f"images/P{n:02}.png" for n in PATIENTS],
            "alt": ["999" if n == 5 else str(20 + n) for n in PATIENTS],
            "ill": ["yes" if n % 2 else "no" for n in PATIENTS],
            "report": ["Chronic hepatitis B." if n % 2 else "No evidence of hepatitis." for n in PATIENTS],
        }
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Images of twelve patients, and their table beside them."""
    folder = tmp_path / "source"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for n in PATIENTS:
        Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(folder / f"images/P{n:02}.png")
    return folder


def in_bucket(bucket: str, path: Path) -> str:
    """The URI of a copy of a file, or of a folder."""
    for file in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
        place_of(bucket).upload(file.relative_to(path.parent).as_posix(), file)
    return f"{bucket}/{path.name}"


def packed(folder: Path, kind: str) -> Path:
    archive = folder.with_name(f"{folder.name}.{kind}")
    with tarfile.open(archive, f"w:{kind[4:]}") as tar:
        tar.add(folder, ".")
    return archive


class Cohorts:
    """Makes cohorts of one name, each in its own folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def make(self, source: Path | str, *options: str) -> tuple[str, list[tuple[str, str]]]:
        """The manifest's sha256, and outcome and check of each row of the audit, in order."""
        cohort = self._folder / f"{next(NUMBER)}/cohort"
        manifest = ingest(str(source), str(cohort), list(options))
        audit = pq.read_table(cohort / "audit.parquet").to_pylist()
        return manifest.sha256(), sorted((row["outcome"], row["check"]) for row in audit)


@pytest.fixture
def cohorts(tmp_path: Path) -> Cohorts:
    return Cohorts(tmp_path / "cohorts")


PATTERN = r"patient_pattern=(P\d+)"


def test_a_table_and_its_dictionary_in_a_bucket_join_images_as_those_on_disk_do(
    source: Path, bucket: str, tmp_path: Path, cohorts: Cohorts
) -> None:
    table().to_csv(tmp_path / "labs.csv", index=False)
    (tmp_path / "labs.yaml").write_text(DICTIONARY)
    here = cohorts.make(source, PATTERN, f"emr={tmp_path / 'labs.csv'}", f"emr_dictionary={tmp_path / 'labs.yaml'}")
    uris = [f"emr={in_bucket(bucket, tmp_path / 'labs.csv')}", f"emr_dictionary={in_bucket(bucket, tmp_path / 'labs.yaml')}"]
    assert cohorts.make(source, PATTERN, *uris) == here
    assert cohorts.make(in_bucket(bucket, source), PATTERN, *uris) == here
    assert here[1].count(("ingested", "")) == 13


@pytest.mark.parametrize("name", ["labs.csv", "labs.parquet", "labs.xlsx"])
def test_a_table_alone_in_a_bucket_or_an_archive_is_a_source(name: str, bucket: str, tmp_path: Path, cohorts: Cohorts) -> None:
    path = tmp_path / "lone" / name
    path.parent.mkdir()
    frame = table().drop(columns=["file", "report"])
    {".csv": frame.to_csv, ".parquet": frame.to_parquet, ".xlsx": frame.to_excel}[path.suffix](path, index=False)
    options = ["label=ill", "emr_missing=999"]
    here = cohorts.make(path, *options)
    assert cohorts.make(in_bucket(bucket, path), *options) == here
    assert cohorts.make(packed(path.parent, "tar.gz"), *options) == here


@pytest.mark.parametrize("kind", ["folder", "tar", "tar.xz", "bucket", "tar in a bucket"])
def test_a_table_inside_the_source_is_read_wherever_the_images_are(
    kind: str, source: Path, bucket: str, tmp_path: Path, cohorts: Cohorts
) -> None:
    table().to_csv(tmp_path / "labs.csv", index=False)
    outside = cohorts.make(source, PATTERN, f"emr={tmp_path / 'labs.csv'}", "label=ill")
    (source / "tables").mkdir()
    (tmp_path / "labs.csv").rename(source / "tables/labs.csv")
    where: Path | str = source
    if "tar" in kind:
        where = packed(source, "tar.xz" if kind == "tar.xz" else "tar")
    if "bucket" in kind:
        where = in_bucket(bucket, Path(where))
    assert cohorts.make(where, PATTERN, "emr=tables/labs.csv", "label=ill") == outside
    if kind in ("folder", "bucket"):  # named by its full path or URI, it isn't taken for a stray file either
        assert cohorts.make(where, PATTERN, f"emr={where}/tables/labs.csv", "label=ill") == outside


def test_label_rules_and_a_label_table_in_a_bucket_label_as_those_on_disk_do(
    source: Path, bucket: str, tmp_path: Path, cohorts: Cohorts
) -> None:
    labels = tmp_path / "labels.csv"
    table().to_csv(labels, index=False)
    here = cohorts.make(source, f"labels_table={labels}", "label=ill")
    assert cohorts.make(source, f"labels_table={in_bucket(bucket, labels)}", "label=ill") == here
    rules = tmp_path / "rules.yaml"
    rules.write_text("columns: {text: [report]}\nclasses: {viral: {hbv: {text: [hepatitis]}}}\ndefault: {label: none, denied: [hbv]}\n")
    by_rules = [cohorts.make(labels, f"label_rules={path}") for path in (rules, in_bucket(bucket, rules))]
    assert by_rules[0] == by_rules[1] != here
    labels.rename(source / "labels.csv")
    inside = cohorts.make(source, "label=ill")
    there = in_bucket(bucket, source)
    assert cohorts.make(there, f"labels_table={there}/labels.csv", "label=ill") == cohorts.make(there, "label=ill") == inside


@pytest.mark.parametrize("kind", ["bucket", "tar", "tar in a bucket"])
def test_fhir_resources_in_a_bucket_or_an_archive_are_a_source_and_a_table(
    kind: str, source: Path, bucket: str, tmp_path: Path, cohorts: Cohorts
) -> None:
    folder = tmp_path / "fhir"
    folder.mkdir()
    code = {"coding": [{"system": "http://loinc.org", "code": "1742-6"}]}
    for n in PATIENTS:
        patient = {"resourceType": "Patient", "id": f"P{n:02}", "gender": "male"}
        alt = {"resourceType": "Observation", "status": "final", "subject": {"reference": f"Patient/P{n:02}"}, "code": code}
        alt |= {"effectiveDateTime": "2020-01-02", "valueQuantity": {"value": 20 + n, "unit": "U/L"}}
        (folder / f"{n}.ndjson").write_text(f"{json.dumps(patient)}\n{json.dumps(alt)}\n")
    where: Path | str = packed(folder, "tar") if "tar" in kind else folder
    if "bucket" in kind:
        where = in_bucket(bucket, Path(where))
    assert cohorts.make(where) == cohorts.make(folder)
    joined = [cohorts.make(source, PATTERN, f"emr={path}", "masks=ignore") for path in (folder, where)]
    assert joined[0] == joined[1]
    assert joined[0][1].count(("ingested", "")) == 24


def test_a_table_that_is_not_there_is_one_sentence(source: Path, bucket: str, tmp_path: Path, cohorts: Cohorts) -> None:
    for option, sentence in {
        f"emr={bucket}/none.csv": r"^ingest key 'emr' is .*, which is no table; give the path, URI or name inside the source of a CSV",
        f"emr_dictionary={bucket}/none.yaml": r"^ingest key 'emr_dictionary' is .*, which is no file; give the path or URI of a YAML file$",
        f"labels_table={bucket}/none.csv": r"^ingest key 'labels_table' is .*, which is no file; give a path or URI, or a name inside",
        f"emr={bucket}": r"which is no table",
    }.items():
        with pytest.raises(IngestError, match=sentence):
            cohorts.make(source, option, PATTERN)
    with pytest.raises(StoreError, match=r"^'s3://no-such-bucket' does not exist; make it first, or correct its name$"):
        cohorts.make(source, "emr=s3://no-such-bucket/labs.csv", PATTERN)
