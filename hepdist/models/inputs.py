"""What a cohort offers to a network: the shapes and meanings of its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hepdist.shards.manifest import EMRColumn


@dataclass(frozen=True)
class Inputs:
    """Empty where the cohort has no such input."""

    image: tuple[int, ...] = ()
    """Shape of `image` float[b, C, *spatial] without b: (C, *spatial)."""
    emr: tuple[EMRColumn, ...] = ()
    """The F columns of `emr` float[b, F] (numbers normalised, categories as index, missing = 0) and `emr_missing` uint8[b, F]."""
    sequence: tuple[EMRColumn, ...] = ()
    """The F features of `sequence` float[b, T, F] and `sequence_missing` uint8[b, T, F]; with them come `sequence_gap` float[b, T]
    (days since the visit before) and `sequence_length` int32[b, 1] (visits; padding follows them)."""
    visits: int = 0
    """T."""
    emr_quantiles: tuple[tuple[float, ...], ...] = ()
    """Of each EMR column among the train rows, evenly spaced from the least to the largest, in normalised units."""
    sequence_quantiles: tuple[tuple[float, ...], ...] = ()
    """The same of the visits' features, among all visits of train rows."""
