"""The recipe's promises: what fits together is accepted and survives the file; what does not is refused in one sentence."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from hepdist.errors import RecipeError
from hepdist.recipe import Recipe, apply_override, load_recipe, shipped_recipes
from hepdist.spec import parse

PLAIN: dict[str, Any] = {
    "name": "plain",
    "data": {"cohort": "cohorts/plain"},
    "task": {"kind": "classification"},
    "model": {"family": "resnet", "depth": 10, "width": 8},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A recipe file of one's own."""
    file = tmp_path / "plain.yaml"
    file.write_text(yaml.safe_dump(PLAIN))
    return file


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, list(overrides))
    return str(caught.value)


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_loads_and_survives_its_own_file(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    stored = tmp_path / "recipe.yaml"
    stored.write_text(recipe.dump(), encoding="utf-8")
    assert load_recipe(stored) == recipe


def test_a_dumped_recipe_names_every_field(path: Path) -> None:
    written = yaml.safe_load(load_recipe(path).dump())
    assert list(written) == list(Recipe.model_fields)
    for section in ("data", "task", "augment", "optim", "train", "evaluation"):
        assert list(written[section]) == list(Recipe.model_fields[section].annotation.model_fields)


def test_the_fixed_override_names_reach_their_fields(path: Path) -> None:
    recipe = load_recipe(
        path,
        [
            "name=other", "data.cohort=/data/c", "model.family=resnet", "train.epochs=3", "train.seed=7", "train.workers=4",
            "train.zero_stage=2", "train.precision=bf16", "train.global_batch=16", "optim.lr=2e-3",
        ],
    )  # fmt: skip
    assert (recipe.name, recipe.data.cohort, recipe.model.family, recipe.optim.lr) == ("other", "/data/c", "resnet", 0.002)
    train = recipe.train
    assert (train.epochs, train.seed, train.workers, train.zero_stage, train.precision, train.global_batch) == (3, 7, 4, 2, "bf16", 16)
    assert recipe.folder == Path("runs/other")


def test_a_recipe_file_without_a_name_is_named_after_itself(tmp_path: Path) -> None:
    file = tmp_path / "liver-study.yaml"
    file.write_text(yaml.safe_dump({k: v for k, v in PLAIN.items() if k != "name"}))
    assert load_recipe(file).name == "liver-study"


def test_a_digits_only_name_stays_text(path: Path) -> None:
    assert load_recipe(path, ["name=7"]).name == "7"


def test_a_misspelt_override_is_refused_with_the_nearest_key(path: Path) -> None:
    assert refusal(path, "optim.lrr=1e-3") == "recipe key 'optim.lrr' is unknown; did you mean 'optim.lr'?"


def test_a_misspelt_section_is_refused_with_the_nearest_key(path: Path) -> None:
    assert refusal(path, "trian.epochs=3") == "recipe key 'trian.epochs' is unknown; did you mean 'train.epochs'?"


def test_a_misspelt_key_of_the_file_is_refused_with_the_nearest_key(path: Path) -> None:
    path.write_text(yaml.safe_dump({**PLAIN, "train": {"epoch": 3}}))
    assert refusal(path) == "recipe key 'train.epoch' is unknown; did you mean 'train.epochs'?"


def test_a_key_of_another_family_is_refused(path: Path) -> None:
    assert refusal(path, "model.deep_supervision=true").startswith("recipe key 'model.deep_supervision' is unknown; ")


def test_more_workers_than_samples_of_a_batch_are_refused(path: Path) -> None:
    assert refusal(path, "train.workers=8", "train.global_batch=4") == (
        "recipe key 'train.workers' is 8, more than the 4 samples of a global batch;"
        " use at most train.workers=4 or a larger train.global_batch"
    )


def test_a_classifier_for_segmentation_is_refused_with_what_fits(path: Path) -> None:
    message = refusal(path, "task.kind=segmentation")
    assert message.startswith("recipe key 'model.family' is 'resnet', which can't do segmentation; use one of ")
    assert "unet" in message


def test_views_of_a_segmentation_at_test_are_refused_for_other_tasks(path: Path) -> None:
    message = "recipe key 'augment.test_shift' is for segmentation; set it to 0 for task.kind=classification"
    assert refusal(path, "augment.test_shift=1") == message


def test_emr_and_the_model_must_agree(path: Path) -> None:
    assert refusal(path, "model.family=mlp") == "recipe key 'model.family' is 'mlp', which reads EMR columns; set data.emr=true"
    assert refusal(path, "data.emr=true") == "recipe key 'data.emr' is true, but 'resnet' reads images only; use model.family=fusion"


def test_an_unknown_family_is_refused_with_the_known_ones(path: Path) -> None:
    assert refusal(path, "model.family=resnot").startswith("recipe key 'model.family' is 'resnot': choose one of resnet, densenet, ")


def test_a_value_out_of_range_is_refused_with_its_key_and_value(path: Path) -> None:
    assert refusal(path, "optim.warmup=0.9") == "recipe key 'optim.warmup' is 0.9: input should be less than or equal to 0.5"
    assert refusal(path, "train.epochs=0") == "recipe key 'train.epochs' is 0: input should be greater than 0"
    assert refusal(path, "train.zero_stage=4").startswith("recipe key 'train.zero_stage' is 4: ")


def test_a_missing_key_is_named_with_the_way_to_set_it(path: Path) -> None:
    path.write_text(yaml.safe_dump({k: v for k, v in PLAIN.items() if k != "task"}))
    assert refusal(path) == "recipe key 'task' is missing; set it in the file or with task=VALUE"


def test_an_override_without_an_equals_sign_is_refused(path: Path) -> None:
    assert refusal(path, "train.epochs") == "override 'train.epochs' is not of the form key=value"


def test_an_override_below_a_plain_value_is_refused(path: Path) -> None:
    assert refusal(path, "name.first=x") == "override 'name.first=x' can't be applied: 'name' is not a section"


def test_a_name_that_leaves_the_runs_folder_is_refused(path: Path) -> None:
    for name in ("../elsewhere", ".hidden", "a/b"):
        assert f"recipe key 'name' is '{name}': it names a folder" in refusal(path, f"name={name}")


def test_a_recipe_that_does_not_exist_is_refused_with_the_shipped_ones(path: Path) -> None:
    with pytest.raises(RecipeError, match=r"recipe 'nope' does not exist; shipped ones: .*demo.*; or give a path to a \.yaml file"):
        load_recipe("nope")
    missing = path.with_name("missing.yaml")
    assert refusal(missing) == f"recipe file '{missing}' does not exist"


def test_a_file_that_is_not_yaml_is_refused_in_one_line(path: Path) -> None:
    path.write_text("data: {cohort: [")
    message = refusal(path)
    assert message.startswith(f"recipe file '{path}' is not valid YAML: ")
    assert "\n" not in message


def test_a_new_family_starts_from_its_own_defaults() -> None:
    values = copy.deepcopy(PLAIN)
    apply_override(values, "model.family=unet")
    apply_override(values, "task.kind=segmentation")
    assert values["model"] == {"family": "unet"}
    recipe = parse(Recipe, values)
    assert (recipe.model.depth, recipe.model.width) == (4, 32)  # the U-Net's, not the ResNet's 10 and 8


def test_the_same_family_again_keeps_its_settings(path: Path) -> None:
    assert load_recipe(path, ["model.family=resnet"]).model.width == 8
