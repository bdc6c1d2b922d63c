"""The first eight steps of every shipped recipe give the losses in tests/golden: whoever changes training by accident is told which recipes.

After a change that is meant: PYTHONPATH=. python tests/golden_worker.py [RECIPE ...], and look at the difference before committing it.
"""

from __future__ import annotations

import json
import platform

import numpy as np
import pytest
from golden_worker import GOLDEN, STEPS, run

from hepdist.recipe import shipped_recipes

LEAST = {"loss": 1e-4, "critic_loss": 1e-4, "lr": 1e-12, "ema_decay": 0.0}
"""Relative tolerance of each number; all else, norms of weights and moments, 1e-5. Where the file's `spread` says that other kernels differ by
more than a tenth of it, ten times the spread: rounding is 1e-7 of the first loss, and a network whose activations have kinks or whose batch
norm sees few values makes up to 1e-2 of it within the eight steps."""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return run(shipped_recipes(), tmp_path_factory.mktemp("golden"))


def test_every_shipped_recipe_has_golden_losses():
    assert sorted(path.stem for path in GOLDEN.glob("*.json")) == shipped_recipes()


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_has_its_golden_losses(found, name):
    golden, now = json.loads((GOLDEN / f"{name}.json").read_text()), found[name]
    if golden["machine"] != platform.machine():
        pytest.skip(f"written on {golden['machine']}, where torch draws other random numbers for dropout")
    assert {*golden} - {"machine", "torch", "spread"} == {*now}
    assert len(now["loss"]) == STEPS
    for key, value in now.items():
        tolerance = np.maximum(LEAST.get(key, 1e-5), 10 * np.array(golden["spread"].get(key, 0.0)))
        assert (np.abs(np.array(value) - golden[key]) <= tolerance * np.abs(golden[key])).all(), key
