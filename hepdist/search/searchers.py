"""Who proposes a search's configurations: drawn, all combinations, or Optuna's tree-structured Parzen estimator, behind one ask and tell.

There is no BOHB (Falkner et al., 2018): its package HpBandSter 0.7.4 still imports and proposes beside ConfigSpace 1.2 on Python 3.11, but
its authors no longer maintain it and name others, and tried here it met infinite ratios of its densities; `searcher: tpe` with `scheduler:
hyperband` is the same idea, densities of good and bad trials under HyperBand, on a package that is kept.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hepdist.models.specs import Choice, Range
from hepdist.search.dimensions import Dimension, is_whole, rounded
from hepdist.search.space import FAMILY, REDRAWS, Config, Space

if TYPE_CHECKING:
    import optuna

    from hepdist.recipe import Recipe

Told = tuple[Config, float | None, dict[str, float]]
"""A configuration, its score (None: the trial failed), and the other objectives by name."""
ATTEMPTS = 30
"""Proposals of the estimator that are known already or impossible, after which a new configuration is drawn."""


@dataclass(frozen=True)
class Known:
    """A configuration that was proposed, or that the searcher was told of."""

    config: Config
    going: bool = True
    """It is still tried."""
    score: float | None = None
    extra: dict[str, float] = field(default_factory=dict)


class Searcher:
    """Proposes configurations that it has not proposed or been told of before.

    What it proposes next depends on search.seed and on what it was told and asked so far, in that order, and on nothing else: one that is
    built anew from the record of a search goes on as the first one would have.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self.space, self.seed = space, seed
        self.known: dict[str, Known] = {}
        """By configuration, in the order of proposals."""

    def ask(self) -> Config | None:
        """The next configuration; None: there is no other one."""
        config = self.propose()
        if config is not None:
            self.known[_key(config)] = Known(config)
        return config

    def tell(self, config: Config, score: float | None, extra: dict[str, float] | None = None) -> None:
        """What became of a configuration, proposed here or not.

        score: of the task's metric, the best of the trial; None or not a number: the trial failed. extra: the values of search.objectives
        beside quality.
        """
        self.known[_key(config)] = Known(config, False, score, extra or {})

    def resume(self, config: Config) -> None:
        """A configuration that was proposed before and is still tried, of a search that goes on."""
        self.known.setdefault(_key(config), Known(config))

    def propose(self) -> Config | None:
        """A possible configuration that is not in `known`."""
        raise NotImplementedError

    def drawn(self, rng: np.random.Generator) -> Config | None:
        """The generator's next new configuration; None after REDRAWS old ones, besides those of the search so far."""
        draws = (self.space.sample(rng) for _ in range(REDRAWS + len(self.known)))
        return next((config for config in draws if _key(config) not in self.known), None)

    def is_new(self, config: Config) -> bool:
        return _key(config) not in self.known and self.space.trouble(config) is None


class Random(Searcher):
    """Independent draws from the space, in one sequence that search.seed gives."""

    def __init__(self, space: Space, seed: int) -> None:
        super().__init__(space, seed)
        self._rng = np.random.default_rng(seed)

    def propose(self) -> Config | None:
        return self.drawn(self._rng)


class Grid(Searcher):
    """Every combination once, in an order that search.seed draws, so that a grid cut short by search.trials is not one corner of it."""

    def __init__(self, space: Space, seed: int, points: int) -> None:
        super().__init__(space, seed)
        self._points: Iterator[Config] = space.grid(points, seed)

    def propose(self) -> Config | None:
        return next((config for config in self._points if self.is_new(config)), None)


class TPE(Searcher):
    """Tree-structured Parzen estimator (Bergstra et al., 2011), multivariate within each family (Falkner et al., 2018), by Optuna.

    With several objectives it is the multi-objective one (Ozaki et al., 2022). Trials that still run count as bad ones meanwhile, so that
    trials side by side differ. Failed trials say nothing.
    """

    def __init__(self, space: Space, seed: int, objectives: tuple[str, ...], higher_is_better: bool, earlier: Iterable[Told] = ()) -> None:
        """earlier: trials of other searches to learn from, which may be proposed again here."""
        super().__init__(space, seed)
        self.objectives = objectives
        self.directions: list[Literal["minimize", "maximize"]] = [
            "maximize" if name == "quality" and higher_is_better else "minimize" for name in objectives
        ]
        self.earlier = tuple(earlier)
        self.distributions = {d.name: _distribution(d.values) for d in space.dimensions}

    def propose(self) -> Config | None:
        """A study is made of all that is known, each time: so nothing but that can count."""
        import warnings

        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(directions=self.directions)
            every = [*(Known(config, False, score, extra) for config, score, extra in self.earlier), *self.known.values()]
            study.add_trials([past for known in every if (past := self._trial(known)) is not None])
            for attempt in range(ATTEMPTS):
                number = int(np.random.SeedSequence([self.seed, len(self.known), attempt]).generate_state(1)[0])
                study.sampler = optuna.samplers.TPESampler(multivariate=True, group=True, constant_liar=True, seed=number)
                trial = study.ask()
                config = self._config(trial)
                if self.is_new(config):
                    return config
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return self.drawn(np.random.default_rng([self.seed, len(self.known)]))

    def _config(self, trial: optuna.Trial) -> Config:
        """Family first, then its own dimensions: the define-by-run of a conditional space."""
        family = self._suggest(trial, self.space.dimensions[0])
        return {FAMILY: family, **{d.key: self._suggest(trial, d) for d in self.space.of_family(family)}}

    def _suggest(self, trial: optuna.Trial, dimension: Dimension) -> Any:
        name, values = dimension.name, dimension.values
        if isinstance(values, Choice):  # as JSON text, since Optuna keeps no lists
            return json.loads(trial.suggest_categorical(name, [json.dumps(option) for option in values.options]))
        if is_whole(values):
            return trial.suggest_int(name, int(values.low), int(values.high), log=values.log)
        return rounded(trial.suggest_float(name, values.low, values.high, log=values.log), values)

    def _trial(self, known: Known) -> optuna.trial.FrozenTrial | None:
        """As Optuna keeps it; None where it lies in another space."""
        from optuna.trial import TrialState, create_trial

        placed = self.space.placed(known.config)
        if placed is None:
            return None
        texts = {d.name for d in self.space.dimensions if isinstance(d.values, Choice)}
        params = {name: json.dumps(value) if name in texts else value for name, value in placed.items()}
        distributions = {name: self.distributions[name] for name in params}
        if known.going:
            return create_trial(state=TrialState.RUNNING, params=params, distributions=distributions)
        named = {**known.extra, "quality": known.score}
        values = [value for name in self.objectives if (value := named.get(name)) is not None and math.isfinite(value)]
        if len(values) < len(self.objectives):
            return create_trial(state=TrialState.FAIL, params=params, distributions=distributions)
        return create_trial(state=TrialState.COMPLETE, params=params, distributions=distributions, values=values)


def build(recipe: Recipe, space: Space, told: Iterable[Told] = (), going: Iterable[Config] = ()) -> Searcher:
    """The searcher that search.searcher names, with all that the search has done so far.

    told: ended trials, in the order in which they were proposed; going: those that are still to be ended. A tpe searcher also learns from
    the searches of search.warm_start. Raises RecipeError where one of these does not exist or was scored by another metric.
    """
    from hepdist.search.warm_start import earlier_trials
    from hepdist.tasks import is_higher_better

    search = recipe.search
    earlier = earlier_trials(recipe)
    searcher: Searcher
    if search.searcher == "random":
        searcher = Random(space, search.seed)
    elif search.searcher == "grid":
        searcher = Grid(space, search.seed, search.grid_points)
    else:
        searcher = TPE(space, search.seed, search.objectives, is_higher_better(recipe.task.select), earlier)
    for config, score, extra in told:
        searcher.tell(config, score, extra)
    for config in going:
        searcher.resume(config)
    return searcher


def _distribution(values: Choice | Range) -> optuna.distributions.BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(values, Choice):
        return CategoricalDistribution([json.dumps(option) for option in values.options])
    if is_whole(values):
        return IntDistribution(int(values.low), int(values.high), log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


def _key(config: Config) -> str:
    return json.dumps(config, sort_keys=True)
