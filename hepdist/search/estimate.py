"""What a search would take, before it starts: its space, the cost of each family's trials as measured here, and what runs at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hepdist.models.specs import Choice
from hepdist.search.budget import price_of
from hepdist.search.dimensions import Dimension, cut, holds, plain
from hepdist.search.halving import epochs_to_come, rung_epochs, sizes
from hepdist.search.measure import Cost, measure
from hepdist.search.space import FAMILY, REDRAWS, STRENGTH, Config, Space, apply

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hepdist.cluster import Cluster
    from hepdist.recipe import Recipe
    from hepdist.shards.manifest import Manifest

GIB = 2**30
SIZELESS = ("norm", "activation", "dropout", "modality_dropout")
"""Fields of a model that make it no larger."""


@dataclass(frozen=True)
class Estimate:
    """The cost of one configuration of one family."""

    family: str
    what: str
    """'usual' or 'largest'."""
    config: Config
    cost: Cost


def estimates(recipe: Recipe, manifest: Manifest, space: Space) -> Iterator[Estimate]:
    """Each family's usual and largest configuration, or one of them where they are the same, measured as they are asked for."""
    for family in space.families:
        configs = {"usual": usual(recipe, space, family), "largest": largest(recipe, space, family)}
        for what, config in configs.items():
            if what == "usual" or config != configs["usual"]:
                yield Estimate(family, what, config, measure(apply(recipe, config), manifest))


def usual(recipe: Recipe, space: Space, family: str) -> Config:
    """The recipe's own values or the family's defaults, as far as the space can give them, else the middle of what it gives.

    The default DenseNet has 121 layers, which no trial has where `densenet.blocks` is varied.
    """
    start = apply(recipe, {FAMILY: family}).model_dump(mode="json")

    def pick(dimension: Dimension) -> Any:
        value: Any = 1.0 if dimension.key == STRENGTH else start
        for part in dimension.key.split(".") if dimension.key != STRENGTH else ():
            value = value.get(part) if isinstance(value, dict) else None
        values = dimension.values
        if holds(values, plain(value)):
            return plain(value)
        return values.options[len(values.options) // 2] if isinstance(values, Choice) else cut(values, 1)[0]

    return _nearest(space, family, pick)


def largest(recipe: Recipe, space: Space, family: str) -> Config:
    """The upper end of all that sizes the model and of the batch; the rest as usual."""
    rest = usual(recipe, space, family)

    def pick(dimension: Dimension) -> Any:
        if dimension.key.rpartition(".")[2] in SIZELESS or not (dimension.family or dimension.key == "train.global_batch"):
            return rest[dimension.key]
        if not isinstance(dimension.values, Choice):
            return cut(dimension.values, 2)[-1]
        options = dimension.values.options
        sizes = [_size(option) for option in options]
        if any(size is None for size in sizes):  # names and switches: the specs put the costliest last
            return options[-1]
        return options[max(range(len(options)), key=lambda i: sizes[i] or 0.0)]

    return _nearest(space, family, pick)


def _size(option: Any) -> float | None:
    """Of a number itself, of a list of numbers their sum; None: no measure of size."""
    if isinstance(option, bool) or not isinstance(option, (int, float, list)):
        return None
    if isinstance(option, list):
        sizes = [_size(item) for item in option]
        return None if None in sizes else sum(size for size in sizes if size is not None)
    return float(option)


def _nearest(space: Space, family: str, pick: Callable[[Dimension], Any]) -> Config:
    """What `pick` gives for each dimension or, where that is impossible together, with as many of the first dimensions' values as can be."""
    import numpy as np

    wanted = {d.key: pick(d) for d in space.of_family(family)}
    config = {FAMILY: family, **wanted}
    if space.trouble(config) is None:
        return config
    rng = np.random.default_rng(0)
    drawn = [c for c in (space.sample(rng) for _ in range(REDRAWS)) if c[FAMILY] == family]
    return max(drawn, key=lambda c: [c[key] == value for key, value in wanted.items()])


def share_of_epochs(recipe: Recipe) -> tuple[float, str]:
    """The mean share of the full training that the scheduler gives a trial, and how that comes about.

    ASHA: of what comes to a rung the best 1 / `reduction` go on, and some more where places would stay empty or a budget may end the search;
    HyperBand: the mean over its brackets, each of as many trials as in Li et al. (2018).
    """
    search, epochs = recipe.search, recipe.train.epochs
    if search.scheduler == "asha":
        rungs = rung_epochs(search, recipe.train, recipe.optim)
        come = sizes(search.trials, len(rungs), search.reduction)
        shown = ", ".join(f"{n} to epoch {rung}" for n, rung in zip(come, rungs, strict=True))
        return epochs_to_come((), rungs, search.reduction, search.trials) / (search.trials * epochs), f"ASHA lets the best go on: {shown}"
    if search.scheduler == "hyperband":
        brackets = int(math.log(epochs, search.reduction) + 1e-9)
        trials = {s: math.ceil((brackets + 1) / (s + 1) * search.reduction**s) for s in range(brackets + 1)}
        halved = {
            s: _halving(_rungs(max(1, round(epochs / search.reduction**s)), search.reduction, epochs), search.reduction) for s in trials
        }
        mean = sum(trials[s] * halved[s] for s in trials) / sum(trials.values())
        return mean, f"HyperBand, over {brackets + 1} brackets"
    if search.scheduler == "median":
        return 1.0, "at most: the median rule stops some earlier"
    return 1.0, "every trial is trained to the end" + (" by its population" if search.scheduler == "pbt" else "")


def _rungs(first: int, reduction: int, last: int) -> list[int]:
    rungs = [first]
    while rungs[-1] * reduction < last:
        rungs.append(rungs[-1] * reduction)
    return [*rungs, last] if rungs[-1] < last else rungs


def _halving(rungs: list[int], reduction: int) -> float:
    """Epochs of the mean trial over those of the longest."""
    spent = sum((rung - before) / reduction**k for k, (before, rung) in enumerate(zip([0, *rungs], rungs, strict=False)))
    return spent / rungs[-1]


def dry_run(recipe: Recipe, manifest: Manifest, cluster: Cluster) -> Iterator[RenderableType]:
    """The space, what trials cost and what would run where, as rich renderables, each as soon as it is known.

    Raises RecipeError where the space is impossible or the cluster can't hold a trial.
    """
    from rich.text import Text

    from hepdist.search.launch import fits_search
    from hepdist.search.run import room

    space, search, train = Space.of(recipe, manifest), recipe.search, recipe.train
    device = fits_search(recipe, cluster)
    yield _table("what is varied", ("key", "values", "for"), space.describe())
    yield Text(f"{space.size_said(search.grid_points)}\n")

    found = list(estimates(recipe, manifest, space))
    headings = ("family", "configuration", "parameters", "GiB a worker", "s an epoch", f"min for {train.epochs} epochs", "with")
    yield _table("what a trial takes, measured on this machine's CPU", headings, [_row(e, train.epochs) for e in found])
    yield Text(_measured_how(recipe, found, device))

    yield Text("\n".join(_schedule(recipe, found, cluster, device, room(recipe, {"CPU": cluster.cpus, "GPU": cluster.gpus}, device))))


def _row(estimate: Estimate, epochs: int) -> tuple[str, ...]:
    cost = estimate.cost
    if cost.trouble:
        return estimate.family, estimate.what, "", "", "", "", f"fails: {cost.trouble}"
    about = "~" if cost.scaled else ""
    shape = [
        f"{key.removeprefix('model.')} {_short(v)}" for key, v in estimate.config.items() if key.startswith("model.") and key != FAMILY
    ]
    return (
        estimate.family, estimate.what, f"{cost.parameters:,}", f"{about}{cost.memory_bytes / GIB:.2f}", f"{about}{_number(cost.epoch_s)}",
        f"{about}{_number(cost.epoch_s * epochs / 60)}", ", ".join([*shape, f"batch {cost.micro_batch}"]),
    )  # fmt: skip


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else "-".join(map(str, value)) if isinstance(value, list) else str(value)


def _measured_how(recipe: Recipe, found: list[Estimate], device: str) -> str:
    from hepdist.doctor.machine import WORKER_GIB

    said = (
        "Measured by a few training passes of one worker's micro-batch, with its share of cores: a trial's start, other load and waiting come on"
        f" top, and about {WORKER_GIB:g} GiB a worker for Python and libraries."
    )
    if any(e.cost.scaled for e in found):
        said += " ~: scaled from 2 samples, since a whole micro-batch takes too long here."
    if recipe.adversary:
        said += " The critic is not in it."
    if device == "cuda":
        said += " Trials will run on GPUs, where an epoch takes another time: only the parameters and the memory hold there."
    return said + "\n"


def _schedule(recipe: Recipe, found: list[Estimate], cluster: Cluster, device: str, places: int) -> Iterator[str]:
    """Sentences on what runs where, and on what all of it takes."""
    search, train = recipe.search, recipe.train
    at_once = min(places, search.concurrent or places, search.trials)
    each = f"{_some(train.most, 'worker')}, {_some(train.most * train.cpus_per_worker, 'CPU')}"
    if device == "cuda":
        each += f" and {_some(train.most * search.gpus_per_worker, 'GPU')}"
    there = f"{_some(cluster.cpus, 'CPU')} and {_some(cluster.gpus, 'GPU')}"
    yield f"A trial takes {each}; the cluster {cluster.has} {there}: {at_once} of {search.trials} trials at a time."
    share, why = share_of_epochs(recipe)
    yield f"A trial is trained for {share:.0%} of its {train.epochs} epochs in the mean ({why})."
    if search.confirm:
        split = "then the winner is scored on test once"
        yield f"The best {min(search.confirm, search.trials)} are trained again with {search.seeds} seeds each, to the end; {split}."
    again = min(search.confirm, search.trials) * search.seeds
    yield f"That is {(search.trials * share + again) * train.epochs:,.0f} epochs of training in all."
    usual_s, largest_s = _mean_seconds(found, 0, train.epochs), _mean_seconds(found, -1, train.epochs)
    if device == "cuda" or usual_s is None or largest_s is None:
        return
    cpus = train.most * train.cpus_per_worker
    hours = [(search.trials * share + again) * seconds * cpus / 3600 for seconds in (usual_s, largest_s)]
    wall = [(search.trials * share / at_once + again / min(places, max(again, 1))) * seconds / 3600 for seconds in (usual_s, largest_s)]
    yield (
        f"With usual configurations, families alike, it takes {_number(hours[0])} CPU-hours and {_number(wall[0])} hours on the clock; with the largest"
        f" ones {_number(hours[1])} and {_number(wall[1])}."
    )
    if price := price_of(search.prices, {}):
        yield f"At {price:g} of money for a CPU an hour (search.prices) that is {_number(hours[0] * price)}, or {_number(hours[1] * price)}."
    if search.device_hours and hours[0] > search.device_hours:
        yield f"search.device_hours={search.device_hours:g} will end it sooner."


def _number(value: float) -> str:
    """Three digits, or as many as stand before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _some(number: float, what: str) -> str:
    return f"{number:g} {what}" + ("" if number == 1 else "s")


def _mean_seconds(found: list[Estimate], which: int, epochs: int) -> float | None:
    """Of a full training, over the families that can be trained; which: 0 of each one's first estimate, -1 of its last."""
    of_family: dict[str, list[float]] = {}
    for estimate in found:
        if not estimate.cost.trouble:
            of_family.setdefault(estimate.family, []).append(estimate.cost.epoch_s * epochs)
    return sum(seconds[which] for seconds in of_family.values()) / len(of_family) if of_family else None


def _table(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> RenderableType:
    from hepdist.inspect.sections import Section, render

    return render(Section(title, columns, tuple(rows)))
