"""Which model said something: what every output names, and what a restart compares."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import hepdist
from hepdist.inference.predictor import Predictor


@dataclass(frozen=True)
class Identity:
    runs: tuple[str, ...]
    """Names of the runs' folders."""
    sha256s: tuple[str, ...]
    """Of each run's model.safetensors."""
    kind: str
    classes: tuple[str, ...]
    threshold: float
    temperatures: tuple[float, ...]
    dropout_samples: int | None = None
    version: str = f"hepdist {hepdist.__version__}"

    @classmethod
    def of(cls, predictor: Predictor) -> Identity:
        members = predictor.members
        return cls(
            tuple(Path(m.run).resolve().name for m in members), tuple(m.sha256 for m in members), predictor.kind, predictor.classes,
            predictor.threshold, tuple(m.temperature for m in members), predictor.dropout_samples,
        )  # fmt: skip

    @property
    def name(self) -> str:
        return "+".join(self.runs)

    @property
    def sha256(self) -> str:
        """Of the one model, or of the hashes of an ensemble's."""
        return self.sha256s[0] if len(self.sha256s) == 1 else hashlib.sha256("".join(self.sha256s).encode()).hexdigest()

    @property
    def calibration(self) -> str:
        """How probabilities were scaled, in words; empty where they were not."""
        if all(t == 1 for t in self.temperatures):
            return ""
        return "temperature " + ", ".join(f"{t:.3g}" for t in self.temperatures)

    @property
    def parameters(self) -> dict[str, str]:
        """What DICOM objects say beside name and version."""
        found = {
            "model sha256" if len(self.runs) == 1 else f"model sha256 {run}": sha for run, sha in zip(self.runs, self.sha256s, strict=True)
        }
        if self.kind in ("classification", "survival") and len(self.classes) == 2:
            found["threshold"] = f"{self.threshold:.6g}"
        if self.dropout_samples:
            found["dropout samples"] = f"{self.dropout_samples} a model" if len(self.runs) > 1 else str(self.dropout_samples)
        if self.calibration:
            found["calibration"] = self.calibration
        return found
