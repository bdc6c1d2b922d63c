"""The `dataset.json` of the Medical Segmentation Decathlon and of nnU-Net 1 and 2: which value of a mask is which class."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Description:
    classes: tuple[str, ...] = ()
    """Names by class index, background first; empty where nothing is declared."""
    values: Mapping[int, int] = field(default_factory=dict)
    """Class index by value in the masks; several values may be one class."""
    ignore: int | None = None
    """The value of nnU-Net's ignore label: voxels that nobody judged."""
    channels: tuple[str, ...] = ()
    """Names such as 'CT' or 'T1', in order."""


def parse_description(data: bytes) -> Description:
    """Raises ValueError, with no text of the file in it, where the labels are not declared as one of the three formats does.

    Overlapping regions (nnU-Net 2: lists of values) become classes that don't overlap: a value is of the last region that
    holds it, as nnU-Net paints them.
    """
    try:
        content = json.loads(data)
        labels, channels = content["labels"], content.get("channel_names") or content.get("modality") or {}
        if all(str(key).isdigit() for key in labels):  # MSD and nnU-Net 1: values to names
            declared: dict[str, Any] = {str(labels[key]): int(key) for key in sorted(labels, key=int)}
        else:
            declared = dict(labels)
        ignore = declared.pop("ignore", None)
        regions = {name: {int(v) for v in (value if isinstance(value, list) else [value])} for name, value in declared.items()}
        names = tuple(str(channels[key]) for key in sorted(channels, key=int))
        ignore = None if ignore is None else int(ignore)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError("its labels are not declared as MSD or nnU-Net declare them") from None
    if any(isinstance(value, list) for value in declared.values()):
        ordered = sorted(regions, key=lambda name: regions[name] != {0})  # background first, else as they are painted
    else:
        ordered = sorted(regions, key=lambda name: min(regions[name]))
    values = {value: index for index, name in enumerate(ordered) for value in sorted(regions[name])}
    if not values or not all(0 <= value <= 255 for value in values):
        raise ValueError("its labels are not whole numbers from 0 to 255")
    if ordered and regions[ordered[0]] != {0}:  # regions need not name the background
        ordered, values = ["background", *ordered], {0: 0} | {value: index + 1 for value, index in values.items()}
    return Description(tuple(ordered), values, ignore, names)
