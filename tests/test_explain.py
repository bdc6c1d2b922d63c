"""Attributions: Grad-CAM equals the class activation map it generalises, importance finds the columns that matter, and the page shows them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fake_runs import TRAIN
from torch import nn
from torch.nn.functional import interpolate

from cohorts import tiny_classification_cohort
from hepdist.cli import main
from hepdist.errors import RunError
from hepdist.evaluation.attribution import evidence_for, grad_cam, permutation_importance
from hepdist.evaluation.explain import explain
from hepdist.evaluation.result import summarise, write_result
from hepdist.evaluation.subgroup_scores import ranking
from hepdist.recipe import Recipe
from hepdist.shards.manifest import SPLITS
from hepdist.spec import parse
from hepdist.training.local import fit, load_rows, predict
from hepdist.training.saved_model import Signature, save_model


class Pooled(nn.Module):
    """Convolution, mean over places, linear: the network whose class activation map is known in closed form."""

    inputs = ("image",)

    def __init__(self, axes: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.maps = (nn.Conv2d if axes == 2 else nn.Conv3d)(1, 4, 3, stride=2, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.maps(image).flatten(2).mean(2))


@pytest.mark.parametrize("shape", [(16, 12), (8, 12, 10)])
def test_grad_cam_of_a_pooled_network_is_its_class_activation_map(shape):
    model = Pooled(len(shape)).eval()
    image = torch.randn(3, 1, *shape, generator=torch.Generator().manual_seed(1))
    found = grad_cam(model, {"image": image}, evidence_for("classification", 2, ordinal=False))
    with torch.no_grad():
        maps = model.maps(image)
        weighted = torch.einsum("c,bc...->b...", model.head.weight[2], maps).clamp(min=0)[:, None]  # Zhou et al., 2016
        expected = interpolate(weighted, size=shape, mode="bilinear" if len(shape) == 2 else "trilinear")[:, 0]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other / other.max())
    assert found.shape == (3, *shape) and not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters()), "nothing is left for an optimiser"


def test_nothing_that_speaks_for_a_class_is_a_map_of_zeros():
    model = Pooled(2).eval()
    with torch.no_grad():
        model.head.weight.zero_()
    assert grad_cam(model, {"image": torch.randn(1, 1, 8, 8)}, evidence_for("classification", 0, ordinal=False)).abs().max() == 0


def test_importance_is_the_fall_of_the_auroc_and_finds_what_matters():
    rng = np.random.default_rng(0)
    strong, weak, noise = rng.normal(0, 1, (3, 400))
    label = (2 * strong + 0.7 * weak + rng.normal(0, 0.5, 400) > 0).astype(np.int64)
    columns = {"strong": strong, "weak": weak, "noise": noise}
    patient = np.repeat(np.arange(200), 2).astype(str)

    def model(name, order):
        values = {key: column[order] if key == name else column for key, column in columns.items()}
        positive = 1 / (1 + np.exp(-2 * values["strong"] - 0.7 * values["weak"]))
        return np.stack([1 - positive, positive], axis=1)

    found = permutation_importance(model, list(columns), lambda p: ranking(label, p), patient, repeats=3, resamples=100, seed=0)
    assert [importance.name for importance in found] == ["strong", "weak", "noise"]
    assert found[0].fall > 0.2 > found[1].fall > found[1].low > 0
    assert (found[2].fall, found[2].low, found[2].high) == (0, 0, 0), "the model does not read it"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A fusion model of bright squares and liver values, trained in this process, with a run folder as evaluate leaves it."""
    folder = tmp_path_factory.mktemp("explain")
    manifest = tiny_classification_cohort(folder / "cohort", {"train": 80, "val": 30, "test": 40}, emr=True)
    values = {
        "name": "run", "runs": str(folder), "data": {"cohort": str(folder / "cohort"), "emr": True}, "task": {"kind": "classification"},
        "model": {"family": "fusion", "image": {"depth": 10, "width": 8}, "emr": {"width": 8}}, "optim": {"lr": 1e-2},
        "train": {"epochs": 6, "global_batch": 16, "device": "cpu"},
    }  # fmt: skip
    recipe = parse(Recipe, values)
    rows = load_rows(recipe, manifest)
    model = fit(recipe, manifest, rows, np.arange(80), torch.device("cpu"))
    tables = {}
    for split, chosen in zip(SPLITS, np.split(np.arange(150), [80, 110]), strict=True):
        p = predict(recipe, manifest, model, rows, chosen, torch.device("cpu"))["probability"]
        keys = {"sample_id": rows.sample_id[chosen], "patient": rows.patient[chosen], "split": split, "label": rows.arrays["label"][chosen]}
        tables[split] = pd.DataFrame(keys | {f"probability_{k}": p[:, k] for k in range(2)})
    path = folder / "run"
    path.mkdir()
    save_model(path, dict(model.state_dict()), recipe, Signature.of(manifest), 80)
    pd.concat(tables.values()).to_parquet(path / "predictions.parquet")
    block = summarise("classification", tables["test"], 0.5, manifest.label_names, 30, 0)
    facts = {"threshold": {"value": 0.5, "rule": "half"}, "label_names": list(manifest.label_names)}
    write_result(path, task="classification", split={"test": block}, train=TRAIN, cohort_sha256=manifest.sha256(), seed=0, **facts)
    return path


def test_a_runs_page_shows_maps_and_the_importance_of_every_input(run, capsys):
    assert main(["explain", str(run)]) == 0
    assert "explain.html" in capsys.readouterr().out
    facts, page = json.loads((run / "explain.json").read_text()), (run / "explain.html").read_text()
    assert {entry["input"] for entry in facts["importance"]} == {"image", "emr", "alt", "age", "sex"}
    falls = {entry["input"]: entry["fall"] for entry in facts["importance"]}
    assert falls["image"] > 0.05 > abs(falls["age"]), "the square tells the class, the age does not"
    assert page.count("data:image/png") == 2 * len(facts["maps"]) > 0
    assert all(entry["sample_id"] in page for entry in facts["maps"])
    assert "http" not in page and str(run.parent) not in page
    before = (run / "explain.json").read_text()
    explain(run)
    assert (run / "explain.json").read_text() == before


def test_what_can_not_be_explained_is_refused(run):
    with pytest.raises(RunError, match=r"run 'run' is not scored on split 'val'; score it with: hepdist evaluate run --split val"):
        explain(run, "val")
