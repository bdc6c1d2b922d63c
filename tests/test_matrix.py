"""Settings of training crossed with each other: each combination equals plain PyTorch and resumes exactly, or is refused in one sentence.

ZeRO stage, offloading, precision, accumulation, clipping, average of the weights, activation checkpointing, a critic. The quick test
takes the few combinations in which any two values meet, the slow one all 416.
"""

from __future__ import annotations

import math
import socket
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from matrix_worker import IMAGE, MANIFEST, OPTIONS, STEPS, WORLD, Case, batch, every_case, network, pairwise_cases, recipe, refused, worker
from torch import Tensor, nn

from hepdist.cluster import Cluster
from hepdist.errors import RecipeError
from hepdist.models.patchgan import PatchGAN
from hepdist.tasks import build as build_task
from hepdist.training.preflight import fits_cluster

LOSS = {"fp32": 1e-5, "bf16": 2e-2}
"""Relative difference of any step's loss; seen: 1e-6 and 1e-2."""
DISTANCE = {"fp32": 1e-4, "bf16": 0.03}
"""How far weights end up from the reference's, as a share of the way that they went; seen: 6e-6 and 1.7e-2. bf16 is 3.6e-2 from fp32."""
CASES, ALL = pairwise_cases(), every_case()
PLAIN = Case(0, "none", "fp32", None, 0.0, 0.0, False, False)


class Said:
    """A model whose answer is known."""

    inputs = ("image",)

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def __call__(self, _: Tensor) -> Tensor:
        return self.logits


def groups(model: nn.Module, decay: float) -> list[dict]:
    """Weight decay for matrices and kernels alone."""
    named = [([p for p in model.parameters() if p.ndim > 1], decay), ([p for p in model.parameters() if p.ndim <= 1], 0.0)]
    return [{"params": parameters, "weight_decay": rate} for parameters, rate in named]


@cache
def plain_pytorch(precision: str, clip: float, critic: bool) -> tuple[list[list[float]], dict[str, Tensor]]:
    """The reference: one process, whole batches, torch's own AdamW, the schedule and the average of the weights written out."""
    settings = recipe(PLAIN._replace(precision=precision, clip=clip, critic=critic))
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    task, model = build_task(settings, MANIFEST), network(settings)
    adamw = torch.optim.AdamW(groups(model, 0.1))
    average = {name: p.detach().clone() for name, p in model.named_parameters()}
    if critic:
        torch.manual_seed(0)
        judge = PatchGAN(settings.adversary, IMAGE, 2)
        judge_adamw = torch.optim.AdamW(groups(judge, 0.0), betas=(0.5, 0.999))
    losses = []
    for step in range(STEPS):
        rows = batch(step)
        share = rows["weight"] / rows["weight"].sum()
        rate = 1e-3 * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - 2) / 8)) if step >= 2 else (step + 1) / 2)
        with autocast:
            logits = model(rows["image"])
        by_row = task.loss(Said(logits), rows)
        truth = nn.functional.one_hot(rows["mask"][:, 0].long(), 2).movedim(-1, 1).float()
        claim = logits.float().softmax(1)
        if critic and step >= 3:
            with autocast:
                verdict = judge(rows["image"], claim)
            by_row = by_row + 0.1 * 0.5 * (verdict.float() - 1).square().flatten(1).mean(1)
        loss = (by_row * share).sum()
        model.zero_grad()
        loss.backward()
        losses.append([loss.item()])
        if critic:
            judge.zero_grad()
            with autocast:
                true, claimed = judge(rows["image"], truth).float(), judge(rows["image"], claim.detach()).float()
            judged = 0.25 * ((true - 1).square() + claimed.square()).flatten(1).mean(1)
            judge_loss = (judged * share).sum()
            judge_loss.backward()
            losses[-1].append(judge_loss.item())
        for net, optimizer in ((model, adamw), (judge, judge_adamw)) if critic else ((model, adamw),):
            if clip:
                nn.utils.clip_grad_norm_(net.parameters(), clip)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        for name, parameter in model.named_parameters():
            average[name].lerp_(parameter.detach(), 1 - min(0.9, (1 + step) / (10 + step)))
    found = dict(model.named_parameters()) | {f"average.{name}": mean for name, mean in average.items()}
    found |= {f"critic.{name}": p for name, p in judge.named_parameters()} if critic else {}
    return losses, {name: values.detach() for name, values in found.items()}


def distance(weights: dict[str, Tensor], reference: dict[str, Tensor], case: Case) -> float:
    """|w - reference| / |reference - start|, over all weights, averages and the critic's."""
    start = dict(network(recipe(case)).named_parameters())
    if case.critic:
        torch.manual_seed(0)
        start |= {f"critic.{name}": p for name, p in PatchGAN(recipe(case).adversary, IMAGE, 2).named_parameters()}
    apart = math.sqrt(sum((weights[name] - reference[name]).square().sum().item() for name in weights))
    way = math.sqrt(sum((reference[name] - start[name.removeprefix("average.")].detach()).square().sum().item() for name in weights))
    return apart / way


def spawned(folder: Path, cases: list[Case], resume: bool):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(worker, (port, cases, resume, str(folder / "results.pt")), nprocs=WORLD)
    return torch.load(folder / "results.pt", weights_only=True)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return spawned(tmp_path_factory.mktemp("matrix"), CASES, resume=True)


def check(case: Case, outcome) -> None:
    losses, weights = outcome
    expected, reference = plain_pytorch(case.precision, case.clip, case.critic)
    wanted = {name for name in reference if case.ema or not name.startswith("average.")}
    assert set(weights) == wanted, case
    assert {values.dtype for values in weights.values()} == {torch.float32}, case
    assert np.allclose(losses, expected, rtol=LOSS[case.precision]), case
    assert distance(weights, reference, case) < DISTANCE[case.precision], case
    if case.ema:
        average = {name: values for name, values in weights.items() if name.startswith("average.")}
        raw = {name: reference[name.removeprefix("average.")] for name in average}
        assert distance(average, reference, case) < distance(average, raw, case), case


@pytest.mark.parametrize("number", range(len(CASES)), ids=["-".join(map(str, case)) for case in CASES])
def test_any_two_settings_together_equal_plain_pytorch(results, number):
    check(CASES[number], results[number, "straight"])


@pytest.mark.parametrize("number", range(len(CASES)), ids=["-".join(map(str, case)) for case in CASES])
def test_a_checkpoint_under_any_two_settings_resumes_bit_identically(results, number):
    (losses, weights), (later, resumed) = results[number, "straight"], results[number, "resumed"]
    assert later == losses[STEPS // 2 :]
    assert weights.keys() == resumed.keys()
    for name, values in weights.items():
        assert torch.equal(values, resumed[name]), name


@pytest.mark.parametrize("precision", OPTIONS.precision)
def test_the_tolerances_tell_the_settings_apart(precision):
    losses, free = plain_pytorch(precision, 0.0, False)
    contested, _ = plain_pytorch(precision, 0.0, True)
    _, clipped = plain_pytorch(precision, 0.05, False)
    alike = {name: values for name, values in free.items() if not name.startswith("average.")}
    average = {name: free[f"average.{name}"] for name in alike}
    assert distance({name: clipped[name] for name in alike}, alike, PLAIN) > 2 * DISTANCE[precision]
    # An average of ten steps lies within bf16's noise of the weights, so `check` asks there which of the two is nearer.
    assert distance(average, alike, PLAIN) > 2 * DISTANCE["fp32"]
    assert max(abs(with_critic[0] / alone[0] - 1) for with_critic, alone in zip(contested, losses, strict=True)) > 2 * LOSS[precision]
    fp32 = plain_pytorch("fp32", 0.0, False)[1]
    assert precision == "fp32" or distance({name: fp32[name] for name in alike}, alike, PLAIN) > DISTANCE[precision]


REFUSALS = {
    (0, "optimizer", False): "recipe key 'train.offload' is 'optimizer', which ZeRO 0 can't move off the GPU; use train.zero_stage=1",
    (0, "parameters", False): "recipe key 'train.offload' is 'parameters', which ZeRO 0 can't move off the GPU; use train.zero_stage=3",
    (1, "parameters", False): "recipe key 'train.offload' is 'parameters', which ZeRO 1 can't move off the GPU; use train.zero_stage=3",
    (2, "parameters", False): "recipe key 'train.offload' is 'parameters', which ZeRO 2 can't move off the GPU; use train.zero_stage=3",
    (0, "optimizer", True): "recipe key 'train.offload' is 'optimizer', which ZeRO 0 can't move off the GPU; use train.zero_stage=1",
} | {
    (stage, "parameters", True): f"recipe key 'train.offload' is 'parameters', which ZeRO {stage} can't move off the GPU; use train.offload=optimizer"
    for stage in range(3)
} | {
    (3, offload, True): "recipe key 'train.zero_stage' is 3, which can't hold two engines, the model's and the critic's; use train.zero_stage=2"
    for offload in OPTIONS.offload
}  # fmt: skip


@pytest.mark.parametrize(("stage", "offload", "critic"), product(OPTIONS.stage, OPTIONS.offload, OPTIONS.critic))
def test_what_does_not_go_together_is_refused_in_a_sentence_and_nothing_else_is(stage, offload, critic):
    case = PLAIN._replace(stage=stage, offload=offload, critic=critic)
    assert refused(case) == ((stage, offload, critic) in REFUSALS)
    if not refused(case):
        recipe(case)
        return
    with pytest.raises(RecipeError) as caught:
        recipe(case)
    assert str(caught.value) == REFUSALS[stage, offload, critic]


@pytest.mark.parametrize("offload", ["optimizer", "parameters"])
def test_offloading_is_refused_where_workers_have_no_gpu(offload):
    given = recipe(PLAIN._replace(stage=3, offload=offload))
    with pytest.raises(RecipeError) as caught:
        fits_cluster(given, Cluster(cpus=8, gpus=0, own=True))
    assert str(caught.value) == (
        f"recipe key 'train.offload' is '{offload}', which moves tensors from GPUs to the machine's memory, but the workers have no GPU;"
        " set train.offload=none"
    )
    assert fits_cluster(given, Cluster(cpus=8, gpus=2, own=True)) == "cuda"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_all_settings_together_equal_plain_pytorch(tmp_path):
    results = spawned(tmp_path, ALL, resume=False)
    for number, case in enumerate(ALL):
        check(case, results[number, "straight"])
