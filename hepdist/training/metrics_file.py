"""metrics.jsonl: the one file through which a run is followed, resumed and reported; one JSON object a line (docs/format.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; a last half-written one is left out."""
    path = folder / METRICS
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def drop_lines_beyond(path: Path, samples: int) -> tuple[float, int]:
    """Forget what a crashed attempt reported after the checkpoint; returns the wall-clock seconds kept, and the steps that were forgotten."""
    lines = read_metrics(path.parent)
    kept = [line for line in lines if line["samples"] <= samples] if samples else []
    part = path.with_name(f".{path.name}.part")
    part.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    part.rename(path)
    reached, resumed = (max((int(line["step"]) for line in some), default=0) for some in (lines, kept))
    return max((float(line.get("wall_s", 0.0)) for line in kept), default=0.0), reached - resumed
