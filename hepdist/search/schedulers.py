"""Who stops trials early: Ray Tune's schedulers with the search's settings, which say why they stop a trial."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)
from ray.tune.schedulers.pbt import _PBTTrialState

from hepdist.recipe import Recipe
from hepdist.search.space import Space

Told = Callable[[str, str, dict[str, Any], int], None]
"""Called with (loser, donor, the loser's new values, the donor's samples)."""
QUARTER = 0.25
"""PBT: the worst quarter continues from the best quarter; with so much probability a value is drawn anew instead of changed a little."""

USUAL_REASONS = {
    "hyperband": "HyperBand: it was not among the best of its bracket",
    "median": "the median rule: its best score was below the median of what others had reached on average",
}
"""Of schedulers that do not say why they stop one trial."""


def build(recipe: Recipe, space: Space, exploited: Told) -> TrialScheduler:
    """The scheduler that the recipe names; time is counted in epochs, the metric is 'score' and given by Tune's configuration."""
    search, epochs = recipe.search, recipe.train.epochs
    grace = min(epochs, search.grace * recipe.train.validate_every)
    if search.scheduler == "asha":
        return Halving(time_attr="epoch", max_t=epochs, grace_period=grace, reduction_factor=search.reduction)
    if search.scheduler == "hyperband":
        return HyperBandScheduler(time_attr="epoch", max_t=epochs, reduction_factor=search.reduction)
    if search.scheduler == "median":
        return MedianStoppingRule(time_attr="epoch", grace_period=grace)
    if search.scheduler == "pbt":
        return Population(space, exploited, search.seed, search.perturb_every * recipe.train.validate_every)
    return FIFOScheduler()


class Halving(AsyncHyperBandScheduler):
    """ASHA, with the reason for each stop by trial in `reasons`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.reasons: dict[str, str] = {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        bracket = self._trial_info[trial.trial_id]
        before = {milestone: trial.trial_id in recorded for milestone, recorded in bracket._rungs}
        action = super().on_trial_result(tune_controller, trial, result)
        rung = next(((m, scores) for m, scores in bracket._rungs if trial.trial_id in scores and not before[m]), None)
        if action == TrialScheduler.STOP and rung is not None:
            milestone, scores = rung
            place = 1 + sum(score > scores[trial.trial_id] for score in scores.values())
            self.reasons[trial.trial_id] = (
                f"ASHA: it was {_ordinal(place)} of the {len(scores)} that had come to epoch {milestone:g}; the best 1 of {self._reduction_factor:g} goes on"
            )
        return str(action)


class Population(PopulationBasedTraining):
    """PBT whose losers take a donor's weights and architecture, and its numbers changed a little."""

    def __init__(self, space: Space, exploited: Told, seed: int, every: int) -> None:
        """every: epochs between two looks."""
        random.seed(seed)  # what Ray's PBT draws from
        self.space, self.told, self.drawn = space, exploited, random.Random(seed)
        super().__init__(
            time_attr="epoch",
            perturbation_interval=every,
            quantile_fraction=QUARTER,
            custom_explore_fn=lambda config: config,
            log_config=False,
        )

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Ray's refuses any searcher, since a trial's values change under it; ours is told of those that it proposed."""
        self._trial_state[trial] = _PBTTrialState(trial)

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        values = self.space.perturb(trial_to_clone.config["values"], self.drawn, QUARTER)
        epochs = int(self._trial_state[trial_to_clone].last_train_time)
        self.told(trial.config["trial"], trial_to_clone.config["trial"], values, epochs)
        return {**trial_to_clone.config, "trial": trial.config["trial"], "values": values}, {}


def _ordinal(number: int) -> str:
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
