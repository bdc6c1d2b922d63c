"""What a search varies by default, from the families' specs and the recipe's own values, and what `search.space` says instead."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from hepdist.errors import RecipeError
from hepdist.models.specs import FAMILIES, Choice, ModelSpec, Range, families_for
from hepdist.search.dimensions import Dimension, draw, including, is_whole, plain, rounded
from hepdist.search.space import AMOUNTS, FAMILY, STRENGTH, Config, apply
from hepdist.spec import known_keys, unknown_key

if TYPE_CHECKING:
    from hepdist.recipe import Recipe
    from hepdist.shards.manifest import Manifest

FIXED = (
    "name", "runs", "search", "data.cohort", "data.emr", "task.kind", "task.select", "degrade", "evaluation", "train.epochs", "train.workers",
)  # fmt: skip
"""Keys and sections that no trial may change: scores would not be comparable, or trials would not find their place."""
LOSSES: dict[str, dict[str, Choice | Range]] = {
    "classification": {"task.label_smoothing": Range(0.0, 0.2), "task.focal": Choice((0.0, 1.0, 2.0))},
    "segmentation": {"task.dice_weight": Range(0.2, 1.0)},
    "restoration": {"task.ssim_weight": Range(0.0, 0.5)},
}
"""focal: 2 is the paper's choice. dice_weight: below 0.2 small structures hardly count."""
OTHERS = 60
"""Draws of the other dimensions among which one must go together with a value that does not go with the recipe as it is."""

Check = Callable[[Config], "Recipe"]
"""The recipe of a configuration; raises RecipeError where there is none, or it does not fit the cohort."""


def dimensions_of(recipe: Recipe, manifest: Manifest) -> tuple[Dimension, ...]:
    """FAMILY, then each family's dimensions, then those of all trials. Raises RecipeError, see Space.of."""
    from hepdist.training.preflight import fits_cohort

    def check(config: Config) -> Recipe:
        applied = apply(recipe, config)
        fits_cohort(applied, manifest)
        return applied

    families = families_of(recipe, check)
    usual, named = ({d.name: d for d in found} for found in (_defaults(recipe, families), _named(recipe, families)))
    # A family's dimensions stand together; what is named replaces a default in its place.
    every = sorted({**usual, **named}.values(), key=lambda d: families.index(d.family) if d.family else len(families))
    checked = [_possible(d, every, families, check, drop=d.name not in named) for d in every]
    return (Dimension(FAMILY, Choice(families)), *(d for d in checked if d is not None))


def families_of(recipe: Recipe, check: Check) -> tuple[str, ...]:
    """Those of search.families, or all that serve the task and read what the recipe's own model reads; its own alone where neither
    families are named nor `vary` has 'model'. The recipe's own comes first, if it is among them."""
    kind, own = recipe.task.kind, recipe.model.family
    for name in recipe.search.families:
        if name not in FAMILIES:
            raise _unknown("search.families", name, list(families_for(kind)))
        if name not in families_for(kind):
            raise RecipeError(
                f"recipe key 'search.families' has '{name}', which can't do {kind}; use some of {', '.join(families_for(kind))}"
            )
        try:
            check({FAMILY: name})
        except RecipeError as error:
            raise RecipeError(f"recipe key 'search.families' has '{name}', which does not fit: {error}") from None
    if recipe.search.families:
        chosen = list(dict.fromkeys(recipe.search.families))
    elif "model" in recipe.search.vary:
        chosen = [n for n in families_for(kind) if n == own or set(FAMILIES[n]().reads) == set(recipe.model.reads)]
    else:
        chosen = [own]
    return tuple(sorted(chosen, key=lambda name: name != own))


def _defaults(recipe: Recipe, families: tuple[str, ...]) -> list[Dimension]:
    """What is varied where `search.space` is empty."""
    vary, found = recipe.search.vary, []
    for family in families if "model" in vary else ():
        spec, own = _spec(recipe, family), family == recipe.model.family
        found += _of_spec(spec, "model.", family, own)
        if isinstance(image := getattr(spec, "image", None), ModelSpec):  # the encoder inside a fusion
            found += _of_spec(image, "model.image.", family, own)
    optim, batch, workers = recipe.optim, recipe.train.global_batch, recipe.train.most
    if "lr" in vary:
        found.append(Dimension("optim.lr", _decades(optim.lr)))
    if "optim" in vary:
        found.append(Dimension("optim.weight_decay", _decades(optim.weight_decay or 0.01)))
        found.append(Dimension("optim.schedule", Choice(("cosine", "constant"))))
    if "batch" in vary:
        sizes = dict.fromkeys(size for size in (batch // 2, batch, batch * 2) if size >= workers)
        found.append(Dimension("train.global_batch", Choice(tuple(sizes))))
    if "augment" in vary and any(getattr(recipe.augment, name) for name in AMOUNTS):
        found.append(Dimension(STRENGTH, Range(0.0, 1.5)))
    if "loss" in vary:
        found += [Dimension(key, including(v, getattr(recipe.task, key[5:]))) for key, v in LOSSES.get(recipe.task.kind, {}).items()]
    return found


def _spec(recipe: Recipe, family: str) -> ModelSpec:
    """What a trial of this family starts from."""
    return recipe.model if family == recipe.model.family else FAMILIES[family]()


def _of_spec(spec: ModelSpec, prefix: str, family: str, own: bool) -> list[Dimension]:
    """The spec's own ranges; own: with the values that the recipe has."""
    found = []
    for field, values in spec.search.items():
        values = Choice(tuple(map(plain, values.options))) if isinstance(values, Choice) else values
        found.append(Dimension(prefix + field, including(values, plain(getattr(spec, field))) if own else values, family))
    return found


def _decades(middle: float) -> Range:
    """A decade each way."""
    return Range(float(f"{middle / 10:.4g}"), float(f"{middle * 10:.4g}"), log=True)


def _named(recipe: Recipe, families: tuple[str, ...]) -> list[Dimension]:
    """The dimensions of `search.space`; those of families that are not searched over are known, and left out."""
    found: dict[str, Dimension] = {}
    fields = {name: _fields(_spec(recipe, name)) for name in FAMILIES}
    for key, given in sorted(_flat(recipe.search.space), key=lambda pair: not pair[0].startswith("model.")):  # FAMILY.FIELD overrules
        top, _, rest = key.partition(".")
        values = _values(key, given)
        if top in FAMILIES:
            if rest not in fields[top]:
                raise _unknown_key(key, fields)
            having = [top] if top in families else []
        elif key == FAMILY:
            raise RecipeError(f"recipe key 'search.space' has '{FAMILY}'; name the families in search.families instead")
        elif top == "model":
            having = [name for name in families if rest in fields[name]]
            if not any(rest in known for known in fields.values()):
                raise _unknown_key(key, fields)
        else:
            if key not in _recipe_keys():
                raise _unknown_key(key, fields)
            if any(key == fixed or key.startswith(fixed + ".") for fixed in FIXED):
                raise RecipeError(
                    f"recipe key 'search.space' has '{key}', which must be the same for all trials; set it in the recipe itself"
                )
            if key == STRENGTH and not any(getattr(recipe.augment, name) for name in AMOUNTS):
                raise RecipeError(
                    f"recipe key 'search.space' has '{STRENGTH}', but the recipe's augment section has no amount to multiply; leave it out"
                )
            found[key] = Dimension(key, values)
            continue
        for name in having:
            dimension = Dimension(f"model.{rest}", values, name)
            found[dimension.name] = dimension
    return list(found.values())


def _flat(space: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys as one text each: on the command line search.space.optim.lr=0.01 arrives as sections inside sections."""
    for key, value in space.items():
        if isinstance(value, dict) and not {"low", "high"} & set(value):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _fields(spec: ModelSpec) -> set[str]:
    """Every key below `model.`; the encoder inside a fusion is of any family."""
    image = getattr(spec, "image", None)
    inner = known_keys(type(image), "image.") if isinstance(image, ModelSpec) else []
    return {*known_keys(type(spec)), *inner} - {"family", "image", "image.family"}


def _recipe_keys() -> list[str]:
    from hepdist.recipe import Recipe

    sections = {key.rpartition(".")[0] for key in known_keys(Recipe)}
    return [key for key in known_keys(Recipe) if key not in sections and key != "model"] + [STRENGTH]


def _unknown_key(key: str, fields: dict[str, set[str]]) -> RecipeError:
    own = [f"{name}.{field}" for name, known in fields.items() for field in known]
    return _unknown("search.space", key, sorted({*own, *_recipe_keys(), *(f"model.{f}" for known in fields.values() for f in known)}))


def _unknown(where: str, key: str, known: list[str]) -> RecipeError:
    """`recipe key 'search.space' has 'densnet.depth', which is unknown; did you mean 'densenet.depth'?`"""
    told = str(unknown_key("recipe", key, known)).removeprefix(f"recipe key '{key}' is unknown")
    return RecipeError(f"recipe key '{where}' has '{key}', which is unknown{told}")


def _values(key: str, given: Any) -> Choice | Range:
    """A list of choices, {low, high, log}, or one value."""
    if isinstance(given, dict):
        if not {"low", "high"} <= set(given) <= {"low", "high", "log"} or not isinstance(given.get("log", False), bool):
            raise RecipeError(
                f"recipe key 'search.space' has '{key}' as {given}; give {{low: NUMBER, high: NUMBER}}, and log: true if you like"
            )
        low, high, log = _number(key, given["low"]), _number(key, given["high"]), given.get("log", False)
        if not low < high:
            raise RecipeError(f"recipe key 'search.space' has '{key}' from {low:g} to {high:g}; give the lower end as low")
        if log and low <= 0:
            raise RecipeError(f"recipe key 'search.space' has '{key}' from {low:g} with log: true; give a low above 0, or leave log out")
        return Range(low, high, log)
    if isinstance(given, (list, tuple)):
        if not given:
            raise RecipeError(f"recipe key 'search.space' has '{key}' without a choice; name some, or leave it out")
        return Choice(tuple(map(plain, given)))
    return Choice((given,))


def _number(key: str, value: Any) -> float:
    try:  # YAML 1.1 reads 1e-3 as a string
        number = value if isinstance(value, int) and not isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise RecipeError(f"recipe key 'search.space' has an end of '{key}' that is {value!r}; give a number")
    return number


def _possible(dimension: Dimension, every: list[Dimension], families: tuple[str, ...], check: Check, *, drop: bool) -> Dimension | None:
    """The dimension with each option as the recipe reads it.

    An option (or an end, or what lies between) that no combination accepts is dropped where it is our own default, and else a RecipeError.
    None: nothing is left.
    """
    family, values = dimension.family or families[0], dimension.values
    if isinstance(values, Range):
        between = values.low + (values.high - values.low) * 0.382
        tried = [values.low, values.high] + ([] if is_whole(values) else [rounded(between, values)])
    else:
        tried = list(values.options)
    kept = []
    for value in tried:
        try:
            kept.append(_read(dimension, value, family, [d for d in every if d.family in ("", family) and d.key != dimension.key], check))
        except RecipeError as error:
            if not drop:
                raise RecipeError(
                    f"recipe key 'search.space' lets '{dimension.name}' be {value!r}, which is not possible: {error}"
                ) from None
    if isinstance(values, Range):
        return dimension if len(kept) == len(tried) else None
    return Dimension(dimension.key, Choice(tuple(kept)), dimension.family) if kept else None


def _read(dimension: Dimension, value: Any, family: str, others: list[Dimension], check: Check) -> Any:
    """The value as the recipe reads it; RecipeError where neither the recipe as it is nor one with other values of `others` can have it."""
    key, rng = dimension.key, np.random.default_rng(0)
    config = {FAMILY: family, key: value}
    try:
        applied = check(config)
    except RecipeError as error:
        found = _first(check, ({**config, **{d.key: draw(d.values, rng) for d in others}} for _ in range(OTHERS if others else 0)))
        if found is None:
            raise error
        applied = found
    if key == STRENGTH:
        return value
    read: Any = applied.model_dump(mode="json")
    for part in key.split("."):
        read = read[part]
    return read


def _first(check: Check, configs: Iterator[Config]) -> Recipe | None:
    """The recipe of the first configuration that is possible."""
    for config in configs:
        try:
            return check(config)
        except RecipeError:
            continue
    return None
