"""Searchers: new configurations each time, the same ones after the same history, and an estimator that goes where scores are good."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from cohorts import tiny_classification_cohort
from hepdist.errors import RecipeError
from hepdist.recipe import Recipe, load_recipe
from hepdist.search.record import Event, note, suggest
from hepdist.search.searchers import TPE, Grid, Random, Searcher, build
from hepdist.search.space import Space
from hepdist.search.warm_start import earlier_trials
from hepdist.shards.manifest import Manifest


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return tiny_classification_cohort(tmp_path_factory.mktemp("cohort"))


def recipe_of(*overrides: str, space: dict[str, Any] | None = None) -> Recipe:
    recipe = load_recipe("pneumonia-resnet", ["search={}", "task.select=auroc", "search.families=[resnet, cnn]", *overrides])
    return recipe.model_copy(update={"search": recipe.search.model_copy(update={"space": space or {}})})


def quality(config: dict[str, Any]) -> float:
    """Best for a CNN at a learning rate of 0.001."""
    return 1.0 - abs(math.log10(config["optim.lr"]) + 3) - 0.5 * (config["model.family"] != "cnn")


def run(searcher: Searcher, trials: int) -> list[dict[str, Any]]:
    """Ask and tell one after another."""
    configs = []
    for _ in range(trials):
        config = searcher.ask()
        assert config is not None
        searcher.tell(config, quality(config))
        configs.append(config)
    return configs


@pytest.mark.parametrize("kind", ["random", "grid", "tpe"])
def test_the_same_seed_proposes_the_same_and_another_seed_does_not(manifest, kind):
    recipe = recipe_of(f"search.searcher={kind}")
    space = Space.of(recipe, manifest)
    first = run(build(recipe, space), 13)
    assert first == run(build(recipe, space), 13)
    assert len({json.dumps(config) for config in first}) == 13
    other = recipe_of(f"search.searcher={kind}", "search.seed=1")
    assert first != run(build(other, space), 13)


@pytest.mark.parametrize("kind", ["random", "grid", "tpe"])
def test_a_search_that_goes_on_proposes_what_it_would_have_proposed(manifest, kind):
    recipe = recipe_of(f"search.searcher={kind}")
    space = Space.of(recipe, manifest)
    undisturbed = build(recipe, space)
    told = [(config, quality(config), {}) for config in run(undisturbed, 12)]
    going = [undisturbed.ask(), undisturbed.ask()]
    again = build(recipe, space, told, going)
    assert [again.ask() for _ in range(3)] == [undisturbed.ask() for _ in range(3)]


@pytest.mark.parametrize("kind", ["random", "grid", "tpe"])
def test_each_configuration_is_proposed_once_until_there_is_none_left(manifest, kind):
    recipe = recipe_of(f"search.searcher={kind}", "search.vary=[]", space={"resnet.depth": [10, 18], "cnn.depth": [2, 3, 4]})
    searcher = build(recipe, Space.of(recipe, manifest))
    found = []
    while (config := searcher.ask()) is not None:
        found.append(config)
        searcher.tell(config, 0.5)
    assert len(found) == 5
    assert {(c["model.family"], c["model.depth"]) for c in found} == {("resnet", 10), ("resnet", 18), ("cnn", 2), ("cnn", 3), ("cnn", 4)}


def test_a_grid_leaves_out_what_it_was_told(manifest):
    recipe = recipe_of("search.searcher=grid", "search.vary=[]", "search.grid_points=2", space={"optim.lr": {"low": 0.1, "high": 0.3}})
    space = Space.of(recipe, manifest)
    searcher = build(recipe, space, [({"model.family": "cnn", "optim.lr": 0.1}, None, {})])
    assert isinstance(searcher, Grid)
    rest = sorted((c["model.family"], c["optim.lr"]) for c in iter(searcher.ask, None))
    assert rest == [("cnn", 0.3), ("resnet", 0.1), ("resnet", 0.3)]


def test_tpe_learns_which_family_and_rate_are_good_better_than_chance(manifest):
    recipe = recipe_of("search.seed=2")
    space = Space.of(recipe, manifest)
    searcher = build(recipe, space)
    assert isinstance(searcher, TPE)
    learned = run(searcher, 40)[20:]
    drawn = run(Random(space, 2), 40)[20:]
    assert sum(c["model.family"] == "cnn" for c in learned) >= 15
    assert sum(map(quality, learned)) > sum(map(quality, drawn)) + 5


def test_failed_trials_teach_tpe_nothing_and_are_not_proposed_again(manifest):
    recipe = recipe_of()
    space = Space.of(recipe, manifest)
    searcher = build(recipe, space)
    failed = searcher.ask()
    searcher.tell(failed, None)
    nan = searcher.ask()
    searcher.tell(nan, float("nan"))
    assert [config for config in run(searcher, 5) if config in (failed, nan)] == []
    assert [searcher._trial(known).state.name for known in searcher.known.values()][:3] == ["FAIL", "FAIL", "COMPLETE"]


def test_several_objectives_are_told_with_their_directions(manifest):
    recipe = recipe_of("search.objectives=[quality, parameters]", "task.select=loss")
    space = Space.of(recipe, manifest)
    searcher = build(recipe, space)
    assert isinstance(searcher, TPE) and searcher.directions == ["minimize", "minimize"]
    assert build(recipe_of("search.objectives=[quality, seconds]"), space).directions == ["maximize", "minimize"]
    for _ in range(12):
        config = searcher.ask()
        searcher.tell(config, 1 - quality(config), {"parameters": 1000.0 * config["model.width"]})
    values = searcher._trial(searcher.known[next(iter(searcher.known))]).values
    assert values is not None and len(values) == 2
    assert space.trouble(searcher.ask()) is None
    searcher.tell({"model.family": "cnn", "optim.lr": 0.001}, 0.4)  # without its parameters
    assert searcher._trial(list(searcher.known.values())[-1]).state.name == "FAIL"


def test_configurations_it_never_proposed_count_as_far_as_they_lie_in_the_space(manifest):
    recipe = recipe_of()
    searcher = build(recipe, Space.of(recipe, manifest))
    searcher.tell({"model.family": "cnn", "model.depth": 3, "optim.lr": 5.0, "optim.clip": 2.0}, 0.7)
    trial = searcher._trial(next(iter(searcher.known.values())))
    assert trial.params == {"model.family": '"cnn"', "cnn.depth": 3} and trial.value == 0.7
    searcher.tell({"model.family": "vit", "optim.lr": 0.001}, 0.9)
    assert searcher._trial(list(searcher.known.values())[-1]) is None
    assert searcher.ask() is not None


def earlier_search(folder: Path, metric: str = "auroc") -> None:
    """Twelve trials of which CNNs at the lowest rate were best, one failed, one without a result, one of a family that is gone."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(recipe_of(f"task.select={metric}").dump(), encoding="utf-8")
    for number in range(12):
        trial = f"{number:04d}"
        config = {
            "model.family": "cnn" if number % 2 else "resnet",
            "optim.lr": [0.0003, 0.003, 0.01][number % 3],
            "model.depth": 18 - number % 2 * 15,
        }
        suggest(folder, trial, config)
        for epoch, score in ((1, 0.5), (2, quality(config)), (3, 0.4)):
            note(folder, Event(trial, "result", facts={"epoch": epoch, "score": score, "cost": {"parameters": 100.0}}))
        note(folder, Event(trial, "finished"))
    suggest(folder, "0012", {"model.family": "cnn", "optim.lr": 0.001})
    note(folder, Event("0012", "failed", facts={"cause": "error"}))


def test_tpe_learns_from_earlier_searches_by_name_or_folder(manifest, tmp_path):
    earlier_search(tmp_path / "searches" / "before")
    overrides = (f"search.folder={tmp_path / 'searches'}",)
    recipe = recipe_of(*overrides, "search.warm_start=[before]")
    told = earlier_trials(recipe)
    assert len(told) == 12  # the failed one has no score
    assert told[1] == (
        {"model.family": "cnn", "optim.lr": 0.003, "model.depth": 3},
        pytest.approx(max(0.5, quality(told[1][0]))),
        {"parameters": 100.0},
    )
    assert earlier_trials(recipe_of(*overrides, f"search.warm_start=[{tmp_path / 'searches' / 'before'}]")) == told
    space = Space.of(recipe, manifest)
    warm, cold = build(recipe, space), build(recipe_of(*overrides), space)
    assert isinstance(warm, TPE) and [t.params["model.family"] for t in map(warm._trial, _known(warm))][:2] == ['"resnet"', '"cnn"']
    # twelve scored trials stand for the ten random ones that a cold search begins with
    assert sum(c["model.family"] == "cnn" for c in run(warm, 8)) > sum(c["model.family"] == "cnn" for c in run(cold, 8))


def _known(searcher: TPE) -> list[Any]:
    from hepdist.search.searchers import Known

    return [Known(config, False, score, extra) for config, score, extra in searcher.earlier]


def test_a_warm_start_that_is_no_search_or_of_another_metric_is_refused(manifest, tmp_path):
    recipe = recipe_of(f"search.folder={tmp_path}", "search.warm_start=[gone]")
    with pytest.raises(RecipeError) as caught:
        build(recipe, Space.of(recipe, manifest))
    assert str(caught.value) == (
        f"recipe key 'search.warm_start' has 'gone', which is no search, neither as a folder nor under '{tmp_path}'; name one that has been run, or leave it out"
    )
    earlier_search(tmp_path / "accurate", metric="accuracy")
    recipe = recipe_of(f"search.folder={tmp_path}", "search.warm_start=[accurate]")
    with pytest.raises(RecipeError) as caught:
        build(recipe, Space.of(recipe, manifest))
    assert str(caught.value) == (
        "recipe key 'search.warm_start' has 'accurate', whose task.select is 'accuracy' and not 'auroc', so its scores say nothing here; leave it out"
    )
