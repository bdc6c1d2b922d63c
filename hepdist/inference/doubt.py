"""How far passes over one case differ: members of an ensemble, or of each of them several with dropout. Numbers alone; logarithms are natural."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import entr

if TYPE_CHECKING:
    from hepdist.tasks.volumes import Assembly

PLANES = 16
"""Of a volume, decided at a time."""
STEPS = 255
"""Between no doubt and the most that there can be, in a stored map."""


def entropy(probability: np.ndarray, *, multilabel: bool) -> np.ndarray:
    """Nats, of probability float[..., K]: of exclusive classes from 0 to ln K; multilabel: the mean over findings, each from 0 to ln 2."""
    if multilabel:
        return (entr(probability) + entr(1 - probability)).mean(-1)
    return entr(probability).sum(-1)


def mutual_information(passes: np.ndarray, *, multilabel: bool) -> float:
    """Nats, of the probabilities float[P, K] of each pass: the entropy of their mean less the mean of their entropies.

    BALD (Houlsby et al., 2011): what the passes do not know together though each is sure. 0 where all say the same, however unsure that is.
    """
    mean, each = (float(np.mean(entropy(p, multilabel=multilabel))) for p in (passes.mean(0, dtype=np.float64), passes.astype(np.float64)))
    return max(0.0, mean - each)


def spread(passes: np.ndarray) -> float:
    """Standard deviation over the passes float[P, K] of the class in which they differ most."""
    return float(passes.std(axis=0).max())


def most_nats(classes: int, *, overlapping: bool) -> float:
    """The largest entropy that a voxel can have."""
    return math.log(2 if overlapping else classes)


@dataclass(frozen=True)
class MaskDoubt:
    """How far the passes behind a mask differ."""

    entropy: np.ndarray
    """uint8 of the mask's shape: of the mean probabilities, in steps of `step`."""
    step: float
    """Nats."""
    size_variation: np.ndarray
    """float64[K - 1]: standard deviation over mean of each foreground class's volume over the passes; NaN where none found any."""
    pairwise_dice: np.ndarray
    """float64[K - 1]: mean Dice of all pairs of passes of which at least one found the class; NaN where there is no such pair."""


class Agreement:
    """The passes over one volume as they come, on the grid that the model sees: the sum of their probabilities, and each one's mask as bits.

    A voxel takes 4 bytes and an eighth of a byte a pass, of each foreground class: 1 GiB for 512 x 512 x 600 voxels, one class and 20
    passes. Structure-wise numbers are those of Roy et al., 2019 (Bayesian QuickNAT).
    """

    def __init__(self, classes: int, overlapping: bool, shape: Sequence[int]) -> None:
        """overlapping: as for an Assembly."""
        self._overlapping, self._classes = overlapping, classes
        self.total = np.zeros((classes - 1, *shape), np.float32)
        """Of each foreground class's probability; the passes' assemblies add to it."""
        self._bits: list[list[np.ndarray]] = []
        """By pass and foreground class."""
        self._voxels: list[list[int]] = []
        """Set bits of each."""

    def add(self, assembly: Assembly) -> None:
        """Take in a pass whose windows are all there."""
        assembly.decided()
        self._bits.append([np.packbits(assembly.region(k)) for k in range(1, self._classes)])
        self._voxels.append([_ones(bits) for bits in self._bits[-1]])

    def decided(self) -> tuple[np.ndarray, np.ndarray]:
        """uint8[*shape] twice: class indices by the mean probability, as an Assembly decides, and its entropy in STEPS of the most there can be."""
        index, doubt = (np.zeros(self.total.shape[1:], np.uint8) for _ in range(2))
        scale = STEPS / most_nats(self._classes, overlapping=self._overlapping)
        for first in range(0, len(index), PLANES):
            some = slice(first, first + PLANES)
            mean = (self.total[:, some] / len(self._bits)).clip(0, 1)
            if self._overlapping:
                for k, there in enumerate(mean > 0.5, 1):
                    index[some][there] = k
            else:
                mean = np.concatenate([(1 - mean.sum(0, keepdims=True)).clip(0), mean])
                index[some] = mean.argmax(0)
            doubt[some] = np.rint(entropy(np.moveaxis(mean, 0, -1), multilabel=self._overlapping) * scale).clip(0, STEPS)
        return index, doubt

    def size_variation(self) -> np.ndarray:
        """As in MaskDoubt."""
        voxels = np.array(self._voxels, np.float64)
        mean = voxels.mean(0)
        return np.divide(voxels.std(0), mean, out=np.full(len(mean), np.nan), where=mean > 0)

    def pairwise_dice(self) -> np.ndarray:
        """As in MaskDoubt."""
        found: list[list[float]] = [[] for _ in range(self._classes - 1)]
        for a, b in combinations(range(len(self._bits)), 2):
            for k, dice in enumerate(found):
                if both := self._voxels[a][k] + self._voxels[b][k]:
                    dice.append(2 * _ones(self._bits[a][k] & self._bits[b][k]) / both)
        return np.array([np.mean(dice) if dice else np.nan for dice in found])


def _ones(bits: np.ndarray) -> int:
    return int(np.bitwise_count(bits).sum(dtype=np.int64))
