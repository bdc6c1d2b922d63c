"""The space of a search: which configurations there are, and the recipe that each of them stands for; who proposes what is in searchers.py."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hepdist.errors import RecipeError
from hepdist.models.specs import Choice, Range
from hepdist.search.dimensions import Dimension, count, cut, draw, holds, is_whole, rounded, said
from hepdist.spec import parse

if TYPE_CHECKING:
    from hepdist.recipe import Recipe
    from hepdist.shards.manifest import Manifest

FAMILY, STRENGTH = "model.family", "augment.strength"
"""STRENGTH is no key of a recipe: every amount of its augment section is multiplied by it."""
AMOUNTS = ("rotate", "scale", "translate", "elastic", "brightness", "contrast", "gamma", "blur", "noise", "mixup", "cutmix", "erase")
"""What STRENGTH multiplies; mirrors, the crop and what is done to validation and test stay as they are."""
REDRAWS = 1000
"""Configurations drawn before a space counts as one without a possible (or a new) one."""
MOST_POINTS = 1_000_000
"""Points of a grid that are visited in random order."""

FIXED = ("model.", "train.", "data.")
"""What a trial that takes over another one's weights can't change."""

Config = dict[str, Any]
"""Plain JSON values by recipe key; always with FAMILY, and then the keys that exist for that family."""


@dataclass(frozen=True)
class Space:
    """All dimensions; FAMILY is the first one, and those of a family exist only where it is chosen."""

    recipe: Recipe
    dimensions: tuple[Dimension, ...]

    @classmethod
    def of(cls, recipe: Recipe, manifest: Manifest) -> Space:
        """The space of the recipe's `search:` section on this cohort.

        Raises RecipeError with one sentence where a family can't be searched over, a key of `search.space` is unknown, or one of its
        values is none that the recipe could have.
        """
        from hepdist.search.ranges import dimensions_of

        return cls(recipe, dimensions_of(recipe, manifest))

    @property
    def families(self) -> tuple[str, ...]:
        values = self.dimensions[0].values
        assert isinstance(values, Choice)
        return values.options

    def of_family(self, family: str) -> tuple[Dimension, ...]:
        """The dimensions of this family's trials, without FAMILY itself."""
        return tuple(d for d in self.dimensions[1:] if d.family in ("", family))

    def sample(self, rng: np.random.Generator) -> Config:
        """One configuration that `apply` accepts, families first and all as likely; the same generator gives the same ones.

        Raises RecipeError where a thousand draws in a row are impossible, with the reason of the last.
        """
        for _ in range(REDRAWS):
            family = draw(self.dimensions[0].values, rng)
            config = {FAMILY: family, **{d.key: draw(d.values, rng) for d in self.of_family(family)}}
            if (trouble := self.trouble(config)) is None:
                return config
        raise RecipeError(f"recipe key 'search.space' leaves no possible combination, for example: {trouble}")

    def trouble(self, config: Config) -> str | None:
        """Why there is no such recipe; None: there is."""
        try:
            apply(self.recipe, config)
        except RecipeError as error:
            return str(error)
        return None

    def grid(self, points: int, seed: int | None = None) -> Iterator[Config]:
        """All combinations that `apply` accepts, with `points` values of each range; one family after another, the last dimension fastest.

        seed: in random order instead, so that a grid of which only a part is tried is not one corner of it (a million points at most).
        """
        axes = {family: [cut(d.values, points) for d in self.of_family(family)] for family in self.families}
        total = self.grid_size(points)
        order = range(total) if seed is None else random.Random(seed).sample(range(total), min(total, MOST_POINTS))
        for index in order:
            config = self._point(axes, index)
            if self.trouble(config) is None:
                yield config

    def _point(self, axes: dict[str, list[list[Any]]], index: int) -> Config:
        """The grid's combination of this number."""
        for family, columns in axes.items():
            size = math.prod(len(column) for column in columns)
            if index < size:
                values = []
                for column in reversed(columns):
                    index, place = divmod(index, len(column))
                    values.append(column[place])
                return {FAMILY: family, **{d.key: v for d, v in zip(self.of_family(family), reversed(values), strict=True)}}
            index -= size
        raise IndexError(index)

    def grid_size(self, points: int) -> int:
        """Combinations with `points` values of each range; impossible ones, which `grid` leaves out, are counted."""
        return sum(math.prod(len(cut(d.values, points)) for d in self.of_family(family)) for family in self.families)

    @property
    def size(self) -> float:
        """How many different configurations there are; inf with a range of real numbers."""
        return sum(math.prod(count(d.values) for d in self.of_family(family)) for family in self.families)

    def size_said(self, points: int) -> str:
        """`size` as a sentence."""
        grid = (
            f"{self.grid_size(points):,} with {points} values of each range"
            if points > 1
            else f"{self.grid_size(points):,} with its middle"
        )
        real = [d.name for d in self.dimensions if math.isinf(count(d.values))]
        if real:
            return f"infinitely many configurations ({', '.join(real)}: real numbers); a grid has {grid}"
        return f"{int(self.size):,} configurations; a grid has {grid}"

    def describe(self) -> list[tuple[str, str, str]]:
        """(name, values, where it exists) of each dimension, for a table."""
        several = len(self.families) > 1
        return [(d.name, said(d.values), (d.family if d.family and several else "always")) for d in self.dimensions]

    def perturb(self, config: Config, drawn: random.Random, anew: float) -> Config:
        """The same family and shape with its numbers changed a little: times 0.8 or 1.25, or, with probability `anew`, drawn from the space.

        As population based training explores (Jaderberg et al., 2017); what shapes the model or the batches stays, since weights and the
        position in training are taken over.
        """
        changed = dict(config)
        for dimension in self.of_family(str(config[FAMILY])):
            values, old = dimension.values, config.get(dimension.key)
            if dimension.key.startswith(FIXED) or not isinstance(values, Range) or is_whole(values) or old is None:
                continue
            if drawn.random() < anew:
                changed[dimension.key] = draw(values, np.random.default_rng(drawn.getrandbits(32)))
            else:
                changed[dimension.key] = rounded(old * drawn.choice((0.8, 1.25)), values)
        return changed if self.trouble(changed) is None else config

    def placed(self, config: Config) -> dict[str, Any] | None:
        """The part of any search's configuration that lies in this space, by the dimensions' names; None: another family's.

        Keys that are no dimensions here, and values that these can't give, are left out.
        """
        family = config.get(FAMILY)
        if family not in self.families:
            return None
        found = {
            d.name: _own(d.values, config[d.key]) for d in self.of_family(family) if d.key in config and holds(d.values, config[d.key])
        }
        return {FAMILY: family, **found}


def _own(values: Choice | Range, value: Any) -> Any:
    """The value as the dimension writes it: 1.0 and not 1 where that is the option."""
    return values.options[values.options.index(value)] if isinstance(values, Choice) else value


def apply(recipe: Recipe, config: Config) -> Recipe:
    """The recipe of a trial: the given one with the configuration's values; its name and its search section stay.

    Another family than the recipe's own starts from that family's defaults. Raises RecipeError where the values don't go together.
    """
    from hepdist.recipe import Recipe

    values = recipe.model_dump(mode="json")
    family = config.get(FAMILY, recipe.model.family)
    if family != recipe.model.family:
        values["model"] = {"family": family}
    if STRENGTH in config:
        values["augment"] |= strengthened(recipe, config[STRENGTH])
    for key, value in config.items():
        if key not in (FAMILY, STRENGTH):
            _set(values, key, value)
    return parse(Recipe, values)


def _set(values: Any, key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        if values.get(parent) is None:  # such as an adversary that the recipe does not have
            values[parent] = {}
        values = values[parent]
        if not isinstance(values, dict):
            raise RecipeError(f"recipe key '{key}' can't be set, since '{parent}' is not a section; leave it out of search.space")
    values[last] = value


def strengthened(recipe: Recipe, strength: float) -> dict[str, float]:
    """The amounts of the recipe's augmentation times `strength`, none beyond what its key allows."""
    if isinstance(strength, bool) or not isinstance(strength, (int, float)) or not 0 <= strength < math.inf:
        raise RecipeError(
            f"recipe key 'search.space' has '{STRENGTH}' {strength!r}; give numbers from 0 on, 1 being the recipe's own strength"
        )
    fields = type(recipe.augment).model_fields
    limits = {name: min((m.le for m in fields[name].metadata if hasattr(m, "le")), default=math.inf) for name in AMOUNTS}
    return {name: min(getattr(recipe.augment, name) * strength, limits[name]) for name in AMOUNTS if getattr(recipe.augment, name)}
