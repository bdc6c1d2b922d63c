"""Labels from follow-up: who has the event within the horizon, who is censored before it, and that nothing later than the landmark is known."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from salts import SALT

from hepdist.errors import HepdistError
from hepdist.ingest import ingest
from hepdist.ingest.pseudonym import Pseudonyms
from hepdist.shards.format import decode
from hepdist.shards.manifest import Manifest

NAMES = Pseudonyms(SALT.encode())
RULE = ["event=end", "event_values=dead,transplant", "event_time=until", "horizon=100"]


pytestmark = pytest.mark.usefixtures("salt")


def write(path: Path, header: list[str], rows: list[list[object]]) -> str:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


def cohort(source: str, folder: Path, options: list[str]) -> tuple[Manifest, pa.Table, pa.Table]:
    manifest = ingest(source, str(folder), options)
    tables = [pq.read_table(folder / shard.path) for shard in manifest.shards]
    return manifest, pa.concat_tables(tables, promote_options="permissive"), pq.read_table(folder / "audit.parquet")


def labels(table: pa.Table) -> dict[str, list[int | None]]:
    found: dict[str, list[int | None]] = {}
    for patient, label in zip(table["patient"].to_pylist(), table["label"].to_pylist(), strict=True):
        found.setdefault(patient, []).append(label)
    return found


ENDS: dict[str, tuple[str, str, int | None]] = {
    "event inside": ("dead", "60", 1),
    "event on the last day": ("transplant", "100", 1),
    "event after": ("dead", "101", 0),
    "censored inside": ("alive", "99", None),
    "followed to the last day": ("alive", "100", 0),
    "followed beyond": ("alive", "4000", 0),
    "no end said": ("", "500", None),
    "no day said": ("dead", "", None),
    "ended before it began": ("dead", "-3", None),
}


def test_each_end_of_follow_up_gives_its_label(tmp_path):
    rows = [[f"p{i}", 50 + i, end, until] for i, (end, until, _) in enumerate(ENDS.values())]
    manifest, table, audit = cohort(write(tmp_path / "t.csv", ["patient_id", "age", "end", "until"], rows), tmp_path / "c", RULE)
    expected = {NAMES.of("patient", f"p{i}"): [label] for i, (_, _, label) in enumerate(ENDS.values())}
    assert labels(table) == expected
    assert manifest.label_names == ("no event", "event")
    assert [c.name for c in (*manifest.emr, *manifest.sequence)] == ["age"], "the follow-up is no feature"
    assert audit["check"].to_pylist().count("censored") == 1
    assert audit["check"].to_pylist().count("label-unknown") == 1
    followup = dict(zip(table["patient"].to_pylist(), decode(manifest.fields["followup"], table["followup"]).tolist(), strict=True))
    assert followup[NAMES.of("patient", "p0")] == [60, 1] and followup[NAMES.of("patient", "p3")] == [99, 0]
    assert followup[NAMES.of("patient", "p6")] == [0, 0]


VISITS = [  # patient, day, alt, end, until
    ["a", 0, 10, "dead", 160], ["a", 50, 20, "dead", 160], ["a", 120, 30, "dead", 160],
    ["b", 0, 11, "alive", 130], ["b", 40, 12, "alive", 130],
    ["c", 0, 13, "dead", 90], ["c", 30, 14, "dead", 90], ["c", 95, 15, "dead", 90],
]  # fmt: skip
HEADER = ["patient_id", "day", "alt", "end", "until"]
DEAD = ["event=end", "event_values=dead", "event_time=until", "horizon=100", "emr_visits=3"]


def test_a_landmark_at_each_visit_knows_the_visits_until_then_and_no_later_one(tmp_path):
    manifest, table, audit = cohort(write(tmp_path / "t.csv", HEADER, VISITS), tmp_path / "c", [*DEAD, "landmark=visits"])
    rows = {
        (patient, tuple(values[:length])): label
        for patient, values, length, label in zip(
            table["patient"].to_pylist(),
            decode(manifest.fields["sequence"], table["sequence"])[:, :, 0].tolist(),
            decode(manifest.fields["sequence_length"], table["sequence_length"])[:, 0].tolist(),
            table["label"].to_pylist(),
            strict=True,
        )
    }
    a, b, c = (NAMES.of("patient", key) for key in "abc")
    assert rows == {
        (a, (10,)): 0, (a, (10, 20)): 0, (a, (10, 20, 30)): 1,
        (b, (11,)): 0, (b, (11, 12)): None,
        (c, (13,)): 1, (c, (13, 14)): 1,
    }  # fmt: skip
    assert len(set(table["sample_id"].to_pylist())) == 7
    assert all(
        len(set(part["split"].to_pylist())) == 1 for part in (table.filter(pa.compute.equal(table["patient"], p)) for p in (a, b, c))
    )
    assert sorted(c for c in audit["check"].to_pylist() if c in ("censored", "not-at-risk")) == ["censored", "not-at-risk"]


def test_one_landmark_leaves_out_whoever_is_no_longer_at_risk(tmp_path):
    _, table, _ = cohort(write(tmp_path / "t.csv", HEADER, VISITS), tmp_path / "c", [*DEAD, "landmark=100"])
    assert labels(table) == {NAMES.of("patient", "a"): [1], NAMES.of("patient", "b"): [None]}


def test_dates_of_follow_up_count_from_the_first_visit(tmp_path):
    rows = [
        ["a", "2020-01-01", 1, "dead", "2020-03-01"],
        ["a", "2020-02-01", 2, "dead", "2020-03-01"],
        ["b", "2021-05-05", 3, "alive", "2022-05-05"],
    ]
    rows += [["c", "2020-06-01", 4, "alive", "2020-07-01"], ["c", "2020-06-11", 5, "alive", "2020-07-01"]]
    manifest, table, _ = cohort(write(tmp_path / "t.csv", HEADER, rows), tmp_path / "c", DEAD)
    assert labels(table) == {NAMES.of("patient", k): [v] for k, v in {"a": 1, "b": 0, "c": None}.items()}
    followup = dict(zip(table["patient"].to_pylist(), decode(manifest.fields["followup"], table["followup"]).tolist(), strict=True))
    assert followup[NAMES.of("patient", "a")] == [60, 1] and followup[NAMES.of("patient", "c")] == [30, 0]


def test_rows_that_disagree_on_the_end_leave_the_patient_unlabelled(tmp_path):
    rows = [*VISITS, ["d", 0, 16, "alive", 500], ["d", 9, 17, "dead", 500]]
    _, table, audit = cohort(write(tmp_path / "t.csv", HEADER, rows), tmp_path / "c", DEAD)
    assert labels(table)[NAMES.of("patient", "d")] == [None]
    assert "label-conflict" in audit["check"].to_pylist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["event=end", "event_values=dead", "horizon=100"],
            "a label by horizon needs event=, event_values=, event_time= and horizon=; event_time is missing",
        ),
        ([*DEAD, "label=alt"], "event= makes the labels, so that label= and label_rules= can't"),
        ([*DEAD, "landmark=0,x"], "give days from 0 on, each once, such as 0,365, or visits"),
        ([*DEAD, "label_names=a,b,c"], "a label by horizon has two classes"),
        (
            ["event=end", "event_values=lost", "event_time=until", "horizon=9"],
            "'event_values' holds 1 of 1 values that column 'end' never does",
        ),
        (["event=ends", "event_values=dead", "event_time=until", "horizon=9"], "did you mean 'end'"),
    ],
)
def test_a_rule_that_can_not_be_is_refused_in_a_sentence(tmp_path, options, message):
    source = write(tmp_path / "t.csv", HEADER, VISITS)
    with pytest.raises(HepdistError, match=message):
        ingest(source, str(tmp_path / "c"), options)


def test_real_pbcseq_five_years_ahead_equals_pandas(shared_data, tmp_path):
    source = shared_data / "emr/mayo_pbc/pbcseq.csv"
    rule = ["event=status", "event_values=1,2", "event_time=futime", "horizon=1826", "landmark=visits"]
    manifest, table, _ = cohort(str(source), tmp_path / "c", rule)
    frame = pd.read_csv(source)
    frame = frame[frame.futime > frame.day]
    left = frame.futime - frame.day
    label = np.where((frame.status > 0) & (left <= 1826), 1.0, np.where(left >= 1826, 0.0, np.nan))
    assert len(table) == len(frame)
    found = table["label"].to_pylist()
    assert (found.count(1), found.count(0), found.count(None)) == ((label == 1).sum(), (label == 0).sum(), np.isnan(label).sum())
    assert not {"status", "futime", "day", "id"} & {c.name for c in (*manifest.emr, *manifest.sequence)}
