"""Statistics of a cohort, taken row by row while shards are written; only train rows tell how to normalise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from hepdist.ingest.stage import Staged
from hepdist.shards.manifest import SPLITS, EMRColumn

DRAWN = 4_000_000
"""Train voxels behind the intensity percentiles; all of them in small cohorts, else a regular grid of each image."""


class Moments:
    """Mean and variance of each column in float64, merged block by block (Chan et al., 1983): no loss at large means."""

    def __init__(self, width: int):
        self.count, self.mean, self.squares = np.zeros(width), np.zeros(width), np.zeros(width)

    def add(self, count: np.ndarray, mean: np.ndarray, squares: np.ndarray) -> None:
        """A block's number of values, their mean, and their squared deviations from it, each [width]."""
        total = self.count + count
        there = total > 0
        share = np.divide(count, total, out=np.zeros_like(self.mean), where=there)
        delta = mean - self.mean
        self.squares += squares + delta**2 * self.count * share
        self.mean += delta * share
        self.count = total

    @property
    def std(self) -> np.ndarray:
        """Of the values themselves (divisor n), 0 where there is none."""
        return np.sqrt(np.divide(self.squares, self.count, out=np.zeros_like(self.mean), where=self.count > 0))


class Statistics:
    """Collects while rows are written; afterwards says counts, normalisation and fingerprint for the manifest."""

    def __init__(self, channels: int, emr: int, label_names: tuple[str, ...], mask_classes: tuple[str, ...], train_rows: int):
        self._image, self._emr = Moments(channels), Moments(emr)
        self._label_names, self._mask_classes = label_names, mask_classes
        self._draw = max(1, DRAWN // max(1, train_rows))
        self._drawn: list[np.ndarray] = []
        self._rows: Counter[str] = Counter()
        self._people: dict[str, set[str]] = {split: set() for split in SPLITS}
        self._classes = {split: Counter(dict.fromkeys(label_names or mask_classes, 0)) for split in SPLITS}
        self._shapes: list[tuple[int, ...]] = []
        self._spacings: list[tuple[float, ...]] = []
        self._missing = np.zeros(emr)

    def add(self, split: str, sample: Staged, row: dict[str, Any]) -> None:
        """row: the tensors of one row, as they are written."""
        self._rows[split] += 1
        self._people[split].add(sample.person)
        self._count_classes(split, sample, row)
        self._shapes.append(sample.shape)
        if sample.spacing is not None:
            self._spacings.append(sample.spacing)
        if "emr" in row:
            self._missing += row["emr_missing"]
        if split == "train":
            self._learn(row)

    def _learn(self, row: dict[str, Any]) -> None:
        flat = row["image"].reshape(len(row["image"]), -1).astype(np.float64)
        mean = flat.mean(axis=1)
        self._image.add(np.full(len(flat), flat.shape[1], np.float64), mean, ((flat - mean[:, None]) ** 2).sum(axis=1))
        every = row["image"].reshape(-1)
        self._drawn.append(every[:: -(-every.size // self._draw)].astype(np.float32))
        if "emr" in row:
            there = 1.0 - row["emr_missing"]
            self._emr.add(there, row["emr"].astype(np.float64) * there, np.zeros(len(there)))

    def _count_classes(self, split: str, sample: Staged, row: dict[str, Any]) -> None:
        counts = self._classes[split]
        if sample.labels is not None:
            counts.update(name for name, there in zip(self._label_names, sample.labels, strict=True) if there)
        elif self._label_names:
            if isinstance(sample.label, int):
                counts[self._label_names[sample.label]] += 1
        elif "mask" in row:
            counts.update(self._mask_classes[index] for index in np.unique(row["mask"]))

    def counts(self) -> dict[str, dict[str, Any]]:
        return {
            split: {"rows": self._rows[split], "patients": len(self._people[split]), "classes": dict(self._classes[split])} for split in SPLITS
        }  # fmt: skip

    def normalisation(self, emr: Sequence[EMRColumn]) -> dict[str, dict[str, Any]]:
        """Mean and standard deviation over train rows; 0 and 1 for an EMR category, so that normalising leaves it an index."""
        found = {"image": {"mean": self._image.mean.tolist(), "std": self._image.std.tolist()}}
        if len(self._missing):
            number = np.array([column.kind == "number" for column in emr])
            found["emr"] = {"mean": np.where(number, self._emr.mean, 0.0).tolist(), "std": np.where(number, self._emr.std, 1.0).tolist()}
        return found

    def missing_shares(self) -> list[float]:
        """Of each EMR column, over all rows."""
        return (self._missing / max(1, sum(self._rows.values()))).tolist()

    def fingerprint(self) -> dict[str, Any]:
        shapes = np.array(self._shapes)
        facts: dict[str, Any] = {
            "median_shape": np.median(shapes, axis=0).tolist(), "smallest_shape": shapes.min(axis=0).tolist(), "largest_shape": shapes.max(axis=0).tolist(),
        }  # fmt: skip
        if self._spacings:
            facts["median_spacing"] = np.median(np.array(self._spacings), axis=0).tolist()
        if self._drawn:
            low, middle, high = np.percentile(np.concatenate(self._drawn), (0.5, 50, 99.5))
            facts["train_intensity_percentiles"] = {"0.5": float(low), "50": float(middle), "99.5": float(high)}
        return facts
