"""Which samples of a source are new to the cohort that is added to, and which of those it can hold; says why of all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hepdist.ingest.audit import Row
from hepdist.ingest.classes import Bad
from hepdist.ingest.columns import Columns
from hepdist.ingest.fit import fit_changes
from hepdist.ingest.people import Member, salted_content
from hepdist.ingest.pseudonym import Pseudonyms
from hepdist.ingest.stage import Place, Staged, read_array

DUPLICATE = "ignored", "duplicate", "its bytes are in the cohort already"
SAME_IMAGE = "ignored", "duplicate", "its image is in the cohort already; what is there stays as it is"
SAME_PATIENT = "ignored", "duplicate", "its patient is in the cohort already; the values there stay as they are"
CHANGED = (
    "quarantined", "changed",
    "the cohort holds another state of it (a series with other slices, or another file of that name), which stays as it is;"
    " ingest all sources anew to change it",
)  # fmt: skip
TOLERANCE = 0.01
"""Relative difference of spacings from which volumes are resampled, as at a cohort's first ingest (fit.plan_layout)."""

Told = tuple[str, str, str]
"""(outcome, check, reason)"""


class Admission:
    """What is in the cohort, for a look at each sample that may be new."""

    def __init__(self, members: Sequence[Member], audit: Sequence[Row], names: Pseudonyms):
        self._names = names
        self._members = {member.sample_id: member for member in members}
        self._contents = {member.content for member in members if member.content}
        self._files = {row.sha256 for row in audit if row.outcome == "ingested" and row.sha256}
        self._series = {row.series for row in audit if row.outcome == "ingested" and row.series}
        self.there: Mapping[str, frozenset[str]] = {
            "patient": frozenset(member.patient for member in members),
            "study": frozenset(row.study for row in audit if row.outcome == "ingested" and row.study),
            "image": frozenset(self._members),
        }
        """Pseudonyms by what rows of a table may be of."""

    def found_before(self, sample: Staged) -> list[Row] | None:
        """The audit's rows of a sample that is in the cohort, whole or in part; None for a new one."""
        told = self._told(sample)
        if told is None:
            return None
        files = sample.files or ((sample.sample_id, ""),)
        return [Row(f, sha256, *(DUPLICATE if sha256 in self._files else told), sample.study, sample.series) for f, sha256 in files]

    def _told(self, sample: Staged) -> Told | None:
        known = [sha256 in self._files for _, sha256 in sample.files]
        member = self._members.get(sample.sample_id)
        content = salted_content(sample, self._names)
        if member is not None:
            if sample.image is None:
                return SAME_PATIENT
            return SAME_IMAGE if content == member.content else CHANGED
        if sample.image is None:
            return SAME_PATIENT if sample.patient in self.there["patient"] else None
        if known and (all(known) or (any(known) and content in self._contents)):
            return SAME_IMAGE
        return CHANGED if len(sample.shape) == 3 and sample.series in self._series else None


def unfit(samples: Sequence[Staged], columns: Columns, spacing: tuple[float, ...] | None, folder: Path) -> Bad:
    """The samples that the cohort can't hold.

    spacing: median of the cohort's volumes, in mm; None: not known. folder: where the arrays are staged.
    """
    return [(sample, *why) for sample in samples if (why := _unfit(sample, columns, spacing, folder)) is not None]


def _unfit(sample: Staged, columns: Columns, spacing: tuple[float, ...] | None, folder: Path) -> tuple[str, str] | None:
    layout = columns.layout
    if sample.image is None:
        return (
            None if layout is None or columns.some_without_image else ("unpaired", "it has no image, and every row of the cohort has one")
        )
    if layout is None:
        return "geometry", "it has an image, and the cohort holds none"
    form = f"{layout.channels} channels and {len(layout.size)} axes"
    if (sample.image.shape[0], len(sample.shape)) != (layout.channels, len(layout.size)):
        return "geometry", f"it has {sample.image.shape[0]} channels and {len(sample.shape)} axes, the cohort's images {form}"
    if sample.unit != layout.unit:
        return "unit", f"its values are in '{sample.unit}', the cohort's in '{layout.unit}'"
    if layout.spacing is None and len(layout.size) == 3 and spacing and sample.spacing and _differ(sample.spacing, spacing):
        return "geometry", f"its spacing is {_mm(sample.spacing)}, the cohort's {_mm(spacing)}, and its volumes are not resampled"
    if "offset" not in columns.geometry and fit_changes([sample], layout)[1]:
        return "geometry", f"its size is {_by(sample.shape)}, the cohort's {_by(layout.size)}, and no column could say where it was cut"
    if not _holds(layout.dtype, sample.image, folder):
        return "dtype", f"it holds values that {layout.dtype}, as which the cohort stores images, can't"
    return None


def _holds(dtype: str, image: Place, folder: Path) -> bool:
    """Whether no value is lost; float32 is what every other type becomes."""
    if dtype == "float32" or np.can_cast(np.dtype(image.dtype), np.dtype(dtype)):
        return True
    values = read_array(folder, image)
    with np.errstate(invalid="ignore"):  # of a value that is too large
        return bool(np.array_equal(values.astype(dtype), values))


def _differ(one: Sequence[float], other: Sequence[float]) -> bool:
    return bool((np.abs(np.array(one) / np.array(other) - 1) > TOLERANCE).any())


def _mm(spacing: Sequence[float]) -> str:
    return f"{' x '.join(f'{s:.4g}' for s in spacing)} mm"


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
