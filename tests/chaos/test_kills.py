"""Kill any process at any moment and run the same command: the model is the one that an undisturbed run gives.

`make test` runs a few moments of each kind; `make chaos` CHAOS_MOMENTS of each, from CHAOS_SEED on, and writes what came about to CHAOS_OUT.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml

from chaos import evidence
from chaos.moments import Moment, phases, rounds
from chaos.runs import COSTLY_MOMENTS, MOMENTS, SEED, TIMEOUT_S, Command, assert_as_undisturbed, noted, until_all_came, values, watch
from chaos.watch import Killed, Watch, kill, training_workers
from hepdist.recipe import Recipe
from hepdist.spec import parse
from hepdist.training.launch import train

pytestmark = pytest.mark.timeout(TIMEOUT_S)


def kill_in_turn(watch: Watch, moments: list[Moment], ended: threading.Event, strike: Callable[[Moment], str]) -> list[Killed]:
    """Wait for each moment and strike; moments that the run's end came before are left out."""
    kills = []
    for moment in moments:
        if watch.wait(moment, ended.is_set) and (who := strike(moment)):
            kills.append(watch.killed(moment, who))
    return kills


def train_and_kill(cohort: Path, folder: Path, undisturbed: Path, moments: list[Moment]) -> list[Killed]:
    """One call of train() to its end, in which a worker is killed at each of the moments that come."""
    recipe, ended, kills = parse(Recipe, values(cohort, folder.parent, folder.name)), threading.Event(), []
    seen = watch(recipe.folder, undisturbed, lambda: training_workers(psutil.Process().children(recursive=True)))

    def strike(moment: Moment) -> str:
        there = seen.workers()
        late = moment.phase in ("checkpoint", "validation", "end")  # what rank 0 writes is what a kill can cut in two
        chosen = 0 if late else int(moment.whom * len(there))
        return ("rank 0" if chosen == 0 else "another rank") if there and kill(there[chosen]) else ""

    killer = threading.Thread(target=lambda: kills.extend(kill_in_turn(seen, moments, ended, strike)))
    killer.start()
    try:
        run = train(recipe)
    finally:
        ended.set()
        killer.join()
    assert_as_undisturbed(run, undisturbed)
    assert not evidence.settled(evidence.left_in_ray)
    return kills


@pytest.mark.parametrize("moments", rounds(SEED + 1, MOMENTS), ids=phases)
def test_killed_workers_change_nothing(cohort, tmp_path, undisturbed, moments):
    noted("worker", SEED + 1, until_all_came(moments, lambda name, left: train_and_kill(cohort, tmp_path / name, undisturbed, left)))


def run_and_kill(cohort: Path, folder: Path, undisturbed: Path, moments: list[Moment], kind: str) -> list[Killed]:
    """Give the command again after each kill until it ends by itself; every second time at once, while processes of the last one may live."""
    recipe, log = folder.with_suffix(".yaml"), folder.with_suffix(".log")
    recipe.write_text(yaml.safe_dump(values(cohort, folder.parent, folder.name)))
    kills, started, left = [], [], list(moments)
    for number in range(len(moments) + 20):
        command = Command(recipe, log)
        started.append(command)
        seen = watch(folder, undisturbed, lambda command=command: training_workers(command.processes()))
        if left:
            moment = left.pop(0)
            if seen.wait(moment, command.ended):
                victim = command.process if kind == "driver" else psutil.Process(random.Random(moment.whom).choice(others(command)))
                name = "driver" if kind == "driver" else victim.name()
                kill(psutil.Process(victim.pid))
                kills.append(seen.killed(moment, name))
        if kind == "driver" and len(kills) == number + 1:
            command.process.wait()
        else:
            command.process.wait(timeout=600)
        if command.process.returncode == 0:
            break
        if number % 2:
            assert not evidence.settled(command.processes)
    assert command.process.returncode == 0, log.read_text()[-3000:]
    assert not evidence.settled(lambda: [process for one in started for process in one.processes()])
    assert_as_undisturbed(folder, undisturbed)
    return kills


def others(command: Command) -> list[int]:
    """Processes of a command but itself: Ray's servers, its agents, the controller, workers."""
    return sorted(process.pid for process in command.processes() if process.pid != command.process.pid)


@pytest.mark.parametrize("moments", rounds(SEED + 2, COSTLY_MOMENTS), ids=phases)
def test_a_killed_driver_and_the_same_command_again_change_nothing(cohort, tmp_path, undisturbed, moments):
    noted(
        "driver", SEED + 2, until_all_came(moments, lambda name, left: run_and_kill(cohort, tmp_path / name, undisturbed, left, "driver"))
    )


@pytest.mark.slow
@pytest.mark.parametrize("moments", rounds(SEED + 3, max(4, MOMENTS // 3)), ids=phases)
def test_any_process_of_a_run_can_be_killed(cohort, tmp_path, undisturbed, moments):
    noted("any", SEED + 3, until_all_came(moments, lambda name, left: run_and_kill(cohort, tmp_path / name, undisturbed, left, "any")))
