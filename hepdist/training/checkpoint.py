"""Checkpoints on disk: plain, whole, sha256-summed folders that any ZeRO stage and any number of workers can resume from."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hepdist.errors import RunError
from hepdist.shards.manifest import sha256_of

if TYPE_CHECKING:
    import torch

SUMS = "sha256.json"
SOMETIMES = ("ema", "critic", "critic_optimizer")
"""Tensors of a Checkpoint that only some runs have; each is a file of its name."""


@dataclass
class Progress:
    """Where a run stands: everything that is not weights, moments or a pure function of the recipe."""

    cursor: int = 0
    """Samples consumed, over all epochs; the position in training."""
    best: float | None = None
    """Best validation score so far, and the cursor at which it was reached."""
    best_cursor: int = -1
    stale: int = 0
    """Validations since the best one."""
    left_out: int = 0
    """Steps in a row, up to here, whose loss or gradient was not finite."""
    lr_scale: float = 1.0
    """What train.on_nonfinite=back_off has left of the recipe's learning rate."""
    finished: bool = False


@dataclass
class Checkpoint:
    """What a checkpoint folder holds, as whole CPU tensors."""

    progress: Progress
    weights: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    ema: dict[str, torch.Tensor] | None
    critic: dict[str, torch.Tensor] | None = None
    """Weights of the adversary's critic, and its optimiser's state."""
    critic_optimizer: dict[str, torch.Tensor] | None = None


def save(folder: Path, checkpoint: Checkpoint, texts: dict[str, str]) -> Path:
    """Write `folder/samples-<cursor>`: aside, synced, summed, then renamed, so that no half-written one has the name.

    texts: further small files by name (recipe.yaml, normalisation.json), so that the checkpoint explains itself.
    """
    from safetensors.torch import save_file  # brings torch, which the driver does without

    final = folder / f"samples-{checkpoint.progress.cursor:012d}"
    part = folder / f".{final.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        save_file(checkpoint.weights, part / "model.safetensors")
        save_file(checkpoint.optimizer, part / "optimizer.safetensors")
        for name in SOMETIMES:
            if (tensors := getattr(checkpoint, name)) is not None:
                save_file(tensors, part / f"{name}.safetensors")
        (part / "progress.json").write_text(json.dumps(asdict(checkpoint.progress), indent=1))
        for name, text in texts.items():
            (part / name).write_text(text, encoding="utf-8")
        write_sums(part)
    except BaseException:  # a full disk: what was written of it is in the way of the next one
        shutil.rmtree(part, ignore_errors=True)
        raise
    if final.exists():  # saved before a restart that came back to the same cursor
        shutil.rmtree(final)
    part.rename(final)
    return final


def write_sums(folder: Path) -> None:
    """sha256.json over every other file of the folder, all of them synced to disk first."""
    sums = {}
    for path in sorted(folder.iterdir()):
        if path.name != SUMS:
            with open(path, "rb") as file:
                os.fsync(file.fileno())
            sums[path.name] = sha256_of(path)
    (folder / SUMS).write_text(json.dumps(sums, indent=1))


def verify(folder: Path) -> None:
    """Raise RunError with the file's name where a file of the folder is not what was written."""
    try:
        text = (folder / SUMS).read_text()
        sums = json.loads(text)
    except (OSError, ValueError):
        text, sums = "", None
    # as it was written, to the letter: a list that is damaged can't vouch for files
    if not isinstance(sums, dict) or text != json.dumps(sums, indent=1) or set(sums) != {p.name for p in folder.iterdir()} - {SUMS}:
        raise RunError(f"'{folder.name}/{SUMS}' is missing or damaged")
    for name, expected in sums.items():
        path = folder / name
        if not path.is_file() or sha256_of(path) != expected:
            raise RunError(f"'{folder.name}/{name}' is missing or damaged (sha256 differs)")


def load(folder: Path) -> Checkpoint:
    """A verified checkpoint; nothing is unpickled. Raises RunError where a file is damaged."""
    from safetensors.torch import load_file

    verify(folder)
    there = {name: folder / f"{name}.safetensors" for name in SOMETIMES}
    return Checkpoint(
        Progress(**json.loads((folder / "progress.json").read_text())),
        load_file(folder / "model.safetensors"),
        load_file(folder / "optimizer.safetensors"),
        **{name: load_file(path) if path.exists() else None for name, path in there.items()},
    )


def newest_first(folder: Path) -> list[Path]:
    return sorted((p for p in folder.glob("samples-*") if p.is_dir()), reverse=True)


def intact(folder: Path) -> Path | None:
    """The newest checkpoint that verifies; damaged ones are set aside as `damaged-*`, so that nothing loads them again."""
    for path in newest_first(folder):
        try:
            verify(path)
            return path
        except RunError as error:
            print(f"hepdist: checkpoint {error}; falling back to the one before", flush=True)
            path.rename(path.with_name(f"damaged-{path.name}"))
    return None


def prune(folder: Path, keep: int, best_cursor: int) -> None:
    """Delete all but the newest `keep` checkpoints and the best one."""
    best = f"samples-{best_cursor:012d}"
    for path in newest_first(folder)[keep:]:
        if path.name != best:
            dying = folder / f".{path.name}.part"  # a kill half-way leaves no checkpoint that looks whole
            shutil.rmtree(dying, ignore_errors=True)
            shutil.rmtree(path.rename(dying))


def digest(tensors: dict[str, torch.Tensor]) -> str:
    """sha256 over names and bytes: equal exactly when the tensors are bit-identical."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(name.encode() + tensors[name].detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()
