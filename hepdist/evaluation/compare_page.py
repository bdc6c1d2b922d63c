"""A comparison for people: the table on the terminal and compare.html, one page that needs nothing from outside itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from rich import box
from rich.table import Table

from hepdist.evaluation.compare import SURE
from hepdist.evaluation.compare_scores import Row
from hepdist.evaluation.curves import roc_curve
from hepdist.evaluation.drawing import MUTED, figure, series_colour, styled, svg
from hepdist.evaluation.plots import roc_plot
from hepdist.evaluation.plots_forest import ForestLine, forest_plot
from hepdist.evaluation.report import environment
from hepdist.evaluation.result import by_class, labels_and_probabilities
from hepdist.evaluation.wording import MEANINGS, number, span

PAGE = "compare.html"
Figure = tuple[Markup, str, str]


def comparison_table(facts: dict[str, Any]) -> Table:
    """For the terminal: a row a score, both values, the difference with its interval, p and its test."""
    table = Table("score", facts["first"], facts["second"], "difference", "p", "p, corrected", "test", box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows_of(facts):
        cells = shown(row)
        table.add_row(cells["label"], cells["first"], cells["second"], cells["difference"], cells["p"], cells["p_holm"], row.test)
    return table


def rows_of(facts: dict[str, Any]) -> list[Row]:
    return [Row.of_facts(entry) for entry in facts["scores"]]


def shown(row: Row) -> dict[str, str]:
    """A row's numbers as people read them."""
    known = row.difference == row.difference
    sign = "+" if known and row.difference > 0 else ""
    bounds = span([None if row.low != row.low else row.low, row.high], row.unit)
    return {
        "label": row.label, "first": number(_or_none(row.first), row.unit), "second": number(_or_none(row.second), row.unit),
        "difference": f"{sign}{number(_or_none(row.difference), row.unit)}" + (f" ({bounds})" if bounds else ""),
        "p": _p(row.p), "p_holm": "named beforehand" if row.p_holm is None and row.p == row.p else _p(row.p_holm),
    }  # fmt: skip


def write_comparison_page(facts: dict[str, Any], runs: tuple[Path, Path], folder: Path) -> Path:
    """Write compare.html into the folder. runs: where the predictions of both are; facts: of `compare`."""
    tables = []
    for run in runs:
        table = pd.read_parquet(run / "predictions.parquet")
        tables.append(table[table["split"] == facts["split"]].sort_values("sample_id"))
    rows = rows_of(facts)
    page = environment().get_template(PAGE).render(
        facts=facts, rows=[(row, shown(row), _marked(row, facts)) for row in rows], meanings=MEANINGS,
        figures=[*_case_figures(facts, tables[0], tables[1])], forest=_forest(facts, rows),
    )  # fmt: skip
    path = folder / PAGE
    path.write_text(page, encoding="utf-8")
    return path


def _or_none(value: float) -> float | None:
    return None if value != value else value


def _p(value: float | None) -> str:
    if value is None or value != value:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _marked(row: Row, facts: dict[str, Any]) -> str:
    """Who is better, where it is more than chance: the primary score by its own p, others by the corrected one."""
    p = row.p if row.p_holm is None else row.p_holm
    if p != p or p >= SURE or row.difference == 0:
        return ""
    return str(facts["first"] if (row.difference > 0) == row.higher_is_better else facts["second"])


def _forest(facts: dict[str, Any], rows: list[Row]) -> Markup | None:
    """Differences of the scores that run from 0 to 1, drawn so that the first run is better to the right."""
    lines = []
    for row in rows:
        if row.unit or row.low != row.low:
            continue
        sign = 1 if row.higher_is_better else -1
        low, high = sorted((sign * row.low, sign * row.high))
        lines.append(ForestLine(row.label, sign * row.difference, low, high, f"p {_p(row.p)}", strong=bool(_marked(row, facts))))
    if not lines:
        return None
    axis = f"← {facts['second']} better · difference with its 95 % interval · {facts['first']} better →"
    return forest_plot(lines, "forest", axis, 0.0, "Differences of the scores with their 95 % intervals")


def _case_figures(facts: dict[str, Any], first: pd.DataFrame, second: pd.DataFrame) -> list[Figure]:
    """Both ROC curves, of two classes; or both runs' measure of every case."""
    names = tuple(facts["label_names"])
    if facts["thresholds"] is not None:
        if len(names) != 2 or "label" not in first:
            return []
        known = first["label"].notna().to_numpy()
        curves, legend = {}, {}
        for run, table in ((facts["first"], first), (facts["second"], second)):
            label, probability = labels_and_probabilities(table[known], 2)
            curves[run] = roc_curve(label == 1, probability[:, 1], table["patient"].to_numpy(dtype=str)[known], 200, 0)
            legend[run] = run
        if not 0 < label.mean() < 1:
            return []
        return [(roc_plot(curves, legend, None), "ROC", "Both on the same cases; bands: 95 % bootstrap over patients.")]
    score = facts["primary"]
    measured = [by_class(table, score, names) for table in (first, second)]
    if measured[0] is None or measured[1] is None:
        return []
    caption = f"A point a case{' and ' + ('degradation' if score == 'psnr' else 'class') if len(names) > 1 else ''}; on the dashed line both are alike."
    return [(_case_plot(measured[0], measured[1], names, facts), MEANINGS[score].title, caption)]


@styled
def _case_plot(first: np.ndarray, second: np.ndarray, names: tuple[str, ...], facts: dict[str, Any]) -> Markup:
    made, (axes,) = figure(4.6, 4.4)
    both = np.concatenate([first, second])
    low, high = float(np.nanmin(both)), float(np.nanmax(both))
    margin = 0.04 * max(high - low, 1e-3)
    axes.plot([low, high], [low, high], color=MUTED, linewidth=1, linestyle=(0, (4, 4)))
    for k, name in enumerate(names):
        axes.plot(second[:, k], first[:, k], "o", color=series_colour(k), alpha=0.65, markersize=5, markeredgewidth=0, label=name)
    title = MEANINGS[facts["primary"]].title
    axes.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin), aspect="equal")
    axes.set(xlabel=f"{title}, {facts['second']}", ylabel=f"{title}, {facts['first']}")
    if len(names) > 1:
        axes.legend(loc="lower right")
    return svg(made, "cases", f"{title} of every case by both runs")
