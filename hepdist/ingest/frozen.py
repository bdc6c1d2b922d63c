"""What a cohort fixes for all that is added to it: options, columns and the names of classes, as its manifest keeps them.

A manifest tells ordinary names only; the others are recognised by their pseudonyms, and the salt by that of a constant.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hepdist.errors import IngestError
from hepdist.ingest.columns import Columns
from hepdist.ingest.emr_known import ColumnKey, KnownColumns
from hepdist.ingest.fit import Layout
from hepdist.ingest.headers import MODALITIES
from hepdist.ingest.pseudonym import Pseudonyms
from hepdist.ingest.sample import Source
from hepdist.ingest.spec import IngestSpec
from hepdist.ingest.stage import Staged
from hepdist.shards.manifest import EMRColumn, Manifest

AGREED = frozenset(
    [
        "brick",
        "classes",
        "display",
        "dtype",
        "emr_visits",
        "event",
        "event_time",
        "event_values",
        "frames",
        "horizon",
        "keep_unmatched",
        "label_names",
        "landmark",
        "masks",
        "modality",
        "near_identical",
        "overlap",
        "size",
        "spacing",
        "split",
        "split_by",
    ]
)
"""Options that decide what a row holds or where it goes; those that say how a source is laid out may differ from append to append."""


@dataclass(frozen=True)
class SourceNames:
    """What the source itself calls things; some of it may not be told."""

    labels: tuple[str, ...]
    mask_classes: tuple[str, ...]
    emr: tuple[EMRColumn, ...]
    sequence: tuple[EMRColumn, ...]


@dataclass(frozen=True)
class Frozen:
    """What is read back from a manifest, under the salt that it was made with."""

    columns: Columns
    """With the names that the manifest tells."""
    options: IngestSpec
    """The agreed ones; all others have their defaults."""
    known: KnownColumns
    labels: tuple[str, ...]
    """Pseudonyms of the classes' names, and of the mask's."""
    mask_classes: tuple[str, ...]
    visits: int
    """Behind the shares of missing values in the manifest's `sequence`."""
    names: Pseudonyms

    def agreed(self, spec: IngestSpec) -> IngestSpec:
        """`spec` with the cohort's options. Raises IngestError for one that was given and is another."""
        for key in sorted(AGREED & spec.model_fields_set):
            if getattr(spec, key) != getattr(self.options, key):
                raise IngestError(
                    f"ingest key '{key}' is not what the cohort was made with; leave it out, since append=true takes the cohort's"
                )
        known = {key: getattr(self.options, key) for key in AGREED & set(IngestSpec.model_fields)}
        masks = "require" if self.columns.mask_classes else "ignore"
        return spec.model_copy(update={**known, "masks": masks, "emr_visits": self.columns.visits or None})

    def recognised(self, keys: Sequence[str], texts: Collection[str]) -> tuple[str, ...]:
        """The names behind `keys`, in their order; for one that none of `texts` is, a text that no source writes."""
        called = {self.names.of("class name", text): text for text in texts}
        return tuple(called.get(key, f"\0{place}") for place, key in enumerate(keys))

    def mask_values(self, declared: tuple[str, ...], samples: Sequence[Staged]) -> tuple[int, ...]:
        """Value in the new masks of each class. declared: the source's own names by value; empty: values mean what they did.

        A class that the source doesn't have gets a value that no mask of it holds.
        """
        if not declared:
            return self.columns.mask_values
        place = {name: value for value, name in enumerate(declared)}
        used = {value for sample in samples for value in sample.mask_values} | set(place.values())
        free = (value for value in range(255, 0, -1) if value not in used)
        return tuple(place[name] if name in place else next(free) for name in self.recognised(self.mask_classes, declared))


def freeze(
    spec: IngestSpec, source: Source, columns: Columns, called: SourceNames, visits: int, people: str, names: Pseudonyms
) -> dict[str, Any]:
    """For the manifest of a new cohort. columns: with the names that are told; people: sha256 of people.parquet."""
    options = spec.model_dump(mode="json", include=set(AGREED), exclude_defaults=True)
    modality = getattr(source, "modality", None)
    if spec.modality is None and modality in MODALITIES:  # what most of a later source is must not decide what is added
        options["modality"] = modality
    form = asdict(columns)
    return {
        "salt": _salt_check(names),
        "options": options,
        "form": {name: form[name] for name in form if name not in ("label_names", "mask_classes", "emr", "sequence")},
        "labels": [names.of("class name", name) for name in called.labels],
        "mask_classes": [names.of("class name", name) for name in called.mask_classes],
        "columns": [asdict(ColumnKey.of(column, names)) for column in (*called.emr, *called.sequence)],
        "visits": visits,
        "people": people,
    }


def thaw(manifest: Manifest, names: Pseudonyms) -> Frozen:
    """Raises IngestError where the cohort keeps nothing, or was made with another salt."""
    kept = manifest.frozen
    if not kept:
        raise IngestError(f"cohort '{manifest.name}' doesn't keep what is needed to add to it; ingest all its sources anew")
    if kept["salt"] != _salt_check(names):
        raise IngestError(
            f"cohort '{manifest.name}' was made with another salt, so its patients would not be known again; name that salt with salt=FILE"
        )
    form = {name: _tuples(value) for name, value in kept["form"].items()}
    if form["layout"] is not None:
        form["layout"] = Layout.from_json(form["layout"])
    masks = manifest.tensors.get("mask", {}).get("classes", ())
    columns = Columns(**form, label_names=manifest.label_names, mask_classes=tuple(masks), emr=manifest.emr, sequence=manifest.sequence)
    keys = tuple(ColumnKey(key["name"], key["unit"], tuple(key["categories"])) for key in kept["columns"])
    return Frozen(
        columns, IngestSpec(**kept["options"]), KnownColumns(manifest.emr, manifest.sequence, keys, names),
        tuple(kept["labels"]), tuple(kept["mask_classes"]), kept["visits"], names,
    )  # fmt: skip


def _salt_check(names: Pseudonyms) -> str:
    return names.of("salt", "hepdist")


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
