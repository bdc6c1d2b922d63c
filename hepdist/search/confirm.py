"""The best trials once more, from scratch, to the full and with several seeds; validation picks the winner, which alone sees the test split.

The best of many trials is partly the luckiest: its validation score is too good by what luck gave. Trained again it has to do without.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

from hepdist.evaluation.evaluate import evaluate
from hepdist.recipe import Recipe
from hepdist.search.proposer import current
from hepdist.search.record import CONFIRMED, TRIALS, Trial, read_trials, suggest
from hepdist.search.run import ordered, run_trials
from hepdist.shards.manifest import Manifest
from hepdist.tasks import build as build_task
from hepdist.training.run_folder import write_whole

OUTCOME, BEST = "search.json", "best.yaml"
SEED = "train.seed"


def confirm(recipe: Recipe, space: Any, manifest: Manifest, folder: Path, device: str) -> None:
    """Train the best trials again, score the winner on test, and write search.json and best.yaml; goes on where it was interrupted."""
    task = build_task(recipe, manifest)
    best = ordered(read_trials(folder), task.higher_is_better)[: recipe.search.confirm]
    place = folder / CONFIRMED
    place.mkdir(exist_ok=True)
    known = {trial.id: trial for trial in read_trials(place)}
    for trial in best:
        for seed in range(recipe.search.seeds):
            name = f"{trial.id}-seed{seed}"
            if name not in known:
                config = {**current(trial), SEED: recipe.train.seed + seed}
                suggest(place, name, config)
                known[name] = Trial(name, config)
    search = recipe.search.model_copy(update={"scheduler": "none", "trials": len(known), "device_hours": 0.0, "money": 0.0})
    again = run_trials(recipe.model_copy(update={"search": search}), space, manifest, place, device, Nobody(), list(known.values()))
    scores = {trial.id: _scores(again, trial, task.higher_is_better) for trial in best}
    confirmed = [trial for trial in best if scores[trial.id]]
    if not confirmed:
        return
    pick = max if task.higher_is_better else min
    winner = pick(confirmed, key=lambda trial: mean(scores[trial.id].values()))
    run = pick(scores[winner.id], key=lambda name: scores[winner.id][name])
    before = json.loads((folder / OUTCOME).read_text(encoding="utf-8")) if (folder / OUTCOME).exists() else {}
    outcome: dict[str, Any] = {
        "metric": task.select,
        "winner": {"trial": winner.id, "run": f"{CONFIRMED}/{TRIALS}/{run}", "config": current(winner)},
        "confirmed": [
            {"trial": trial.id, "seed": int(name.rpartition("seed")[2]), "score": score}
            for trial in confirmed
            for name, score in scores[trial.id].items()
        ],
        "test": before["test"] if before.get("winner", {}).get("run") == f"{CONFIRMED}/{TRIALS}/{run}" else scored(place / TRIALS / run),
    }
    if recipe.search.ensemble:
        from hepdist.search.ensemble import ensemble

        members = [pick(found, key=found.__getitem__) for trial in confirmed if (found := scores[trial.id])]
        outcome["ensemble"] = ensemble([place / TRIALS / name for name in members], recipe, manifest)
    write_best(folder, recipe, winner)
    write_whole(folder, OUTCOME, json.dumps(outcome, indent=1))


def scored(run: Path) -> dict[str, Any]:
    """The test split's block of result.json: the one look at it."""
    return dict(evaluate(run, split=("val", "test"))["split"]["test"])


class Nobody:
    """A searcher without proposals: what is to be run is on record."""

    def ask(self) -> None:
        return None

    def tell(self, config: dict[str, Any], score: float | None, extra: dict[str, float]) -> None:
        """There is nothing to learn for."""


def write_best(folder: Path, recipe: Recipe, winner: Trial) -> None:
    """best.yaml: the winner's recipe, to be trained by `hepdist train`, with the evaluation that a recipe has by default."""
    from hepdist.search.space import apply

    found = apply(recipe, current(winner))
    evaluation = found.evaluation.model_copy(update={"splits": ("val", "test")})
    named = found.model_copy(update={"name": f"{recipe.name}-best", "evaluation": evaluation})
    write_whole(folder, BEST, named.dump())


def _scores(again: list[Trial], trial: Trial, higher_is_better: bool) -> dict[str, float]:
    """Best validation score by run, of those that came to an end."""
    mine = {other.id: other.best(higher_is_better) for other in again if other.id.rpartition("-seed")[0] == trial.id}
    return {name: best.facts["score"] for name, best in mine.items() if best}
