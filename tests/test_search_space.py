"""The space of a search: each family has its own dimensions, every configuration is a possible recipe, and mistakes are one sentence."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cohorts import tiny_classification_cohort, tiny_segmentation_cohort
from hepdist.errors import RecipeError
from hepdist.models.specs import Choice, Range
from hepdist.recipe import Recipe, load_recipe
from hepdist.search.dimensions import cut, draw
from hepdist.search.space import Space, apply
from hepdist.shards.manifest import Manifest

ALL = "search.vary=[model,lr,optim,batch,augment,loss]"


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Manifest]:
    folder = tmp_path_factory.mktemp("cohorts")
    return {
        "images": tiny_classification_cohort(folder / "images"),
        "emr": tiny_classification_cohort(folder / "emr", emr=True),
        "masks": tiny_segmentation_cohort(folder / "masks"),
    }


def pneumonia(*overrides: str) -> Recipe:
    return load_recipe("pneumonia-resnet", ["search={}", *overrides])


def with_space(recipe: Recipe, space: dict[str, Any]) -> Recipe:
    return recipe.model_copy(update={"search": recipe.search.model_copy(update={"space": space})})


def names(space: Space) -> list[str]:
    return [d.name for d in space.dimensions]


def values(space: Space, name: str) -> Choice | Range:
    return next(d.values for d in space.dimensions if d.name == name)


def test_a_search_takes_all_families_that_read_the_same_and_gives_each_its_own_ranges(manifests):
    space = Space.of(pneumonia(), manifests["images"])
    assert space.families == ("resnet", "densenet", "inception", "cnn")
    assert values(space, "cnn.depth") == Range(2, 5) and values(space, "inception.depth") == Range(1, 5)
    assert values(space, "resnet.depth") == Choice((10, 18, 34, 50)) and "densenet.depth" not in names(space)
    assert Space.of(load_recipe("emr-mlp"), manifests["emr"]).families == ("mlp",)
    assert Space.of(load_recipe("lung-unet"), manifests["masks"]).families == ("unet", "vnet")


def test_a_configuration_has_the_keys_of_its_family_and_no_others(manifests):
    space = Space.of(pneumonia(ALL), manifests["images"])
    rng, seen = np.random.default_rng(0), Counter()
    for _ in range(100):
        config = space.sample(rng)
        seen[config["model.family"]] += 1
        keys = {d.key for d in space.of_family(config["model.family"])}
        assert set(config) == {"model.family"} | keys
        assert ("model.growth" in config) == (config["model.family"] == "densenet")
    assert set(seen) == set(space.families)


def test_the_same_seed_gives_the_same_readable_json(manifests):
    space = Space.of(pneumonia(ALL), manifests["images"])
    first, second = (np.random.default_rng(3), np.random.default_rng(3))
    configs = [space.sample(first) for _ in range(30)]
    assert configs == [space.sample(second) for _ in range(30)]
    assert json.loads(json.dumps(configs)) == configs
    numbers = [value for config in configs for value in config.values() if isinstance(value, float)]
    assert all(value == float(f"{value:.4g}") for value in numbers)


def test_defaults_are_a_decade_of_lr_each_way_and_half_to_double_the_batch(manifests):
    space = Space.of(pneumonia(ALL, "train.workers=4", "train.global_batch=6"), manifests["images"])
    assert values(space, "optim.lr") == Range(2e-4, 2e-2, log=True)
    assert values(space, "optim.weight_decay") == Range(0.005, 0.5, log=True)
    assert values(space, "train.global_batch") == Choice((6, 12))  # 3 samples are too few for 4 workers
    assert values(space, "task.focal") == Choice((0.0, 1.0, 2.0))
    assert values(space, "augment.strength") == Range(0.0, 1.5)
    assert "augment.strength" not in names(Space.of(load_recipe("emr-mlp"), manifests["emr"]))
    assert "task.dice_weight" in names(Space.of(load_recipe("lung-unet", [ALL]), manifests["masks"]))


def test_without_model_among_what_varies_the_recipes_own_family_stays_as_it_is(manifests):
    space = Space.of(pneumonia("search.vary=[lr]"), manifests["images"])
    assert names(space) == ["model.family", "optim.lr"] and space.families == ("resnet",)
    recipe = apply(space.recipe, space.sample(np.random.default_rng(0)))
    assert recipe.model == space.recipe.model and recipe.optim.lr != space.recipe.optim.lr


def test_the_recipes_own_values_are_always_among_the_choices(manifests):
    densenet = Space.of(load_recipe("pneumonia-densenet"), manifests["images"])
    assert values(densenet, "densenet.blocks").options[0] == [4, 6, 6]
    fusion = Space.of(load_recipe("fusion"), manifests["emr"])
    assert values(fusion, "fusion.image.width").options == (8, 16, 24, 32, 48, 64)
    vnet = Space.of(load_recipe("hippocampus-vnet"), manifests["masks"])
    # the recipe's decoder has three levels, so only four-level encoders are possible
    assert values(vnet, "vnet.convolutions").options == ([1, 2, 2, 2], [1, 2, 3, 3])


def test_another_family_starts_from_its_defaults_and_the_own_one_keeps_its_fields():
    recipe = load_recipe("hippocampus-unet", ["search={}"])
    own = apply(recipe, {"model.family": "unet", "model.depth": 5})
    assert own.model.stride == 2 and own.model.norm == "group" and own.model.depth == 5
    other = apply(recipe, {"model.family": "vnet", "model.kernel": 3})
    assert other.model.stride == 1 and other.model.norm == "instance" and other.model.kernel == 3
    assert other.name == recipe.name and other.search == recipe.search and other.train == recipe.train
    fused = apply(load_recipe("fusion"), {"model.family": "fusion", "model.image.width": 16})
    assert fused.model.image.width == 16 and fused.model.image.depth == 10 and fused.model.emr.width == 32
    with pytest.raises(RecipeError, match=r"recipe key 'model.depth' is 7"):
        apply(pneumonia(), {"model.family": "resnet", "model.depth": 7})


def test_strength_multiplies_all_amounts_within_their_limits_and_nothing_else():
    recipe = pneumonia("augment.scale=0.8", "augment.crop=[20, 20]")
    stronger = apply(recipe, {"augment.strength": 1.5}).augment
    assert stronger.rotate == 18 and stronger.mixup == pytest.approx(0.6) and stronger.scale == 0.9 and stronger.cutmix == 0
    assert (stronger.crop, stronger.flip, stronger.test_flip) == ((20, 20), (1,), (1,))
    none = apply(recipe, {"augment.strength": 0.0}).augment
    assert none.rotate == none.mixup == none.scale == 0 and none.flip == (1,)
    assert apply(recipe, {"augment.strength": 0.0, "augment.rotate": 5}).augment.rotate == 5


def test_search_space_holds_replaces_and_adds(manifests):
    given = {
        "optim.lr": ["1e-3", 0.01],  # YAML 1.1 reads 1e-3 as a string
        "model.dropout": {"low": 0.0, "high": 0.2},
        "cnn.dropout": 0.1,
        "densenet.blocks": [[2, 2], [2, 2, 2]],
        "cnn.checkpointing": [False, True],
        "optim": {"clip": {"low": "1e-1", "high": 10, "log": True}},  # as the command line writes search.space.optim.clip
        "unet.depth": [3],
    }
    space = Space.of(with_space(pneumonia(), given), manifests["images"])
    assert values(space, "optim.lr") == Choice((0.001, 0.01))
    assert values(space, "resnet.dropout") == values(space, "densenet.dropout") == Range(0.0, 0.2)
    assert values(space, "cnn.dropout") == Choice((0.1,))
    assert values(space, "densenet.blocks") == Choice(([2, 2], [2, 2, 2]))
    assert values(space, "optim.clip") == Range(0.1, 10, log=True)
    assert "cnn.checkpointing" in names(space) and "unet.depth" not in names(space)
    assert names(space).index("cnn.checkpointing") < names(space).index("optim.lr")


@pytest.mark.parametrize(
    ("space", "sentence"),
    [
        ({"densnet.growth": [8]}, "recipe key 'search.space' has 'densnet.growth', which is unknown; did you mean 'densenet.growth'?"),
        ({"optim.lrr": [0.1]}, "recipe key 'search.space' has 'optim.lrr', which is unknown; did you mean 'optim.lr'?"),
        ({"model.dept": [3]}, "recipe key 'search.space' has 'model.dept', which is unknown; did you mean 'model.depth'?"),
        ({"optim.lr": {"low": 0.1, "high": 0.01}}, "recipe key 'search.space' has 'optim.lr' from 0.1 to 0.01; give the lower end as low"),
        (
            {"optim.lr": {"low": 0, "high": 0.01, "log": True}},
            "recipe key 'search.space' has 'optim.lr' from 0 with log: true; give a low above 0, or leave log out",
        ),
        (
            {"optim.lr": {"low": 0.1, "hihg": 1}},
            "recipe key 'search.space' has 'optim.lr' as {'low': 0.1, 'hihg': 1}; give {low: NUMBER, high: NUMBER}, and log: true if you like",
        ),
        ({"optim.lr": {"low": "a", "high": 1}}, "recipe key 'search.space' has an end of 'optim.lr' that is 'a'; give a number"),
        ({"optim.lr": []}, "recipe key 'search.space' has 'optim.lr' without a choice; name some, or leave it out"),
        (
            {"optim.lr": {"low": -0.1, "high": 0.1}},
            "recipe key 'search.space' lets 'optim.lr' be -0.1, which is not possible: recipe key 'optim.lr' is -0.1: input should be greater than 0",
        ),
        (
            {"cnn.depth": {"low": 2.0, "high": 3.0}},  # real numbers for a whole one: both ends would pass
            "recipe key 'search.space' lets 'cnn.depth' be 2.382, which is not possible: recipe key 'model.depth' is 2.382: input should be a"
            " valid integer, got a number with a fractional part",
        ),
        ({"train.epochs": [1, 2]}, "recipe key 'search.space' has 'train.epochs', which must be the same for all trials; set it in the recipe itself"),
        ({"model.family": ["cnn"]}, "recipe key 'search.space' has 'model.family'; name the families in search.families instead"),
        (
            {"augment.crop": [[8, 8, 8]]},
            "recipe key 'search.space' lets 'augment.crop' be [8, 8, 8], which is not possible: recipe key 'augment.crop' has 3 sides, but"
            " images of cohort 'cohorts/pneumonia' have 2 axes",
        ),
        (
            {"augment.strength": [-1]},
            "recipe key 'search.space' lets 'augment.strength' be -1, which is not possible: recipe key 'search.space' has 'augment.strength' -1;"
            " give numbers from 0 on, 1 being the recipe's own strength",
        ),
    ],
)  # fmt: skip
def test_mistakes_in_the_space_are_one_sentence(manifests, space, sentence):
    with pytest.raises(RecipeError) as caught:
        Space.of(with_space(pneumonia(), space), manifests["images"])
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("families", "sentence"),
    [
        ("[densnet]", "recipe key 'search.families' has 'densnet', which is unknown; did you mean 'densenet'?"),
        ("[unet]", "recipe key 'search.families' has 'unet', which can't do classification; use some of resnet, densenet, inception, cnn, mlp, rnn, fusion"),
        ("[cnn, mlp]", "recipe key 'search.families' has 'mlp', which does not fit: recipe key 'model.family' is 'mlp', which reads EMR columns; set data.emr=true"),
    ],
)  # fmt: skip
def test_families_that_cannot_be_searched_over_are_refused(manifests, families, sentence):
    with pytest.raises(RecipeError) as caught:
        Space.of(pneumonia(f"search.families={families}"), manifests["images"])
    assert str(caught.value) == sentence


def test_values_that_are_only_possible_together_are_drawn_together(manifests):
    given = {"vnet.convolutions": [[1, 2], [1, 2, 2]], "vnet.decoder": [[1], [1, 1]]}
    recipe = with_space(load_recipe("hippocampus-vnet", ["search.families=[vnet]", "search.vary=[lr]"]), given)
    space, rng = Space.of(recipe, manifests["masks"]), np.random.default_rng(0)
    drawn = {(len(c["model.convolutions"]), len(c["model.decoder"])) for c in (space.sample(rng) for _ in range(40))}
    assert drawn == {(2, 1), (3, 2)}
    assert space.grid_size(3) == 12 and len(list(space.grid(3))) == 6
    with pytest.raises(
        RecipeError, match=r"lets 'vnet.convolutions' be \[1, 2, 2, 2, 2\], which is not possible: recipe key 'model.decoder' has"
    ):
        Space.of(with_space(recipe, {**given, "vnet.convolutions": [[1, 2, 2, 2, 2]]}), manifests["masks"])


def test_a_grid_is_every_combination_once(manifests):
    given = {"resnet.depth": [10, 18], "cnn.depth": {"low": 2, "high": 5}, "optim.lr": {"low": 1e-4, "high": 1e-2, "log": True}}
    recipe = with_space(pneumonia("search.families=[resnet, cnn]", "search.vary=[]"), given)
    space = Space.of(recipe, manifests["images"])
    points = list(space.grid(3))
    assert points[:4] == [
        {"model.family": "resnet", "model.depth": 10, "optim.lr": 0.0001},
        {"model.family": "resnet", "model.depth": 10, "optim.lr": 0.001},
        {"model.family": "resnet", "model.depth": 10, "optim.lr": 0.01},
        {"model.family": "resnet", "model.depth": 18, "optim.lr": 0.0001},
    ]
    assert [p["model.depth"] for p in points[6:]] == [2, 2, 2, 4, 4, 4, 5, 5, 5]
    assert space.grid_size(3) == len(points) == 15 and math.isinf(space.size)
    assert space.size_said(3) == "infinitely many configurations (optim.lr: real numbers); a grid has 15 with 3 values of each range"
    shuffled = list(space.grid(3, seed=1))
    assert shuffled != points and sorted(map(json.dumps, shuffled)) == sorted(map(json.dumps, points))
    counted = Space.of(with_space(recipe, {**given, "optim.lr": [0.1]}), manifests["images"])
    assert counted.size == 6 and counted.size_said(2) == "6 configurations; a grid has 4 with 2 values of each range"


def test_ranges_are_drawn_and_cut_within_their_ends():
    rng = np.random.default_rng(0)
    whole = Counter(draw(Range(1, 3), rng) for _ in range(300))
    assert set(whole) == {1, 2, 3} and min(whole.values()) > 70
    assert {draw(Range(1, 3, log=True), rng) for _ in range(100)} == {1, 2, 3}
    lrs = [draw(Range(1e-4, 1e-2, log=True), rng) for _ in range(400)]
    assert min(lrs) >= 1e-4 and max(lrs) <= 1e-2 and 160 < sum(lr < 1e-3 for lr in lrs) < 240
    assert draw(Range(0.12345, 0.12346), rng) in (0.12345, 0.12346)  # rounding would leave the range
    assert cut(Range(16, 256, log=True), 3) == [16, 64, 256] and cut(Range(1, 4), 3) == [1, 2, 4] and cut(Range(0.0, 0.5), 1) == [0.25]


def test_a_table_says_what_is_varied_where(manifests):
    space = Space.of(pneumonia("search.families=[resnet, cnn]"), manifests["images"])
    rows = space.describe()
    assert rows[0] == ("model.family", "resnet, cnn", "always")
    assert ("cnn.depth", "2 to 5, whole numbers", "cnn") in rows
    assert ("optim.lr", "0.0002 to 0.02, logarithmic", "always") in rows


def test_of_another_searchs_configuration_what_lies_in_this_space_is_kept(manifests):
    space = Space.of(pneumonia("search.families=[resnet, cnn]"), manifests["images"])
    config = {"model.family": "cnn", "model.depth": 3, "model.width": 7, "optim.lr": 1.0, "optim.weight_decay": 0.1, "optim.beta1": 0.8}
    assert space.placed(config) == {"model.family": "cnn", "cnn.depth": 3, "optim.weight_decay": 0.1}
    assert space.placed({"model.family": "densenet", "optim.lr": 0.001}) is None


def test_every_family_of_every_shipped_recipe_gives_possible_recipes(manifests):
    for name in ("pneumonia-cnn", "pneumonia-inception", "restore-gan", "outline-gan", "fusion", "emr-mlp"):
        recipe = load_recipe(name, [ALL])
        kind = "masks" if recipe.task.kind == "segmentation" else "emr" if recipe.data.emr else "images"
        if name == "outline-gan":
            recipe = load_recipe(name, [ALL, "augment.flip=[]", "augment.test_flip=[]"])
        space, rng = Space.of(recipe, manifests[kind]), np.random.default_rng(1)
        for _ in range(10):
            config = space.sample(rng)
            tried = apply(recipe, config)
            assert tried.model.family == config["model.family"] and tried.optim.lr == config["optim.lr"]
            assert Path(tried.folder) == Path(recipe.folder)
