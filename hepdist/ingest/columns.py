"""Which columns a cohort's rows have and what they mean, and the values of one row; nothing is read or written here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hepdist.ingest.fit import Fitted, Layout, offsets, shape_of
from hepdist.ingest.stage import Staged
from hepdist.shards.format import TensorField
from hepdist.shards.manifest import EMRColumn


@dataclass(frozen=True)
class Columns:
    layout: Layout | None
    """None: rows of a table without images."""
    label_names: tuple[str, ...]
    multilabel: bool
    mask_classes: tuple[str, ...]
    """Empty: no mask column."""
    mask_values: tuple[int, ...]
    """Value in the source's masks of each class index."""
    emr: tuple[EMRColumn, ...]
    sequence: tuple[EMRColumn, ...]
    visits: int
    """Length of the sequences; 0: none."""
    some_without_image: bool
    geometry: tuple[str, ...]
    """Those of spacing, source_shape, original_shape, offset and affine that the cohort has."""
    followup: bool
    """Whether labels come from follow-up."""
    length: str
    """Unit of the spacing: 'mm', or 'source pixels' where no image says its size."""

    def tensors(self) -> dict[str, TensorField]:
        fields = []
        if self.layout is not None:
            layout, axes = self.layout, "DHW"[-len(self.layout.size) :]
            fields.append(TensorField("image", layout.dtype, (layout.channels, *layout.size), layout.unit, "C" + axes))
            if self.mask_classes:
                fields.append(TensorField("mask", "uint8", (1, *layout.size), "class index", "C" + axes, self.mask_classes))
        if self.multilabel:
            fields.append(TensorField("label", "uint8", (len(self.label_names),), "0 or 1", "", self.label_names))
        if self.emr:
            fields.append(TensorField("emr", "float32", (len(self.emr),), "see manifest.emr; missing = 0"))
            fields.append(TensorField("emr_missing", "uint8", (len(self.emr),), "1 = missing"))
        if self.visits:
            shape = (self.visits, len(self.sequence))
            fields.append(TensorField("sequence", "float32", shape, "see manifest.sequence; oldest first; missing = 0", "TF"))
            fields.append(TensorField("sequence_missing", "uint8", shape, "1 = missing", "TF"))
            fields.append(TensorField("sequence_gap", "float32", shape[:1], "days since the visit before", "T"))
            fields.append(TensorField("sequence_length", "int32", (1,), "visits; what follows them is padding"))
        if self.followup:
            fields.append(TensorField("followup", "float32", (2,), "days to the event or the end of follow-up; 1 = event"))
        if self.some_without_image:
            fields.append(TensorField("image_missing", "uint8", (1,), "1 = no image"))
        if self.layout is not None:
            fields += _geometry(axes, self.length, self.geometry)
            if self.in_bricks:
                fields.append(TensorField("brick", "int32", (2,), "index of this brick, and bricks of its volume"))
        return {field.name: field for field in fields}

    @property
    def in_bricks(self) -> bool:
        return self.layout is not None and self.layout.overlap is not None

    def rows(self, sample: Staged) -> int:
        """Rows that a sample gives: one, or one a brick."""
        if self.layout is None or sample.image is None:
            return 1
        return len(offsets(shape_of(sample, self.layout), self.layout))

    def meanings(self) -> dict[str, dict[str, Any]]:
        """The tensors as the manifest holds them: without names, in JSON's types."""
        return {
            name: {"dtype": t.dtype, "shape": list(t.shape), "unit": t.unit, "axes": t.axes, "classes": list(t.classes)}
            for name, t in self.tensors().items()
        }

    def row(self, sample: Staged, fitted: Fitted | None) -> dict[str, Any]:
        """The tensors of one row, by column."""
        row: dict[str, Any] = {}
        if self.multilabel:
            row["label"] = sample.labels
        if self.emr:
            row["emr"], row["emr_missing"] = emr_vector(sample.emr, self.emr)
        if self.visits:
            nothing = np.zeros((self.visits, len(self.sequence))), np.ones((self.visits, len(self.sequence))), np.zeros(self.visits), 0
            found = sample.visits or nothing
            row |= dict(zip(("sequence", "sequence_missing", "sequence_gap", "sequence_length"), found, strict=True))
        if self.followup:
            row["followup"] = sample.followup or (0.0, 0.0)  # followed for no time: says nothing
        if self.some_without_image:
            row["image_missing"] = fitted is None
        if self.in_bricks:
            row["brick"] = fitted.brick if fitted is not None else (0, 1)
        if fitted is None:
            return row
        row["image"] = fitted.image
        if fitted.mask is not None:
            row["mask"] = fitted.mask
        geometry = {
            "spacing": fitted.spacing, "source_shape": fitted.source_shape, "original_shape": fitted.original_shape, "offset": fitted.offset,
            "affine": fitted.affine if fitted.affine is not None else np.full((4, 4), np.nan),
        }  # fmt: skip
        return row | {name: geometry[name] for name in self.geometry}


def geometry_of(samples: Sequence[Staged], masked: bool, changes: tuple[bool, bool]) -> tuple[str, ...]:
    """The geometry columns that say something in this cohort."""
    resampled, moved = changes
    there = {
        "spacing": masked or resampled or any(s.spacing is not None for s in samples),
        "source_shape": resampled,
        "original_shape": masked or moved,
        "offset": masked or moved,
        "affine": any(s.affine is not None for s in samples),
    }
    return tuple(name for name, keep in there.items() if keep)


def emr_vector(given: Mapping[str, float | None], columns: Sequence[EMRColumn]) -> tuple[np.ndarray, np.ndarray]:
    """float32[F] with 0 where missing, and uint8[F] with 1 where missing; given: by column name."""
    values, missing = np.zeros(len(columns), np.float32), np.ones(len(columns), np.uint8)
    for i, column in enumerate(columns):
        value = given.get(column.name)
        if value is not None and np.isfinite(value):
            values[i], missing[i] = value, 0
    return values, missing


def _geometry(axes: str, length: str, there: tuple[str, ...]) -> list[TensorField]:
    n, along = len(axes), ",".join(axes)
    known = {
        "spacing": TensorField("spacing", "float32", (n,), f"{length} along {along}"),
        "source_shape": TensorField("source_shape", "int32", (n,), f"voxels along {along}, before resampling"),
        "original_shape": TensorField("original_shape", "int32", (n,), f"voxels along {along}, before crop and padding"),
        "offset": TensorField("offset", "int32", (n,), "index of voxel 0 in the grid of original_shape; negative = padded"),
        "affine": TensorField("affine", "float64", (4, 4), f"index along {along} to DICOM patient coordinates (LPS), mm"),
    }
    return [known[name] for name in there]
