"""A picture of one result for the page: the image, and the outline of what was segmented on the slice that holds most of it."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from hepdist.evaluation.images import display_window, displayed, slice_of
from hepdist.evaluation.overlays import outlines
from hepdist.inference.case import Case
from hepdist.inference.predictor import Answer

SIDE = 768
"""Pixels; larger pictures are reduced."""
COLOURS = ("#ffb000", "#33d1ff", "#ff5fa2", "#7dff6b", "#c79bff", "#ff7a45")


def overlay(case: Case, answer: Answer) -> str | None:
    """A data URI of an SVG that refers to nothing else; None without an image."""
    if case.sample.image is None:
        return None
    image = case.source_array(case.sample.image)
    mask = answer.mask
    index = None
    if image.ndim == 4:
        index = int((mask > 0).sum(axis=(1, 2)).argmax()) if mask is not None and mask.any() else image.shape[1] // 2
    picture = displayed(slice_of(image, index), display_window(image))
    drawn = "" if mask is None else outlines(mask if index is None else mask[index])
    rows, columns = picture.shape[:2]
    spacing = _spacing(case) or (1.0,) * (image.ndim - 1)
    width, height = columns * spacing[-1], rows * spacing[-2]
    colours = "".join(f".c{n}{{stroke:{COLOURS[(n - 1) % len(COLOURS)]}}}" for n in range(1, 1 + int(mask.max()))) if mask is not None else ""
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.6g} {height:.6g}" width="{SIDE}" height="{SIDE * height / width:.6g}">'
        f"<style>.outline{{fill:none;stroke-width:2;vector-effect:non-scaling-stroke}}{colours}</style>"
        f'<g transform="scale({spacing[-1]:.6g} {spacing[-2]:.6g})"><image href="{_png(picture)}" width="{columns}" height="{rows}"'
        f' preserveAspectRatio="none"/>{drawn}</g></svg>'
    )
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _spacing(case: Case) -> tuple[float, ...] | None:
    """mm, in the order of the files' axes."""
    spacing, turned = case.sample.spacing, case.turned
    if spacing is None or turned is None:
        return spacing
    return tuple(spacing[turned.axes.index(axis)] for axis in range(3))


def _png(picture: np.ndarray) -> str:
    image = Image.fromarray(picture)
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
