"""The adversary: a critic with an engine and an optimiser of its own, whose verdict joins the model's loss and which then learns from the pair."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from hepdist.models.patchgan import PatchGAN
from hepdist.recipe import Recipe
from hepdist.tasks.adversarial import Contested, judgement_loss, persuasion_loss, r1_penalty
from hepdist.training import engine as engines
from hepdist.training.schedule import learning_rate


class Adversary:
    """One optimiser step is `loss` and `learn` for each micro-batch, then `step`; both nets see the same samples with the same weights.

    Both learn at the same time: the critic from what the model claimed before its own step.
    """

    def __init__(
        self, recipe: Recipe, task: Contested, image: tuple[int, ...], outputs: int, steps: int, micro_batch: int, device: torch.device
    ) -> None:
        """image: (C, *spatial) of the model's input; outputs: channels of its output; steps: of the whole run."""
        assert recipe.adversary is not None
        self.spec, self.task, self.steps, self.image, self.outputs = recipe.adversary, task, steps, image, outputs
        self.bf16 = recipe.train.precision == "bf16"
        spec = self.spec
        self.optim = recipe.optim.model_copy(update={"lr": spec.lr, "beta1": spec.beta1, "weight_decay": spec.weight_decay})
        torch.manual_seed(recipe.train.seed)
        critic = PatchGAN(spec, image, outputs).to(device)
        self.engine = engines.build_engine(critic, recipe.model_copy(update={"optim": self.optim}), micro_batch, device)
        self.share = torch.zeros((), device=device)
        """This worker's share of the critic's mean loss over the global batch."""
        self.pair: tuple[Tensor, Tensor, Tensor] | None = None

    def loss(self, model: Any, batch: dict[str, Tensor], step: int) -> Tensor:
        """float32[b]: the task's loss and, from `start` on, `weight` times what the verdict on the model's output costs it.

        The critic is frozen meanwhile and called without its engine, whose hooks would count the model's gradients as its own.
        """
        watched = Watched(model)
        losses = self.task.loss(cast(nn.Module, watched), batch)
        condition, claim = batch[self.task.condition], self.task.claim(watched.output)
        self.pair = condition, claim.detach(), self.task.truth(batch)
        if step < self.spec.start * self.steps:
            return losses
        with frozen(self.engine.module), torch.autocast(claim.device.type, torch.bfloat16, enabled=self.bf16):
            verdict = self.engine.module(condition, claim)
        return losses + self.spec.weight * persuasion_loss(verdict, self.spec.loss)

    def learn(self, portions: Tensor, world: int, *, last: bool) -> None:
        """The critic's backward pass on the micro-batch that `loss` has seen.

        portions: float32[b], each sample's share of the global batch's weight; last: of this step.
        """
        assert self.pair is not None, "call loss first"
        condition, claim, truth = self.pair
        self.pair = None
        rows = len(truth)
        self.engine.set_gradient_accumulation_boundary(last)
        verdict = self.engine(torch.cat((condition, condition)), torch.cat((truth, claim)))  # one pass: ZeRO's hooks count one a step
        losses = judgement_loss(verdict[:rows], verdict[rows:], self.spec.loss)
        if self.spec.r1:
            truth = truth.clone().requires_grad_()
            plain = self.engine.module(condition, truth)  # past the engine, which takes any gradient of its output for the step's
            losses = losses + self.spec.r1 * r1_penalty(plain, truth)
        loss = (losses * portions).sum()
        self.engine.backward(loss * world, scale_wrt_gas=False)
        self.share = self.share + loss.detach()

    def step(self, step: int) -> Tensor:
        """The critic's optimiser step; returns this worker's share of its mean loss over the global batch."""
        engines.set_learning_rate(self.engine, learning_rate(self.optim, step, self.steps))
        self.engine.step()
        share, self.share = self.share, torch.zeros_like(self.share)
        return share

    def state(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The critic's weights and its optimiser's moments, whole. Collective."""
        return engines.whole_weights(self.engine), engines.whole_optimizer(self.engine)

    def restore(self, weights: dict[str, Tensor], optimizer: dict[str, Tensor]) -> None:
        """What `state` gave, at any worker count. Collective."""
        device = self.engine.device
        example = torch.zeros(1, *self.image, device=device), torch.zeros(1, self.outputs, *self.image[1:], device=device)
        engines.restore(self.engine, weights, optimizer, example)


class Watched:
    """A model that keeps the output of its last call, so that a task's loss need not hand it on."""

    def __init__(self, model: Any) -> None:
        self.model, self.inputs = model, model.inputs
        self.output: Any = None

    def __call__(self, *inputs: Tensor) -> Any:
        self.output = self.model(*inputs)
        return self.output


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Inside the block, operations pass gradients through the module without making any for its parameters."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
