"""Between Ray Tune, which asks for trials, and our searchers, which propose them: what was proposed before a restart comes first, in its order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher as TuneSearcher

from hepdist.search.record import Trial, suggest
from hepdist.search.searchers import Searcher
from hepdist.search.standing import state


class Proposer(TuneSearcher):
    """Gives Tune {'trial', 'values', 'final'}; `values` is a config of the search space."""

    def __init__(
        self,
        folder: Path,
        known: list[Trial],
        searcher: Searcher,
        trials: int,
        higher_is_better: bool,
        spent: Callable[[], str],
        full: Callable[[], bool] = lambda: False,
    ) -> None:
        """known: the trials on record, of which the searcher has been told; spent: names the limit that is reached, or ''; full: whether no
        trial may be begun now."""
        super().__init__()
        self.folder, self.higher_is_better, self.spent, self.full = folder, higher_is_better, spent, full
        self.planned = max(trials, len(known))
        """Trials that there will be; fewer than were asked for once the searcher has no other one."""
        self.strategy = searcher  # not `searcher`, by which Tune would take this for a wrapper of one of its own
        self.all = list(known)
        """Every trial, as Tune was given them and before."""
        self._known = list(known)
        self._on_record = {trial.id for trial in known if trial.end}
        self.ids: dict[str, Trial] = {}
        """Our trials by Tune's names."""

    def suggest(self, trial_id: str) -> Any:
        if self.full():
            return None
        if self._known:
            trial = self._known.pop(0)
        else:
            if len(self.all) >= self.planned or self.spent():
                return self.FINISHED
            for trial in self.all:
                if state(trial) == "paused":
                    self._tell(trial)
            config = self.strategy.ask()
            if config is None:
                self.planned = len(self.all)
                return self.FINISHED
            trial = Trial(f"{len(self.all):04d}", config)
            suggest(self.folder, trial.id, config)
            self.all.append(trial)
        self.ids[trial_id] = trial
        return {"trial": trial.id, "values": current(trial), "final": trial.end is not None}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The searcher learns at the trial's end, from its best validation, and while it is paused; of trials on record it knows."""
        trial = self.ids[trial_id]
        if trial.id not in self._on_record:
            self._tell(trial)

    def _tell(self, trial: Trial) -> None:
        best = trial.best(self.higher_is_better)
        self.strategy.tell(trial.config, best.facts["score"] if best else None, best.facts["cost"] if best else {})

    def save(self, checkpoint_path: str) -> None:
        """See `get_state`."""

    def restore(self, checkpoint_path: str) -> None:
        """See `get_state`."""

    def get_state(self) -> dict[str, Any]:
        """Nothing: the record is all that a restart needs."""
        return {}


def current(trial: Trial) -> dict[str, Any]:
    """A trial's values now: those proposed, or what it took over when it last exploited another one."""
    changed = [event.facts["config"] for event in trial.events if event.kind == "exploited"]
    return dict(changed[-1]) if changed else trial.config
