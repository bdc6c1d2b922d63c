"""Trials for other people's dashboards: TensorBoard's HParams tab, and MLflow where it is asked for."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hepdist.console import plain
from hepdist.errors import RecipeError, RunError
from hepdist.recipe import Recipe
from hepdist.search.record import CONFIRMED, FINAL, TRIALS, Event, Trial
from hepdist.search.standing import config_now, epochs_done, shown, state, usable
from hepdist.stores import is_uri

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

FINAL_METRIC = "search"
"""TensorBoard's tags of what a trial came to are search/<metric>: apart from the curves under validation/."""
STATUS = {
    "finished": "FINISHED",
    "stopped": "KILLED",
    "failed": "FAILED",
    "running": "RUNNING",
    "paused": "RUNNING",
    "interrupted": "RUNNING",
    "waiting": "SCHEDULED",
}
LONGEST_TAG = 5000
"""Characters that MLflow's stores take as a tag's value."""


def write_hparams(folder: Path, trial: Trial, metric: str, higher_is_better: bool) -> None:
    """Add to trials/<id>/tensorboard of a search what the HParams tab shows of a trial that has ended: its configuration and its best score.

    The plugin takes the list of parameters from one experiment's summary wherever it finds the first, which would hide those of other
    families; without any it gathers them from all trials, so none is written.
    """
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    best = trial.best(higher_is_better)
    scores = {f"{FINAL_METRIC}/{metric}": best.facts["score"]} if best is not None and usable(best.facts["score"]) else {}
    spent = {f"{FINAL_METRIC}/epochs": epochs_done(trial), f"{FINAL_METRIC}/device_hours": trial.device_s / 3600}
    plain = {key: value if usable(value) else shown(value) for key, value in config_now(trial).items()}
    _, start, end = hparams(plain, scores | spent)
    if state(trial) == "failed":
        told = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_FAILURE)
        content = plugin_data_pb2.HParamsPluginData(session_end_info=told, version=metadata.PLUGIN_DATA_VERSION)
        end = Summary()
        value = end.value.add(tag=metadata.SESSION_END_INFO_TAG)
        value.metadata.plugin_data.plugin_name = metadata.PLUGIN_NAME
        value.metadata.plugin_data.content = content.SerializeToString()
    with SummaryWriter(str(folder / TRIALS / trial.id / "tensorboard"), filename_suffix=".hparams") as board:
        assert board.file_writer is not None, "a writer has a file from its construction on"
        board.file_writer.add_summary(start)
        board.file_writer.add_summary(end)
        for name, value in (scores | spent).items():
            board.add_scalar(name, value)


class Tracking:
    """All dashboards of a search, fed with its events; a context manager."""

    def __init__(self, recipe: Recipe, folder: Path, metric: str, higher_is_better: bool) -> None:
        """Raises what MlflowLog raises, where search.mlflow is set."""
        self.folder, self.metric, self.higher_is_better = folder, metric, higher_is_better
        name = folder.name if folder.name != CONFIRMED else f"{folder.parent.name}-{CONFIRMED}"
        self.mlflow = MlflowLog(recipe.search.mlflow, name, metric, higher_is_better) if recipe.search.mlflow else None

    def heard(self, trial: Trial, event: Event) -> None:
        """An event of this trial has been written to the record."""
        if event.kind in FINAL:
            write_hparams(self.folder, trial, self.metric, self.higher_is_better)
        if self.mlflow is None:
            return
        if event.kind == "started":
            self.mlflow.started(trial)
        elif event.kind == "result":
            self.mlflow.result(trial, event)
        elif event.kind in FINAL:
            self.mlflow.ended(trial)


class MlflowLog:
    """One MLflow run a trial in the experiment of the search's name; what it says of a trial is what the record says.

    where: a tracking server's URI (https://..., sqlite:///...), or a folder, which gets an SQLite database `mlflow.db` beside `artifacts/`
    (MLflow 3 takes no folder of plain files any more). Look at it with: mlflow ui --backend-store-uri sqlite:///FOLDER/mlflow.db
    Raises RecipeError where MLflow is not installed, RunError where the store can't be reached at the start. A store that goes away later
    costs what would have been told to it, with one warning, and not the search.
    """

    def __init__(self, where: str | Path, experiment: str, metric: str, higher_is_better: bool) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # 7 by default: the search would stand still for minutes
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # a hospital's machine tells nobody what it trains
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # it tells of each table that it makes
        try:
            from mlflow.exceptions import MlflowException
            from mlflow.tracking import MlflowClient
        except ImportError:
            raise RecipeError(
                "recipe key 'search.mlflow' needs MLflow, which is not installed; pip install 'hepdist[mlflow]' or leave the key empty"
            ) from None
        self.metric, self.higher_is_better = metric, higher_is_better
        self.where, self.warned = where, False
        self.runs: dict[str, str] = {}
        """Ids of MLflow's runs by trial."""
        self.epochs: dict[str, float] = {}
        """Last epoch logged, by trial: what a resumed trial does again is not logged twice."""
        uri, artifacts = _store(where)
        try:
            self.client: MlflowClient = MlflowClient(tracking_uri=uri)
            found = self.client.get_experiment_by_name(experiment)
            self.experiment = found.experiment_id if found else self.client.create_experiment(experiment, artifact_location=artifacts)
            self._find_runs()
        except MlflowException as error:
            raise RunError(f"MLflow at '{where}' can't be used: {' '.join(str(error).split())}") from None

    def _find_runs(self) -> None:
        """A search that was taken up again goes on with the runs that it has."""
        token = None
        while True:
            page = self.client.search_runs([self.experiment], max_results=1000, page_token=token)
            for run in page:
                trial = run.data.tags.get("trial")
                if trial is not None and trial not in self.runs:  # the newest comes first
                    self.runs[trial] = run.info.run_id
                    self.epochs[trial] = float(run.data.metrics.get("epoch", 0.0))
            token = page.token
            if not token:
                return

    def started(self, trial: Trial) -> None:
        """Make the trial's run, with its configuration as parameters; one that goes on after an interruption keeps its run."""
        with self._bearing():
            if trial.id in self.runs:
                self.client.update_run(self.runs[trial.id], status="RUNNING")
            else:
                self._make_run(trial)

    def result(self, trial: Trial, event: Event) -> None:
        """Log what an epoch came to: all validation scores, the learning rate, what it cost so far; step is the epoch."""
        from mlflow.entities import Metric

        epoch = float(event.facts["epoch"])
        if epoch <= self.epochs.get(trial.id, 0.0):
            return
        values: Mapping[str, Any] = {
            self.metric: event.facts["score"], **event.facts.get("scores", {}), "lr": event.facts.get("lr"), "epoch": epoch,
            "device_hours": event.device_s / 3600, "money": event.money,
        }  # fmt: skip
        at = round(1000 * event.time)
        metrics = [Metric(name, float(value), at, round(epoch)) for name, value in values.items() if usable(value)]
        with self._bearing():
            self.client.log_batch(self._run(trial), metrics=metrics)
            self.epochs[trial.id] = epoch

    def ended(self, trial: Trial) -> None:
        """Close the run of a trial that stopped, finished or failed, with its best score and why it ended."""
        end, best = trial.end, trial.best(self.higher_is_better)
        facts = end.facts if end is not None else {}
        with self._bearing():
            run = self._run(trial)
            if best is not None and usable(best.facts["score"]):
                self.client.log_metric(run, f"best_{self.metric}", float(best.facts["score"]))
            for name in ("reason", "cause", "error"):
                if facts.get(name):
                    self.client.set_tag(run, name, str(facts[name])[:LONGEST_TAG])
            ended_at = round(1000 * end.time) if end is not None else None
            self.client.set_terminated(run, STATUS[state(trial)], end_time=ended_at)

    def _run(self, trial: Trial) -> str:
        """Id of the trial's run, which is made now where the store was away when the trial started."""
        if trial.id not in self.runs:
            self._make_run(trial)
        return self.runs[trial.id]

    def _make_run(self, trial: Trial) -> None:
        from mlflow.entities import Param

        tags = {"trial": trial.id, "family": trial.family}
        begun = trial.events[0].time if trial.events else time.time()
        run = self.client.create_run(self.experiment, start_time=round(1000 * begun), run_name=trial.id, tags=tags)
        self.runs[trial.id] = run.info.run_id
        params = [Param(key, repr(value) if isinstance(value, float) else shown(value)) for key, value in trial.config.items()]
        self.client.log_batch(run.info.run_id, params=params)

    @contextmanager
    def _bearing(self) -> Iterator[None]:
        """Let the search go on where the store has gone away."""
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            if not self.warned:
                self.warned = True
                plain(f"warning: MLflow at '{self.where}' does not answer, so it lacks some of the search: {' '.join(str(error).split())}")


def _store(where: str | Path) -> tuple[str, str | None]:
    """MLflow's URI for a folder or a URI, and where the artifacts of a new experiment go; None leaves that to a server."""
    text = str(where)
    if is_uri(text) and not text.startswith("file:"):
        return text, None
    folder = Path(text.removeprefix("file://").removeprefix("file:")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder / 'mlflow.db'}", (folder / "artifacts").as_uri()
