"""The dry run: what it says of a configuration is measured on the real network with real rows, and what it says of a search follows from that."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from cohorts import tiny_classification_cohort, tiny_segmentation_cohort
from hepdist.cluster import Cluster
from hepdist.errors import RecipeError
from hepdist.recipe import Recipe, load_recipe
from hepdist.search.estimate import dry_run, estimates, largest, share_of_epochs, usual
from hepdist.search.measure import counted, measure
from hepdist.search.space import Space, apply
from hepdist.shards.manifest import Manifest
from hepdist.training.saved_model import Signature, build_model


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohorts") / "images"
    tiny_classification_cohort(folder, {"train": 20, "val": 8, "test": 4})
    return folder


def pneumonia(cohort: Path, *overrides: str) -> Recipe:
    small = ["model.depth=10", "model.width=8", "train.global_batch=8", f"data.cohort={cohort}"]
    return load_recipe("pneumonia-resnet", ["search={}", *small, *overrides])


def shown(recipe: Recipe, cluster: Cluster) -> str:
    text = io.StringIO()
    console = Console(file=text, width=600)
    for part in dry_run(recipe, Manifest.load(recipe.data.cohort), cluster):
        console.print(part)
    return text.getvalue()


def test_bytes_that_a_backward_pass_needs_are_counted_once_without_the_weights():
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 1))
    x = torch.randn(4, 10)
    with counted(model) as kept:
        loss = model(x).sum()
    assert sum(kept.values()) == 4 * (4 * 10 + 4 * 20)  # the input, and what ReLU gives, which the second layer reads too
    loss.backward()
    plain = model[0].weight.grad.clone()
    model.zero_grad()
    model(x).sum().backward()
    assert torch.equal(plain, model[0].weight.grad)


def test_a_cost_is_that_of_one_workers_part_of_the_batch(images):
    recipe, manifest = pneumonia(images), Manifest.load(images)
    cost = measure(recipe, manifest)
    parameters = sum(p.numel() for p in build_model(recipe, Signature.of(manifest)).parameters())
    assert (cost.parameters, cost.micro_batch, cost.state_bytes, cost.trouble) == (parameters, 4, 16 * parameters, "")
    assert cost.train_s > 0 and cost.validate_s > 0 and not cost.scaled
    # 20 train rows on 2 workers in micro-batches of 4; 8 rows of validation, each seen twice because of test_flip
    assert cost.epoch_s == pytest.approx(cost.train_s * 20 / 2 / 4 + cost.validate_s * 16 / 2 / 4)
    assert cost.memory_bytes == cost.state_bytes + cost.activation_bytes
    twice = measure(pneumonia(images, "train.global_batch=16", "train.zero_stage=1"), manifest)
    assert 1.9 < twice.activation_bytes / cost.activation_bytes <= 2.0
    assert twice.state_bytes == 12 * parameters  # two moments of 4 bytes, half of them on each worker
    assert measure(pneumonia(images, "train.zero_stage=3", "train.micro_batch=2"), manifest).state_bytes == 8 * parameters


def test_measuring_leaves_torch_as_it_was(images):
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    measure(pneumonia(images), Manifest.load(images))
    assert torch.equal(before, torch.get_rng_state()) and torch.get_num_threads() == threads


def test_long_passes_are_scaled_from_two_samples(images, monkeypatch):
    monkeypatch.setattr("hepdist.search.measure.LONGEST_S", 0.0)
    cost = measure(pneumonia(images), Manifest.load(images))
    whole = measure(pneumonia(images, "train.micro_batch=2"), Manifest.load(images))
    assert cost.scaled and cost.micro_batch == 4 and not whole.scaled
    assert cost.activation_bytes == 2 * whole.activation_bytes


def test_a_configuration_that_cannot_be_trained_says_why_instead(images):
    recipe = pneumonia(images, "model.norm=instance", "model.stem=large")  # 16 pixels are one at the end
    cost = measure(recipe, Manifest.load(images))
    assert cost.trouble.startswith("Expected more than 1 spatial element when training")
    assert cost.parameters == cost.memory_bytes == cost.epoch_s == 0


def test_usual_is_the_recipe_or_what_lies_in_the_space_and_largest_is_its_upper_end(images):
    recipe = pneumonia(images, "search.vary=[model,lr,optim,batch,augment]")
    space = Space.of(recipe, Manifest.load(images))
    own = usual(recipe, space, "resnet")
    assert apply(recipe, own) == recipe and own["augment.strength"] == 1.0
    assert usual(recipe, space, "densenet") | {"model.dropout": 0} == {
        "model.family": "densenet", "model.blocks": [6, 12, 8], "model.growth": 32, "model.compression": 0.5, "model.norm": "group",
        "model.activation": "relu", "model.dropout": 0, "optim.lr": 2e-3, "optim.weight_decay": 0.05, "optim.schedule": "cosine",
        "train.global_batch": 8, "augment.strength": 1.0,
    }  # fmt: skip
    most = largest(recipe, space, "densenet")
    assert (most["model.blocks"], most["model.growth"], most["model.compression"]) == ([6, 12, 24, 16], 32, 1.0)
    assert most["train.global_batch"] == 16 and most["optim.lr"] == 2e-3 and most["model.norm"] == "group"
    assert largest(recipe, space, "inception")["model.variant"] == "v3" and largest(recipe, space, "inception")["model.width"] == 1.0


def test_where_the_upper_ends_are_impossible_together_a_possible_configuration_is_taken(tmp_path):
    manifest = tiny_segmentation_cohort(tmp_path / "c")
    recipe = load_recipe("hippocampus-vnet", [f"data.cohort={tmp_path / 'c'}", "search.families=[vnet]", "search.vary=[lr]"])
    given = {"vnet.convolutions": [[1, 1], [1, 1, 1]], "vnet.decoder": [[1, 1], [9]]}
    recipe = recipe.model_copy(update={"search": recipe.search.model_copy(update={"space": given})})
    config = largest(recipe, Space.of(recipe, manifest), "vnet")
    assert (config["model.convolutions"], config["model.decoder"]) == ([1, 1, 1], [1, 1])


@pytest.mark.parametrize(
    ("overrides", "share"),
    [
        (["search.scheduler=asha", "search.trials=27"], (3 + 6 / 3 + 18 / 9) / 27),  # rungs 3, 9, 27
        (["search.scheduler=asha", "search.trials=14"], (3 * 14 + 6 * 4 + 18) / (14 * 27)),
        (["search.scheduler=asha", "search.trials=27", "search.grace=1"], 3 / 27),  # rungs 1, 3, 9, 27: 1 + 2/3 + 6/9 + 18/27 epochs
        (["search.scheduler=asha", "search.grace=40"], 1.0),
        (["search.scheduler=asha", "search.trials=27", "train.validate_every=4"], (4 + 8 / 3 + 15 / 9) / 27),  # rungs 4, 12, 27
        (["search.scheduler=hyperband"], (27 * 3 + 12 * 7 + 6 * 15 + 4 * 27) / (49 * 27)),
        (["search.scheduler=median"], 1.0),
        (["search.scheduler=pbt"], 1.0),
        (["search.scheduler=none"], 1.0),
    ],
)
def test_the_share_of_epochs_is_that_of_the_schedulers_rungs(overrides, share):
    assert share_of_epochs(load_recipe("pneumonia-resnet", ["search={}", "train.epochs=27", *overrides]))[0] == pytest.approx(share)


def test_a_dry_run_says_what_is_varied_what_it_costs_and_what_runs_at_a_time(images):
    overrides = (
        "search.families=[resnet, cnn]",
        "search.space={resnet.depth: [10], resnet.width: [8], cnn.width: [8], cnn.depth: [2, 3]}",
        "train.epochs=9",
        "search.prices={default: 0.5}",
    )
    text = shown(pneumonia(images, *overrides), Cluster(5.0, 0.0, True))
    assert "resnet, cnn" in text and "0.0002 to 0.02, logarithmic" in text and "infinitely many configurations" in text
    lines = [line.split() for line in text.splitlines()]
    rows = {(line[0], line[1]): line for line in lines if line[:1] != ["With"] and line[1:2] in (["usual"], ["largest"])}
    assert set(rows) == {("resnet", "usual"), ("cnn", "usual"), ("cnn", "largest")}  # there is one ResNet only, but for its dropout
    manifest, recipe = Manifest.load(images), pneumonia(images)
    parameters = sum(p.numel() for p in build_model(recipe, Signature.of(manifest)).parameters())
    assert rows["resnet", "usual"][2] == f"{parameters:,}"
    assert "measured on this machine's CPU" in text
    assert "A trial takes 2 workers, 2 CPUs; the cluster has 5 CPUs and 0 GPUs: 2 of 20 trials at a time." in text
    assert (
        "A trial is trained for 24% of its 9 epochs in the mean (ASHA lets the best go on: 20 to epoch 1, 6 to epoch 3, 2 to epoch 9)."
        in text
    )
    assert "The best 3 are trained again with 3 seeds each, to the end; then the winner is scored on test once." in text
    # 9 confirmations of 9 epochs, and 20 * 1 + 6 * 2 + 2 * 6
    assert "That is 125 epochs of training in all." in text
    cpu_hours, money = (re.findall(pattern, text)[0] for pattern in (r"it takes (\S+) CPU-hours", r"At 0.5 of money .* that is (\S+),"))
    assert float(money) == pytest.approx(0.5 * float(cpu_hours), rel=0.01)


def test_on_gpus_a_dry_run_promises_no_seconds(images):
    overrides = (
        "search.vary=[lr]",
        "train.workers=1",
        "search.gpus_per_worker=0.5",
        "search.concurrent=3",
        "search.confirm=0",
        "search.scheduler=none",
    )
    text = shown(pneumonia(images, *overrides), Cluster(16.0, 2.0, False))
    assert "A trial takes 1 worker, 1 CPU and 0.5 GPUs; the cluster has 16 CPUs and 2 GPUs: 3 of 20 trials at a time." in text
    assert "Trials will run on GPUs, where an epoch takes another time" in text and "CPU-hours" not in text and "scored on test" not in text


def test_a_cluster_that_holds_no_trial_is_refused_before_anything_is_measured(images):
    with pytest.raises(RecipeError, match=r"recipe key 'train.workers' is 2, but the cluster has 1 CPUs"):
        shown(pneumonia(images), Cluster(1.0, 0.0, True))


def test_every_family_for_masks_is_measured_with_its_real_loss(tmp_path):
    manifest = tiny_segmentation_cohort(tmp_path / "c", shape=(16, 32, 32))
    space = {
        "vnet.convolutions": [[1, 1], [1, 2], [1, 2, 2]],
        "vnet.width": [4],
        "vnet.kernel": [3],
        "unet.width": [4],
        "unet.depth": [2, 3],
    }
    recipe = load_recipe("hippocampus-unet", ["search={}", f"data.cohort={tmp_path / 'c'}", "augment.crop=[16, 32, 32]", "model.depth=2"])
    recipe = recipe.model_copy(update={"search": recipe.search.model_copy(update={"space": space})})
    found = list(estimates(recipe, manifest, Space.of(recipe, manifest)))
    assert [(e.family, e.what) for e in found] == [("unet", "usual"), ("unet", "largest"), ("vnet", "usual"), ("vnet", "largest")]
    assert all(e.cost.trouble == "" and e.cost.epoch_s > 0 and e.cost.activation_bytes > 0 for e in found)
    assert found[1].cost.parameters > found[0].cost.parameters and found[3].cost.parameters > found[2].cost.parameters
