"""The subgroup part of the report: a forest plot of the main score, the table of all scores, and what a careful reader must be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from hepdist.evaluation.plots_forest import ForestLine, forest_plot
from hepdist.evaluation.wording import MEANINGS, number, span

SURE = 0.05
"""Corrected p below which a difference is shown as more than chance."""
UNTESTED = float("nan")


@dataclass(frozen=True)
class Line:
    """A row of the table."""

    column: str
    group: str
    size: str
    cells: list[tuple[str, str, str, str, str, bool]]
    """By score: value, its interval, difference, its interval, corrected p, and whether it stands out."""
    note: str


def subgroup_part(block: dict[str, Any]) -> dict[str, Any]:
    """`forest`, `titles`, `lines` and `tests` for the template; empty where the split has no subgroups."""
    groups = _groups(block)
    scored = [entry for entry in groups if "scores" in entry]
    if not groups:
        return {}
    keys = list(scored[0]["scores"]) if scored else []
    lines = [_line(entry, keys) for entry in groups]
    return {
        "forest": _forest(block, groups, keys[0]) if keys else None,
        "titles": [MEANINGS[key].title for key in keys],
        "lines": lines,
        "tests": block["subgroups"]["tests"],
    }


def subgroup_cautions(block: dict[str, Any]) -> list[str]:
    """A sentence for each group that differs from all others by more than chance, after correction, for the worse."""
    found = []
    for entry in _groups(block):
        for key, score in entry.get("scores", {}).items():
            if _stands_out(score) and score["difference"] < 0:
                unit = MEANINGS[key].unit
                found.append(
                    f"{MEANINGS[key].title} of {entry['column']} {entry['group']} is {number(score['value'], unit)},"
                    f" {number(abs(score['difference']), unit)} below that of all others, by more than chance (p = {score['p_holm']:.2g} after correction)."
                )
    return found


def _groups(block: dict[str, Any]) -> list[dict[str, Any]]:
    return list(block.get("subgroups", {}).get("groups", []))


def _line(entry: dict[str, Any], keys: list[str]) -> Line:
    cells = []
    for key in keys if "scores" in entry else ():
        score, unit = entry["scores"][key], MEANINGS[key].unit
        sign = "+" if (score["difference"] or 0) > 0 else ""
        apart, bounds = (
            ("–", "") if score["difference"] is None else (f"{sign}{number(score['difference'], unit)}", span(score["difference_ci"], unit))
        )
        cells.append((number(score["value"], unit), span(score["ci"], unit), apart, bounds, _p(score["p_holm"]), _stands_out(score)))
    size = f"{entry['n']:,} of {entry['patients']:,}" if "n" in entry else ""
    return Line(entry["column"], entry["group"], size, cells, entry.get("note", ""))


def _forest(block: dict[str, Any], groups: list[dict[str, Any]], key: str) -> Markup:
    unit = MEANINGS[key].unit
    low, high = block[f"{key}_ci"]
    lines = [ForestLine("all", block[key], _known(low), _known(high), f"{number(block[key], unit)} ({span([low, high], unit)})")]
    column = ""
    for entry in groups:
        if entry["column"] != column:
            column = entry["column"]
            lines.append(ForestLine(column, UNTESTED, UNTESTED, UNTESTED, heading=True))
        if "scores" not in entry:
            lines.append(ForestLine(entry["group"], UNTESTED, UNTESTED, UNTESTED, entry["note"]))
            continue
        score = entry["scores"][key]
        low, high = score["ci"]
        note = f"{number(score['value'], unit)} ({span(score['ci'], unit)}), p {_p(score['p_holm'])}"
        lines.append(ForestLine(entry["group"], _known(score["value"]), _known(low), _known(high), note, strong=_stands_out(score)))
    title = MEANINGS[key].title + (f" ({unit.strip()})" if unit else "")
    return forest_plot(lines, "subgroups", title, block[key], f"{MEANINGS[key].title} of each subgroup with its 95 % interval")


def _stands_out(score: dict[str, Any]) -> bool:
    return score["p_holm"] is not None and score["p_holm"] < SURE


def _known(value: float | None) -> float:
    return UNTESTED if value is None else value


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
