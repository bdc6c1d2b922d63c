"""A loss that is not a number on one rank: the step reaches no weights in any ZeRO stage, and the policy is kept."""

from __future__ import annotations

import socket

import pytest
import torch
import torch.multiprocessing as mp
from engine_worker import STEPS, WORLD, data, net
from guard_worker import BAD_STEP, worker
from torch import nn

SAID = "the loss or gradient of step 3 is not finite; samples s6"


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("guard") / "results.pt"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(worker, (port, str(out)), nprocs=WORLD)
    return torch.load(out)


def reference(clip: float) -> dict[str, torch.Tensor]:
    """Plain AdamW in one process that never saw the bad step."""
    model = net()
    kinds = [[p for p in model.parameters() if p.ndim > 1], [p for p in model.parameters() if p.ndim <= 1]]
    adamw = torch.optim.AdamW([{"params": kinds[0], "weight_decay": 0.1}, {"params": kinds[1], "weight_decay": 0.0}], lr=1e-3)
    for step in range(STEPS):
        if step == BAD_STEP:
            continue
        x, y = data(step)
        adamw.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        adamw.step()
    return model.state_dict()


@pytest.mark.parametrize("clip", [0.5, 0.0])
@pytest.mark.parametrize("stage", range(4))
def test_a_step_that_is_left_out_leaves_weights_moments_and_their_count_as_they_were(results, stage, clip):
    weights, progress, said = results[f"{stage}/{clip}"]
    expected = reference(clip)
    assert max((weights[name] - expected[name]).abs().max().item() for name in expected) < 2e-6
    assert said == [f"{SAID}; the step is left out"]
    assert progress["left_out"] == 0, "the steps after it were good"


def test_stop_names_the_sample_and_the_ways_out(results):
    *_, said = results["stop"]
    assert said == [f"{SAID}; look at these inputs, lower optim.lr (now 0.001) or optim.clip (now 0.5), or set train.on_nonfinite=skip"]


def test_back_off_halves_the_learning_rate_each_time(results):
    _, progress, said = results["back_off"]
    assert progress["lr_scale"] == 0.25
    assert said[1] == f"{SAID}; the step is left out, and the learning rate is 0.25 of the recipe's from here on"


def test_ten_steps_in_a_row_stop_the_run(results):
    _, progress, said = results["always"]
    assert progress["left_out"] == 10
    assert len(said) == 10
    assert said[-1].startswith("the loss or gradient of step 10 is not finite; samples s6; it was so in 10 steps in a row")
