"""The tables of search.html as rows of plain values: leaderboard, what was stopped, what failed, what it cost."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hepdist.search.record import Trial
from hepdist.search.standing import (
    FAMILY,
    RATE,
    best_score,
    config_now,
    epochs_done,
    hours,
    overhead,
    ranked,
    rate_of,
    short,
    shown,
    state,
)

FOLDERS = re.compile(r"(?<![\w:/.])/(?:[^\s/\"'<>:,;()]+/)+")
"""The folders of an absolute path, up to its last name."""
CAUSES = {
    "error": "error",
    "memory": "out of memory",
    "nonfinite": "loss or gradient not finite",
    "lost": "its machine or process went away too often",
}


def without_folders(text: str) -> str:
    """Text in which absolute paths keep their last name alone."""
    return FOLDERS.sub("…/", text)


def leaderboard(trials: Sequence[Trial], recipe: Mapping[str, Any], higher_is_better: bool, front: set[str]) -> list[dict[str, Any]]:
    """Best first. front: trials that are marked as trade-offs."""
    rows = []
    for rank, trial in enumerate(ranked(trials, higher_is_better), 1):
        score = best_score(trial, higher_is_better)
        changed = [(short(key), without_folders(shown(value))) for key, value in config_now(trial).items() if key not in (FAMILY, RATE)]
        rows.append(
            {
                "rank": rank,
                "trial": trial.id,
                "family": trial.family,
                "rate": rate_of(trial, recipe),
                "changed": changed,
                "score": score,
                "epochs": epochs_done(trial),
                "device_s": trial.device_s,
                "state": state(trial),
                "front": trial.id in front,
            }
        )
    return rows


def stops(trials: Sequence[Trial], higher_is_better: bool) -> list[dict[str, Any]]:
    """A row a trial that was stopped early, in the order of stopping."""
    ended = [trial for trial in trials if trial.end is not None and trial.end.kind == "stopped"]
    ended.sort(key=lambda trial: trial.end.time if trial.end else 0.0)
    return [
        {
            "trial": trial.id,
            "family": trial.family,
            "epoch": epochs_done(trial),
            "score": best_score(trial, higher_is_better),
            "hours": hours(trial.device_s),
            "reason": without_folders(str(trial.end.facts.get("reason", ""))) if trial.end else "",
        }
        for trial in ended
    ]


def exploits(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """A row each time that population based training let a trial go on from another one's weights."""
    rows = []
    for trial in trials:
        config = dict(trial.config)
        for event in (e for e in trial.events if e.kind == "exploited"):
            new = event.facts["config"]
            changes = [
                (short(key), shown(config[key]) if key in config else "", shown(new[key])) for key in new if new[key] != config.get(key)
            ]
            facts = {"donor": str(event.facts["donor"]), "epoch": event.facts.get("epoch"), "changes": changes}
            rows.append({"time": event.time, "trial": trial.id, **facts})
            config = new
    return sorted(rows, key=lambda row: row["time"])


def failures(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    rows = []
    for trial in trials:
        if trial.end is None or trial.end.kind != "failed":
            continue
        facts = trial.end.facts
        rows.append(
            {
                "trial": trial.id,
                "family": trial.family,
                "epoch": epochs_done(trial),
                "cause": CAUSES.get(str(facts.get("cause")), str(facts.get("cause", "error"))),
                "error": without_folders(str(facts.get("error", ""))),
                "story": without_folders(str(facts.get("story", ""))),
            }
        )
    return rows


def costs(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """A row a family and one for all: trials, epochs, device-hours with their share, money, and the share of time before first steps."""
    families = sorted({trial.family for trial in trials})
    total = sum(trial.device_s for trial in trials)
    rows = []
    for name, group in [(family, [t for t in trials if t.family == family]) for family in families] + [("all", list(trials))]:
        spent = sum(trial.device_s for trial in group)
        before, whole = overhead(group)
        rows.append(
            {
                "family": name,
                "trials": len(group),
                "epochs": sum(len(trial.results) for trial in group),
                "hours": hours(spent),
                "share": 100 * spent / total if total else 0.0,
                "money": sum(trial.money for trial in group),
                "overhead": f"{100 * before / whole:.0f} %" if whole > 0 else "–",
            }
        )
    return rows
