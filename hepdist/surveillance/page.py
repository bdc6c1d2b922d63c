"""OUT/surveil.html: one page for whoever decides whether to look closer; needs nothing but itself and shows what alerts.csv shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

import hepdist
from hepdist.evaluation import drawing
from hepdist.surveillance.alerts import TOO_SHORT, Judged
from hepdist.surveillance.judge import false_alarms
from hepdist.surveillance.judgement import TITLES
from hepdist.surveillance.plots import series_plot
from hepdist.surveillance.prevalence import Accuracy
from hepdist.surveillance.spec import SurveilSpec
from hepdist.surveillance.table import ALL_SITES

PAGE = "surveil.html"
MOST_PLOTS = 60
MOST_ALERTS = 500
DIGITS = {"observed": 0, "expected": 1, "upper": 1, "score": 2, "tested": 0}
"""After the point, in the page's tables."""
METHODS = {
    "farrington": (
        "Farrington flexible (Noufaily et al., Stat Med 2013, 32:1206): a quasi-Poisson regression of up to {years} years with a trend and ten seasons,"
        " without the newest {leave_out_weeks} weeks, in which past outbreaks weigh less; an alert is a count above the {quantile} and at least"
        " {least_reports} reports in four weeks."
    ),
    "cusum": (
        "CUSUM (Rossi et al., Stat Med 1999, 18:2111), for sites with half a year to three years of history: the running sum of standardised counts"
        " above {cusum_k:g} exceeds {cusum_h:g}; it finds small rises that last, and knows no seasons."
    ),
    "ears_c1": "EARS C1 (Hutwagner et al., 2003): more than three standard deviations above the mean of the seven weeks before; knows no seasons.",
    "ears_c2": (
        "EARS C2 (Hutwagner et al., 2003), for sites with 9 to 25 weeks of history: more than three standard deviations above the mean of seven weeks"
        " that ended two weeks before; knows no seasons."
    ),
    "ears_c3": "EARS C3 (Hutwagner et al., 2003): what exceeds one standard deviation in C2 over three weeks sums to more than 2; knows no seasons.",
}


def render(
    title: str,
    table: pd.DataFrame,
    judged: Judged,
    spec: SurveilSpec,
    accuracy: Accuracy | None,
    left_out: Mapping[str, int],
    until: str,
    gaps: list[str],
) -> str:
    """The page as HTML. table: as published (alerts.py); judged gives methods and their number alone; gaps: sentences on silent sites."""
    latest, whole = judged.latest(), judged.last >= 0
    week = str(table["week"].iloc[-1]) if not whole else str(table["week"].drop_duplicates().iloc[judged.last])
    rows = table[table["week"] == week]
    flagged = rows[rows["alert"].fillna(False)]
    expected = false_alarms(list(latest.values()), spec)
    looks = [one for weeks in judged.by_week.values() for one in weeks.values()]
    alerts = table[table["alert"].fillna(False)].iloc[::-1].head(MOST_ALERTS)
    methods = {one.method for one in looks}
    used = [name for name in METHODS if name in methods]
    plots, wide, unplotted = _plots(table, spec)
    tiles = [
        ("Newest whole week" if whole else "Newest week", week, f"until {until}"),
        ("Alerts in it", f"{len(flagged)}", f"of {len(latest)} series judged"),
        ("False alarms to expect", f"{expected:.2g}", "in such a week, without any outbreak"),
        (
            "Alerts of all judged weeks",
            f"{int(table['alert'].fillna(False).sum())}",
            f"{false_alarms(looks, spec):.2g} to expect without any outbreak",
        ),
    ]
    return _environment().get_template("page.html").render(
        title=title, period=f"{table['week'].iloc[0]} to {table['week'].iloc[-1]}", until=until, small_cell=spec.small_cell, week=week,
        lead=_lead(week, flagged, len(latest), whole), whole=whole, tiles=tiles, cautions=_cautions(spec, accuracy, len(latest), expected, table, gaps),
        latest=_lines(rows), alerts=_lines(alerts), judged_weeks=spec.judge_weeks, tested=table["tested"].notna().any(), accuracy=accuracy,
        plots=plots, wide=wide, unplotted=unplotted, methods=[_method(name, spec) for name in used], facts=_facts(spec, accuracy, used),
        left_out=left_out, version=hepdist.__version__,
    )  # fmt: skip


def _environment() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader([Path(__file__).parent, Path(drawing.__file__).parent])  # the second has page.css
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def _lead(week: str, flagged: pd.DataFrame, judged: int, whole: bool) -> str:
    if not whole:
        return f"The table covers no week to its end, not even {week}: nothing is judged."
    if not judged:
        return f"No series has enough history to judge week {week} by: EARS needs nine weeks before it."
    if flagged.empty:
        return f"In week {week} no series of {judged} is above its threshold."
    names = [f"{row['site']} ({_count(row)})" for row in records(flagged)]
    return (
        f"In week {week} {len(flagged)} of {judged} series {'is' if len(flagged) == 1 else 'are'} above the threshold: {', '.join(names)}."
    )


def _count(row: dict[str, Any]) -> str:
    if row["hidden"]:
        return "count hidden" if row["hidden"] == "hidden" else f"{row['hidden']} cases"
    return f"{row['observed']} cases, {number(row['expected'], 1)} expected"


def _cautions(
    spec: SurveilSpec, accuracy: Accuracy | None, series: int, expected: float, table: pd.DataFrame, gaps: list[str]
) -> list[str]:
    found = [
        f"{series} series are looked at each week, each with its own chance of a false alarm: about {expected:.2g} false alerts a week are to be"
        " expected where nothing happens" + (", fewer after Benjamini and Hochberg's correction." if spec.false_discovery else "."),
        "Reports that arrive late make the newest weeks look quiet. A week that is not over is shown and not judged; a whole one can still grow.",
    ]
    if (table["note"] == TOO_SHORT).any():
        found.append("Some sites have too little history to be judged in some weeks; in alerts.csv their column alert is empty there.")
    if accuracy is None:
        found.append("Counts are taken as they are: without the classifier's sensitivity and specificity no prevalence is corrected.")
    else:
        found.append(
            "Prevalence is corrected for the classifier's errors, as they were where it was evaluated; at a site with other patients or machines they"
            " may differ. Alerts are on counts as they came: a change of the model or its threshold looks like an outbreak."
        )
        if accuracy.cases == float("inf") or accuracy.non_cases == float("inf"):
            found.append(
                "Sensitivity or specificity are taken as known exactly: intervals of prevalence are too narrow where they were estimated."
            )
    if spec.small_cell > 1 and (table["hidden"] != "").any():
        found.append(
            f"'<{spec.small_cell}' is a count from 1 to {spec.small_cell - 1}; 'hidden' would give one away. Alerts are judged on all counts; expected"
            " counts and thresholds of a site with hidden ones are shown as they are with stand-ins for these, so that they tell nothing of them."
        )
    return found + gaps


def _lines(rows: pd.DataFrame) -> list[dict[str, str]]:
    """Rows as the page writes them."""
    found = []
    for row in records(rows):
        low, high = row["prevalence_low"], _percent(row["prevalence_high"])
        line = {name: number(row[name], digits) for name, digits in DIGITS.items()}
        line |= {name: _percent(row[name]) for name in ("share", "prevalence")}
        line |= {name: row[name] for name in ("week", "site", "hidden", "hidden_tested")}
        line["method"] = "" if pd.isna(row["method"]) else row["method"]
        line["interval"] = "" if pd.isna(low) else f"{100 * low:.1f} to {high}"
        line["alert"] = row["note"] if pd.isna(row["alert"]) else "alert" if row["alert"] else ""
        found.append(line)
    return found


def records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as mappings."""
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]


def number(value: Any, digits: int) -> str:
    return "–" if pd.isna(value) else f"{value:,.{digits}f}"


def _percent(value: Any) -> str:
    return "–" if pd.isna(value) else f"{100 * value:.1f} %"


def _plots(table: pd.DataFrame, spec: SurveilSpec) -> tuple[list[tuple[Any, str]], list[tuple[Any, str]], int]:
    """Plots of sites, those with the newest alerts first; of all sites together; and how many sites have none."""
    weeks = table["week"].drop_duplicates().iloc[-spec.show_weeks :]
    shown = table[table["week"].isin(weeks)]
    groups = {str(name): rows for name, rows in shown.groupby("site", sort=False)}
    every = [(series_plot(groups.pop(ALL_SITES), "all", spec.small_cell, wide=True), ALL_SITES)] if ALL_SITES in groups else []
    newest = {name: rows.loc[rows["alert"].fillna(False), "monday"].max() for name, rows in groups.items()}
    order = sorted(
        groups, key=lambda name: (newest[name] != newest[name], -newest[name].toordinal() if newest[name] == newest[name] else 0, name)
    )
    if not every and len(order) == 1:
        return [], [(series_plot(groups[order[0]], "all", spec.small_cell, wide=True), order[0])], 0
    plots = [(series_plot(groups[name], f"site{i}", spec.small_cell), name) for i, name in enumerate(order[:MOST_PLOTS])]
    return plots, every, max(0, len(order) - MOST_PLOTS)


def _method(name: str, spec: SurveilSpec) -> str:
    words = {
        "negative_binomial": f"{100 * (1 - spec.alpha):g} % quantile of a negative binomial",
        "two_thirds": f"{100 * (1 - spec.alpha):g} % limit by the 2/3 power",
    }
    return METHODS[name].format(**spec.model_dump(exclude={"quantile"}), quantile=words[spec.quantile])


def _facts(spec: SurveilSpec, accuracy: Accuracy | None, used: Sequence[str]) -> list[tuple[str, str]]:
    facts = [
        ("Methods used", ", ".join(TITLES[name] for name in used) or "none"),
        ("Chosen", "by length of history" if spec.method == "auto" else "as asked for"),
        ("Small cells", f"1 to {spec.small_cell - 1} hidden" if spec.small_cell > 1 else "shown"),
        ("False discovery rate", f"{spec.false_discovery:g} over the sites of a week" if spec.false_discovery else "not controlled"),
    ]
    if accuracy is not None:
        for name, rate, n in (
            ("Sensitivity", accuracy.sensitivity, accuracy.cases),
            ("Specificity", accuracy.specificity, accuracy.non_cases),
        ):
            facts.append((name, f"{rate:.3f}, " + ("taken as known" if n == float("inf") else f"of {n:,.0f}")))
    return facts
