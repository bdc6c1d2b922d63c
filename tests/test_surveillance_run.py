"""`hepdist surveil` from end to end: outputs, methods by history, what is hidden, that no patient is in any byte."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_runs import classification_run
from scipy.optimize import linprog
from surveillance_tables import LAST, visits, write_csv

from cohorts import tiny_classification_cohort
from hepdist.cli import main
from hepdist.surveillance.accuracy import classifier
from hepdist.surveillance.alerts import ALL_SITES, public
from hepdist.surveillance.judge import Series, choose, control, false_alarms, judge, rules_of
from hepdist.surveillance.judgement import Judgement
from hepdist.surveillance.prevalence import Accuracy
from hepdist.surveillance.run import surveil
from hepdist.surveillance.spec import parse_options
from hepdist.surveillance.suppress import COMPANION, SHOWN, SMALL
from hepdist.surveillance.weeks import YEAR

MEANS = {"Harbour": 12.0, "Ridge": 5.0, "Village": 2.0, "University": 25.0}
WEEKS = 175
"""Three years and their windows before the last judged weeks."""
ACCURACY = ("sensitivity=0.9", "specificity=0.95", "sensitivity_n=200", "specificity_n=300")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outputs for four sites, one with an outbreak in the last two weeks; every patient's name holds the canary."""
    place = tmp_path_factory.mktemp("surveil")
    rows = visits(MEANS, WEEKS, outbreak=("Ridge", 14, 2), seed=4)
    rows = [row for row in rows if row["site"] != "Village" or row["date"] >= "2024-08-19"]  # 14 weeks of history
    rows += [
        {"date": "QXKZJVWP was here", "site": "Ridge", "case": "1", "patient": "QXKZJVWP1"},
        {"date": "2024-11-01", "site": "Ridge", "case": "QXKZJVWP", "patient": "QXKZJVWP2"},
        rows[0] | {"date": rows[0]["date"]},
    ]
    surveil(str(write_csv(place / "visits.csv", rows)), place / "out", ["until=2024-11-24", "judge_weeks=12", *ACCURACY])
    return place / "out"


@pytest.fixture(scope="module")
def alerts(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "alerts.parquet")


def test_the_outbreak_alerts_and_quiet_sites_do_not(alerts: pd.DataFrame) -> None:
    last = alerts[alerts["week"] == "2024-W47"].set_index("site")
    assert last.loc["Ridge", "alert"] and last.loc["Ridge", "observed"] > last.loc["Ridge", "upper"]
    assert last.loc["Ridge", "score"] > 1
    assert not last.drop(index=["Ridge", ALL_SITES])["alert"].any()


def test_methods_follow_the_length_of_history(alerts: pd.DataFrame, folder: Path) -> None:
    last = alerts[alerts["week"] == "2024-W47"].set_index("site")["method"].to_dict()
    assert last == {ALL_SITES: "Farrington flexible", "Harbour": "Farrington flexible", "Ridge": "Farrington flexible",
                    "University": "Farrington flexible", "Village": "EARS C2"}  # fmt: skip
    assert json.loads((folder / "surveil.json").read_text())["methods"]["Village"] == "ears_c2"
    page = (folder / "surveil.html").read_text()
    assert "Farrington flexible (Noufaily et al." in page and "EARS C2 (Hutwagner" in page


def test_choice_by_weeks_of_history() -> None:
    rules = rules_of(parse_options([]))
    three = round(3 * YEAR) + 3
    assert [choose(weeks, rules) for weeks in (8, 9, 25, 26, three - 1, three)] == [
        None,
        "ears_c2",
        "ears_c2",
        "cusum",
        "cusum",
        "farrington",
    ]


def test_csv_and_parquet_hold_the_same(alerts: pd.DataFrame, folder: Path) -> None:
    written = pd.read_csv(folder / "alerts.csv", keep_default_na=True)
    assert list(written.columns) == list(alerts.columns) and len(written) == len(alerts)
    for column in ("observed", "expected", "upper", "prevalence_low"):
        np.testing.assert_array_equal(written[column].to_numpy(float), alerts[column].to_numpy(float, na_value=np.nan))


def test_prevalence_is_corrected_where_counts_are_shown(alerts: pd.DataFrame) -> None:
    shown = alerts[alerts["prevalence"].notna()]
    row = shown.iloc[-1]
    assert row["prevalence"] == pytest.approx(max(0.0, (row["observed"] / row["tested"] - 0.05) / 0.85), abs=1e-4)
    assert (shown["prevalence_low"] <= shown["prevalence"]).all() and (shown["prevalence"] <= shown["prevalence_high"]).all()
    assert alerts.loc[alerts["hidden"] != "", ["observed", "share", "prevalence", "score", "p"]].isna().all(axis=None)


def test_no_patient_is_in_any_byte_of_the_outputs(folder: Path) -> None:
    files = list(folder.iterdir())
    assert {path.name for path in files} == {"alerts.csv", "alerts.parquet", "quarantine.csv", "surveil.html", "surveil.json"}
    for path in files:
        for form in ("QXKZJVWP", "qxkzjvwp"):
            assert form.encode() not in path.read_bytes() and form.encode("utf-16-le") not in path.read_bytes()
    for column in pd.read_parquet(folder / "alerts.parquet").astype(str):
        assert not pd.read_parquet(folder / "alerts.parquet")[column].astype(str).str.contains("QXKZJVWP").any()


def test_quarantine_names_rows_and_reasons(folder: Path) -> None:
    left_out = pd.read_csv(folder / "quarantine.csv")
    assert left_out["check"].tolist() == ["date-unreadable", "case-unknown", "repeated"]
    assert left_out["row"].is_monotonic_increasing and left_out["reason"].notna().all()


def test_hidden_counts_cannot_be_solved_for_from_all_outputs(alerts: pd.DataFrame) -> None:
    """Every equation that the table gives (each week's total is the sum of its sites), with bounds on hidden counts, leaves each one open."""
    small = 0
    for _, rows in alerts.groupby("week"):
        sites = rows[rows["site"] != ALL_SITES]
        hidden = sites[sites["observed"].isna()]
        if hidden.empty:
            continue
        total = rows.loc[rows["site"] == ALL_SITES, "observed"].iloc[0]
        bounds = [(1, 4) if marker == "<5" else (5, 10**6) for marker in hidden["hidden"]]
        equation = {} if pd.isna(total) else {"A_eq": np.ones((1, len(hidden))), "b_eq": [float(total - sites["observed"].sum())]}
        for i, marker in enumerate(hidden["hidden"]):
            cost = np.eye(len(hidden))[i]
            least, most = (linprog(sign * cost, bounds=bounds, **equation, integrality=1) for sign in (1, -1))
            assert least.status == most.status == 0, "the truth is a solution"
            assert -most.fun - least.fun >= 1
            small += marker == "<5"
    assert small > 20


def test_every_number_beside_a_series_is_computed_from_what_is_published_alone(alerts: pd.DataFrame) -> None:
    """Whoever has the outputs alone gets the same expected counts and thresholds: so they tell nothing more of hidden counts."""
    spec = parse_options(["judge_weeks=12"])
    weeks = alerts["week"].drop_duplicates().tolist()
    checked = hidden = 0
    for name, rows in alerts.groupby("site", sort=False):
        first = weeks.index(rows["week"].iloc[0])
        marks = {"": SHOWN, "<5": SMALL}
        states = np.array([SHOWN] * first + [marks.get(mark, COMPANION) for mark in rows["hidden"]], dtype=np.int8)
        known = rows["observed"].to_numpy(float, na_value=np.nan)
        series = Series(str(name), np.where(np.isnan(known), 77.0, known), first)  # what stands in a hidden cell makes no difference
        judged = judge(public(series, states, 5), len(weeks) - 1, spec)
        for week, row in zip(range(first, len(weeks)), rows.to_dict("records"), strict=True):
            if week in judged:
                assert (row["expected"], row["upper"]) == (round(judged[week].expected, 4), round(judged[week].upper, 4))
                checked, hidden = checked + 1, hidden + bool(states.any())
    assert checked > 40 and hidden > 20


def test_small_numbers_tested_are_hidden_too(tmp_path: Path) -> None:
    rows = [
        {"week": f"2024-W{w:02d}", "site": site, "count": "0", "tested": str(tested)}
        for w in range(1, 20)
        for site, tested in (("A", 3), ("B", 40), ("C", 90))
    ]
    surveil(str(write_csv(tmp_path / "c.csv", rows)), tmp_path / "out", [], today=LAST)
    table = pd.read_parquet(tmp_path / "out" / "alerts.parquet")
    by_site = table.groupby("site")["hidden_tested"].unique().map(list).to_dict()
    assert by_site == {"A": ["<5"], "B": ["hidden"], "C": [""], ALL_SITES: [""]}
    assert table.loc[table["site"] == "A", "tested"].isna().all()


def test_an_alert_on_a_small_count_is_raised_and_its_count_is_not_written(tmp_path: Path) -> None:
    rows = [{"week": f"2024-W{w:02d}", "site": "A", "count": "4" if w == 20 else "0"} for w in range(1, 21)]
    outcome = surveil(str(write_csv(tmp_path / "c.csv", rows)), tmp_path / "out", [], today=LAST)
    row = outcome.table.iloc[-1]
    assert row["alert"] and row["hidden"] == "<5" and pd.isna(row["observed"])
    assert "A (&lt;5 cases)" in (tmp_path / "out" / "surveil.html").read_text()


def test_the_page_needs_nothing_but_itself(folder: Path) -> None:
    page = (folder / "surveil.html").read_text()
    assert not re.search(r'(src|href)="(?!#)', page) and "<script" not in page and "http-equiv" in page
    assert page.count("<svg") == 1 + len(MEANS)
    assert "false alerts a week are to be expected" in page.replace("\n", " ")


def test_the_false_discovery_rate_takes_alerts_back_and_adds_none() -> None:
    judged = {f"s{i}": Judgement("farrington", 5.0, 12.0, True, 1.1, p) for i, p in enumerate((0.004, 0.0001, 0.2))}
    judged["c"] = Judgement("cusum", 5.0, 12.0, True, 1.1)
    kept = control(judged, 0.005)
    assert {name for name, one in kept.items() if one.alert} == {"s1", "c"}  # 0.0001 * 3 passes, 0.004 * 3 / 2 doesn't
    assert control(judged, 0.0) == judged


def test_expected_false_alarms_are_the_sum_over_judgements() -> None:
    spec = parse_options(["alpha=0.01"])
    judged = [Judgement("farrington", 5.0, 12.0, False)] * 10 + [Judgement("cusum", 5.0, 12.0, False)] * 5
    assert false_alarms(judged, spec) == pytest.approx(10 * 0.01 + 5 * 0.003)


def a_run(folder: Path, temperature: float = 1.0) -> Path:
    """What a run says of six patients of two classes, before scaling."""
    folder.mkdir(parents=True)
    block = {"sensitivity": 0.75, "specificity": 0.5, "classes": {"healthy": 2, "hepatitis": 4}}
    result = {"split": {"test": block}, "threshold": {"value": 0.4, "rule": "fixed"}, "positive": "hepatitis"}
    (folder / "result.json").write_text(json.dumps(result | {"calibration": {"temperature": temperature}}))
    frame = pd.DataFrame({"split": "test", "label": [1, 1, 1, 1, 0, 0], "probability_1": [0.9, 0.5, 0.45, 0.1, 0.42, 0.2]})
    frame.to_parquet(folder / "predictions.parquet")
    return folder


def test_accuracy_and_threshold_come_from_a_run(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    from hepdist.surveillance.accuracy import classifier

    assert classifier(parse_options([f"run={run}"])) == (0.4, Accuracy(0.75, 0.5, 4, 2))
    assert classifier(parse_options([f"run={run}", "threshold=0.48"])) == (0.48, Accuracy(0.5, 1.0, 4, 2))


def test_the_threshold_of_a_run_is_that_of_the_probabilities_that_predict_writes(tmp_path: Path) -> None:
    """Scaled by a temperature of 1/2, odds are squared."""
    from hepdist.surveillance.accuracy import classifier

    run = a_run(tmp_path / "run", temperature=0.5)
    threshold, accuracy = classifier(parse_options([f"run={run}"]))
    assert threshold == pytest.approx(0.4**2 / (0.4**2 + 0.6**2)) and accuracy == Accuracy(0.75, 0.5, 4, 2)
    at = 0.48**2 / (0.48**2 + 0.52**2)
    assert classifier(parse_options([f"run={run}", f"threshold={at}"]))[1] == Accuracy(0.5, 1.0, 4, 2)


def test_accuracy_is_that_of_a_run_as_evaluation_writes_it(tmp_path: Path) -> None:
    tiny_classification_cohort(tmp_path / "cohort", rows=80)
    result = classification_run(tmp_path / "run", tmp_path / "cohort", resamples=20)
    threshold, accuracy = classifier(parse_options([f"run={tmp_path / 'run'}"]))
    block = result["split"]["test"]
    assert accuracy is not None and threshold == result["threshold"]["value"]
    assert (accuracy.sensitivity, accuracy.specificity) == (block["sensitivity"], block["specificity"])
    assert accuracy.cases + accuracy.non_cases == block["n"]
    same = classifier(parse_options([f"run={tmp_path / 'run'}", f"threshold={threshold + 1e-9}"]))[1]
    assert same == accuracy, "its predictions say the same"


def test_cli_end_to_end_and_its_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_csv(tmp_path / "visits.csv", visits({"A": 8.0}, 30, outbreak=("A", 20, 1)))
    assert main(["surveil", str(path), str(tmp_path / "out"), "until=2024-11-24"]) == 0
    said = capsys.readouterr().out
    assert "week 2024-W47: 1 of 1 judged series above the threshold" in said and "page: " in said and "0 left out" in said
    assert main(["surveil", str(path), str(tmp_path / "out"), "until=2024-11-24"]) == 0, "the same folder is written anew"
    assert main(["surveil", str(path), str(tmp_path / "other"), "alpa=1"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: surveil key 'alpa' is unknown; did you mean 'alpha'?"
    assert main(["surveil", str(tmp_path / "none.csv"), str(tmp_path / "other")]) == 2
    assert main(["surveil", str(path), str(path)]) == 2
    assert main(["surveil", str(path), str(tmp_path / "other"), f"run={tmp_path}"]) == 1
    assert not (tmp_path / "other").exists()


def test_a_table_too_short_to_judge_is_written_with_the_reason(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "visits.csv", visits({"A": 8.0, "B": 9.0}, 5))
    outcome = surveil(str(path), tmp_path / "out", ["until=2024-11-24"])
    assert outcome.table["alert"].isna().all() and set(outcome.table["note"]) == {"too little history"}
    assert "enough history" in (tmp_path / "out" / "surveil.html").read_text()
    surveil(str(write_csv(tmp_path / "one.csv", visits({"A": 8.0}, 1, last=date(2024, 11, 24)))), tmp_path / "one", ["until=2024-11-20"])
    assert "week not over" in (tmp_path / "one" / "alerts.csv").read_text()
    assert "covers no week to its end" in (tmp_path / "one" / "surveil.html").read_text()
