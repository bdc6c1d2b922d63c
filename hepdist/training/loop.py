"""The one visible training loop, the same for every task: what happens to a sample, in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from hepdist.augment import augment, normalise
from hepdist.augment.degrade import Scale, degrade
from hepdist.recipe import Recipe
from hepdist.shards.plan import Plan
from hepdist.shards.stream import Stream
from hepdist.tasks import Task
from hepdist.training.adversary import Adversary
from hepdist.training.batching import micro_batches, weigh
from hepdist.training.checkpoint import Progress
from hepdist.training.consumption import Consumption
from hepdist.training.ema import EMA
from hepdist.training.engine import set_learning_rate
from hepdist.training.guard import Guard
from hepdist.training.log import Log
from hepdist.training.schedule import learning_rate


@dataclass
class Parts:
    """What the loop puts to work; built in training/worker.py."""

    recipe: Recipe
    plan: Plan
    statistics: dict[str, dict[str, Any]]
    engine: Any
    task: Task
    stream: Stream
    ema: EMA | None
    log: Log
    guard: Guard
    alive: Callable[[], None]
    """Tell the watchdog."""
    validate: Callable[[], dict[str, float]]
    save: Callable[[Progress, int, bool], None]
    """Hand over a checkpoint after so many steps; True: it is the best so far."""
    scale: Scale | None = None
    """Black and white, where the task is to undo degradations."""
    adversary: Adversary | None = None
    every_row_counts: bool = False
    """A global batch weighs as many as it has rows, and no worker needs to ask the others."""
    consumed: Consumption | None = None
    """Where the rows of each batch are recorded, if the recipe wants it."""
    leave: Callable[[int], bool] = lambda step: False
    """Whether to save and leave after this step, alike on all workers (training/leave.py)."""
    judged: Callable[[Progress, dict[str, float]], bool] = lambda progress, scores: False
    """Told after each validation; whether the run is to end with it, alike on all workers (a search stops what is not worth going on)."""


def train(parts: Parts, progress: Progress) -> None:
    """Train from `progress.cursor` to the end of the plan, until validation stops improving, or until `leave` says so."""
    recipe, plan, engine, task, stream = parts.recipe, parts.plan, parts.engine, parts.task, parts.stream
    leaving = False
    while progress.cursor < plan.samples and not progress.finished and not leaving:
        epoch = progress.cursor // plan.order.rows
        for batch in stream.epoch():  # the only place that waits for data
            step = plan.step_at(progress.cursor)
            lr = learning_rate(recipe.optim, step, plan.steps) * progress.lr_scale
            set_learning_rate(engine, lr)
            batch = augment(normalise(weigh(batch), recipe.data.normalise, parts.statistics), recipe.augment, recipe.train.seed, epoch)
            if parts.scale:
                batch = degrade(batch, recipe.degrade, parts.scale, recipe.train.seed, epoch)
            if parts.consumed:
                parts.consumed.write(step + 1, stream.cursor, batch["row"])
            loss, critic_loss = optimise(parts, batch, global_rows=stream.cursor - progress.cursor, step=step)
            left_out = parts.guard.stepped(step)
            if parts.ema:
                parts.ema.update(step)
            progress.cursor = stream.cursor  # samples, never steps: a short last batch counts what it holds
            every, mid_epoch = recipe.train.checkpoint_every, progress.cursor % plan.order.rows != 0
            leaving = parts.leave(step)
            save = mid_epoch and (leaving or (bool(every) and (step + 1) % every == 0))
            at_end = save or not mid_epoch
            for warning in parts.guard.settle(progress, all_steps=at_end):
                parts.log.warn(step + 1, progress.cursor, warning)
            parts.log.step(step + 1, progress.cursor, loss, left_out, lr, stream.waited_s, report=at_end, critic_loss=critic_loss)
            parts.alive()
            if save:
                parts.save(progress, step + 1, False)
            if save and leaving:
                return
        scores = {}
        if plan.validates(epoch):
            scores = parts.validate()
            parts.log.validation(plan.step_at(progress.cursor), progress.cursor, scores, stream.waited_s)
            note(progress, scores[task.select], task.higher_is_better, recipe.train.patience)
        progress.finished |= progress.cursor >= plan.samples
        if plan.validates(epoch) or progress.finished or leaving:
            parts.save(progress, plan.step_at(progress.cursor), plan.validates(epoch) and progress.stale == 0)
        if scores:
            leaving |= parts.judged(progress, scores)


def optimise(parts: Parts, batch: dict[str, torch.Tensor], global_rows: int, step: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """One optimiser step over a worker's part of a global batch; returns its share of the batch's mean loss, and of the critic's.

    The loss is the sum of weighted sample losses over the global weight, so it does not matter how rows fall on workers
    and micro-batches; the factor `world` undoes the engine's average over ranks.
    """
    engine, adversary, world = parts.engine, parts.adversary, parts.stream.world
    total = batch["weight"].sum()
    if parts.every_row_counts:
        added = None
        total.fill_(global_rows)
    else:
        added = dist.all_reduce(total, async_op=True)  # not needed before the first loss: no worker waits for another one's augmentation
    micros = micro_batches(batch, largest_part=-(-global_rows // world), micro_batch=parts.recipe.train.micro_batch)
    share = torch.zeros((), device=total.device)
    for index, micro in enumerate(micros):
        seed(hash((parts.recipe.train.seed, step, index, parts.stream.rank)), total.device)  # dropout: a function of the place in training
        engine.set_gradient_accumulation_boundary(index == len(micros) - 1)
        losses = adversary.loss(engine, micro, step) if adversary else parts.task.loss(engine, micro)
        if added:
            added.wait()
        parts.guard.watch(micro["row"], losses)
        portions = micro["weight"] / total.clamp(min=1.0)
        loss = (losses * portions).sum()
        engine.backward(loss * world, scale_wrt_gas=False)
        share += loss.detach()
        if adversary:
            adversary.learn(portions, world, last=index == len(micros) - 1)
    engine.step()
    return share, adversary.step(step) if adversary else None


def seed(number: int, device: torch.device) -> None:
    """Seed the generators that a step draws from; torch.manual_seed without a GPU takes a millisecond for GPUs that may come."""
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed(number)


def note(progress: Progress, score: float, higher_is_better: bool, patience: int) -> None:
    """Remember whether this validation is the best one, and finish when patience is at its end."""
    better = progress.best is None or (score > progress.best if higher_is_better else score < progress.best)
    if better:
        progress.best, progress.best_cursor, progress.stale = score, progress.cursor, 0
    else:
        progress.stale += 1
    progress.finished = bool(patience) and progress.stale >= patience
