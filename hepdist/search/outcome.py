"""What a search came to, in a few lines for the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from hepdist.search.record import read_trials
from hepdist.search.standing import metric_on_test, read_recipe

OUTCOME = "search.json"


def lines(folder: Path) -> Iterator[str]:
    """The winner with its family, learning rate and test score, where the page is, and how to train it again."""
    trials = {trial.id: trial for trial in read_trials(folder)}
    ends = [trial.end.kind for trial in trials.values() if trial.end]
    counts = ", ".join(f"{ends.count(kind)} {kind}" for kind in ("finished", "stopped", "failed") if kind in ends)
    yield f"trials: {len(trials)} ({counts}), {sum(t.device_s for t in trials.values()) / 3600:.2f} device-hours"
    path = folder / OUTCOME
    if path.is_file():
        outcome = json.loads(path.read_text(encoding="utf-8"))
        metric, config = metric_on_test(outcome["metric"], read_recipe(folder), outcome["test"]), outcome["winner"]["config"]
        low, high = outcome["test"].get(f"{metric}_ci", (float("nan"),) * 2)
        yield (
            f"winner: trial {outcome['winner']['trial']}, {config['model.family']}, lr {config.get('optim.lr', 0):.3g};"
            f" test {metric} {outcome['test'].get(metric, float('nan')):.3f} [{low:.3f}, {high:.3f}]"
        )
        yield f"train it: hepdist train {folder / 'best.yaml'}"
    yield f"page: {folder / 'search.html'}"
