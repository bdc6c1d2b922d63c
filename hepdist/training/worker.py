"""What one worker process does: build the parts from the recipe, take up the run where its folder stands, train, report."""

from __future__ import annotations

import contextlib
import gc
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import torch.distributed as dist

from hepdist.augment import normalise
from hepdist.augment.degrade import Scale
from hepdist.errors import RunError
from hepdist.recipe import Recipe
from hepdist.shards.format import TensorField
from hepdist.shards.manifest import Manifest
from hepdist.shards.plan import Plan, plan_of
from hepdist.shards.read import SplitReader, manifest_of, scores_volumes
from hepdist.shards.stream import Stream
from hepdist.spec import parse
from hepdist.stores import is_uri
from hepdist.tasks import build as build_task
from hepdist.tasks import keys
from hepdist.tasks.adversarial import Contested
from hepdist.tasks.volumes import predict_volumes
from hepdist.training import checkpoint as checkpoints
from hepdist.training import determinism, transfer
from hepdist.training import engine as engines
from hepdist.training.adversary import Adversary
from hepdist.training.batching import every_row_counts
from hepdist.training.checkpoint import Checkpoint, Progress
from hepdist.training.consumption import Consumption
from hepdist.training.ema import EMA
from hepdist.training.guard import Guard
from hepdist.training.leave import of_this_group, preempted
from hepdist.training.log import Log
from hepdist.training.loop import Parts, train
from hepdist.training.mirror import Mirror
from hepdist.training.run_folder import Writer, sweep
from hepdist.training.saved_model import Signature, build_model, outputs, save_model
from hepdist.training.saver import Save, Saver
from hepdist.training.watchdog import Watchdog

if TYPE_CHECKING:
    from hepdist.tasks.segmentation import Segmentation


GUARD_DELAY = 2
"""Steps that a GPU is ahead of the host when the host asks whether a step was left out."""
SMALL_MIB = 256
"""Bytes of an epoch up to which a worker reads itself: a second or less of its time, where readers of its own cost 5 % of each step."""


def readers_of(recipe: Recipe, plan: Plan) -> int:
    """Ray Data's read tasks a worker; 0: the worker reads in a thread of its own."""
    small = plan.nbytes <= SMALL_MIB * 2**20 and not is_uri(plan.cohort)
    return 0 if recipe.data.reader == "worker" or (recipe.data.reader == "auto" and small) else recipe.data.readers


Judge = Callable[[dict[str, Any]], bool]
"""Called on rank 0 after each validation, whose checkpoint is on disk by then, with its samples, epoch, scores, learning rate, what
inference costs, and whether the run is finished; True ends the run."""


def work(config: dict[str, Any], noticed: Callable[[], bool] = lambda: False, judge_run: Judge | None = None) -> None:
    """What each worker of a process group does; `config` is {'recipe', 'folder', 'device', 'phases'}.

    noticed: whether this worker has heard that a node of the group is taken away; asked after every step.
    judge_run: given on all ranks or on none.
    """
    with contextlib.ExitStack() as ended:
        _work(config, noticed, judge_run, ended)


def _work(config: dict[str, Any], noticed: Callable[[], bool], judge_run: Judge | None, ended: contextlib.ExitStack) -> None:
    """ended: what is to be closed when the work is done or has failed, last opened first."""
    phases = {**config["phases"], "worker": time.time()}
    warm = threading.Thread(target=_import_while_waiting, daemon=True)
    warm.start()
    recipe: Recipe = parse(Recipe, config["recipe"])
    # Its share of cores and no more: two workers with two threads each on two cores ran at half their speed.
    torch.set_num_threads(max(1, int(recipe.train.cpus_per_worker)))
    if recipe.train.deterministic:
        determinism.switch_on()
    folder = Path(config["folder"])
    device = torch.device("cuda", torch.cuda.current_device()) if config["device"] == "cuda" else torch.device("cpu")
    rank, world = dist.get_rank(), dist.get_world_size()
    watchdog = Watchdog(folder, rank, recipe.train.hang_s)
    ended.callback(watchdog.close)
    manifest = manifest_of(recipe.data.cohort)
    plan, signature = plan_of(recipe, manifest), Signature.of(manifest)

    if rank == 0:
        ended.callback(Writer(folder).release)  # waits while a process of an attempt before may still be writing
    found = _newest_checkpoint(folder, rank)
    state = checkpoints.load(found) if found else None
    progress = state.progress if state else Progress()
    readers = readers_of(recipe, plan)
    stream = Stream(plan, manifest, progress.cursor, rank, world, device, readers=readers)  # reads while the engine is built
    ended.callback(stream.close)  # an executor left to the interpreter's end can lock itself there

    model = build_model(recipe, signature)
    if recipe.train.init_from and not state:
        names = transfer.start_from(model, recipe.train.init_from)
        if rank == 0:
            transfer.record(folder, recipe.train.init_from, names)
    model = model.to(device)
    if recipe.train.compile:
        model.compile()
    largest = -(-recipe.train.global_batch // world)
    engine = engines.build_engine(model, recipe, min(largest, recipe.train.micro_batch or largest), device)
    ema = EMA(engine, recipe.optim.ema) if recipe.optim.ema else None
    if state:
        engines.restore(engine, state.weights, state.optimizer, example_inputs(cast("tuple[str, ...]", model.inputs), signature, device))
        if ema and state.ema:
            ema.load(state.ema)
    task = build_task(recipe, manifest)
    adversary = None
    if recipe.adversary:
        contested, image = cast(Contested, task), signature.inputs.image
        adversary = Adversary(recipe, contested, image, outputs(recipe, signature), plan.steps, recipe.train.micro_batch or largest, device)
        if state and state.critic and state.critic_optimizer:
            adversary.restore(state.critic, state.critic_optimizer)
    phases["engine"] = time.time()
    log = Log(folder, rank, device, progress.cursor, plan.order.rows, plan.order.batches, phases)
    ended.callback(log.close)
    consumed = Consumption(folder, rank, world, progress.cursor) if recipe.train.record_samples else None
    if consumed:
        ended.callback(consumed.close)
    judge = build_model(recipe, signature).to(device).eval()  # a plain copy: the engine's stage does not matter to it

    def weights_to_judge() -> dict[str, torch.Tensor]:
        whole = engines.whole_weights(engine)
        return {**whole, **ema.state()} if ema else whole

    judging_s = 0.0
    """Of the last validation, reading included."""

    def validate() -> dict[str, float]:
        nonlocal judging_s
        began = time.perf_counter()
        scores = score_validation()
        judging_s = time.perf_counter() - began
        return scores

    def score_validation() -> dict[str, float]:
        judge.load_state_dict(weights_to_judge())
        batches = (normalise(batch, recipe.data.normalise, manifest.normalisation) for batch in _beating(stream.validation(), watchdog))
        if scores_volumes(recipe, manifest):
            return task.score(_gather(list(predict_volumes(cast("Segmentation", task), judge, batches))))
        return task.score(_gather([task.predict(judge, batch) | keys(batch) for batch in batches]))

    mirror = Mirror(recipe.train.mirror, folder) if recipe.train.mirror and rank == 0 else None
    texts = {"recipe.yaml": recipe.dump(), "normalisation.json": json.dumps(manifest.normalisation, indent=1)}

    def write(state: Checkpoint, best: bool) -> int:
        if best:
            save_model(folder, {**state.weights, **(state.ema or {})}, recipe, signature, state.progress.cursor)
        written = checkpoints.save(folder / "checkpoints", state, texts)
        checkpoints.prune(folder / "checkpoints", recipe.train.keep, state.progress.best_cursor)
        if mirror:
            mirror.upload(written, state.progress.cursor if best else None)
        return sum(path.stat().st_size for path in written.iterdir())

    saver = Saver(write) if rank == 0 else None
    if saver:
        ended.callback(_give_up, saver)

    def save(progress: Progress, step: int, best: bool) -> None:
        began = time.perf_counter()
        critic = adversary.state() if adversary else (None, None)
        weights, moments = engines.whole_weights(engine), engines.whole_optimizer(engine)
        state = Checkpoint(replace(progress), weights, moments, ema.state() if ema else None, *critic)
        if saver:
            log.saved(saver.news(), progress.cursor)
            saver.put(Save(state, best, step, time.perf_counter() - began))

    def judged(progress: Progress, scores: dict[str, float]) -> bool:
        if judge_run is None:
            return False
        answer = [False]
        if saver:
            saver.drain()
            lr = engine.optimizer.param_groups[0]["lr"]
            facts = {"samples": progress.cursor, "epoch": progress.cursor // plan.order.rows, "lr": lr, "finished": progress.finished}
            cost = {"parameters": sum(p.numel() for p in judge.parameters()), "seconds": judging_s * world / manifest.rows("val")}
            answer = [judge_run({**facts, "scores": scores, "cost": cost})]
        dist.broadcast_object_list(answer, src=0)
        watchdog.beat()
        return answer[0]

    gc.freeze()  # a million objects of imported libraries that no collection during training need look at again
    guard = Guard(
        [engine, *([adversary.engine] if adversary else [])], recipe, 0 if device.type == "cpu" else GUARD_DELAY, _names(plan, manifest)
    )
    scale = Scale.of(recipe, manifest) if recipe.degrade.kinds else None
    every, leave = every_row_counts(plan.columns, manifest), of_this_group(noticed, device)
    parts = Parts(
        recipe=recipe, plan=plan, statistics=manifest.normalisation, engine=engine, task=task, stream=stream, ema=ema, log=log,
        guard=guard, alive=watchdog.beat, validate=validate, save=save, scale=scale, adversary=adversary, every_row_counts=every,
        consumed=consumed, leave=leave, judged=judged,
    )  # fmt: skip
    with determinism.named():
        train(parts, progress)
    watchdog.close()  # writing the last checkpoint may take its time
    if saver:
        log.saved(saver.close(), progress.cursor)
    if leave.last is not None and not leave.stopped and not progress.finished:
        raise preempted()


def _give_up(saver: Saver) -> None:
    """Where training failed, its error is the one to tell."""
    with contextlib.suppress(RunError):
        saver.close()


def example_inputs(inputs: tuple[str, ...], signature: Signature, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Zeros of one sample, as the model's forward takes them after normalisation; masks and lengths keep the type that they are stored in."""
    fields = {"image_missing": TensorField("image_missing", "uint8", (1,)), **signature.fields}  # normalise adds it to every image
    real = ("image", "emr", "sequence", "sequence_gap")
    dtypes = {name: torch.float32 if name in real else getattr(torch, fields[name].dtype) for name in inputs}
    return tuple(torch.zeros(1, *fields[name].shape, dtype=dtypes[name], device=device) for name in inputs)


def _beating(batches: Iterator[dict[str, torch.Tensor]], watchdog: Watchdog) -> Iterator[dict[str, torch.Tensor]]:
    """The same batches; each one that is asked for shows that this worker lives."""
    for batch in batches:
        watchdog.beat()
        yield batch


def _names(plan: Plan, manifest: Manifest) -> Callable[[list[int]], list[str]]:
    """What gives the sample_id of train rows, for messages."""

    def names(rows: list[int]) -> list[str]:
        found = SplitReader(plan.cohort, manifest, "train").strings(["sample_id"])["sample_id"]
        return [str(found[row]) for row in rows]

    return names


def _import_while_waiting() -> None:
    """DeepSpeed takes seconds to import; start while the manifest and the checkpoint are read."""
    import deepspeed  # noqa: F401


def _newest_checkpoint(folder: Path, rank: int) -> Path | None:
    """Rank 0 looks, so that all ranks take the same one even if a damaged one is set aside meanwhile."""
    if rank == 0:
        sweep(folder)
    choice = [checkpoints.intact(folder / "checkpoints") if rank == 0 else None]
    dist.broadcast_object_list(choice, src=0)
    return choice[0]


def _gather(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Every rank's rows, once each, in row order, on every rank."""
    mine = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]} if parts else {}
    everyone: list[dict[str, np.ndarray]] = [{}] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    filled = [rows for rows in everyone if rows]
    whole = {name: np.concatenate([rows[name] for rows in filled]) for name in filled[0]}
    order = np.argsort(whole["row"])
    return {name: values[order] for name, values in whole.items()}
