"""Cohorts without images from table to report: an MLP and an RNN trained under Ray, their inputs, and refusals before anything starts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from visits import cohort_of_visits

from hepdist.errors import RecipeError
from hepdist.recipe import Recipe
from hepdist.shards.manifest import Manifest
from hepdist.spec import parse
from hepdist.training.launch import train
from hepdist.training.preflight import fits_cohort
from hepdist.training.saved_model import Signature, build_model, load_model
from hepdist.training.worker import example_inputs


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    return cohort_of_visits(tmp_path_factory.mktemp("visits"))


RNN = {"family": "rnn", "width": 8, "numbers": "quantile", "members": 2}
MLP = {"family": "mlp", "width": 8, "members": 4}


def recipe(cohort: Path, model: dict, kind: str = "classification", **sections) -> Recipe:
    values = {
        "name": f"{model['family']}-{kind}", "runs": str(cohort.parent / "runs"), "data": {"cohort": str(cohort), "emr": True},
        "task": {"kind": kind}, "model": model, "optim": {"lr": 0.01}, "train": {"epochs": 4, "global_batch": 16, "max_failures": 0},
        "evaluation": {"bootstrap": 20},
    }  # fmt: skip
    return parse(Recipe, {**values, **sections})


@pytest.mark.usefixtures("ray_cluster")
def test_an_rnn_learns_time_to_event_and_its_report_says_concordance(cohort):
    folder = train(recipe(cohort, RNN, "survival", train={"epochs": 20, "global_batch": 16, "max_failures": 0, "workers": 1}))
    block = json.loads((folder / "result.json").read_text())["split"]["test"]
    assert block["concordance"] > 0.7 and block["auroc"] > 0.8 and block["unlabelled"] > 0
    assert block["concordance_ci"][0] <= block["concordance"] <= block["concordance_ci"][1]
    table = pd.read_parquet(folder / "predictions.parquet")
    assert {"label", "probability_1", "days", "event"} <= set(table.columns)
    assert (folder / "report.html").is_file()
    model, _, signature = load_model(folder)
    assert model(*example_inputs(model.inputs, signature, torch.device("cpu"))).shape == (1, 2, 10)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_an_mlp_learns_from_a_table_alone_on_two_workers(cohort):
    folder = train(recipe(cohort, MLP))
    result = json.loads((folder / "result.json").read_text())
    assert result["train"]["workers"] == 2 and 0 <= result["split"]["test"]["auroc"] <= 1
    assert result["split"]["test"]["n"] + result["split"]["test"]["unlabelled"] == Manifest.load(cohort).rows("test")


@pytest.mark.parametrize("model", [RNN, MLP, {**RNN, "cell": "lstm", "static": False}], ids=lambda m: f"{m['family']}-{len(m)}")
def test_example_inputs_have_the_types_of_a_batch_and_reach_every_parameter(cohort, model):
    signature = Signature.of(Manifest.load(cohort))
    network = build_model(recipe(cohort, model), signature)
    inputs = example_inputs(network.inputs, signature, torch.device("cpu"))
    dtypes = {
        "emr": torch.float32, "emr_missing": torch.uint8, "sequence": torch.float32, "sequence_missing": torch.uint8,
        "sequence_gap": torch.float32, "sequence_length": torch.int32,
    }  # fmt: skip
    assert [x.dtype for x in inputs] == [dtypes[name] for name in network.inputs]
    network(*inputs).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_what_the_cohort_lacks_is_said_before_anything_starts(cohort):
    manifest = Manifest.load(cohort)
    fusion = {"family": "fusion", "visits": {"width": 8}}
    with pytest.raises(RecipeError, match=r"'model.family' is 'fusion', but cohort '.*' has no images; use model.family=mlp$"):
        fits_cohort(recipe(cohort, fusion), manifest)
    fits_cohort(recipe(cohort, RNN, "survival"), manifest)
    without = replace(manifest, tensors={k: v for k, v in manifest.tensors.items() if k != "followup"})
    with pytest.raises(RecipeError, match=r"'task.kind' is 'survival', but cohort '.*' has no follow-up; ingest it with event=COLUMN"):
        fits_cohort(recipe(cohort, RNN, "survival"), without)
