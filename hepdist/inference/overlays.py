"""A case as a picture for people: a photograph, or three planes through what was found, with the outlines of the mask drawn in."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from hepdist.inspect.picture import CT_WINDOW, outlined

HEIGHT = 360
"""Pixels of the longer side of each panel."""
GAP = 6
SAMPLED = 1 << 22
"""Voxels that the window of grey values is taken from."""
DOUBT = "#fff04d"
"""Colour of a voxel of DOUBTFUL nats and more; the grey values show through where there are fewer."""
DOUBTFUL = math.log(2)
"""Entropy of two classes that are equally likely, or of a finding of one half."""
TOWARD = (("R", "L"), ("A", "P"), ("F", "H"))
"""Letters of the directions of LPS axes, negative and positive."""


def overlay(
    image: np.ndarray,
    mask: np.ndarray | None,
    spacing: Sequence[float] | None,
    affine: np.ndarray | None,
    unit: str,
    beside: np.ndarray | None = None,
    entropy: tuple[np.ndarray, float] | None = None,
) -> Image.Image:
    """image: [C, H, W] or [C, D, H, W], on the grid of the files; mask: uint8 of its spatial shape; beside: such as the restored image, drawn to
    the right of or under it in the same grey values; entropy: whole numbers of the mask's shape and the nats of each step, drawn there over the
    same planes. Volumes show a plane across each axis as radiologists hang them: the head or the front on top, the patient's right or front on
    the left.
    """
    window = _window(image, unit)
    rows = [_row(image, mask, spacing, affine, window)]
    if entropy is not None:
        rows.append(_row(image, mask, spacing, affine, window, entropy))
    if beside is not None:
        rows.append(_row(beside, None, spacing, affine, window))
    return _joined(rows, down=image.ndim == 4)


def _row(
    image: np.ndarray,
    mask: np.ndarray | None,
    spacing: Sequence[float] | None,
    affine: np.ndarray | None,
    window: tuple[float, float],
    entropy: tuple[np.ndarray, float] | None = None,
) -> Image.Image:
    """entropy: drawn instead of the mask's outlines."""
    over, step = (mask, 0.0) if entropy is None else entropy
    if image.ndim == 3:
        return _panel(image, over, spacing, ("",) * 4, window, step)
    sides = spacing or (1.0, 1.0, 1.0)
    panels = []
    for axis, at in enumerate(_middle(mask, image.shape[1:])):
        plane, drawn = image.take(at, axis + 1), None if over is None else over.take(at, axis)
        down, right = [a for a in range(3) if a != axis]
        if affine is not None and _world(affine, down) < _world(affine, right):
            down, right = right, down
            plane, drawn = plane.swapaxes(1, 2), None if drawn is None else drawn.swapaxes(0, 1)
        (top, bottom), (left, end) = _letters(affine, down), _letters(affine, right)
        if top in ("F", "P"):
            top, bottom, plane, drawn = bottom, top, plane[:, ::-1], None if drawn is None else drawn[::-1]
        if left in ("L", "P"):
            left, end, plane, drawn = end, left, plane[:, :, ::-1], None if drawn is None else drawn[:, ::-1]
        panels.append(_panel(plane, drawn, (sides[down], sides[right]), (top, bottom, left, end), window, step))
    return _joined(panels, down=False)


def _middle(mask: np.ndarray | None, shape: Sequence[int]) -> list[int]:
    """Index of the plane across each axis that holds most of what was found; the middle ones where nothing was."""
    if mask is None or not mask.any():
        return [n // 2 for n in shape]
    there = mask > 0
    return [int(np.count_nonzero(there, axis=tuple(a for a in range(3) if a != axis)).argmax()) for axis in range(3)]


def _letters(affine: np.ndarray | None, axis: int) -> tuple[str, str]:
    """Where an axis comes from and where it goes."""
    if affine is None:
        return "", ""
    world = _world(affine, axis)
    low, high = TOWARD[world]
    return (low, high) if affine[world, axis] > 0 else (high, low)


def _world(affine: np.ndarray, axis: int) -> int:
    """Which of the patient's axes (right to left, front to back, feet to head) an axis of the voxels is nearest to."""
    return int(np.abs(affine[:3, axis]).argmax())


def _panel(
    plane: np.ndarray,
    over: np.ndarray | None,
    spacing: Sequence[float] | None,
    letters: Sequence[str],
    window: tuple[float, float],
    step: float,
) -> Image.Image:
    """over: a mask to outline, or where `step` isn't 0 an entropy in steps of so many nats; letters: at the top, bottom, left and right edge."""
    low, high = window
    channels = plane if len(plane) == 3 else plane[:1]
    grey = ((channels.astype(np.float32) - low) / max(high - low, 1e-6) * 255).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray((grey if len(grey) == 3 else grey.repeat(3, 0)).transpose(1, 2, 0)))
    extent = np.array(plane.shape[1:], float) * (np.array(spacing, float) if spacing is not None else 1.0)
    height, width = np.maximum(np.round(extent / extent.max() * HEIGHT), 1).astype(int).tolist()
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    if over is not None:
        picture = _tinted(picture, over * step) if step else outlined(picture, np.ascontiguousarray(over))
    draw = ImageDraw.Draw(picture)
    top, bottom, left, right = letters
    places = {
        "mt": (width // 2, 3, top),
        "mb": (width // 2, height - 3, bottom),
        "lm": (4, height // 2, left),
        "rm": (width - 4, height // 2, right),
    }
    for anchor, (x, y, letter) in places.items():
        if letter:
            draw.text((x, y), letter, fill="#ffe08a", anchor=anchor, stroke_width=1, stroke_fill="#000", font_size=14)
    return picture


def _tinted(picture: Image.Image, entropy: np.ndarray) -> Image.Image:
    """entropy: nats [H, W] of the picture's extent."""
    share = np.rint((entropy / DOUBTFUL).clip(0, 1) * 255).astype(np.uint8)
    shown = Image.fromarray(np.ascontiguousarray(share)).resize(picture.size, Image.Resampling.BILINEAR)
    return Image.composite(Image.new("RGB", picture.size, DOUBT), picture, shown)


def _joined(pictures: Sequence[Image.Image], down: bool) -> Image.Image:
    if len(pictures) == 1:
        return pictures[0]
    widths, heights = [p.width for p in pictures], [p.height for p in pictures]
    gaps = GAP * (len(pictures) - 1)
    out = Image.new("RGB", (max(widths), sum(heights) + gaps) if down else (sum(widths) + gaps, max(heights)))
    at = 0
    for picture in pictures:
        out.paste(picture, (0, at) if down else (at, 0))
        at += (picture.height if down else picture.width) + GAP
    return out


def _window(image: np.ndarray, unit: str) -> tuple[float, float]:
    """Values shown as black and white, the same in all panels: 0 to the top of display values, CT's soft tissue, else between percentiles."""
    if image.dtype == np.uint8:
        return 0.0, 255.0
    if unit == "HU":
        return CT_WINDOW
    flat = image.reshape(-1)
    low, high = np.percentile(flat[:: max(1, flat.size // SAMPLED)], (0.5, 99.5))
    return float(low), float(high)
