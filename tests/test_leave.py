"""Leaving a run before its end: ranks agree on a step, SIGTERM saves, a notice moves a run to other nodes, and the weights stay the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from metadata_server import service
from safetensors.torch import load_file
from spot_nodes import added_node, occupant, until
from torch.distributed import PrefixStore, TCPStore

from cohorts import tiny_classification_cohort
from hepdist.recipe import load_recipe
from hepdist.spot.clouds import AWS
from hepdist.spot.watch import ray_teller, watch
from hepdist.training.checkpoint import digest, newest_first
from hepdist.training.launch import is_finished, train
from hepdist.training.leave import Leave
from hepdist.training.metrics_file import read_metrics

ROOT = Path(__file__).resolve().parents[1]
ROWS, BATCH = 1800, 8
NUMBERS = count()
HEPDIST = [sys.executable, "-c", "import sys; from hepdist.cli import main; sys.exit(main())", "train"]


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One epoch of 225 steps, so that whatever is saved before its end was saved for leaving."""
    folder = tmp_path_factory.mktemp("leave")
    tiny_classification_cohort(folder / "cohort", {"train": ROWS, "val": 21, "test": 21})
    recipe = {
        "name": "run", "runs": str(folder / "nowhere"),
        "data": {"cohort": str(folder / "cohort")},
        "task": {"kind": "classification"},
        "model": {"family": "resnet", "depth": 10, "width": 8, "dropout": 0.2},
        "augment": {"rotate": 10, "noise": 0.1, "mixup": 0.2},
        "optim": {"ema": 0.9},
        "train": {"epochs": 1, "global_batch": BATCH, "max_failures": 0, "stop_grace_s": 600},
        "evaluation": {"splits": [], "batch": 8},
    }  # fmt: skip
    (folder / "leave.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "leave.yaml"


@pytest.fixture(scope="module")
def undisturbed(recipe_file: Path, ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Digest of the weights and moments at the end of a run that nobody disturbed."""
    return final_state(train(load_recipe(recipe_file, [f"runs={tmp_path_factory.mktemp('undisturbed')}"])))


def final_state(folder: Path) -> str:
    newest = newest_first(folder / "checkpoints")[0]
    moments = {f"optimizer.{name}": tensor for name, tensor in load_file(newest / "optimizer.safetensors").items()}
    return digest({**load_file(newest / "model.safetensors"), **moments})


def cursors(folder: Path) -> list[int]:
    """Samples at each checkpoint, newest first."""
    return [int(path.name.split("-")[1]) for path in newest_first(folder / "checkpoints")]


class Started:
    """A real `hepdist train` on a Ray of its own."""

    def __init__(self, recipe: Path, runs: Path, *overrides: str) -> None:
        self.folder = runs / "run"
        self.command = [*HEPDIST, str(recipe), f"runs={runs}", *overrides]
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {"PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(self.command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)
        self.family: list[psutil.Process] = []
        self.lines: list[str] = []
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(self.process.stderr)

    def trains(self) -> bool:
        """Whether the first steps are done; then every process of the run is known."""
        assert self.process.poll() is None, self.lines
        if not any("loss" in line for line in read_metrics(self.folder)):
            return False
        self.family = psutil.Process(self.process.pid).children(recursive=True)
        return True

    def workers(self) -> list[psutil.Process]:
        return [process for process in self.family if any("RayTrainWorker" in part for part in process.cmdline()[:1])]

    def end(self) -> tuple[int, list[str]]:
        """Exit code and what stderr said, when the process and all its children are gone."""
        code = self.process.wait()
        self.reader.join()
        assert psutil.wait_procs(self.family, timeout=60)[1] == []
        return code, [line.strip() for line in self.lines]


@contextmanager
def started(*arguments: Any) -> Iterator[Started]:
    run = Started(*arguments)
    try:
        yield run
    finally:
        run.process.kill()
        run.process.wait()


@pytest.fixture(scope="module")
def stores() -> list[TCPStore]:
    """Four connections to one store, as four workers have."""
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    return [server] + [TCPStore("127.0.0.1", server.port, is_master=False) for _ in range(3)]


def last_steps(stores: list[TCPStore], hears: list[int], steps: int) -> list[int | None]:
    """The step after which each rank leaves; hears: the step after which each rank knows of the notice."""
    world, number = len(hears), next(NUMBERS)
    exchange = threading.Barrier(world)
    left: list[int | None] = [None] * world

    def run(rank: int) -> None:
        now = 0
        leave = Leave(rank, world, PrefixStore(str(number), stores[rank]), lambda: now >= hears[rank])
        for now in range(steps):
            exchange.wait(60)  # as the gradients of a step
            if leave(now):
                left[rank] = now
                return

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return left


@pytest.mark.parametrize("hears", [[0], [3, 3], [7, 0], [0, 7], [2, 9, 4, 9], [9, 2, 4, 0]])
def test_ranks_that_hear_at_different_times_leave_after_the_same_step(stores: list[TCPStore], hears: list[int]) -> None:
    for _ in range(10):  # whatever the scheduler does
        (last,) = set(last_steps(stores, hears, 50))
        assert last in (max(hears) + 1, max(hears) + 2)


def test_nobody_leaves_while_a_rank_has_not_heard(stores: list[TCPStore]) -> None:
    assert last_steps(stores, [0, 0, 99], 50) == [None, None, None]


SAID = "{}: workers save after their next step and leave; the same signal again ends at once"


@pytest.fixture(scope="module")
def stopped(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, list[str]]:
    """A run that got SIGTERM after its first steps: its folder, exit code and what it said."""
    with started(recipe_file, tmp_path_factory.mktemp("stopped")) as run:
        until(run.trains)
        run.process.send_signal(signal.SIGTERM)
        return run.folder, *run.end()


def test_sigterm_saves_within_the_epoch_and_ends_with_143_and_no_process_left(stopped) -> None:
    folder, code, said = stopped
    assert code == 143
    assert said[-2:] == [SAID.format("SIGTERM"), "stopped by SIGTERM; the same command goes on where it stopped"]
    (saved,) = cursors(folder)
    assert 0 < saved < ROWS
    assert saved % BATCH == 0
    assert not is_finished(folder)


@pytest.mark.slow
def test_the_same_command_after_sigterm_ends_with_the_weights_of_an_undisturbed_run(recipe_file, stopped, undisturbed) -> None:
    folder = train(load_recipe(recipe_file, [f"runs={stopped[0].parent}"]))
    assert is_finished(folder)
    assert final_state(folder) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code", "words"), [(signal.SIGTERM, 143, "stopped by SIGTERM"), (signal.SIGINT, 130, "interrupted")])
def test_a_second_signal_ends_a_run_whose_workers_cannot_save_and_leaves_no_process(recipe_file, tmp_path, number, code, words) -> None:
    with started(recipe_file, tmp_path) as run:
        until(run.trains)
        for worker in run.workers():
            worker.suspend()
        run.process.send_signal(number)
        until(lambda: SAID.format(number.name) + "\n" in run.lines)
        run.process.send_signal(number)
        assert run.end()[0] == code
    assert run.lines[-1] == f"{words}; the same command goes on where it stopped\n"
    assert cursors(run.folder) == []


@pytest.mark.slow
def test_a_run_whose_workers_cannot_save_ends_after_its_grace(recipe_file, tmp_path) -> None:
    with started(recipe_file, tmp_path, "train.stop_grace_s=1") as run:
        until(run.trains)
        for worker in run.workers():
            worker.suspend()
        run.process.send_signal(signal.SIGTERM)
        code, said = run.end()
    assert code == 143
    assert said[-2] == "the workers did not leave within 1 s (train.stop_grace_s)"


@pytest.mark.slow
@pytest.mark.parametrize("validate_every", [1, 1000])
def test_a_run_stopped_between_epochs_validates_as_often_as_an_undisturbed_one(recipe_file, ray_cluster, tmp_path, validate_every) -> None:
    """Each epoch is one step, so that every place to leave at is an epoch's end."""
    one_step = [f"train.global_batch={ROWS}", "train.epochs=40", f"train.validate_every={validate_every}", "train.keep=100"]
    with started(recipe_file, tmp_path / "stopped", *one_step) as run:
        until(run.trains)
        run.process.send_signal(signal.SIGTERM)
        assert run.end()[0] == 143
    assert not is_finished(run.folder)
    folders = [train(load_recipe(recipe_file, [*one_step, f"runs={tmp_path / name}"])) for name in ("stopped", "whole")]
    validations = [[(x["samples"], x["val_auroc"]) for x in read_metrics(folder) if "val_auroc" in x] for folder in folders]
    assert validations[0] == validations[1]
    assert final_state(folders[0]) == final_state(folders[1])
    models = [digest(load_file(folder / "model" / "model.safetensors")) for folder in folders]
    assert models[0] == models[1]


@pytest.mark.slow
def test_a_run_on_a_node_that_is_taken_away_goes_on_elsewhere_with_the_same_weights(
    recipe_file, ray_cluster, undisturbed, tmp_path
) -> None:
    """Two nodes with room for one worker each; the second gets a notice, and room is made on the first."""
    import ray

    settings = [f"runs={tmp_path}", "train.keep=100", "train.cpus_per_worker=1"]
    folder, stop, said = tmp_path / "run", threading.Event(), []
    with service("aws") as server, added_node(ray_cluster, "127.0.0.2", {}, cpus=1) as node:
        room = occupant(num_cpus=7)
        watcher = threading.Thread(target=watch, args=(AWS(server.url), ray_teller(ray_cluster, node.ip), stop, 0.2, said.append))
        watcher.start()

        def take_away() -> None:
            until(lambda: any("loss" in line for line in read_metrics(folder)))
            server.announce(time.time() + 600)
            ray.kill(room)

        taken = threading.Thread(target=take_away)
        taken.start()
        try:
            train(load_recipe(recipe_file, settings))  # max_failures=0: a failure would end it
        finally:
            stop.set()
            watcher.join()
            taken.join()
        assert node.death() == "AUTOSCALER_DRAIN_PREEMPTED"
    assert said[-1] == f"draining {node.id()[:8]} (127.0.0.2)"
    assert is_finished(folder)
    end, left = cursors(folder)
    assert end == ROWS
    assert 0 < left < ROWS
    assert final_state(folder) == undisturbed
