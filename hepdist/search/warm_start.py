"""What earlier searches found, for a searcher that learns from them: their trials' configurations and best scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from hepdist.errors import RecipeError
from hepdist.search.record import SUGGESTIONS, read_trials
from hepdist.tasks import is_higher_better

if TYPE_CHECKING:
    from hepdist.recipe import Recipe
    from hepdist.search.searchers import Told


def earlier_trials(recipe: Recipe) -> list[Told]:
    """The scored trials of all searches in search.warm_start.

    Raises RecipeError where one is no search, or one of another task or metric, whose scores say nothing here.
    """
    found: list[Told] = []
    for name in recipe.search.warm_start:
        folder = _folder(recipe, name)
        _same_score(recipe, name, folder)
        for trial in read_trials(folder):
            best = trial.best(is_higher_better(recipe.task.select))
            if best is not None:
                found.append((trial.config, best.facts["score"], best.facts.get("cost") or {}))
    return found


def _folder(recipe: Recipe, name: str) -> Path:
    for folder in (Path(name), Path(recipe.search.folder) / name):
        if (folder / SUGGESTIONS).is_file():
            return folder
    raise RecipeError(
        f"recipe key 'search.warm_start' has '{name}', which is no search, neither as a folder nor under '{recipe.search.folder}';"
        " name one that has been run, or leave it out"
    )


def _same_score(recipe: Recipe, name: str, folder: Path) -> None:
    stored = folder / "recipe.yaml"
    task = yaml.safe_load(stored.read_text(encoding="utf-8"))["task"] if stored.is_file() else {}
    for key in ("kind", "select"):
        now, before = getattr(recipe.task, key), task.get(key, getattr(recipe.task, key))
        if before != now:
            raise RecipeError(
                f"recipe key 'search.warm_start' has '{name}', whose task.{key} is '{before}' and not '{now}', so its scores say nothing here;"
                " leave it out"
            )
