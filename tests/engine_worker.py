"""What each of two processes does in test_engine.py: train small nets in every ZeRO stage and precision, and resume one.

A module of its own, since spawned processes can't import test modules.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from networks import EMR
from torch import nn

from hepdist.models import Inputs, build
from hepdist.models.specs import (
    CNNSpec,
    DenseNetSpec,
    FusionSpec,
    InceptionSpec,
    MLPSpec,
    ModelSpec,
    ResNetSpec,
    RestorerSpec,
    RNNSpec,
    UNetSpec,
    VNetSpec,
)
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


def data(step: int, sides: tuple[int, ...] = (12, 12)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(BATCH, 1, *sides, generator=generator)
    return x, (x.flatten(1).mean(1) > 0).long()


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


FAMILIES: dict[str, ModelSpec] = {
    "resnet": ResNetSpec(depth=10, width=4, activation="prelu"),
    "densenet": DenseNetSpec(blocks=(2, 2), growth=4, checkpointing=True),
    "inception": InceptionSpec(depth=1, width=0.0625, auxiliary=True, checkpointing=True),
    "cnn": CNNSpec(depth=2, width=4, dense=8),
    "unet": UNetSpec(width=4, depth=3, norm="group", deep_supervision=True, checkpointing=True),
    "vnet": VNetSpec(width=4, convolutions=(1, 1), kernel=3, stride=2, checkpointing=True),
    "mlp": MLPSpec(width=8, members=2),
    "rnn": RNNSpec(width=8),
    "fusion": FusionSpec(image=ResNetSpec(depth=10, width=4), emr=MLPSpec(width=8), visits=RNNSpec(width=8), join="film"),
    "restorer": RestorerSpec(width=4, checkpointing=True),
}
"""What a stage that gathers parameters could stumble over: slopes of an activation, a second forward pass, several outputs or inputs."""
SIDES = {2: (12, 12), 3: (8, 8, 8)}
"""By the number of axes."""
VISITS = 3
LONG = 20
WITH_VOLUMES = tuple(name for name, spec in FAMILIES.items() if "image" in spec.reads)


def family(name: str, axes: int = 2) -> nn.Module:
    torch.manual_seed(0)
    network = build(FAMILIES[name], Inputs((1, *SIDES[axes]), EMR, EMR, visits=VISITS), 1 if name == "restorer" else 2)
    for module in network.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0  # drawn by rank
    return network


def given(step: int, rank: int | None = None, axes: int = 2) -> dict[str, torch.Tensor]:
    """A rank's part of a batch of everything that a network may read, or all of it."""
    generator = torch.Generator().manual_seed(step)
    image, label = data(step, SIDES[axes])
    visits = torch.rand(BATCH, VISITS, len(EMR), generator=generator)
    visits[:, :, 0] += label[:, None]
    lacking = (torch.rand(BATCH, VISITS, len(EMR), generator=generator) < 0.2).to(torch.uint8)
    batch = {
        "image": image, "image_missing": torch.zeros(BATCH, 1, dtype=torch.uint8), "label": label, "mask": (image[:, 0] > 0).long(),
        "emr": visits[:, 0], "emr_missing": lacking[:, 0], "sequence": visits, "sequence_missing": lacking,
        "sequence_gap": torch.full((BATCH, VISITS), 90.0), "sequence_length": torch.arange(BATCH, dtype=torch.int32)[:, None] % 3 + 1,
    }  # fmt: skip
    return batch if rank is None else {name: values[rank * BATCH // WORLD : (rank + 1) * BATCH // WORLD] for name, values in batch.items()}


def family_loss(network: nn.Module, names: Sequence[str], batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """A share of the batch's mean loss, of whatever the network answers: logits of one or several heads, members or levels, or an image."""
    outputs = network(*(batch[name] for name in names))
    heads = outputs if isinstance(outputs, list) else [outputs]
    return torch.stack([_losses(output.float(), batch).sum() for output in heads]).sum() / BATCH


def _losses(output: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """float[b]."""
    if output.ndim <= 3:  # [b, classes] or [b, members, classes]
        members = output.reshape(len(output), -1, 2)
        return torch.stack([nn.functional.cross_entropy(m, batch["label"], reduction="none") for m in members.unbind(1)]).mean(0)
    if output.shape[1] == 1:
        return (output + batch["image"]).square().flatten(1).mean(1)  # the negative
    steps = (whole // side for whole, side in zip(batch["mask"].shape[1:], output.shape[2:], strict=True))
    mask = batch["mask"][(slice(None), *(slice(None, None, step) for step in steps))]
    return nn.functional.cross_entropy(output, mask, reduction="none").flatten(1).mean(1)


def families_worker(rank: int, port: int, out: str, names: Sequence[str], axes: int, stages: Sequence[int], in_bf16: Sequence[int]) -> None:
    """LONG steps of each family in these stages, in bf16 too where asked; the losses of each step by 'family/stage/precision'."""
    engines, results = _join(rank, port), {}
    for name in names:
        for stage in stages:
            for precision in ("fp32", "bf16") if stage in in_bf16 else ("fp32",):
                network = family(name, axes)
                engine = engines.build_engine(network, recipe(stage, precision), BATCH, torch.device("cpu"))
                losses = []
                for step in range(LONG):
                    loss = family_loss(engine, network.inputs, given(step % 4, rank, axes))
                    engine.backward(loss * WORLD, scale_wrt_gas=False)
                    engine.step()
                    share = loss.detach()
                    dist.all_reduce(share)
                    losses.append(share.item())
                results[f"{name}/{stage}/{precision}"] = losses
    if rank == 0:
        torch.save(results, out)
    dist.destroy_process_group()


def _join(rank: int, port: int) -> Any:
    """hepdist.training.engine, once the processes have found each other."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(WORLD), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    from hepdist.training import engine

    return engine


def worker(rank: int, port: int, out: str) -> None:
    engines = _join(rank, port)
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
