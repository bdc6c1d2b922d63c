"""What a run says of itself while it trains: metrics.jsonl and TensorBoard events, written by rank 0, and the cluster's Prometheus."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.tensorboard import SummaryWriter

from hepdist.prometheus import of_run
from hepdist.training.metrics_file import METRICS, drop_lines_beyond
from hepdist.training.saver import Saved

REPORTS_AN_EPOCH = 10
STARTUP = "startup.json"
PLACES = ("step", "samples", "wall_s", "checkpoint")
"""Of a line: where it stands, which is nothing to plot."""


class Log:
    """Collects the loss of each step and reports a few times an epoch; between reports nothing waits for the device."""

    def __init__(
        self, folder: Path, rank: int, device: torch.device, samples: int, rows: int, batches: int, phases: dict[str, float]
    ) -> None:
        """samples: consumed so far (lines beyond it, from before a crash, are dropped); rows, batches: of an epoch.

        phases: UNIX times from the command to here; the first step completes them in startup.json.
        """
        self.rank, self.device, self.rows, self.folder, self.phases = rank, device, rows, folder, phases
        self.every = max(1, batches // REPORTS_AN_EPOCH)
        self.began = self.last = time.perf_counter()
        self.last_samples, self.last_wait, self.before_s = samples, 0.0, 0.0
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)
        """Of losses, of the critic's losses, and of the steps that they are from."""
        self.criticised = False
        self.begun: tuple[dict[str, Any], torch.Tensor, Any] | None = None
        self.path = folder / METRICS
        self.board: SummaryWriter | None = None
        self.numbers = of_run(folder, rank)
        if rank == 0:
            self.before_s, lost_steps = drop_lines_beyond(self.path, samples)
            self.numbers.set(lost_steps=lost_steps)
            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=samples)

    def step(
        self,
        step: int,
        cursor: int,
        loss: torch.Tensor,
        left_out: torch.Tensor,
        lr: float,
        waited_s: float,
        *,
        report: bool,
        critic_loss: torch.Tensor | None = None,
    ) -> None:
        """loss: this rank's share of the global batch's mean loss; shares add up over ranks.

        left_out: 1.0 where the step never reached the weights, and its loss is no part of the mean.
        critic_loss: the same of the adversary's critic, where there is one.
        report: now, whatever the interval; at the end of an epoch, and before a checkpoint, so that a resumed run averages over the
        same steps.
        """
        if self.phases:
            self._started(waited_s)
        self._finish()
        self.criticised = critic_loss is not None
        step_sums = torch.stack((loss, torch.zeros_like(loss) if critic_loss is None else critic_loss, torch.ones_like(loss)))
        self.sums += torch.where(left_out > 0, 0.0, step_sums)
        if report or step % self.every == 0:
            self._begin(step, cursor, lr, waited_s)
        if report:
            self._finish()
        self.numbers.again()

    def _started(self, waited_s: float) -> None:
        """Write where the time from the command to the first step went."""
        if self.rank == 0:
            now = time.time()
            (self.folder / STARTUP).write_text(
                json.dumps({**self.phases, "first_step": now, "waited_for_first_batch_s": waited_s}, indent=1)
            )
        self.phases = {}

    def _begin(self, step: int, cursor: int, lr: float, waited_s: float) -> None:
        """A report is written at the next step, when its sums are there: no worker waits for another one's step to end."""
        means = self.sums / self.sums[2].clamp(min=1.0)
        added = dist.all_reduce(means, async_op=True)
        self.sums.zero_()
        now = time.perf_counter()
        seconds = max(1e-9, now - self.last)
        facts = {
            "step": step, "epoch": round(cursor / self.rows, 4), "samples": cursor, "lr": lr,
            "samples_per_s": round((cursor - self.last_samples) / seconds, 2),
            "data_wait_share": round((waited_s - self.last_wait) / seconds, 4),
            "memory_gib": round(peak_memory_gib(self.device), 3), "wall_s": round(self.before_s + now - self.began, 2),
        }  # fmt: skip
        self.last, self.last_samples, self.last_wait = now, cursor, waited_s
        self.begun = facts, means, added

    def _finish(self) -> None:
        """Write what `_begin` has begun, if anything."""
        if self.begun is None:
            return
        (facts, means, added), self.begun = self.begun, None
        added.wait()
        cursor = facts["samples"]
        loss, critic_loss, counted = means.tolist()
        if counted:
            facts["loss"] = loss
            if self.criticised:
                facts["critic_loss"] = critic_loss
        self._write(facts, cursor)
        self.numbers.set(data_wait_share=facts["data_wait_share"])
        if self.rank == 0:
            self.numbers.set(**{name: facts[name] for name in ("samples_per_s", "loss", "epoch") if name in facts})

    def warn(self, step: int, cursor: int, text: str) -> None:
        """Tell the user, who follows this file, at the next look."""
        self._write({"step": step, "epoch": round(cursor / self.rows, 4), "samples": cursor, "warning": text}, cursor)

    def saved(self, news: list[Saved], cursor: int) -> None:
        """What became of checkpoints since the last call; the line is that of the step at `cursor`, when it was heard."""
        for saved in news:
            facts = {"step": saved.save.step, "epoch": round(cursor / self.rows, 4), "samples": cursor}
            self._write({**facts, **saved.facts()}, cursor)

    def validation(self, step: int, cursor: int, scores: dict[str, float], waited_s: float) -> None:
        """waited_s: as in `step`; what validation waited for is no share of training's time."""
        facts: dict[str, Any] = {"step": step, "epoch": round(cursor / self.rows, 4), "samples": cursor}
        facts.update({f"val_{name}": value for name, value in scores.items()})
        facts["wall_s"] = round(self.before_s + time.perf_counter() - self.began, 2)
        self._write(facts, cursor)
        self.last, self.last_wait = time.perf_counter(), waited_s  # validation is not training time

    def _write(self, facts: dict[str, Any], cursor: int) -> None:
        if self.rank != 0:
            return
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(facts) + "\n")
            self.board = self.board or SummaryWriter(str(self.folder / "tensorboard"))
            for name, value in facts.items():
                if name not in PLACES and isinstance(value, int | float):
                    self.board.add_scalar(
                        f"{'validation' if name.startswith('val_') else 'train'}/{name.removeprefix('val_')}", value, cursor
                    )
        except OSError:  # a full disk costs lines of the log, not the run; the next checkpoint says that the disk is full
            self.board = None

    def close(self) -> None:
        if self.rank == 0:
            self.numbers.set(samples_per_s=0.0)  # workers of a search live on
        if self.board:
            self.board.close()


def peak_memory_gib(device: torch.device) -> float:
    """Peak memory of this worker so far: on the GPU where there is one, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
