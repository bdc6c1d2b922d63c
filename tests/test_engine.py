"""The DeepSpeed engine against plain PyTorch: the same losses and weights in every ZeRO stage, and exact resumes between stages."""

from __future__ import annotations

import socket

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from engine_worker import FAMILIES, STEPS, WITH_VOLUMES, WORLD, data, families_worker, family, family_loss, given, net, worker
from torch import nn

QUICK_STAGES = (0, 3)
"""For whole families in the quick suite: nothing sharded and everything; the slow tests take all four, a small net does so here."""


def plain_pytorch(bf16: bool = False) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The reference: one process, the whole batch, torch's own AdamW with the same groups and clipping."""
    model = net()
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    adamw, losses = torch.optim.AdamW(groups, lr=1e-3), []
    for step in range(STEPS):
        x, y = data(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(x)
        loss = nn.functional.cross_entropy(logits.float(), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        adamw.step()
        adamw.zero_grad()
        losses.append(loss.item())
    return losses, {n: p.detach().clone() for n, p in model.named_parameters()}


def spawned(work, folder, *more):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, (port, str(folder / "results.pt"), *more), nprocs=WORLD)
    return torch.load(folder / "results.pt", weights_only=True)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return spawned(worker, tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="module")
def of_families(tmp_path_factory):
    return spawned(families_worker, tmp_path_factory.mktemp("families"), FAMILIES, 2, QUICK_STAGES, (3,))


def check_stages(found, name, axes=2, stages=range(4)):
    first, drift = found[f"{name}/0/fp32"], 1 if axes == 2 else 5
    assert len(first) == 20 and np.mean(first[-4:]) < np.mean(first[:4])
    for stage in stages:  # rounding differs with the order of sums and grows from step to step, in 3D by more of them
        losses = found[f"{name}/{stage}/fp32"]
        assert np.allclose(losses[:10], first[:10], rtol=drift * 2e-5) and np.allclose(losses, first, rtol=drift * 2e-3), stage
    in_bf16 = [losses for case, losses in found.items() if case.startswith(f"{name}/") and case.endswith("bf16")]
    assert in_bf16
    for losses in in_bf16:
        assert np.allclose(losses[:10], first[:10], rtol=0.05, atol=0.02) and np.allclose(losses, first, rtol=drift * 0.05, atol=0.02)


def check_against_one_process(found, name, axes=2):
    model = family(name, axes)
    adamw = torch.optim.AdamW(
        [{"params": [p for p in model.parameters() if (p.ndim > 1) == matrix], "weight_decay": 0.1 * matrix} for matrix in (True, False)],
        lr=1e-3,
    )
    for step, expected in enumerate(found[f"{name}/0/fp32"][:5]):
        loss = family_loss(model, model.inputs, given(step % 4, axes=axes))
        adamw.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        adamw.step()
        assert loss.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_twenty_steps_of_a_family_have_the_same_losses_whole_and_in_parts(of_families, name):
    check_stages(of_families, name, stages=QUICK_STAGES)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_in_two_processes_has_the_losses_of_one(of_families, name):
    check_against_one_process(of_families, name)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "axes"), [*((name, 2) for name in FAMILIES), *((name, 3) for name in WITH_VOLUMES)])
def test_a_family_has_the_same_losses_in_every_stage_and_those_of_one_process(tmp_path, name, axes):
    found = spawned(families_worker, tmp_path, (name,), axes, range(4), range(4))
    check_stages(found, name, axes)
    check_against_one_process(found, name, axes)


@pytest.mark.parametrize("case", ["0/fp32/8", "1/fp32/8", "2/fp32/8", "3/fp32/8", "0/fp32/1", "2/fp32/2"])
def test_every_stage_and_accumulation_equals_plain_pytorch(results, case):
    losses, weights = plain_pytorch()
    assert np.allclose(results[case][0], losses, rtol=1e-5)
    for name, weight in weights.items():
        assert torch.allclose(results[case][1][name], weight, atol=2e-5), name


@pytest.mark.parametrize("case", ["0/bf16/8", "1/bf16/8", "2/bf16/8", "3/bf16/8"])
def test_bf16_equals_plain_autocast_and_keeps_fp32_weights(results, case):
    losses, weights = results[case]
    assert np.allclose(losses, plain_pytorch(bf16=True)[0], rtol=0.01)
    assert losses != results["0/fp32/8"][0]
    assert {t.dtype for t in weights.values()} == {torch.float32}


@pytest.mark.parametrize("saved", range(4))
@pytest.mark.parametrize("stage", range(4))
def test_a_checkpoint_of_any_stage_resumes_in_any_stage(results, saved, stage):
    losses, weights = results[f"resume {saved}->{stage}"]
    straight_losses, straight = results[f"{stage}/fp32/8"]
    assert np.allclose(losses, straight_losses[STEPS // 2 :], rtol=1e-5)
    for name, weight in straight.items():
        if saved == stage:
            assert torch.equal(weights[name], weight), name  # bit-identical
        assert torch.allclose(weights[name], weight, atol=2e-5), name
