"""Who stops trials early: Ray Tune's schedulers with the search's settings, which say why they stop a trial."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from ray.tune.schedulers import (
    FIFOScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)
from ray.tune.schedulers.pbt import _PBTTrialState

from hepdist.recipe import Recipe
from hepdist.search.halving import Halving, rung_epochs
from hepdist.search.promotion import Promotion
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


def build(recipe: Recipe, space: Space, halving: Halving, planned: Callable[[], int], places: int, exploited: Told) -> TrialScheduler:
    """The scheduler that the recipe names; time is counted in epochs, the metric is 'score' and given by Tune's configuration.

    halving: for ASHA, with what is on record; planned: trials that there will be; places: those for which there is room at a time.
    """
    search, epochs = recipe.search, recipe.train.epochs
    if search.scheduler == "asha":
        return Promotion(halving, planned, places, search.concurrent, early=search.may_end_early)
    if search.scheduler == "hyperband":
        return HyperBandScheduler(time_attr="epoch", max_t=epochs, reduction_factor=search.reduction)
    if search.scheduler == "median":
        return MedianStoppingRule(time_attr="epoch", grace_period=rung_epochs(search, recipe.train, recipe.optim)[0])
    if search.scheduler == "pbt":
        return Population(space, exploited, search.seed, search.perturb_every * recipe.train.validate_every)
    return FIFOScheduler()


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
