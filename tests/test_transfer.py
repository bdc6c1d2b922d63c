"""A fresh run may start from another run's best weights: all that fit are taken, the rest starts anew, and what can't be is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from hepdist.errors import RecipeError, RunError
from hepdist.recipe import Recipe
from hepdist.spec import parse
from hepdist.training.launch import with_absolute_paths
from hepdist.training.preflight import has_start
from hepdist.training.saved_model import Signature, build_model, save_model
from hepdist.training.transfer import record, start_from


def recipe(runs: Path, init_from: str = "", **model) -> Recipe:
    values = {"name": "new", "runs": str(runs), "data": {"cohort": "c"}, "task": {"kind": "classification"}}
    return parse(Recipe, {**values, "model": {"family": "resnet", "depth": 10, "width": 8, **model}, "train": {"init_from": init_from}})


def signature(classes: int) -> Signature:
    image = {"image": {"dtype": "uint8", "shape": [1, 28, 28]}}
    return Signature(image, tuple("abcdef"[:classes]), False, (), (), {"image": {"mean": [0.0], "std": [1.0]}})


@pytest.fixture
def source(tmp_path: Path) -> nn.Module:
    """A run with three classes, whose model is returned."""
    values = recipe(tmp_path)
    model = build_model(values, signature(3))
    for weight in model.parameters():
        nn.init.normal_(weight, generator=torch.Generator().manual_seed(4))
    save_model(tmp_path / "old", dict(model.state_dict()), values, signature(3), samples=9)
    return model


def test_a_model_with_another_head_takes_all_but_the_head(source, tmp_path):
    model = build_model(recipe(tmp_path), signature(5))
    head = model.head.weight.clone()
    names = start_from(model, tmp_path / "old")
    assert names["anew"] == ["head.bias", "head.weight"]
    assert sorted(names["taken"] + names["anew"]) == sorted(model.state_dict())
    assert all(torch.equal(model.state_dict()[name], source.state_dict()[name]) for name in names["taken"])
    assert torch.equal(model.head.weight, head)


def test_the_same_classes_take_the_head_too(source, tmp_path):
    model = build_model(recipe(tmp_path), signature(3))
    assert start_from(model, tmp_path / "old")["anew"] == []
    image = torch.randn(2, 1, 28, 28)
    assert torch.equal(model(image), source(image))


def test_a_run_of_which_nothing_fits_is_refused_in_one_sentence(source, tmp_path):
    model = build_model(recipe(tmp_path, family="cnn", depth=2, width=8), signature(5))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(
        RunError, match=r"^recipe key 'train.init_from': none of the \d+ tensors of run 'old' has the name and shape of one of"
    ):
        start_from(nn.Sequential(model), tmp_path / "old")
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


def test_a_damaged_model_is_refused(source, tmp_path):
    path = tmp_path / "old" / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(RunError):
        start_from(build_model(recipe(tmp_path), signature(3)), tmp_path / "old")


def test_the_resolved_recipe_holds_the_run_it_starts_from(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    by_name = with_absolute_paths(recipe(tmp_path, "old"))
    by_path = with_absolute_paths(recipe(tmp_path, "./old"))
    assert by_name.train.init_from == by_path.train.init_from == str((tmp_path / "old").resolve())
    assert with_absolute_paths(recipe(tmp_path)).train.init_from == ""
    has_start(by_name)
    with pytest.raises(RecipeError, match=r"^recipe key 'train.init_from' is '.*/none', which is no run with a trained model"):
        has_start(with_absolute_paths(recipe(tmp_path, "none")))


def test_a_run_keeps_a_note_of_what_it_started_from(source, tmp_path, capsys):
    names = start_from(build_model(recipe(tmp_path), signature(5)), tmp_path / "old")
    record(tmp_path, tmp_path / "old", names)
    total = len(names["taken"]) + 2
    assert capsys.readouterr().out == f"hepdist: {total - 2} of {total} tensors start from run 'old'\n"
    assert json.loads((tmp_path / "transfer.json").read_text()) == {"run": str(tmp_path / "old"), **names}
