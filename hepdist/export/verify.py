"""Whether a written file answers as the live model does: the largest difference, and every decision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hepdist.evaluation.metrics import decide
from hepdist.export.samples import Samples

Run = Callable[[Sequence[np.ndarray]], np.ndarray]
"""A written file, called with arrays in the order of its inputs."""


@dataclass(frozen=True)
class Decision:
    """How answers become labels."""

    kind: str
    """'two classes', 'several classes', 'findings', 'voxels', 'overlapping voxels', or 'none' for restored images."""
    threshold: float = 0.5
    span: float = 1.0
    """White minus black of a restored image, in its unit: differences are told as a share of it. 1 for probabilities."""

    def labels(self, answers: np.ndarray) -> np.ndarray:
        if self.kind in ("two classes", "several classes"):
            return decide(answers.astype(np.float64), self.threshold)
        if self.kind == "findings":
            return answers >= self.threshold
        if self.kind == "voxels":
            return answers.argmax(1)
        return answers[:, 1:] > self.threshold if self.kind == "overlapping voxels" else np.zeros(0, np.int64)


BOUNDARY = 1e-5
"""Share of voxels that may be decided otherwise."""


@dataclass(frozen=True)
class Agreement:
    """Of a file with the live model."""

    samples: int
    largest_difference: float
    decisions: int
    decisions_differing: int
    tolerance: float

    @property
    def within(self) -> bool:
        """Inside the tolerance everywhere; no sample's label differs, and of voxels no more than lie on the boundary itself."""
        allowed = BOUNDARY * self.decisions if self.decisions > 1000 * self.samples else 0
        return self.largest_difference <= self.tolerance and self.decisions_differing <= allowed


def compare(run: Run, samples: Samples, decision: Decision, tolerance: float) -> Agreement:
    """Run the file on all samples, a single row first and then batches. NaN anywhere is an infinite difference."""
    largest, decisions, differing = 0.0, 0, 0
    for place, arrays in samples.batches():
        live = samples.live[place]
        found = run(arrays)
        if found.shape != live.shape:
            return Agreement(len(samples.live), float("inf"), 0, 0, tolerance)
        difference = np.abs(found.astype(np.float64) - live) / decision.span
        largest = max(largest, float("inf") if np.isnan(difference).any() else float(difference.max()))
        ours, theirs = decision.labels(live), decision.labels(found)
        decisions += ours.size
        differing += int((ours != theirs).sum())
    return Agreement(len(samples.live), largest, decisions, differing, tolerance)
