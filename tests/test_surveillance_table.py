"""The table as it comes: what counts, what goes to quarantine and why, what is refused in a sentence; repeated visits; weeks."""

from __future__ import annotations

import csv
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hepdist.errors import IngestError, RecipeError
from hepdist.surveillance.episodes import first_visits
from hepdist.surveillance.quarantine import Quarantine
from hepdist.surveillance.spec import parse_options
from hepdist.surveillance.table import Report, Reports, read_reports
from hepdist.surveillance.weekly import weekly
from hepdist.surveillance.weeks import monday, name_of, read_day, sunday, week_of

TODAY = date(2024, 6, 30)


def read(path: Path, *options: str, threshold: float | None = None) -> tuple[Reports, dict[int, str]]:
    quarantine = Quarantine()
    reports = read_reports(str(path), parse_options(list(options)), threshold, quarantine, TODAY)
    return reports, {entry.row: entry.check for entry in quarantine.rows}


def table(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("2024-05-31", date(2024, 5, 31)), ("2024/5/1", date(2024, 5, 1)), ("20240531", date(2024, 5, 31)), ("2024.05.31", date(2024, 5, 31)),
        ("2024-05-31T23:59:59Z", date(2024, 5, 31)), ("2024-05-31 00:00:00", date(2024, 5, 31)), (" 2024-05-31 ", date(2024, 5, 31)),
        ("2024-W22", date(2024, 5, 27)), ("2024W01", date(2024, 1, 1)), ("2020-W53", date(2020, 12, 28)),
        ("2024-02-30", None), ("2021-W53", None), ("3/4/2024", None), ("31.05.2024", None), ("", None), ("soon", None), ("2024-05", None),
    ],
)  # fmt: skip
def test_days_and_iso_weeks_are_read_and_ambiguous_dates_are_not(text: str, day: date | None) -> None:
    assert read_day(text) == day


def test_a_date_format_reads_what_it_says_alone() -> None:
    assert read_day("3/4/2024", "%d/%m/%Y") == date(2024, 4, 3)
    assert read_day("2024-04-03", "%d/%m/%Y") is None


def test_weeks_are_iso_weeks() -> None:
    assert [name_of(week_of(day)) for day in (date(2021, 1, 3), date(2021, 1, 4), date(2024, 12, 30))] == [
        "2020-W53",
        "2021-W01",
        "2025-W01",
    ]
    week = week_of(date(2024, 5, 31))
    assert (monday(week), sunday(week)) == (date(2024, 5, 27), date(2024, 6, 2))


def test_every_bad_row_goes_to_quarantine_with_its_reason_and_nothing_is_lost(tmp_path: Path) -> None:
    path = table(
        tmp_path / "visits.csv",
        "date,site,case\n2024-05-01,A,1\n,A,1\n31/12/2023,A,1\n2024-07-01,A,0\n2024-05-02,,1\n2024-05-02,A,\n2024-05-02,A,perhaps\n"
        "2024-05-02,A\n1924-05-02,A,1\n2024-05-03,B,negative\n",
    )
    reports, left_out = read(path)
    assert left_out == {
        2: "date-missing", 3: "date-unreadable", 4: "date-future", 5: "site-missing", 6: "case-missing", 7: "case-unknown", 8: "ragged", 9: "date-before",
    }  # fmt: skip
    assert [(report.row, report.cases, report.tested) for report in reports.rows] == [(1, 1, 1), (10, 0, 1)]
    assert len(reports.rows) + len(left_out) == reports.records == 10


def test_rows_after_the_last_covered_day_wait_in_quarantine(tmp_path: Path) -> None:
    path = table(tmp_path / "v.csv", "date,site,case\n2024-05-01,A,1\n2024-05-20,A,1\n")
    reports, left_out = read(path, "until=2024-05-12")
    assert left_out == {2: "date-after"} and reports.until == date(2024, 5, 12)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".xlsx"])
def test_all_kinds_of_tables_give_the_same(suffix: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({"day": pd.to_datetime(["2024-05-01", "2024-05-09"]), "clinic": ["A", "B"], "p": [0.2, 0.7]})
    path = tmp_path / f"t{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(path)
    elif suffix == ".xlsx":
        frame.to_excel(path, index=False)
    else:
        frame.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    reports, left_out = read(path, "date=day", "site=clinic", "probability=p", threshold=0.5)
    assert not left_out
    assert [(report.day, report.site, report.cases) for report in reports.rows] == [(date(2024, 5, 1), "A", 0), (date(2024, 5, 9), "B", 1)]


def test_named_case_values_make_all_others_none(tmp_path: Path) -> None:
    path = table(tmp_path / "v.csv", "date,site,class\n2024-05-01,A,hepatitis B\n2024-05-01,A,hepatitis C\n2024-05-01,A,healthy\n")
    for positive in ("hepatitis B, hepatitis C", "Hepatitis b,HEPATITIS C,hepatitis E"):
        reports, _ = read(path, "case=class", f"positive={positive}")
        assert [report.cases for report in reports.rows] == [1, 1, 0]


def test_counts_are_checked_and_summed_by_week(tmp_path: Path) -> None:
    path = table(
        tmp_path / "c.csv",
        "week,site,count,tested\n2024-W20,A,3,20\n2024-W20,A,2,10\n2024-W22,A,1,5\n2024-W21,B,4,3\n2024-W21,B,1.5,3\n2024-W21,B,-1,3\n2024-W22,B,0,0\n",
    )
    reports, left_out = read(path)
    assert left_out == {4: "tested", 5: "count", 6: "count"}
    counts = weekly(reports)
    assert counts.sites == ("A", "B") and counts.cases.tolist() == [[5, 0, 1], [0, 0, 0]]
    assert counts.tested is not None and counts.tested.tolist() == [[30, 0, 5], [0, 0, 0]]
    assert counts.starts.tolist() == [0, 2] and counts.whole == 3  # weekly counts: the last week is whole


def test_a_week_that_is_not_over_is_not_whole(tmp_path: Path) -> None:
    path = table(tmp_path / "v.csv", "date,site,case\n2024-05-01,A,1\n2024-05-14,A,1\n")  # a Tuesday
    counts = weekly(read(path)[0])
    assert (counts.weeks, counts.whole) == (3, 2)
    assert weekly(read(path, "until=2024-05-19")[0]).whole == 3


def test_the_last_week_of_persons_told_by_week_is_whole(tmp_path: Path) -> None:
    rows = "".join(f"2024-W{week},A,1\n" for week in (19, 20))
    assert read(table(tmp_path / "w.csv", f"date,site,case\n{rows}"))[0].until == date(2024, 5, 19)
    days = "".join(f"{day},A,1\n" for day in ("2024-05-06", "2024-05-13"))  # Mondays, which say nothing of the days after
    assert read(table(tmp_path / "d.csv", f"date,site,case\n{days}"))[0].until == date(2024, 5, 13)


def report(row: int, day: str, patient: str, cases: int = 1, site: str = "A") -> Report:
    return Report(row, date.fromisoformat(day), site, cases, 1, patient)


def test_a_patients_case_counts_once_in_so_many_days() -> None:
    quarantine = Quarantine()
    rows = [
        report(1, "2024-05-01", "p"), report(2, "2024-05-20", "p", site="B"), report(3, "2024-05-31", "p"), report(4, "2024-06-01", "p"),
        report(5, "2024-05-02", "q", 0), report(6, "2024-05-09", "q", 1), report(7, "2024-05-12", "q", 0), report(8, "2024-05-02", "", 1),
        report(9, "2024-05-02", "", 1), report(10, "2024-05-03", "r", 0), report(11, "2024-05-03", "r", 1),
    ]  # fmt: skip
    kept = first_visits(rows, 30, "patient", quarantine)
    # p: the 31st day after the first counts anew; q: a case after a negative test counts, the test after it doesn't; r: of one day, the case
    assert [one.row for one in kept] == [1, 4, 5, 6, 8, 9, 11]
    assert sorted(entry.row for entry in quarantine.rows) == [2, 3, 7, 10]
    assert first_visits(rows, 0, "patient", Quarantine()) == rows


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("date,case\n", [], "holds no rows"),
        ("day,case\n2024-01-01,1\n", [], "no column 'date'"),
        ("date,site,outcome\n2024-01-01,A,1\n", [], "no column case, probability or count"),
        ("date,site,case,count\n2024-01-01,A,1,1\n", [], "say which one counts"),
        ("date,site,probability\n2024-01-01,A,0.4\n", [], "needs a threshold"),
        ("date,site,case\n2024-01-01,A,1\n", ["site=clinic"], "no column 'clinic'; give site=COLUMN, one of: date, site, case"),
        ("date,site,case\n2030-01-01,A,1\n", [], "no row of the table counts"),
        ("date,date,case\n2024-01-01,A,1\n", [], "have the same name"),
        (
            "date,site,case\n2024-01-01,A,1\n2024-01-01,All Sites,1\n",
            [],
            "rows of 'all sites', which would count what the sites' own rows count",
        ),
        ("date,case\n2024-01-01,QXKZJVWP\n", ["positive=hepatitis E"], "no row has 'hepatitis E' in column 'case'; give positive="),
        ("date,site,case\n" + "".join(f"2024-01-01,QXKZJVWP{i},1\n" for i in range(501)), [], "501 different sites"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_sentence_without_its_values(text: str, options: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(IngestError, match=says) as caught:
        read(table(tmp_path / "t.csv", text), *options)
    assert "EMR" not in str(caught.value) and "QXKZJVWP" not in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "t.xlsx").write_bytes(b"PK no")
    (tmp_path / "t.pdf").write_bytes(b"%PDF")
    for name in ("t.parquet", "t.xlsx", "t.pdf", "none.csv"):
        with pytest.raises(IngestError):
            read(tmp_path / name)


CELLS = st.one_of(
    st.sampled_from(["2024-05-01", "2024-W20", "20240301", "1", "0", "A", "yes", "nan", "inf", "-1", "1e9", "0.5", ""]), st.text(max_size=8)
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.lists(CELLS, min_size=1, max_size=5), min_size=1, max_size=12), kind=st.sampled_from(["case", "probability", "count"])
)
def test_whatever_is_in_the_cells_each_row_counts_or_has_a_reason(rows: list[list[str]], kind: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    with path.open("w", newline="", encoding="utf-8", errors="replace") as file:
        csv.writer(file).writerows([["date", "site", kind, "tested"], *rows])
    try:
        reports, left_out = read(path, threshold=0.5)
    except IngestError:
        return
    assert {report.row for report in reports.rows} | set(left_out) == set(range(1, reports.records + 1))
    assert len(reports.rows) + len(left_out) == reports.records
    counts = weekly(reports)
    assert counts.cases.sum() == sum(report.cases for report in reports.rows) and (counts.cases >= 0).all()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["alpa=0.1"], "did you mean 'alpha'"), (["alpha"], "not of the form key=value"), (["alpha=0.7"], "less than 0.5"), (["years=2"], "greater than or equal to 3"),
        (["sensitivity=0.9"], "both or neither"), (["sensitivity=0.5", "specificity=0.5"], "must exceed 1"), (["small_cell=2"], "at least 4"),
        (["case=a", "count=b"], "give one of"), (["count=n", "patient=p"], "no patients"), (["patient=site"], "can't be the patient"),
        (["since=2024-01-02", "until=2024-01-01"], "since must be before until"), (["until=soon"], "give a day as"), (["method=magic"], "should be"),
        (["sensitivity_n=10"], "sample sizes"), (["run=x", "sensitivity=0.9", "specificity=0.9"], "leave one out"), (["date="], "must name a column"),
        (["positive=a", "count=n"], "leave it out"), (["threshold=1.5"], "less than 1"),
    ],
)  # fmt: skip
def test_nonsense_options_are_refused_in_one_sentence(options: list[str], says: str) -> None:
    with pytest.raises(RecipeError, match=says) as caught:
        parse_options(options)
    assert "\n" not in str(caught.value)


def test_defaults_are_noufailys() -> None:
    spec: Any = parse_options([])
    assert (spec.alpha, spec.years, spec.half_window, spec.leave_out_weeks, spec.outlier, spec.least_reports) == (0.005, 5, 3, 26, 2.58, 5)
