"""The workers of a trial, as the trial sees them: a thread of its own process, or the workers of a Ray Train run that it owns."""

from __future__ import annotations

import queue
import secrets
import threading
import time
import traceback
from multiprocessing import Pipe
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

from hepdist.errors import DivergedError, HepdistError
from hepdist.failure import MEMORY, SCREEN_LINES, refusal, worker_story
from hepdist.recipe import Recipe
from hepdist.search.serve import receive, send, serve_inside, serve_under_train

LOOK_S = 0.2
END_S = 20.0
"""How long workers that were told to end may take; what is left after it is ended by Ray with the trial."""


class Failed(Exception):
    """Training failed by itself, and would again."""

    def __init__(self, cause: str, error: str, story: str) -> None:
        """cause: 'error', 'memory' or 'nonfinite'; error: the last line of the story."""
        super().__init__(error)
        self.cause, self.error, self.story = cause, error, story

    @classmethod
    def of(cls, error: BaseException) -> Failed:
        """What a training run raised, here or in a worker of Ray Train."""
        origin = refusal(getattr(error, "worker_failures", {})) or error
        if isinstance(origin, HepdistError):
            story = str(origin)
        elif origin.__traceback__ and not hasattr(error, "worker_failures"):
            lines = "".join(traceback.format_exception(origin)).strip().splitlines()
            story = "\n".join(lines[-SCREEN_LINES:])
        else:
            story = worker_story(error)
        cause = "nonfinite" if isinstance(origin, DivergedError) else "memory" if MEMORY.search(story) else "error"
        lines = [line for line in story.splitlines() if line.strip() and not line.startswith("hepdist:")]
        return cls(cause, lines[-1].strip() if lines else repr(error), story)


class Inside:
    """One worker in a thread of this process."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.line: Connection | None = None
        self._error: Failed | None = None
        self._thread: threading.Thread | None = None

    def begin(self, config: dict[str, Any]) -> None:
        """Train; `config` as in hepdist.training.worker.work."""
        if self._thread is None or not self._thread.is_alive():
            self._error = None
            self.line, theirs = Pipe()
            self._thread = threading.Thread(target=self._serve, args=(theirs,), name="worker", daemon=True)
            self._thread.start()
        assert self.line is not None
        send(self.line, {"do": "train", "config": config})

    def wait(self) -> dict[str, Any]:
        """The worker's next message. Raises Failed."""
        assert self.line is not None
        try:
            return receive(self.line)
        except EOFError:
            assert self._error is not None
            raise self._error from None

    def answer(self, do: str) -> None:
        assert self.line is not None
        send(self.line, {"do": do})

    def close(self) -> None:
        if self.line is not None and self._thread is not None and self._thread.is_alive():
            self.answer("end")
            self._thread.join(END_S)

    def _serve(self, line: Connection) -> None:
        try:
            serve_inside(line, self.device)
        except BaseException as error:
            self._error = Failed.of(error)
        finally:
            line.close()


class Hired:
    """The workers of a Ray Train run, which stay from one training run to the next.

    They run in the placement group of the trial that owns them, so their machines are theirs before they start and are given back with the
    trial, however it ends. Where a worker dies, Ray Train starts the group again, and the training run is given to it once more: it goes on
    from its last checkpoint.
    """

    def __init__(self, device: str, recipe: Recipe, folder: Path, worker: dict[str, float]) -> None:
        """recipe: for the number of workers and their failures; folder: for Ray Train's own state; worker: resources of each."""
        self.device, self.recipe, self.folder, self.worker = device, recipe, folder, worker
        self.line: Connection | None = None
        self._calls: queue.Queue[Connection] = queue.Queue()
        self._error: BaseException | None = None
        self._run: threading.Thread | None = None
        self._order: dict[str, Any] | None = None
        """What the workers are busy with."""

    def begin(self, config: dict[str, Any]) -> None:
        self._order = {"do": "train", "config": config}
        if self._run is None or not self._run.is_alive():
            self._start()
        elif self.line is not None:
            send(self.line, self._order)

    def wait(self) -> dict[str, Any]:
        while True:
            try:
                if self.line is not None and self.line.poll(LOOK_S):
                    message = receive(self.line)
                    if message["said"] == "done":
                        self._order = None
                    return message
            except (EOFError, OSError):  # the worker at the other end has died
                self.line = None
            self._take_call(0.0 if self.line is not None else LOOK_S)
            if self._run is not None and not self._run.is_alive() and (self.line is None or not self.line.poll()):
                raise Failed.of(self._error or RuntimeError("the workers ended without a word"))

    def answer(self, do: str) -> None:
        try:
            if self.line is not None:
                send(self.line, {"do": do})
        except OSError:
            self.line = None

    def close(self) -> None:
        self.answer("end")
        if self._run is not None:
            self._run.join(END_S)

    def _take_call(self, patience_s: float) -> None:
        """A new group of workers calls: its first rank is told what the last group was busy with."""
        try:
            self.line = self._calls.get(timeout=patience_s) if patience_s else self._calls.get_nowait()
        except queue.Empty:
            return
        if self._order is not None:
            send(self.line, self._order)

    def _start(self) -> None:
        import ray

        self.line, self._error, self._calls = None, None, queue.Queue()
        key = secrets.token_bytes(32)
        listener = Listener((ray.util.get_node_ip_address(), 0), authkey=key)
        threading.Thread(target=self._accept, args=(listener, self._calls), name="calls", daemon=True).start()
        self._run = threading.Thread(target=self._fit, args=(listener, key), name="train", daemon=True)
        self._run.start()

    def _accept(self, listener: Listener, calls: queue.Queue[Connection]) -> None:
        while True:
            try:
                calls.put(listener.accept())
            except OSError:  # closed
                return
            except Exception:  # somebody who has not the key
                time.sleep(LOOK_S)

    def _fit(self, listener: Listener, key: bytes) -> None:
        try:
            import ray
            from ray.train import ScalingConfig
            from ray.train.v2.api.config import FailureConfig, RunConfig

            from hepdist.training.launch import KEEP_MEMORY
            from hepdist.training.stop import Stop
            from hepdist.training.trainer import Trainer

            train = self.recipe.train
            Trainer(
                serve_under_train,
                own_ray=True,  # the placement group is the trial's, so nobody else need remove it
                trial=True,
                borrowed=ray.util.get_current_placement_group(),
                elastic=False,
                stop=Stop(train.stop_grace_s),
                train_loop_config={"address": listener.address, "key": key.hex(), "device": self.device},
                scaling_config=ScalingConfig(num_workers=train.most, use_gpu=self.device == "cuda", resources_per_worker=self.worker),
                run_config=RunConfig(
                    name=f"trial-{time.time_ns()}",
                    storage_path=str(self.folder),
                    worker_runtime_env={"env_vars": KEEP_MEMORY},
                    failure_config=FailureConfig(max_failures=train.max_failures),
                ),
            ).fit()
        except BaseException as error:
            self._error = error
        finally:
            listener.close()
