"""Statistics of a cohort: what each shard's writer takes from its tensors, and how they add up; only train rows tell how to normalise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from hepdist.ingest.stage import Staged
from hepdist.shards.manifest import SPLITS, EMRColumn

DRAWN = 4_000_000
"""Train voxels behind the intensity percentiles; all of them in small cohorts, else a regular grid of each image."""
BLOCK = 1 << 22
"""Voxels of a channel that are taken in at a time: in float64 a large volume would need four times its own memory."""
QUANTILES = 33
"""Of each EMR column: the least value, the largest, and 31 between them, evenly spaced in rank."""
DECIMALS = 3
"""Of quantiles, in standard deviations: enough for a network, too few to tell a patient's value, such as a date written as a number."""


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


@dataclass
class Part:
    """What one shard's tensors say; of intensities only where the shard is of train."""

    image: Moments
    mask_rows: np.ndarray
    """int64[classes]: rows in which a mask class occurs, or volumes of a cohort in bricks."""
    drawn: list[np.ndarray] = field(default_factory=list)
    """float32, voxels for the percentiles."""

    def learn(self, image: np.ndarray, most: int) -> None:
        """Take in one train image [C, *spatial], and at most `most` of its voxels as they are."""
        flat = image.reshape(len(image), -1)
        for begin in range(0, flat.shape[1], BLOCK):
            block = flat[:, begin : begin + BLOCK]
            if (
                image.dtype == np.uint8
            ):  # by its histogram: exact, and ten times as fast as in float64 (np.bincount copies to 64 bits first)
                histogram = np.array([Image.fromarray(channel[None]).histogram() for channel in block], np.float64)
                mean = histogram @ np.arange(256) / block.shape[1]
                squares = (histogram * (np.arange(256) - mean[:, None]) ** 2).sum(axis=1)
            else:
                values = block.astype(np.float64)
                mean = values.mean(axis=1)
                squares = ((values - mean[:, None]) ** 2).sum(axis=1)
            self.image.add(np.full(len(flat), block.shape[1], np.float64), mean, squares)
        every = image.reshape(-1)
        self.drawn.append(every[:: -(-every.size // most)].astype(np.float32))

    def arrays(self) -> dict[str, np.ndarray]:
        """As arrays, for a file."""
        moments = np.stack([self.image.count, self.image.mean, self.image.squares])
        return {"moments": moments, "mask_rows": self.mask_rows, "drawn": np.concatenate([np.empty(0, np.float32), *self.drawn])}

    @classmethod
    def of_arrays(cls, arrays: Any) -> Part:
        image = Moments(arrays["moments"].shape[1])
        image.count, image.mean, image.squares = arrays["moments"]
        return cls(image, arrays["mask_rows"], [arrays["drawn"]])


def counts(
    samples: Sequence[Staged],
    label_names: tuple[str, ...],
    mask_classes: tuple[str, ...],
    mask_rows: dict[str, np.ndarray],
    bricks: dict[str, int] | None = None,
) -> dict[str, dict[str, Any]]:
    """By split: rows, patients, and rows of each class; mask_rows: those of the mask classes.

    bricks: rows by split of a cohort in bricks; there are `volumes` beside them then, and classes count volumes.
    """
    found: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        mine = [s for s in samples if s.split == split]
        if label_names:
            classes = Counter(dict.fromkeys(label_names, 0))
            for sample in mine:
                if sample.labels is not None:
                    classes.update(name for name, there in zip(label_names, sample.labels, strict=True) if there)
                elif isinstance(sample.label, int):
                    classes[label_names[sample.label]] += 1
        else:
            classes = Counter(dict(zip(mask_classes, mask_rows[split].tolist(), strict=True)))
        rows = {"rows": len(mine)} if bricks is None else {"rows": bricks[split], "volumes": len(mine)}
        found[split] = {**rows, "patients": len({s.person for s in mine}), "classes": dict(classes)}
    return found


def normalisation_of_emr(samples: Sequence[Staged], emr: Sequence[EMRColumn]) -> dict[str, Any]:
    """`column_statistics` over train rows."""
    return _moments([[_number(s.emr.get(c.name)) for c in emr] for s in samples if s.split == "train"], emr)


def normalisation_of_visits(samples: Sequence[Staged], columns: Sequence[EMRColumn]) -> dict[str, Any]:
    """The same over all visits of train patients."""
    return _moments([visit for s in samples if s.split == "train" for visit in _visits(s)], columns)


def missing_shares(samples: Sequence[Staged], emr: Sequence[EMRColumn]) -> list[float]:
    """Of each EMR column, over all rows."""
    return [sum(np.isnan(_number(s.emr.get(c.name))) for s in samples) / max(1, len(samples)) for c in emr]


def missing_shares_of_visits(samples: Sequence[Staged], columns: Sequence[EMRColumn]) -> list[float]:
    """Of each column, over all visits."""
    visits = [visit for s in samples for visit in _visits(s)]
    return [float(np.mean([np.isnan(visit[i]) for visit in visits])) if visits else 1.0 for i in range(len(columns))]


def visits_of(samples: Sequence[Staged]) -> int:
    """How many there are in all."""
    return sum(sample.visits[3] for sample in samples if sample.visits is not None)


def _visits(sample: Staged) -> list[list[float]]:
    """One patient's values by visit, NaN where missing."""
    if sample.visits is None:
        return []
    values, missing, _, steps = sample.visits
    return [[np.nan if m else v for v, m in zip(*visit, strict=True)] for visit in zip(values[:steps], missing[:steps], strict=True)]


def _moments(rows: Sequence[Sequence[float]], columns: Sequence[EMRColumn]) -> dict[str, Any]:
    return column_statistics(np.array(rows, np.float32).reshape(-1, len(columns)), columns)


def column_statistics(values: np.ndarray, columns: Sequence[EMRColumn]) -> dict[str, Any]:
    """Mean, standard deviation and quantiles of each column; values: float32[n, F] as they are stored, NaN where missing.

    A category has mean 0 and standard deviation 1, so that normalising leaves it an index; a column without values has zeros.
    """
    values = values.astype(np.float64)
    there = ~np.isnan(values)
    number = np.array([column.kind == "number" for column in columns], bool)
    count = np.maximum(there.sum(axis=0), 1)
    mean = np.where(there, values, 0).sum(axis=0) / count
    std = np.sqrt((np.where(there, values - mean, 0) ** 2).sum(axis=0) / count)
    mean, std = np.where(number, mean, 0.0), np.where(number, std, 1.0)
    steps = np.linspace(0, 1, QUANTILES)
    quantiles = [
        np.round((np.quantile(column[known], steps) - centre) / (width or 1.0), DECIMALS).tolist() if known.any() else [0.0] * QUANTILES
        for column, known, centre, width in zip(values.T, there.T, mean, std, strict=True)
    ]
    return {"mean": mean.tolist(), "std": std.tolist(), "quantiles": quantiles}


def fingerprint(samples: Sequence[Staged], drawn: Sequence[np.ndarray]) -> dict[str, Any]:
    """Shapes and spacings in the source, and percentiles of train intensities (nnU-Net's fingerprint, Isensee et al., 2021)."""
    facts: dict[str, Any] = {}
    shapes = np.array([s.shape for s in samples if s.image is not None])
    if len(shapes):
        facts |= {
            "median_shape": np.median(shapes, axis=0).tolist(), "smallest_shape": shapes.min(axis=0).tolist(), "largest_shape": shapes.max(axis=0).tolist(),
        }  # fmt: skip
    spacings = [s.spacing for s in samples if s.spacing is not None]
    if spacings:
        facts["median_spacing"] = np.median(np.array(spacings), axis=0).tolist()
    voxels = np.concatenate([np.empty(0, np.float32), *drawn])
    if len(voxels):
        low, middle, high = np.percentile(voxels, (0.5, 50, 99.5))
        facts["train_intensity_percentiles"] = {"0.5": float(low), "50": float(middle), "99.5": float(high)}
    return facts


def _number(value: Any) -> float:
    return float(value) if value is not None and np.isfinite(value) else np.nan
