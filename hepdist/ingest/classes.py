"""What the classes of a cohort are, of images and of masks, and which samples are of none."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from hepdist.errors import IngestError
from hepdist.ingest.emr_columns import says_nothing
from hepdist.ingest.stage import Staged

Bad = list[tuple[Staged, str, str]]
"""(sample, check, reason)"""


def name_labels(
    samples: Sequence[Staged], declared: tuple[str, ...], unlabelled: tuple[str, ...], by_place: bool = True
) -> tuple[tuple[str, ...], Bad]:
    """Turn each sample's label into its class index (None: unlabelled); returns the class names and the samples of no class.

    Without declared names the classes are the values that occur, in natural order. by_place: a label may be the index of a declared name.
    """
    for sample in samples:
        if isinstance(sample.label, str) and sample.label.strip() not in declared and says_nothing(sample.label, unlabelled):
            sample.label = None
    if not any(s.label is not None for s in samples):
        return (), []
    names = declared or tuple(sorted({str(s.label).strip() for s in samples if s.label is not None}, key=_natural))
    bad: Bad = []
    for sample in samples:
        if sample.label is None:
            continue
        index = _index(str(sample.label).strip(), names, by_place)
        if index is None:
            bad.append((sample, "label-unknown", f"its label is none of the {len(names)} declared classes"))
        sample.label = index
    return names, bad


def check_places(samples: Sequence[Staged], declared: tuple[str, ...]) -> None:
    """Raises IngestError where labels are numbers that count from 1, which as places in the declared names would all be one off."""
    labels = {s.label.strip() for s in samples if isinstance(s.label, str)} - set(declared)
    if declared and labels and all(label.isdecimal() for label in labels) and not any(int(label) == 0 for label in labels):
        raise IngestError(
            "the labels are numbers without 0, so that no place among label_names can be meant by them; give label_names as the values are"
            " written, in their order, or declare the codes' meaning in emr_dictionary=FILE"
        )


def name_mask_classes(samples: Sequence[Staged], declared: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[int, ...], Bad]:
    """Class names and mask values by class index, background first, and the samples whose mask holds another value.

    Without declared names a value is a class when at least two cases and 5 % of them hold it: a rare class must not be
    lost, but the one label of another organ that strayed into a folder must not become a class.
    """
    masked = [s for s in samples if s.mask is not None]
    if declared:
        values: tuple[int, ...] = tuple(range(len(declared)))
        names = declared
    else:
        cases = Counter(v for s in masked for v in s.mask_values)
        enough = max(2, 0.05 * len(masked)) if len(masked) > 2 else 1
        values = (0, *sorted(v for v, n in cases.items() if v and n >= enough))
        names = ("background", "foreground") if values == (0, 1) else ("background", *(f"label_{v}" for v in values[1:]))
    return names, values, strange_masks(masked, values)


def strange_masks(samples: Sequence[Staged], values: tuple[int, ...]) -> Bad:
    """The samples whose mask holds a value that is none of the classes'."""
    bad: Bad = []
    for sample in samples:
        foreign = [v for v in sample.mask_values if v not in values]
        if foreign:
            bad.append((sample, "label-unknown", f"its mask holds the value {foreign[0]}, which is none of the classes {list(values)}"))
    return bad


def check_multilabel(samples: Sequence[Staged], names: tuple[str, ...]) -> None:
    """Raises IngestError where vectors of 0/1 labels don't have one value a class name."""
    widths = {len(s.labels) for s in samples if s.labels is not None}
    if widths != {len(names)} or any(s.labels is None for s in samples):
        raise IngestError(f"the source has {max(widths, default=0)} labels an image, but {len(names)} label_names; give as many")


def _index(label: str, names: tuple[str, ...], by_place: bool) -> int | None:
    if label in names:
        return names.index(label)
    return int(label) if by_place and label.isdecimal() and int(label) < len(names) else None


def _natural(text: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", text) if part]
