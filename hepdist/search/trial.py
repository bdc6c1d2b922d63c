"""A trial: a class Trainable of Ray Tune that owns a training run, its workers and its folder.

Tune asks for one result after another; a result is a validation. The workers wait at each validation until Tune has decided, so nothing is
trained that is not wanted, and a trial that is stopped gives everything back at once. What the folder holds already (the search was killed, or a
machine went away) is told again before anything is trained.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from ray import tune

from hepdist.recipe import Recipe
from hepdist.search.bridge import bring_in, take_out
from hepdist.search.budget import Meter
from hepdist.search.group import Failed, Hired, Inside
from hepdist.search.space import apply
from hepdist.shards.plan import READER_CPUS
from hepdist.spec import parse
from hepdist.training.checkpoint import SUMS, newest_first
from hepdist.training.log import STARTUP
from hepdist.training.metrics_file import read_metrics
from hepdist.training.run_folder import write_whole


class TrialRun(tune.Trainable):
    """`config` as made by hepdist.search.proposer: {'trial', 'values', 'final', 'base', 'folder', 'device', 'select', 'devices', 'prices', 'population'}."""

    recipe: Recipe
    run: Path
    meter: Meter
    past: list[dict[str, Any]]
    """Validations that are still to be told again."""
    final: bool
    """The trial has ended, in a search before this one; all that is left is to tell it again."""
    taken_over: str
    """sha256 of the weights that came from another trial, with which this one goes on; '' for none."""
    busy: bool
    """The workers wait for word after a validation of this trial."""
    broken: bool

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        recipe = parse(Recipe, config["base"])
        worker = resources(recipe, config["device"])
        if recipe.train.most == 1:
            return tune.PlacementGroupFactory([worker])
        return tune.PlacementGroupFactory([{}, *([worker] * recipe.train.most)])  # this process itself takes next to nothing

    def setup(self, config: dict[str, Any]) -> None:
        self.workers: Inside | Hired | None = None
        self._take(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The next trial, with the same workers."""
        self._leave()
        if self.broken:  # a CUDA context does not survive every error: Tune starts this trial in another process
            import ray

            ray.actor.exit_actor()
        self._take(new_config)
        return True

    def step(self) -> dict[str, Any]:
        if self.past:
            return self._told(self.past.pop(0), replayed=True)
        if self.final:
            return {"done": True, "replayed": True, "device_s": self.meter.spent(), "money": self.meter.money()}
        try:
            self._go_on()
            assert self.workers is not None
            said = self.workers.wait()
            if said["said"] == "done":  # there was nothing left to train
                self.busy = False
                return {"done": True, "finished": True, "replayed": True, "device_s": self.meter.spent(), "money": self.meter.money()}
        except Failed as failed:
            self.busy, self.broken = False, self.config["device"] == "cuda"
            facts = {"cause": failed.cause, "error": failed.error, "story": failed.story}
            return {"done": True, "failed": facts, "device_s": self.meter.spent(), "money": self.meter.money()}
        return self._told(said, replayed=False)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        if not self.config["population"]:  # a pause, after which another process may go on, and does not find the folder's lock held here
            self._leave()
        take_out(self.run, Path(checkpoint_dir))

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Go on from a checkpoint of this trial, or of the one that it exploits."""
        self._leave()
        taken = Path(checkpoint)
        if bring_in(taken, self.run):
            self.taken_over = weights_of(self.run, samples_of(taken / "checkpoint"))
        self.past = [line for line in self.past if line["samples"] > samples_of(taken / "checkpoint")]

    def cleanup(self) -> None:
        self._leave()
        if self.workers:
            self.workers.close()

    def _take(self, config: dict[str, Any]) -> None:
        base = parse(Recipe, config["base"])
        trials = Path(config["folder"]) / "trials"
        self.recipe: Recipe = apply(base, config["values"]).model_copy(update={"name": config["trial"], "runs": str(trials)})
        self.run = self.recipe.folder
        self.run.mkdir(parents=True, exist_ok=True)
        write_whole(self.run, "recipe.yaml", self.recipe.dump())
        self.busy = self.broken = self.waiting = False
        self.began = time.time()
        self.meter = Meter.here(config["devices"], config["prices"])
        self.final = bool(config["final"])
        self.taken_over = ""
        self.past = past_results(self.run, self.final)
        if config["population"] and not self.final:
            self.past = self.past[-1:]  # a population has moved on since: only where this one stands counts

    def _go_on(self) -> None:
        if self.workers is None:
            train = self.recipe.train
            worker = resources(self.recipe, self.config["device"])
            hired = Path(self.config["folder"]) / ".ray"
            self.workers = Inside(self.config["device"]) if train.most == 1 else Hired(self.config["device"], self.recipe, hired, worker)
        if self.busy:
            self.workers.answer("go")
        else:
            phases = {"command": self.began}
            self.workers.begin(
                {"recipe": self.recipe.model_dump(mode="json"), "folder": str(self.run), "device": self.config["device"], "phases": phases}
            )
            self.busy = True

    def _leave(self) -> None:
        """The run ends where it stands, at a validation that is saved; its workers are free for the next one."""
        if self.busy and self.workers:
            self.busy = False
            try:
                self.workers.answer("stop")
                while self.workers.wait()["said"] != "done":
                    self.workers.answer("stop")
            except Failed:
                self.broken = self.config["device"] == "cuda"

    def _told(self, said: dict[str, Any], *, replayed: bool) -> dict[str, Any]:
        """A result for Tune and the record."""
        return {
            "epoch": said["epoch"], "score": said["scores"][self.config["select"]], "scores": said["scores"], "lr": said.get("lr"),
            "replayed": replayed, "device_s": self.meter.spent(), "money": self.meter.money(), "overhead_s": self._overhead_s(),
            "cost": said.get("cost"), "weights": weights_of(self.run, said["samples"]), "taken_over": self.taken_over,
            "done": bool(said.get("finished")), "finished": bool(said.get("finished")),  # Tune sets `done` where a scheduler stops the trial, too
        }  # fmt: skip

    def _overhead_s(self) -> float | None:
        """From the trial's beginning to its first step; None where it has made none yet."""
        path = self.run / STARTUP
        phases = json.loads(path.read_text()) if path.exists() else {}
        first = phases.get("first_step", 0.0)
        return round(first - self.began, 3) if first > self.began else None


def resources(recipe: Recipe, device: str) -> dict[str, float]:
    """What one worker takes; its reader's share stays free for it."""
    gpu = {"GPU": recipe.search.gpus_per_worker} if device == "cuda" else {}
    return {"CPU": recipe.train.cpus_per_worker - READER_CPUS, **gpu}


def samples_of(checkpoints: Path) -> int:
    """Where the newest checkpoint in a folder stands; 0 where there is none."""
    newest = newest_first(checkpoints)
    return int(newest[0].name.split("-")[1]) if newest else 0


def weights_of(run: Path, samples: int) -> str:
    """sha256 of the weights in a run's checkpoint after so many samples; '' where it is gone."""
    sums = run / "checkpoints" / f"samples-{samples:012d}" / SUMS
    return str(json.loads(sums.read_text())["model.safetensors"]) if sums.is_file() else ""


def past_results(run: Path, final: bool) -> list[dict[str, Any]]:
    """The validations that a run has behind it, oldest first: those up to its newest checkpoint, or all of a trial that has ended."""
    reached = float("inf") if final else samples_of(run / "checkpoints")
    found = []
    for line in read_metrics(run):
        scores = {name.removeprefix("val_"): value for name, value in line.items() if name.startswith("val_")}
        if scores and line["samples"] <= reached:
            found.append({"epoch": round(line["epoch"]), "samples": line["samples"], "scores": scores, "lr": None})
    return found
