"""A model and its critic on two workers against one process of plain PyTorch: the same losses in every ZeRO stage, and exact resumes."""

from __future__ import annotations

import socket

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from adversarial_worker import STEPS, WORLD, batch, network, recipe, task, worker
from torch import Tensor, nn

from hepdist.errors import RecipeError
from hepdist.models.patchgan import PatchGAN
from hepdist.training.schedule import learning_rate

STAGES = ["zero 0", "zero 1", "zero 2"]
NOISE = "critic.last.bias"
"""While all verdicts are inside the hinge, its two halves cancel here, and AdamW makes whole steps of what rounding leaves."""
CLOSE = 5e-4
"""Relative difference of losses that these steps account for; all else agrees to 1e-7."""


def groups(model: nn.Module, decay: float) -> list[dict]:
    """Weight decay for matrices and kernels alone."""
    named = [([p for p in model.parameters() if p.ndim > 1], decay), ([p for p in model.parameters() if p.ndim <= 1], 0.0)]
    return [{"params": parameters, "weight_decay": rate} for parameters, rate in named]


def plain_pytorch(r1: float = 0.0) -> tuple[list[tuple[float, float]], dict[str, Tensor]]:
    """The reference: one process, whole batches, the hinge losses written out, torch's own AdamW twice."""
    settings = recipe(0, r1=r1)
    spec, optim, restoration = settings.adversary, settings.optim, task(settings)
    model = network(settings)
    torch.manual_seed(0)
    critic = PatchGAN(spec, (1, 12, 13), 1)
    adamw = torch.optim.AdamW(groups(model, optim.weight_decay), betas=(optim.beta1, optim.beta2))
    critic_adamw = torch.optim.AdamW(groups(critic, 0.0), betas=(spec.beta1, optim.beta2))
    losses = []
    for step in range(STEPS):
        rows = batch(step)
        share = rows["weight"] / rows["weight"].sum()
        for group in adamw.param_groups:
            group["lr"] = learning_rate(optim, step, STEPS)
        for group in critic_adamw.param_groups:
            group["lr"] = learning_rate(optim, step, STEPS) * spec.lr / optim.lr
        restored = model(rows["image"])
        by_row = restoration.loss(model, rows)
        if step >= 0.34 * STEPS:
            by_row = by_row - spec.weight * critic(rows["image"], restored).flatten(1).mean(1)
        loss = (by_row * share).sum()
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), optim.clip)
        critic.zero_grad()
        truth = rows["target"].clone().requires_grad_()
        true, claimed = critic(rows["image"], truth), critic(rows["image"], restored.detach())
        judged = 0.5 * (torch.relu(1 - true) + torch.relu(1 + claimed)).flatten(1).mean(1)
        if r1:
            (slope,) = torch.autograd.grad(true.flatten(1).mean(1).sum(), truth, create_graph=True)
            judged = judged + r1 * 0.5 * slope.square().flatten(1).sum(1)
        critic_loss = (judged * share).sum()
        critic_loss.backward()
        nn.utils.clip_grad_norm_(critic.parameters(), optim.clip)
        adamw.step()
        critic_adamw.step()
        losses.append((loss.item(), critic_loss.item()))
    weights = dict(model.named_parameters()) | {f"critic.{name}": p for name, p in critic.named_parameters()}
    return losses, {name: p.detach() for name, p in weights.items()}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    out = tmp_path_factory.mktemp("adversarial") / "results.pt"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(worker, (port, str(out)), nprocs=WORLD)
    return torch.load(out, weights_only=True)


@pytest.mark.parametrize("case", [*STAGES, "micro-batches"])
def test_two_workers_in_every_stage_equal_plain_pytorch(results, case):
    losses, weights = plain_pytorch()
    assert np.allclose(results[case][0], losses, rtol=CLOSE)
    for name, weight in weights.items():
        assert name == NOISE or torch.allclose(results[case][1][name], weight, atol=5e-5), name


def test_the_r1_penalty_equals_plain_pytorch_and_changes_the_critic(results):
    losses, _ = plain_pytorch(r1=0.5)
    assert np.allclose(results["r1"][0], losses, rtol=CLOSE)
    assert max(abs(with_r1[1] - without[1]) for with_r1, without in zip(losses, plain_pytorch()[0], strict=True)) > 2 * CLOSE


@pytest.mark.parametrize("case", ["least_squares", "cross_entropy", "bf16"])
def test_both_nets_learn_under_each_loss_and_in_bf16(results, case):
    losses, weights = results[case]
    assert np.isfinite(losses).all()
    assert {values.dtype for values in weights.values()} == {torch.float32}
    for name, weight in results["zero 0"][1].items():
        assert weights[name].shape == weight.shape
    assert any(not torch.equal(weights[name], weight) for name, weight in results["zero 0"][1].items() if name.startswith("critic."))


@pytest.mark.parametrize("saved", STAGES)
@pytest.mark.parametrize("stage", STAGES)
def test_a_checkpoint_of_both_nets_resumes_exactly(results, saved, stage):
    losses, weights = results[f"{saved} -> {stage}"]
    straight_losses, straight = results[stage]
    assert np.allclose(losses, straight_losses[STEPS // 2 :], rtol=CLOSE)
    for name, weight in straight.items():
        if saved == stage:
            assert torch.equal(weights[name], weight), name
        assert name == NOISE or torch.allclose(weights[name], weight, atol=5e-5), name


def test_zero_3_is_refused_in_one_sentence():
    with pytest.raises(
        RecipeError,
        match=r"^recipe key 'train.zero_stage' is 3, which can't hold two engines, the model's and the critic's; use train.zero_stage=2$",
    ):
        recipe(3)
