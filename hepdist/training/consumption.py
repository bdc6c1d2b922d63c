"""`runs/<name>/samples/`: which rows each global batch held, written by each worker; the proof that every sample counted once.

One file a rank, one JSON object a line: step, samples (the cursor after the batch) and rows (numbers of the train split in manifest
order). Lines beyond the cursor that a run resumes from are dropped, so what is left is the line that led to the model.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hepdist.place import PART

FOLDER = "samples"


class Consumption:
    """One rank's file, open for the run; written before the step, so that a finished step has its lines from all ranks."""

    def __init__(self, run: Path, rank: int, world: int, cursor: int) -> None:
        """cursor: where the run goes on; rank 0 also shortens the files of ranks that are no more."""
        folder = run / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        mine = folder / f"rank-{rank:05d}.jsonl"
        gone = [path for path in folder.glob("rank-*.jsonl") if _rank(path) >= world] if rank == 0 else []
        for path in [mine, *gone]:
            _drop_beyond(path, cursor)
        self._file = open(mine, "a", encoding="utf-8")  # noqa: SIM115  open for the whole run

    def write(self, step: int, samples: int, rows: torch.Tensor) -> None:
        """rows: int64[b] of this rank's part of the global batch; on a GPU this waits for it."""
        self._file.write(json.dumps({"step": step, "samples": samples, "rows": rows.tolist()}, separators=(",", ":")) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True)
class Consumed:
    """One global batch as all ranks recorded it."""

    step: int
    samples: int
    rows: tuple[np.ndarray, ...]
    """By rank, int64[b] each, in the order of the batch."""


def read_consumed(run: Path) -> Iterator[Consumed]:
    """The recorded global batches of a run, in order. Empty where the run was trained without train.record_samples."""
    steps: dict[tuple[int, int], dict[int, np.ndarray]] = defaultdict(dict)
    for path in sorted((run / FOLDER).glob("rank-*.jsonl")):
        for line in _lines(path):
            steps[line["samples"], line["step"]][_rank(path)] = np.array(line["rows"], np.int64)
    for (samples, step), ranks in sorted(steps.items()):
        yield Consumed(step, samples, tuple(ranks[rank] for rank in sorted(ranks)))


def _rank(path: Path) -> int:
    return int(path.stem.removeprefix("rank-"))


def _lines(path: Path) -> list[dict]:
    """The whole lines of a file; a last half-written one is left out."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _drop_beyond(path: Path, cursor: int) -> None:
    """Forget what a crashed attempt consumed after its last checkpoint; the file is replaced, so a late writer of the old one is not heard."""
    kept = [json.dumps(line, separators=(",", ":")) + "\n" for line in _lines(path) if line["samples"] <= cursor]
    part = path.with_name(f".{path.name}{PART}")
    part.write_text("".join(kept), encoding="utf-8")
    part.replace(path)
