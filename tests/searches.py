"""Builders of a search's folder as the driver leaves it, without training: for tests of what reads it; no assertions here."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import yaml

from hepdist.search.record import Event, note, suggest

FAMILIES = ("resnet", "densenet", "cnn")
RUNGS = (1, 3, 9)
BEGAN = 1_760_000_000.0
SECONDS_AN_EPOCH = {"resnet": 50.0, "densenet": 90.0, "cnn": 20.0}


def recipe(name: str = "pneumonia", **search: object) -> dict:
    """Plain values of a resolved recipe, as far as readers of a search need them."""
    return {
        "name": name,
        "data": {"cohort": "/secret/folder/pneumonia"},
        "task": {"kind": "classification", "select": ""},
        "model": {"family": "resnet", "depth": 18},
        "optim": {"lr": 1e-3, "weight_decay": 0.01},
        "train": {"epochs": 9, "workers": 2, "seed": 0},
        "search": {"trials": 20, "device_hours": 6.0, "prices": {"default": 0.5}, "money": 4.0} | search,
    }


def configuration(family: str, rng: np.random.Generator) -> dict:
    config: dict = {
        "model.family": family,
        "optim.lr": float(10 ** rng.uniform(-4, -2)),
        "optim.weight_decay": float(10 ** rng.uniform(-4, -1)),
    }
    if family == "densenet":
        config |= {"model.blocks": [[4, 4, 4], [6, 12, 8]][rng.integers(2)], "model.growth": int(rng.choice([8, 16, 32]))}
    else:
        config |= {
            "model.depth": int(rng.choice([10, 18, 34] if family == "resnet" else [2, 3, 4])),
            "model.width": int(rng.choice([16, 32, 64])),
        }
    return config | {"model.dropout": float(rng.uniform(0, 0.5)), "model.norm": str(rng.choice(["group", "instance"]))}


def quality(config: dict, epoch: int) -> float:
    """Best near a learning rate of 0.001, a little by family, better with epochs."""
    peak = (
        0.96 - 0.06 * (math.log10(config["optim.lr"]) + 3) ** 2 + {"resnet": 0.01, "densenet": 0.015, "cnn": -0.02}[config["model.family"]]
    )
    return peak - 0.18 * math.exp(-epoch / 2.5)


def write_search(folder: Path, *, trials: int = 20, seed: int = 3, finished: bool = True, **search: object) -> Path:
    """20 trials of 3 families by ASHA: two fail, one is exploited, one interrupted and taken up again; unfinished: the last three are open."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe(**search), sort_keys=False))
    (folder / "cohort.sha256").write_text("5f" * 32 + "\n")
    now, seen = BEGAN, {rung: [] for rung in RUNGS}
    for number in range(trials):
        name, family = f"{number:04d}", FAMILIES[number % 3]
        config = configuration(family, rng)
        suggest(folder, name, config)
        if not finished and number >= trials - 1:
            continue
        begun, spent = now, 0.0

        def say(kind: str, took_s: float, trial: str = name, **facts: object) -> None:
            nonlocal now, spent
            now, spent = now + took_s, spent + 2 * took_s
            note(folder, Event(trial, kind, spent, spent / 3600 * 0.5, now, facts))  # type: ignore[arg-type]

        say("started", 0.0, attempt=1, node="10.0.0.1")
        if number == 4:
            story = "Traceback (most recent call last):\n  <script>alert('x')</script>\ntorch.OutOfMemoryError: out of memory"
            say("failed", 12.0, cause="memory", error="torch.OutOfMemoryError: out of memory <b>&", story=story)
            continue
        for epoch in range(1, 10):
            if number == 11 and epoch == 3:
                say("failed", 5.0, cause="nonfinite", error="loss is nan at step 40", story="RunError: loss is nan at step 40")
                break
            if number == 7 and epoch == 2:
                say("interrupted", 3.0, reason="its machine went away")
                say("started", 20.0, attempt=2, node="10.0.0.2")
            if number == 13 and epoch == 4:
                config = config | {"optim.lr": 0.0012}
                say("exploited", 1.0, donor="0010", epoch=3, config=config)
            score = quality(config, epoch)
            scores = {"auroc": score, "accuracy": score - 0.05, "loss": 1 - score}
            cost = {"parameters": 1000 * config.get("model.width", 20) * len(family), "seconds": 0.002 * len(family)}
            wait = 8.0 if epoch == 1 else 0.0
            say(
                "result",
                SECONDS_AN_EPOCH[family] + wait,
                epoch=epoch,
                score=score,
                scores=scores,
                lr=config["optim.lr"],
                overhead_s=8.0,
                cost=cost,
            )
            if not finished and number >= trials - 3 and epoch == 2:
                break
            if epoch in RUNGS[:2] and number not in (7, 11, 13):
                seen[epoch].append(score)
                if score < np.quantile(seen[epoch], 0.6):
                    say("stopped", 0.0, reason=f"ASHA, rung {epoch}: {score:.3f} is not in the best third of {len(seen[epoch])}")
                    break
        else:
            say("finished", 1.0)
        now = begun + (now - begun) / 2  # two at a time
    return folder
