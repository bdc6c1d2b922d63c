"""A stored tensor as a small picture for people: one slice, a window of its values, the outlines of its mask."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image
from scipy.ndimage import binary_erosion

SIDE = 184
"""Pixels of the longer side of a picture."""
CT_WINDOW = (-160.0, 240.0)
"""Hounsfield units shown of a CT: the usual abdominal window (level 40, width 400)."""
COLOURS = ("#ff5c5c", "#37c871", "#4f9dff", "#ffb000", "#c77dff", "#00c2c7", "#ff7ad9", "#a3b500")
"""Outline of mask class 1, 2, ..."""


def draw(image: np.ndarray, mask: np.ndarray | None = None, spacing: np.ndarray | None = None, unit: str = "") -> tuple[Image.Image, str]:
    """An RGB picture of the most telling slice, its longer side `SIDE` pixels, and a caption that says which slice it is.

    image: [C, H, W] or [C, D, H, W]; mask: uint8[1, ...] of the same space, outlined by class; spacing: mm by spatial axis.
    """
    caption = ""
    if image.ndim == 4:
        depth = image.shape[1]
        chosen = depth // 2 if mask is None or not mask.any() else int((mask[0] > 0).sum(axis=(1, 2)).argmax())
        image, mask, caption = image[:, chosen], None if mask is None else mask[:, chosen], f"slice {chosen + 1} of {depth}"
    grey = windowed(image.astype(np.float32), unit, image.dtype == np.uint8)
    channels = grey if len(grey) == 3 else np.repeat(grey[:1], 3, axis=0)
    picture = Image.fromarray(np.ascontiguousarray(channels.transpose(1, 2, 0)))
    size = _size(image.shape[1:], spacing)
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    return (picture if mask is None else outlined(picture, mask[0])), caption


def data_uri(picture: Image.Image) -> str:
    """The picture as a PNG that stands in the page itself."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def colour_of(k: int) -> tuple[int, int, int]:
    """Red, green and blue of mask class k, from 1."""
    colour = COLOURS[(k - 1) % len(COLOURS)]
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def windowed(image: np.ndarray, unit: str, displayed: bool) -> np.ndarray:
    """uint8 of the same shape: values already made for display as they are, CT in its window, others between percentiles."""
    if displayed:
        return image.astype(np.uint8)
    low, high = CT_WINDOW if unit == "HU" else np.percentile(image, (0.5, 99.5))
    return ((image - low) / max(high - low, 1e-6) * 255).clip(0, 255).astype(np.uint8)


def _size(shape: tuple[int, ...], spacing: np.ndarray | None) -> tuple[int, int]:
    """(width, height) in pixels, true to millimetres where the spacing is known."""
    millimetres = np.array(shape, float) * (np.asarray(spacing, float)[-2:] if spacing is not None else 1.0)
    height, width = np.maximum(np.round(millimetres / millimetres.max() * SIDE), 1).astype(int)
    return int(width), int(height)


def outlined(picture: Image.Image, mask: np.ndarray) -> Image.Image:
    """The picture with each class's border drawn in its colour, inside the class."""
    classes = np.asarray(Image.fromarray(mask).resize(picture.size, Image.Resampling.NEAREST))
    pixels = np.array(picture)
    for k in np.unique(classes[classes > 0]):
        inside = classes == k
        pixels[inside & ~binary_erosion(inside, iterations=1)] = colour_of(int(k))
    return Image.fromarray(pixels)
