"""The rows of a cohort as cases: what an ingest has read already, under the pseudonyms that it gave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from hepdist.errors import RunError
from hepdist.inference.case import Case
from hepdist.ingest.sample import Finding, Sample
from hepdist.place import place_of
from hepdist.shards.manifest import SPLITS, Manifest
from hepdist.shards.read import INPUTS, POSITION, open_split
from hepdist.training.saved_model import Signature


class CohortCases:
    """As `Reading`: items, and the cases of each. A volume in bricks is put together again."""

    kind = "cohort"
    findings: Sequence[Finding] = ()

    def __init__(self, cohort: str, signature: Signature, split: str | None) -> None:
        """split: None takes all. Raises CohortError and RunError."""
        self._cohort = cohort
        self.manifest = manifest = Manifest.load(cohort)
        self.stamp = manifest.sha256()
        """Of the cohort: one that was ingested anew at the same place is another input."""
        for name in [name for names in INPUTS.values() for name in names if name in signature.fields]:
            if name not in manifest.fields:
                raise RunError(f"cohort '{manifest.name}' has no '{name}', which the model reads; choose a cohort of its kind")
        for what, ours, theirs in (("EMR", signature.emr, manifest.emr), ("visit", signature.sequence, manifest.sequence)):
            if [(c.name, c.unit, c.categories) for c in ours] != [(c.name, c.unit, c.categories) for c in theirs]:
                raise RunError(
                    f"cohort '{manifest.name}' has other {what} columns than the model's; ingest it with append=true onto the model's own"
                )
        self.items: list[tuple[str, int, int]] = []
        wanted = SPLITS if split is None else (split,)
        for each in wanted:
            if split is not None and not manifest.rows(each):
                there = ", ".join(s for s in SPLITS if manifest.rows(s))
                raise RunError(f"cohort '{manifest.name}' has no rows in split '{each}'; choose one of {there}")
            self.items += [(each, int(first), int(last)) for first, last in pairwise(manifest.cases(each))]
        self._columns = [n for names in INPUTS.values() for n in names if n in manifest.fields and n in signature.fields]
        self._columns += [n for n in ("spacing", "affine", *POSITION) if n in manifest.fields and "image" in signature.fields]
        self._emr = signature.emr

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "items"}

    def read(self, item: tuple[str, int, int]) -> Iterator[Case | Finding]:
        split, first, last = item
        reader = open_split(self._cohort, split)
        rows = reader.arrays(np.arange(first, last), self._columns)
        keys = self._keys(split)[first]
        visits = None
        if "sequence" in rows:
            visits = tuple(rows[n][0] for n in ("sequence", "sequence_missing", "sequence_gap")) + (int(rows["sequence_length"][0].item()),)
        emr = {}
        if "emr" in rows:
            pairs = zip(self._emr, rows["emr"][0].tolist(), rows["emr_missing"][0].tolist(), strict=True)
            emr = {column.name: None if missing else value for column, value, missing in pairs}
        yield Case(self._sample(rows, *keys), emr, visits)  # type: ignore[arg-type]

    def _sample(self, rows: dict[str, np.ndarray], sample_id: str, patient: str) -> Sample:
        if "image" not in rows or ("image_missing" in rows and rows["image_missing"][0].item()):
            return Sample(sample_id, patient)
        spacing, affine = (rows[name][0] if name in rows else None for name in ("spacing", "affine"))
        image = rows["image"][0] if "brick" not in rows else _whole(rows)
        if affine is not None and "brick" in rows:  # of the first brick's voxel 0
            affine = affine.copy()
            affine[:3, 3] -= affine[:3, :3] @ rows["offset"][0]
        return Sample(
            sample_id,
            patient,
            image=image,
            image_unit=self.manifest.fields["image"].unit,
            spacing=None if spacing is None else tuple(float(s) for s in spacing),
            affine=affine,
        )

    def _keys(self, split: str) -> list[tuple[str, str]]:
        if split not in self.__dict__.setdefault("_known", {}):
            table = open_split(self._cohort, split).strings(("sample_id", "patient"))
            self.__dict__["_known"][split] = list(zip(table["sample_id"].to_pylist(), table["patient"].to_pylist(), strict=True))
        return self.__dict__["_known"][split]


def is_cohort(source: str) -> bool:
    place = place_of(source)
    return not (place.folder is not None and not place.folder.is_dir()) and place.exists("manifest.json")


def _whole(rows: dict[str, np.ndarray]) -> np.ndarray:
    """[C, *spatial] from its bricks; where they overlap they say the same."""
    shape = tuple(int(n) for n in rows["original_shape"][0])
    bricks = rows["image"]
    out = np.zeros((bricks.shape[1], *shape), bricks.dtype)
    for brick, offset in zip(bricks, rows["offset"].tolist(), strict=True):
        low = [max(0, o) for o in offset]
        high = [min(n, o + side) for o, side, n in zip(offset, brick.shape[1:], shape, strict=True)]
        inside = tuple(slice(a - o, b - o) for a, b, o in zip(low, high, offset, strict=True))
        out[(slice(None), *(slice(a, b) for a, b in zip(low, high, strict=True)))] = brick[(slice(None), *inside)]
    return out
