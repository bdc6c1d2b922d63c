"""One checkpoint from the middle of an epoch, saved on two workers, goes on alike on one to four."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from chaos import evidence
from chaos.runs import ROWS, values
from hepdist.recipe import Recipe
from hepdist.spec import parse
from hepdist.training.checkpoint import newest_first
from hepdist.training.launch import train

CURSOR, NEXT, EPOCHS = 75 + 32, 20, 4
"""After 14 of 40 steps, 4 of them in the second epoch."""


def plain(cohort: Path, runs: Path, name: str, workers: int) -> Recipe:
    """Without dropout and mixup pairs, which are drawn by worker."""
    asked = values(cohort, runs, name)
    asked["model"]["dropout"] = asked["augment"]["mixup"] = 0.0
    return parse(Recipe, asked | {"train": asked["train"] | {"workers": workers, "epochs": EPOCHS, "keep": 100}})


@pytest.fixture(scope="module")
def on_two(cohort, tmp_path_factory, ray_cluster) -> Path:
    return train(plain(cohort, tmp_path_factory.mktemp("runs"), "two", 2))


@pytest.mark.parametrize("workers", [pytest.param(n, marks=[pytest.mark.slow] * (n != 3)) for n in (1, 2, 3, 4)])
def test_a_run_goes_on_from_mid_epoch_on_any_number_of_workers(cohort, tmp_path, on_two, workers):
    resumed = plain(cohort, tmp_path, "resumed", workers)
    shutil.copytree(on_two, resumed.folder)
    for path in newest_first(resumed.folder / "checkpoints"):
        if int(path.name.split("-")[1]) > CURSOR:
            shutil.rmtree(path)
    train(resumed)
    losses, expected = (
        [(samples, loss) for samples, loss, _ in evidence.curve(run) if loss is not None and samples > CURSOR][:NEXT]
        for run in (resumed.folder, on_two)
    )
    assert [samples for samples, _ in losses] == [samples for samples, _ in expected]
    assert len(losses) == NEXT
    close = (lambda values: values) if workers == 2 else (lambda values: pytest.approx(values, rel=1e-5))
    assert [loss for _, loss in losses] == close([loss for _, loss in expected])
    counted = evidence.times_consumed(resumed.folder, ROWS)
    assert all(counted[epoch][row] == 1 for epoch in range(EPOCHS) for row in range(ROWS))
    assert {len(parts) for _, samples, parts in evidence.batches(resumed.folder) if samples > CURSOR} == {workers}
