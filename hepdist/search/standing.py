"""How a search stands: what the live table, its page and the trackers all say of trials; reads the record and computes, writes nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from hepdist.search.record import Event, Trial

State = Literal["waiting", "running", "paused", "interrupted", "stopped", "finished", "failed"]
OPEN: tuple[State, ...] = ("waiting", "running", "paused", "interrupted")
"""More is to come of these."""
FAMILY, RATE = "model.family", "optim.lr"
USUAL_METRIC = {"classification": "auroc", "survival": "concordance", "segmentation": "dice", "restoration": "psnr"}
LOWER_IS_BETTER = ("loss", "mae")


def state(trial: Trial) -> State:
    """Where a trial is; one that nobody has started waits, and so does one that was interrupted, until it goes on."""
    if trial.end is not None:
        return trial.end.kind  # type: ignore[return-value]  # of FINAL
    if not trial.events:
        return "waiting"
    last = trial.events[-1].kind
    return last if last in ("interrupted", "paused") else "running"


def metric_of(recipe: Mapping[str, Any]) -> tuple[str, bool]:
    """The validation metric of a recipe's plain values, and whether higher is better; as hepdist.tasks picks it."""
    task = recipe.get("task", {})
    metric = task.get("select") or USUAL_METRIC.get(task.get("kind", ""), "auroc")
    return metric, metric not in LOWER_IS_BETTER


def metric_on_test(metric: str, recipe: Mapping[str, Any], block: Mapping[str, Any]) -> str:
    """The score of a test block that says how good the winner is: the metric that decided or, where that is not scored on test (a loss), the
    task's usual one."""
    return metric if usable(block.get(metric)) else USUAL_METRIC.get(str(value_in(recipe, "task.kind")), metric)


def config_now(trial: Trial) -> dict[str, Any]:
    """The configuration as proposed, or as population based training last set it."""
    changed = [event.facts["config"] for event in trial.events if event.kind == "exploited"]
    return dict(changed[-1]) if changed else trial.config


def best_score(trial: Trial, higher_is_better: bool) -> float | None:
    """The best finite score so far; None where there is none."""
    scores = finite_scores(trial)
    return (max if higher_is_better else min)(scores) if scores else None


def finite_scores(trial: Trial) -> list[float]:
    return [float(event.facts["score"]) for event in trial.results if usable(event.facts["score"])]


def usable(value: Any) -> bool:
    """Whether it is a number that can be compared and drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def ranked(trials: Iterable[Trial], higher_is_better: bool) -> list[Trial]:
    """Best score first, then those that failed, then those without a score, in the order in which they were proposed."""

    def place(trial: Trial) -> tuple[int, float]:
        score = best_score(trial, higher_is_better)
        if score is None:
            return 2, 0.0
        return int(state(trial) == "failed"), -score if higher_is_better else score

    return sorted(trials, key=place)


def leader(trials: Iterable[Trial], higher_is_better: bool) -> Trial | None:
    """The best trial that did not fail; None where there is none with a score."""
    first = next(iter(ranked(trials, higher_is_better)), None)
    return first if first is not None and state(first) != "failed" and best_score(first, higher_is_better) is not None else None


def epochs_done(trial: Trial) -> float:
    return float(trial.results[-1].facts["epoch"]) if trial.results else 0.0


def rungs_reached(trial: Trial, rungs: Sequence[int]) -> int:
    """ASHA's rungs, given by their epochs, that a trial has come to."""
    return sum(epochs_done(trial) >= epoch for epoch in rungs)


def objective(trial: Trial, name: str, higher_is_better: bool) -> float | None:
    """A trial's 'quality' (its best score), or what its last result says that 'parameters' or 'seconds' are."""
    if name == "quality":
        return best_score(trial, higher_is_better)
    for event in reversed(trial.results):
        value = event.facts.get("cost", {}).get(name)
        if usable(value):
            return float(value)
    return None


def pareto_front(trials: Sequence[Trial], objectives: Sequence[str], higher_is_better: bool) -> list[Trial]:
    """Trials that no other one beats in one objective without losing in another; quality is better by the metric, the rest where lower.

    Trials that failed, and those without a value in one of the objectives, are left out.
    """
    points: list[tuple[Trial, list[float]]] = []
    for trial in (trial for trial in trials if state(trial) != "failed"):
        values = [objective(trial, name, higher_is_better) for name in objectives]
        if all(value is not None for value in values):
            signs = [-1.0 if name == "quality" and higher_is_better else 1.0 for name in objectives]
            points.append((trial, [sign * float(value or 0.0) for sign, value in zip(signs, values, strict=True)]))

    def beaten(mine: list[float]) -> bool:
        return any(all(o <= m for o, m in zip(other, mine, strict=True)) and other != mine for _, other in points)

    return [trial for trial, values in points if not beaten(values)]


def overhead(trials: Iterable[Trial]) -> tuple[float, float]:
    """Seconds that attempts took to their first step, and seconds of those attempts altogether; attempts without a result are left out."""
    before, whole = 0.0, 0.0
    for trial in trials:
        for attempt in _attempts(trial):
            starts = [e.facts["overhead_s"] for e in attempt if e.kind == "result" and usable(e.facts.get("overhead_s"))]
            if starts:
                before += float(starts[0])
                whole += attempt[-1].time - attempt[0].time
    return before, whole


def _attempts(trial: Trial) -> list[list[Event]]:
    """A trial's events, cut where it was started, up to a pause."""
    found: list[list[Event]] = []
    for event in trial.events:
        if event.kind == "started" or not found:
            found.append([event])
        elif found[-1][-1].kind != "paused":
            found[-1].append(event)
    return found


def read_recipe(folder: Path) -> dict[str, Any]:
    """The plain values of a search's recipe; none where it is not there, so that what else there is can still be shown."""
    path = folder / "recipe.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return values if isinstance(values, dict) else {}


def value_in(recipe: Mapping[str, Any], key: str) -> Any:
    """What a recipe's plain values hold under a dotted key; None where there is nothing."""
    place: Any = recipe
    for part in key.split("."):
        if not isinstance(place, Mapping) or part not in place:
            return None
        place = place[part]
    return place


def rate_of(trial: Trial, recipe: Mapping[str, Any]) -> float | None:
    """The peak learning rate: the trial's own, else the recipe's."""
    rate = config_now(trial).get(RATE, value_in(recipe, RATE))
    return float(rate) if usable(rate) else None


def short(key: str) -> str:
    """A recipe key as tables show it: 'model.depth' is 'depth', 'train.global_batch' is 'global_batch'."""
    return key.rpartition(".")[2] if key.startswith(("model.", "optim.", "train.")) else key


def shown(value: Any) -> str:
    """A value of a configuration in few characters: 3 digits of a number, a list without spaces."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(shown(entry) for entry in value) + "]"
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False, default=str)
    return "none" if value is None else str(value)


def hours(seconds: float) -> str:
    """Device-seconds as device-hours, with digits enough for short searches."""
    value = seconds / 3600
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def clock(seconds: float) -> str:
    """'45 s', '12 min', '3 h 05 min'."""
    if seconds < 90:
        return f"{max(0.0, seconds):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
