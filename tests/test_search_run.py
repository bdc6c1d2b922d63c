"""Searches end to end under Ray Tune: what runs, what is stopped, what fails, what is told again, and that nothing is left behind."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import ray
import yaml
from searches import write_search

from chaos import evidence
from cohorts import tiny_classification_cohort
from hepdist.errors import RecipeError, RunError
from hepdist.recipe import Recipe, load_recipe
from hepdist.search.launch import preview, tune
from hepdist.search.page import Page
from hepdist.search.record import CONFIRMED, Event, note, read_trials
from hepdist.shards.manifest import sha256_of
from hepdist.spec import parse
from hepdist.training.checkpoint import newest_first
from hepdist.training.launch import train

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cohorts") / "images"
    tiny_classification_cohort(folder, {"train": 40, "val": 21, "test": 21})
    return folder


def recipe(cohort: Path, root: Path, name: str, search: dict, **train) -> Recipe:
    values = {
        "name": name, "runs": str(root / "runs"),
        "data": {"cohort": str(cohort)},
        "task": {"kind": "classification"},
        "model": {"family": "cnn", "depth": 2, "width": 8, "dense": 16},
        "augment": {"noise": 0.1},
        "optim": {"lr": 3e-3},
        "train": {"epochs": 4, "global_batch": 8, "workers": 1, **train},
        "evaluation": {"batch": 8, "bootstrap": 50},
        "search": {
            "folder": str(root / "searches"), "families": ["cnn", "resnet"], "searcher": "random", "scheduler": "none", "trials": 4, "confirm": 0, "concurrent": 2,
            "space": {"resnet.depth": 10, "resnet.width": 8, "cnn.width": [4, 8], "cnn.depth": 2},
            **search,
        },
    }  # fmt: skip
    return parse(Recipe, values)


def left() -> list[str]:
    """Actors of searches and placement groups that still live."""
    return [name for name in evidence.left_in_ray() if "TrialRun" in name or "Train" in name or "placement group" in name]


def test_ray_data_may_read_for_a_trial(cohort, tmp_path):
    base = recipe(cohort, tmp_path, "streamed", {"trials": 1}, epochs=1)
    folder = tune(base.model_copy(update={"data": base.data.model_copy(update={"reader": "ray"})}))
    assert [trial.end.kind for trial in read_trials(folder)] == ["finished"]


@pytest.fixture(scope="module")
def searched(cohort, tmp_path_factory) -> Path:
    return tune(recipe(cohort, tmp_path_factory.mktemp("search"), "plain", {"trials": 3, "confirm": 1, "seeds": 2, "ensemble": True}))


def test_every_trial_trains_to_its_end_and_says_so(searched):
    trials = read_trials(searched)
    assert [trial.id for trial in trials] == ["0000", "0001", "0002"]
    assert {trial.end.kind for trial in trials} == {"finished"}
    assert all([event.facts["epoch"] for event in trial.results] == [1, 2, 3, 4] for trial in trials)
    assert all(trial.device_s > 0 for trial in trials)


def test_a_trial_is_the_run_that_its_recipe_gives_alone(searched, tmp_path):
    trial = read_trials(searched)[0]
    again = load_recipe(searched / "trials" / trial.id / "recipe.yaml", ["name=alone", f"runs={tmp_path}"])
    run = train(again)
    mine, theirs = (newest_first(folder / "checkpoints")[0] for folder in (searched / "trials" / trial.id, run))
    assert sha256_of(mine / "model.safetensors") == sha256_of(theirs / "model.safetensors")


def test_no_trial_looks_at_the_test_split_and_the_winner_once(searched):
    assert not list((searched / "trials").glob("*/predictions.parquet"))
    outcome = json.loads((searched / "search.json").read_text())
    scored = list((searched / CONFIRMED / "trials").glob("*/result.json"))
    assert [path.parent.name for path in scored] == [Path(outcome["winner"]["run"]).name]
    assert outcome["test"]["n"] == 21
    assert {(line["trial"], line["seed"]) for line in outcome["confirmed"]} == {
        (outcome["winner"]["trial"], 0),
        (outcome["winner"]["trial"], 1),
    }
    assert outcome["ensemble"]["test"]["auroc"] == outcome["test"]["auroc"]  # of one member
    assert len(outcome["ensemble"]["members"]) == 1


def test_the_winner_can_be_trained_as_a_recipe(searched):
    best = load_recipe(searched / "best.yaml")
    outcome = json.loads((searched / "search.json").read_text())
    assert best.model.family == outcome["winner"]["config"]["model.family"]
    assert best.optim.lr == outcome["winner"]["config"]["optim.lr"]
    assert best.evaluation.splits == ("val", "test")


def test_a_second_call_trains_nothing_and_changes_nothing(searched):
    base = load_recipe(searched / "recipe.yaml")
    events, files = (searched / "events.jsonl").read_bytes(), sorted(searched.rglob("samples-*/model.safetensors"))
    times = [path.stat().st_mtime_ns for path in files]
    assert tune(base) == searched
    assert (searched / "events.jsonl").read_bytes() == events
    assert [path.stat().st_mtime_ns for path in files] == times


def test_another_search_under_the_same_name_is_refused(searched):
    base = load_recipe(searched / "recipe.yaml", ["optim.lr=0.1"])
    with pytest.raises(RunError, match="search 'plain' was started with another 'optim'; use another name=, or --fresh to start over"):
        tune(base)


@pytest.mark.slow
def test_workers_of_one_trial_after_another_are_the_same_processes_and_nothing_is_left(cohort, tmp_path):
    folder = tune(
        recipe(cohort, tmp_path, "two", {"trials": 3, "concurrent": 1, "scheduler": "asha", "grace": 1, "reduction": 2}, workers=2)
    )
    trials = read_trials(folder)
    assert sorted(trial.end.kind for trial in trials) == ["finished", "stopped", "stopped"]
    overheads = [trial.results[0].facts["overhead_s"] for trial in trials]
    assert max(overheads[1:]) < overheads[0]  # no process was started for them
    assert not evidence.settled(left)


def test_trials_that_fail_are_told_with_their_reason_and_the_search_goes_on(cohort, tmp_path):
    space = {"cnn.width": [4, 4_000_000], "cnn.depth": [2, 5], "cnn.norm": ["group", "instance"], "cnn.dense": 16, "optim.lr": [1e-3, 1e30]}
    space |= {"cnn.activation": "relu", "cnn.dropout": 0.0}
    search = {"families": ["cnn"], "space": space, "searcher": "grid", "vary": ["model", "lr"], "trials": 16}
    folder = tune(recipe(cohort, tmp_path, "failing", search, epochs=1))
    found = {
        tuple(trial.config[k] for k in ("model.width", "model.depth", "model.norm", "optim.lr")): trial.end for trial in read_trials(folder)
    }
    assert len(found) == 16
    assert found[4, 2, "group", 1e-3].kind == "finished"
    raised, short, diverged = (found[key].facts for key in ((4, 5, "instance", 1e-3), (4_000_000, 2, "group", 1e-3), (4, 2, "group", 1e30)))
    assert (raised["cause"], short["cause"], diverged["cause"]) == ("error", "memory", "nonfinite")
    assert "Expected more than 1 spatial element when training" in raised["error"] and "hepdist/models" in raised["story"]
    assert "can't allocate memory" in short["error"]
    assert "is not finite" in diverged["error"]
    assert not [trial for trial in read_trials(folder) if sum(event.kind == "started" for event in trial.events) > 1], "one was tried again"


def test_a_search_whose_trials_all_fail_ends_with_the_commonest_error(cohort, tmp_path):
    broken = {"families": ["cnn"], "space": {"cnn.width": 8, "cnn.depth": 2, "optim.lr": 1e30}, "vary": ["model"], "trials": 2}
    with pytest.raises(
        RunError, match=r"every trial failed, 1 of 1 with: .* is not finite|every trial failed, 2 of 2 with: .* is not finite"
    ):
        tune(recipe(cohort, tmp_path, "hopeless", broken))


@pytest.mark.slow
@pytest.mark.timeout(1200)  # 556 s at load 15
def test_losers_of_a_population_go_on_from_a_donors_weights_with_another_learning_rate(cohort, tmp_path):
    search = {
        "families": ["cnn"],
        "scheduler": "pbt",
        "perturb_every": 1,
        "trials": 4,
        "concurrent": 0,
        "space": {"cnn.width": 8, "cnn.depth": 2, "optim.lr": {"low": 1e-9, "high": 3e-3, "log": True}},
    }
    folder = tune(
        recipe(cohort, tmp_path, "population", search, epochs=6, cpus_per_worker=4)
    )  # room for two at a time: the others wait their turn
    trials = {trial.id: trial for trial in read_trials(folder)}
    exploited = [(trial, place) for trial in trials.values() for place, event in enumerate(trial.events) if event.kind == "exploited"]
    assert exploited
    assert {trial.end.kind for trial in trials.values()} == {"finished"}
    for trial, place in exploited:
        told = trial.events[place].facts
        donor = next(e.facts["weights"] for e in trials[told["donor"]].events if e.kind == "result" and e.facts["epoch"] == told["epoch"])
        onward = next((event for event in trial.events[place:] if event.kind == "result"), None)
        if onward is None:  # at its end already
            continue
        assert onward.facts["taken_over"] == donor
        assert onward.facts["epoch"] == told["epoch"] + 1
        assert told["config"]["optim.lr"] != trials[told["donor"]].config["optim.lr"]


def weights_at_the_end(run: Path) -> str:
    return sha256_of(newest_first(run / "checkpoints")[0] / "model.safetensors")


@pytest.mark.slow
def test_hyperband_pauses_trials_and_those_that_go_on_are_the_runs_that_nobody_paused(cohort, tmp_path):
    space = {"cnn.width": [4, 8], "cnn.depth": 2}
    search = {"families": ["cnn"], "scheduler": "hyperband", "reduction": 2, "trials": 8, "concurrent": 0, "space": space}
    folder = tune(recipe(cohort, tmp_path, "bands", {**search, "vary": ["model", "lr"]}, epochs=4, cpus_per_worker=4))  # room for two
    trials = read_trials(folder)
    assert len(trials) == 8 and {trial.end.kind for trial in trials} == {"finished", "stopped"}
    starts = {trial.id: sum(event.kind == "started" for event in trial.events) for trial in trials}
    resumed = [trial for trial in trials if trial.end.kind == "finished" and starts[trial.id] > 1]
    assert resumed, starts
    for trial in trials:
        assert [event.facts["epoch"] for event in trial.results] == list(range(1, len(trial.results) + 1))
        assert trial.end.kind == "finished" or trial.end.facts["reason"]
    alone = train(load_recipe(folder / "trials" / resumed[0].id / "recipe.yaml", ["name=alone", f"runs={tmp_path}"]))
    assert weights_at_the_end(folder / "trials" / resumed[0].id) == weights_at_the_end(alone)


def test_asha_trains_on_what_is_best_at_each_rung_and_says_why_the_others_end(cohort, tmp_path):
    """Two at a time, of which one or both wait while others come to their rung."""
    search = {"families": ["cnn"], "scheduler": "asha", "grace": 1, "reduction": 2, "trials": 8, "vary": ["model", "lr"]}
    folder = tune(recipe(cohort, tmp_path, "rungs", search))
    trials = {trial.id: trial for trial in read_trials(folder)}
    for epoch, come in ((1, 8), (2, 4), (4, 2)):
        there = [trial for trial in trials.values() if len(trial.results) >= epoch]
        assert len(there) == come
        best = sorted(there, key=lambda t: (-t.results[epoch - 1].facts["score"], t.id))[: come // 2]
        assert epoch == 4 or {trial.id for trial in best} == {name for name, trial in trials.items() if len(trial.results) > epoch}
    assert sorted(trial.end.kind for trial in trials.values()) == ["finished"] * 2 + ["stopped"] * 6
    reasons = [trial.end.facts["reason"] for trial in trials.values() if trial.end.kind == "stopped"]
    assert sum("that had come to epoch 1; the best 4 of 8 go on" in reason for reason in reasons) == 4
    assert sum("that had come to epoch 2; the best 2 of 4 go on" in reason for reason in reasons) == 2
    resumed = [trial for trial in trials.values() if trial.end.kind == "finished" and "paused" in [event.kind for event in trial.events]]
    assert resumed, "nobody had to wait"
    alone = train(load_recipe(folder / "trials" / resumed[0].id / "recipe.yaml", ["name=alone", f"runs={tmp_path}"]))
    assert weights_at_the_end(folder / "trials" / resumed[0].id) == weights_at_the_end(alone)
    before = (folder / "events.jsonl").read_bytes()
    tune(recipe(cohort, tmp_path, "rungs", search))
    assert (folder / "events.jsonl").read_bytes() == before, "what had ended was taken up again"
    more = read_trials(tune(recipe(cohort, tmp_path, "rungs", {**search, "trials": 16})))
    best = sorted(more, key=lambda t: (-t.results[0].facts["score"], t.id))[:8]
    assert len(more) == 16 and all(len(trial.results) >= 2 for trial in best), "stopped ones that are among the best now were not let in"
    assert sum(len(trial.results) >= 2 for trial in more) <= 8 + 4  # those that had gone on before are not taken back
    assert not evidence.settled(left)


@pytest.mark.slow
def test_asha_under_a_budget_trains_some_to_the_end_before_it_has_tried_all(cohort, tmp_path):
    search = {"families": ["cnn"], "scheduler": "asha", "grace": 1, "reduction": 2, "trials": 12, "concurrent": 1, "device_hours": 1.0}
    trials = read_trials(tune(recipe(cohort, tmp_path, "budget", search)))
    first = min(trial.end.time for trial in trials if trial.end.kind == "finished")
    assert first < max(trial.events[0].time for trial in trials)
    assert {trial.end.kind for trial in trials} == {"finished", "stopped"} and len(trials) == 12


@pytest.mark.slow
def test_the_median_rule_stops_what_is_worse_than_most_were(cohort, tmp_path):
    space = {"cnn.width": 8, "cnn.depth": 2, "optim.lr": {"low": 3e-4, "high": 1e-2, "log": True}}
    search = {"families": ["cnn"], "scheduler": "median", "trials": 8, "concurrent": 1, "space": space, "vary": ["lr"]}
    trials = read_trials(tune(recipe(cohort, tmp_path, "median", search, epochs=4)))
    stopped = [trial for trial in trials if trial.end.kind == "stopped"]
    assert stopped and {trial.end.kind for trial in trials} == {"stopped", "finished"}
    assert all("median" in trial.end.facts["reason"] for trial in stopped)


def test_elastic_workers_and_a_group_that_never_fits_are_refused(cohort, tmp_path):
    with pytest.raises(RecipeError, match=r"recipe key 'train.workers' is \[1, 2\], but the trials of a search have a fixed size"):
        tune(recipe(cohort, tmp_path, "elastic", {}, workers=[1, 2]))
    with pytest.raises(RecipeError, match=r"recipe key 'train.workers' is 9, but the cluster has 8 CPUs"):
        tune(recipe(cohort, tmp_path, "wide", {}, workers=9, global_batch=18))
    assert not list((tmp_path / "searches").glob("*")), "what was refused left something behind"


def test_a_search_whose_winner_could_not_be_scored_is_refused(tmp_path):
    untested = tmp_path / "untested"
    tiny_classification_cohort(untested, {"train": 12, "val": 6})
    for verb in (tune, lambda recipe: list(preview(recipe))):
        with pytest.raises(
            RecipeError, match=r"recipe key 'search.confirm' is 1, but cohort .* has no test rows .* or set search.confirm=0$"
        ):
            verb(recipe(untested, tmp_path, "blind", {"confirm": 1}))
    assert not (tmp_path / "searches").exists()


@pytest.mark.parametrize("scheduler", ["hyperband", "pbt"])
@pytest.mark.parametrize("verb", [tune, lambda recipe: list(preview(recipe))])
def test_a_limit_that_a_scheduler_does_not_keep_is_refused(cohort, tmp_path, scheduler, verb):
    refusal = rf"recipe key 'search.concurrent' is 2, but search.scheduler={scheduler} .* use search.concurrent=0, or search.scheduler=asha"
    with pytest.raises(RecipeError, match=refusal):
        verb(recipe(cohort, tmp_path, "limited", {"scheduler": scheduler, "concurrent": 2}))
    assert not (tmp_path / "searches").exists()


def test_a_search_without_budget_left_stops_and_goes_on_with_more(cohort, tmp_path):
    search = {"families": ["cnn"], "trials": 3, "concurrent": 1, "device_hours": 1e-6}
    folder = tune(recipe(cohort, tmp_path, "poor", search))
    assert [trial.end.kind for trial in read_trials(folder)] == ["stopped"]
    assert read_trials(folder)[0].end.facts["reason"] == "the search ended, since its 1e-06 device-hours are spent"
    assert "The search is not over" not in (folder / "search.html").read_text()
    tune(recipe(cohort, tmp_path, "poor", {**search, "device_hours": 0.0}))
    trials = read_trials(folder)
    assert [trial.end.kind for trial in trials] == ["finished"] * 3
    assert all([event.facts["epoch"] for event in trial.results] == [1, 2, 3, 4] for trial in trials)
    assert not evidence.settled(left)


def test_a_page_shows_a_search_that_still_runs(cohort, tmp_path):
    folder = tmp_path / "going"
    write_search(folder, finished=False)
    with Page(folder, every_s=0.05):
        until = time.monotonic() + 60
        while not (folder / "search.html").exists() and time.monotonic() < until:
            time.sleep(0.05)
        before = (folder / "search.html").read_text()
        note(folder, Event("0019", "started", 0.0, 0.0, 1.0, {"attempt": 1}))
        note(folder, Event("0019", "failed", 0.0, 0.0, 2.0, {"cause": "error", "error": "a word that is new", "story": ""}))
    assert "The search is not over" in before and "a word that is new" not in before
    assert "a word that is new" in (folder / "search.html").read_text()


def test_ray_is_left_as_it_was(searched):
    assert not evidence.settled(left)
    assert ray.available_resources()["CPU"] == ray.cluster_resources()["CPU"]
    assert yaml.safe_load((searched / "recipe.yaml").read_text())["evaluation"]["splits"] == []
