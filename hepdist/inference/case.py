"""A case to predict: what a source says of one study's image, with the values of its patient; and the grid that answers go back to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from hepdist.ingest.emr_sequence import Packed
from hepdist.ingest.sample import Sample


@dataclass
class Case:
    """One image, one row of a table, or both. Raw keys: whoever writes anything about it decides which of them may be told."""

    sample: Sample
    emr: Mapping[str, float | None] = field(default_factory=dict)
    """By column name, in the column's unit; a category is its index. What is not there is missing."""
    visits: Packed | None = None
    turned: Turn | None = None
    """How `sample.image` was turned from the way it lies in its files; None: not at all."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial; empty without an image."""
        return self.sample.image.shape[1:] if self.sample.image is not None else ()

    @property
    def spacing(self) -> tuple[float, ...] | None:
        return self.sample.spacing

    @property
    def affine(self) -> tuple[tuple[float, ...], ...] | None:
        return tuple(map(tuple, self.sample.affine.tolist())) if self.sample.affine is not None else None

    def source_array(self, array: np.ndarray) -> np.ndarray:
        """array[..., *shape] on this case's grid as it lies on the grid of its files, such as a mask for the series that it came from."""
        return array if self.turned is None else self.turned.back(array)


@dataclass(frozen=True)
class Turn:
    """A permutation and mirroring of the last three axes."""

    axes: tuple[int, ...]
    """Axis of the source that becomes axis 0, 1 and 2."""
    mirrored: tuple[int, ...]
    """Axes of the result that are mirrored."""

    def there(self, array: np.ndarray) -> np.ndarray:
        lead = array.ndim - 3
        moved = array.transpose(*range(lead), *(lead + axis for axis in self.axes))
        return np.flip(moved, tuple(lead + axis for axis in self.mirrored))

    def back(self, array: np.ndarray) -> np.ndarray:
        lead = array.ndim - 3
        flipped = np.flip(array, tuple(lead + axis for axis in self.mirrored))
        return np.ascontiguousarray(flipped.transpose(*range(lead), *(lead + axis for axis in np.argsort(self.axes))))


def lying_axially(case: Case) -> Case:
    """The case with its volume turned so that D runs to the head, H to the back and W to the patient's left, as ingest turns NIfTI.

    A model that was trained on volumes that all lie so has never seen a sagittal series lie as it does in its files. Nothing is resampled; a
    case without three axes or an affine is returned as it is.
    """
    sample = case.sample
    if sample.image is None or sample.affine is None or len(case.shape) != 3:
        return case
    from nibabel.orientations import io_orientation  # axes to R, A, S with their direction

    toward = io_orientation(np.diag([-1.0, -1.0, 1.0, 1.0]) @ sample.affine)  # LPS to nibabel's RAS
    if np.isnan(toward).any():
        return case
    wanted = ((2, 1), (1, -1), (0, -1))  # head, back, left
    axes = tuple(int(np.flatnonzero(toward[:, 0] == world)[0]) for world, _ in wanted)
    mirrored = tuple(place for place, (axis, (_, sign)) in enumerate(zip(axes, wanted, strict=True)) if toward[axis, 1] != sign)
    if axes == (0, 1, 2) and not mirrored:
        return case
    turn = Turn(axes, mirrored)
    change = np.zeros((4, 4))
    change[3, 3] = 1
    for place, axis in enumerate(axes):
        change[axis, place] = -1 if place in mirrored else 1
        change[axis, 3] = case.shape[axis] - 1 if place in mirrored else 0
    spacing = None if sample.spacing is None else tuple(sample.spacing[axis] for axis in axes)
    moved = replace(sample, image=turn.there(sample.image), spacing=spacing, affine=sample.affine @ change, mask=None)
    return replace(case, sample=moved, turned=turn)
