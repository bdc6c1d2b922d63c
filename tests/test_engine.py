"""The DeepSpeed engine against plain PyTorch: the same losses and weights in every ZeRO stage, and exact resumes between stages."""

from __future__ import annotations

import os
import socket

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from hepdist.recipe import Recipe
from hepdist.spec import parse

STEPS, BATCH, WORLD = 6, 8, 2


def recipe(stage: int, precision: str = "fp32", micro: int | None = None) -> Recipe:
    return parse(
        Recipe,
        {
            "name": "t", "data": {"cohort": "x"}, "task": {"kind": "classification"}, "model": {"family": "resnet"},
            "optim": {"lr": 1e-3, "weight_decay": 0.1, "clip": 0.5},
            "train": {"zero_stage": stage, "precision": precision, "global_batch": BATCH, "micro_batch": micro},
        },
    )  # fmt: skip


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
        nn.Linear(128, 900), nn.ReLU(), nn.Linear(900, 2),
    )  # fmt: skip


def data(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(BATCH, 1, 12, 12, generator=generator)
    return x, (x.mean((1, 2, 3)) > 0).long()


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


def advance(engine, first: int, last: int, micro: int) -> list[float]:
    rank, losses = dist.get_rank(), []
    for step in range(first, last):
        x, y = (t[rank * BATCH // WORLD : (rank + 1) * BATCH // WORLD] for t in data(step))
        share = torch.zeros(())
        for i in range(0, len(x), micro):
            engine.set_gradient_accumulation_boundary(i + micro >= len(x))
            loss = nn.functional.cross_entropy(engine(x[i : i + micro]).float(), y[i : i + micro], reduction="sum") / BATCH
            engine.backward(loss * WORLD, scale_wrt_gas=False)
            share += loss.detach()
        engine.step()
        dist.all_reduce(share)
        losses.append(share.item())
    return losses


def worker(rank: int, port: int, out: str) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(WORLD), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    from hepdist.training import engine as engines

    cpu, example, results, halves = torch.device("cpu"), (torch.zeros(1, 1, 12, 12),), {}, {}
    cases = [(stage, "fp32", BATCH) for stage in range(4)] + [
        (0, "fp32", 1),
        (2, "fp32", 2),
        (0, "bf16", BATCH),
        (1, "bf16", BATCH),
        (2, "bf16", BATCH),
        (3, "bf16", BATCH),
    ]
    for stage, precision, micro in cases:
        engine = engines.build_engine(net(), recipe(stage, precision, micro), micro, cpu)
        losses = advance(engine, 0, STEPS // 2, micro)
        halves[stage, precision, micro] = engines.whole_weights(engine), engines.whole_optimizer(engine)
        losses += advance(engine, STEPS // 2, STEPS, micro)
        results[f"{stage}/{precision}/{micro}"] = (losses, engines.whole_weights(engine))
    for saved in range(4):
        for stage in range(4):
            engine = engines.build_engine(net(), recipe(stage), BATCH, cpu)
            engines.restore(engine, *halves[saved, "fp32", BATCH], example)
            losses = advance(engine, STEPS // 2, STEPS, BATCH)
            results[f"resume {saved}->{stage}"] = (losses, engines.whole_weights(engine))
    if rank == 0:
        torch.save(results, out)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    out = tmp_path_factory.mktemp("engine") / "results.pt"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(worker, (port, str(out)), nprocs=WORLD)
    return torch.load(out, weights_only=True)


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
