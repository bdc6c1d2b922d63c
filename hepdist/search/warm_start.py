"""What earlier searches found, for a searcher that learns from them: their trials' configurations and best scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hepdist.errors import RecipeError
from hepdist.search.record import SUGGESTIONS, read_trials
from hepdist.search.standing import metric_of, read_recipe, value_in

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
            best = trial.best(metric_of(recipe.model_dump(mode="json"))[1])
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
    mine, theirs = recipe.model_dump(mode="json"), read_recipe(folder)
    if not theirs:
        return
    compared = (
        ("task.kind", mine["task"]["kind"], value_in(theirs, "task.kind")),
        ("task.select", metric_of(mine)[0], metric_of(theirs)[0]),
    )
    for key, now, before in compared:
        if before != now:
            raise RecipeError(
                f"recipe key 'search.warm_start' has '{name}', whose {key} is '{before}' and not '{now}', so its scores say nothing here;"
                " leave it out"
            )
