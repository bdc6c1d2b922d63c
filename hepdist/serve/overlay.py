"""A picture of one result for the page, as a data URI: the image with the outlines of what was segmented."""

from __future__ import annotations

from hepdist.inference.case import Case
from hepdist.inference.overlays import overlay
from hepdist.inference.predictor import Answer
from hepdist.inspect.picture import colour_of, data_uri


def overlay_uri(original: Case, answer: Answer) -> str | None:
    """original: as its files lie. None without an image."""
    sample = original.sample
    if sample.image is None:
        return None
    return data_uri(overlay(sample.image, answer.mask, sample.spacing, sample.affine, sample.image_unit))


def colours(classes: tuple[str, ...]) -> dict[str, str]:
    """In which each foreground class is outlined."""
    return {name: "#{:02x}{:02x}{:02x}".format(*colour_of(k)) for k, name in enumerate(classes) if k}
