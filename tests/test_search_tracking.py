"""TensorBoard's HParams tab and MLflow say of trials what the record says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import searches
from mlflow.exceptions import MlflowException
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2, metadata

from hepdist.errors import RecipeError, RunError
from hepdist.search.record import Event, Trial, read_trials
from hepdist.search.tracking import MlflowLog, write_hparams


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return searches.write_search(tmp_path_factory.mktemp("searches") / "pneumonia")


def _hparams(folder: Path, trial: Trial) -> tuple[EventAccumulator, dict[str, bytes]]:
    write_hparams(folder, trial, "auroc", True)
    read = EventAccumulator(str(folder / "trials" / trial.id / "tensorboard")).Reload()
    return read, read.PluginTagToContent(metadata.PLUGIN_NAME)


def test_hparams_hold_configuration_and_best_score(folder: Path) -> None:
    trial = read_trials(folder)[1]
    read, found = _hparams(folder, trial)
    start = metadata.parse_session_start_info_plugin_data(found[metadata.SESSION_START_INFO_TAG])
    told = {key: value.string_value or value.number_value for key, value in start.hparams.items()}
    blocks = json.dumps(trial.config["model.blocks"]).replace(" ", "")
    assert told == trial.config | {"model.blocks": blocks}
    assert metadata.parse_session_end_info_plugin_data(found[metadata.SESSION_END_INFO_TAG]).status == api_pb2.STATUS_SUCCESS
    (score,) = read.Scalars("search/auroc")
    assert score.value == pytest.approx(max(event.facts["score"] for event in trial.results))
    assert [entry.value for entry in read.Scalars("search/epochs")] == [9.0]


def test_no_trial_lists_parameters_for_the_others(folder: Path) -> None:
    """The plugin would show those of the first experiment's summary alone, and nothing of other families."""
    _, found = _hparams(folder, read_trials(folder)[2])
    assert metadata.EXPERIMENT_TAG not in found


def test_failed_trial_without_a_score_is_told_as_failed(folder: Path) -> None:
    read, found = _hparams(folder, read_trials(folder)[4])
    assert metadata.parse_session_end_info_plugin_data(found[metadata.SESSION_END_INFO_TAG]).status == api_pb2.STATUS_FAILURE
    assert "search/auroc" not in read.Tags()["scalars"]


def test_exploited_trial_shows_the_learning_rate_that_it_ended_with(folder: Path) -> None:
    _, found = _hparams(folder, read_trials(folder)[13])
    start = metadata.parse_session_start_info_plugin_data(found[metadata.SESSION_START_INFO_TAG])
    assert start.hparams["optim.lr"].number_value == 0.0012


def test_mlflow_reads_back_what_the_record_says(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    trials = read_trials(folder)
    finished, stopped, failed = trials[1], trials[2], trials[4]
    log = MlflowLog(tmp_path / "mlflow", "pneumonia", "auroc", True)
    for trial in (finished, stopped, failed):
        log.started(trial)
        for event in trial.results:
            log.result(trial, event)
        log.ended(trial)
    client = log.client
    run = client.get_run(log.runs[finished.id])
    assert run.info.status == "FINISHED"
    assert run.data.tags["trial"] == finished.id and run.data.tags["family"] == "densenet"
    assert float(run.data.params["optim.lr"]) == finished.config["optim.lr"]
    assert run.data.params["model.growth"] == str(finished.config["model.growth"])
    curve = client.get_metric_history(run.info.run_id, "auroc")
    assert [(m.step, m.value) for m in curve] == [(e.facts["epoch"], e.facts["score"]) for e in finished.results]
    assert run.data.metrics["best_auroc"] == max(e.facts["score"] for e in finished.results)
    assert run.data.metrics["device_hours"] == finished.results[-1].device_s / 3600
    assert client.get_run(log.runs[stopped.id]).info.status == "KILLED"
    assert client.get_run(log.runs[stopped.id]).data.tags["reason"].startswith("ASHA, rung")
    assert client.get_run(log.runs[failed.id]).info.status == "FAILED"
    assert client.get_run(log.runs[failed.id]).data.tags["cause"] == "memory"

    again = MlflowLog(tmp_path / "mlflow", "pneumonia", "auroc", True)  # the search was killed and taken up again
    assert again.runs == log.runs
    again.started(finished)
    again.result(finished, finished.results[-1])
    further = Event(finished.id, "result", facts={"epoch": 10, "score": 0.5, "scores": {}, "lr": 1e-4})
    again.result(finished, further)
    assert [m.step for m in again.client.get_metric_history(run.info.run_id, "auroc")] == [*range(1, 11)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow"]

    def gone(*_: object, **__: object) -> None:
        raise MlflowException("connection refused")

    monkeypatch.setattr(again.client, "log_batch", gone)
    for epoch in (11, 12):  # the search goes on, and is told once
        again.result(finished, Event(finished.id, "result", facts={"epoch": epoch, "score": 0.5}))
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert warnings == [f"warning: MLflow at '{tmp_path / 'mlflow'}' does not answer, so it lacks some of the search: connection refused"]


def test_without_mlflow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    with pytest.raises(RecipeError, match=r"recipe key 'search.mlflow' needs MLflow, .* pip install 'hepdist\[mlflow\]'"):
        MlflowLog(tmp_path, "pneumonia", "auroc", True)


def test_store_of_an_unknown_kind_is_one_sentence() -> None:
    with pytest.raises(RunError, match="MLflow at 'nowhere://x' can't be used: "):
        MlflowLog("nowhere://x", "pneumonia", "auroc", True)
