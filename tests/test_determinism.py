"""train.deterministic: torch's switches are on in the workers, two runs end in the same bits, and what has no such form is named."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from determinism_worker import WORLD, worker
from golden_worker import small
from safetensors.torch import load_file

from hepdist.errors import RecipeError
from hepdist.recipe import Recipe
from hepdist.training import determinism
from hepdist.training.checkpoint import digest, newest_first
from hepdist.training.metrics_file import read_metrics

SENTENCE = (
    "recipe key 'train.deterministic' is true, but torch's put_ gives other bits in each run on this device;"
    " set train.deterministic=false, or use another model or loss"
)


def config_of(recipe: Recipe) -> dict[str, Any]:
    """What the worker's function is called with, for a run in a new folder."""
    recipe.folder.mkdir(parents=True)
    return {"recipe": recipe.model_dump(mode="json"), "folder": str(recipe.folder), "device": "cpu", "phases": {}}


def bits(run: Path) -> tuple[list[float], str]:
    """The losses of a run and the digest of its weights, averages and moments."""
    newest = newest_first(run / "checkpoints")[0]
    tensors = {f"{file.stem}.{name}": t for file in newest.glob("*.safetensors") for name, t in load_file(file).items()}
    return [line["loss"] for line in read_metrics(run) if "loss" in line], digest(tensors)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory) -> tuple[list[Path], list[bool], str]:
    """Runs without the switch, with it, with it again; whether it was on after each; and what a loss without such a form came to."""
    folder = tmp_path_factory.mktemp("determinism")
    on = small("pneumonia-resnet", folder, {"deterministic": True, "workers": WORLD})
    off = on.model_copy(update={"train": on.train.model_copy(update={"deterministic": False})})
    named = [(off, "off"), (on, "on"), (on, "on-again"), (on, "refused")]
    *runs, refused = (recipe.model_copy(update={"name": name}) for recipe, name in named)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(worker, (port, [config_of(recipe) for recipe in runs], config_of(refused), str(folder / "out.pt")), nprocs=WORLD)
    return [recipe.folder for recipe in runs], *torch.load(folder / "out.pt", weights_only=True)


def test_two_deterministic_runs_of_two_workers_end_in_the_same_bits(outcome):
    runs, switched, _ = outcome
    assert switched == [False, True, True]
    assert bits(runs[1]) == bits(runs[2])


def test_on_cpus_training_has_the_same_bits_without_the_switch(outcome):
    runs, *_ = outcome
    assert bits(runs[0]) == bits(runs[1])


def test_an_operation_without_a_deterministic_form_ends_training_with_a_sentence(outcome):
    *_, sentence = outcome
    assert sentence == SENTENCE


@pytest.fixture
def switches_restored():
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    filling, workspace = torch.utils.deterministic.fill_uninitialized_memory, os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    yield
    torch.use_deterministic_algorithms(False)
    cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before
    torch.utils.deterministic.fill_uninitialized_memory = filling
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG")
    if workspace is not None:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = workspace


@pytest.mark.usefixtures("switches_restored")
def test_every_switch_that_a_gpu_has_is_set_and_other_errors_stay_what_they_are():
    torch.backends.cudnn.benchmark = torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    determinism.switch_on()
    assert torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    with pytest.raises(RecipeError, match=r"torch's put_ gives other bits"), determinism.named():
        torch.zeros(2).put_(torch.tensor([0]), torch.ones(1))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), determinism.named():
        torch.zeros(2, 3) @ torch.zeros(2, 3)
