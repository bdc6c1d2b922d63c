"""Visits: which tables hold them, days and dates, repetitions, what is static, and one length for all patients."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hepdist.errors import IngestError
from hepdist.ingest.emr import EMRTable, read_table
from hepdist.ingest.emr_sequence import Visits, pack, read_days, usual_length

VISITS = """\
patient_id,date,sex,alt,stage
P1,2020-01-10,F,40,ii
P1,2020-01-01,F,30,ii
P2,2020-03-01,M,?,ii
P1,2020-01-10,F,60,i
P1,2020-01-01,F,30,ii
P2,,M,70,i
P3,,F,80,i
"""


def read(tmp_path: Path, text: str = VISITS, **options: object) -> EMRTable:
    (tmp_path / "visits.csv").write_text(text, encoding="utf-8")
    return read_table(tmp_path / "visits.csv", **options)  # type: ignore[arg-type]


def test_visits_are_in_order_and_days_count_from_the_first(tmp_path: Path) -> None:
    emr = read(tmp_path)
    assert [(c.name, c.kind, c.missing_share) for c in emr.columns] == [("sex", "category", 0.0)]
    assert [(c.name, c.kind, c.missing_share) for c in emr.sequence_columns] == [("alt", "number", 1 / 3), ("stage", "category", 0.0)]
    assert emr.rows == {"P1": {"sex": 0.0}, "P2": {"sex": 1.0}, "P3": {"sex": 0.0}}
    assert emr.sequences["P1"].days.tolist() == [0, 9]
    assert emr.sequences["P1"].values.tolist() == [[30, 1], [50, 0]]  # 40 and 60 of one day averaged, of ii and i the last
    assert emr.sequences["P2"].missing.tolist() == [[1, 0]]
    assert [c.categories for c in emr.sequence_columns] == [(), ("i", "ii")]
    assert "P3" not in emr.sequences
    assert Counter((f.file, f.check) for f in emr.findings) == {
        ("visits.csv#5", "duplicate-row"): 1,
        ("visits.csv#4", "same-day"): 1,
        ("visits.csv#6", "no-date"): 1,
        ("visits.csv#7", "no-date"): 1,
    }


def test_a_table_of_one_row_a_patient_is_none_of_visits_unless_it_is_said(tmp_path: Path) -> None:
    text = "id,day,alt\n1,5,30\n2,9,40\n"
    flat = read(tmp_path, text)
    assert not flat.sequences and [c.name for c in flat.columns] == ["day", "alt"]
    asked = read(tmp_path, "id,day,alt\n1,5,30\n2,9,40\n1,7,31\n", time="day")
    assert asked.sequences["1"].days.tolist() == [0, 2]
    none = read(tmp_path, "id,day,alt\n1,5,30\n1,9,40\n", time="none")
    assert not none.sequences and [f.check for f in none.findings] == ["duplicate-row"]


def test_a_label_is_one_for_all_visits_or_unknown(tmp_path: Path) -> None:
    emr = read(tmp_path, "id,day,alt,ill\n1,0,30,no\n1,9,31,no\n2,0,40,no\n2,3,44,yes\n3,0,50,yes\n3,4,51,\n", label="ill")
    assert emr.labels == {"1": "no", "3": "yes"}
    assert [(f.file, f.check) for f in emr.findings] == [("visits.csv#3.4", "label-conflict")]


@pytest.mark.parametrize(
    ("texts", "days"),
    [
        (["2020-02-28", "2020-03-01", ""], [0, 2, None]),
        (["2020/2/28", "2020/3/1 08:30"], [0, 2]),
        (["20200228", "20200301"], [0, 2]),
        (["2020年2月28日", "2020年3月1日"], [0, 2]),
        (["28.02.2020", "01.03.2020"], [0, 2]),
        (["02/28/2020", "03/01/2020"], [0, 2]),
        (["28/02/2020", "01/03/2020"], [0, 2]),
        (["-3", "4.5"], [0, 7.5]),
    ],
)
def test_days_are_read_from_numbers_and_dates(texts: list[str], days: list[float | None]) -> None:
    read = read_days(texts)
    assert read is not None and read[0] is not None
    assert [None if day is None else day - read[0] for day in read] == days


def test_dates_that_could_be_two_days_are_refused_where_they_are_asked_for(tmp_path: Path) -> None:
    assert read_days(["03/04/2020", "05/06/2020"]) is None
    with pytest.raises(
        IngestError, match=r"column 2 of the EMR table can't be read as days or dates of visits, in one way that leaves no doubt; write"
    ):
        read(tmp_path, "id,seen,alt\n1,03/04/2020,3\n1,05/06/2020,4\n", time="seen")


def test_packing_keeps_the_last_visits_and_pads_after_them() -> None:
    visits = Visits.of(np.array([3.0, 5.0, 9.0]), np.array([[1.0, np.nan], [2.0, 7.0], [np.nan, 8.0]]))
    long, short = pack(visits, 5), pack(visits, 2)
    assert (long.steps, short.steps) == (3, 2)
    assert long.values.tolist() == [[1, 0], [2, 7], [0, 8], [0, 0], [0, 0]]
    assert long.missing.tolist() == [[0, 1], [0, 0], [1, 0], [1, 1], [1, 1]]
    assert long.gap_days.tolist() == [0, 2, 4, 0, 0]
    assert short.values.tolist() == [[2, 7], [0, 8]]
    assert short.gap_days.tolist() == [0, 4]
    assert [a.dtype for a in long[:3]] == [np.float32, np.uint8, np.float32]


def test_usual_length_leaves_out_the_longest_histories() -> None:
    assert usual_length([Visits.of(np.arange(n, dtype=float), np.zeros((n, 1))) for n in [*range(1, 20), 300]]) == 19
    assert usual_length([]) == 1


# Real visits


def test_pbcseq_gives_one_sequence_a_patient_equal_to_pandas(shared_data: Path) -> None:
    path = shared_data / "emr/mayo_pbc/pbcseq.csv"
    emr, frame = read_table(path, label="status", drop=("futime",)), pd.read_csv(path)
    assert [c.name for c in emr.columns] == ["trt", "age", "sex"]
    names = [c.name for c in emr.sequence_columns]
    assert names == ["ascites", "hepato", "spiders", "edema", "bili", "chol", "albumin", "alk.phos", "ast", "platelet", "protime", "stage"]
    assert Counter(emr.labels.values()) == {"0": 106, "1": 23, "2": 105}
    lengths = [len(v.days) for v in emr.sequences.values()]
    assert (len(lengths), sum(lengths), min(lengths), max(lengths)) == (234, 1468, 1, 16)
    for patient, visits in frame.groupby("id"):
        visits = visits.sort_values("day")
        found = emr.sequences[str(patient)]
        assert np.array_equal(found.days, visits.day - visits.day.iloc[0])
        raw = visits[names].to_numpy(float)
        assert np.array_equal(found.missing, np.isnan(raw))
        assert np.array_equal(found.values, np.nan_to_num(raw).astype(np.float32))
    assert [round(c.missing_share * 1468) for c in emr.sequence_columns] == frame[names].isna().sum().tolist()
    assert usual_length(emr.sequences.values()) == int(np.percentile(lengths, 95, method="inverted_cdf"))


def test_no_gap_is_lost_in_packing_pbcseq(shared_data: Path) -> None:
    emr = read_table(shared_data / "emr/mayo_pbc/pbcseq.csv")
    for visits in emr.sequences.values():
        packed = pack(visits, 16)
        assert packed.steps == len(visits.days)
        assert packed.gap_days.sum() == visits.days[-1]
        assert (packed.gap_days[1 : packed.steps] > 0).all()
