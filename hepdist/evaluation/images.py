"""Pixels for the page: a row's image as a picture of moderate size, in a data URI; what is drawn over it is overlays.py's."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Picture = NDArray[np.uint8]

LARGEST_SIDE = 320
"""Pixels; larger images are reduced, so that a report of a few dozen cases stays below some MiB."""
MOST_VOXELS = 1 << 24
"""That a display window is taken from, evenly spaced."""


def slice_of(image: NDArray[Any], index: int | None = None) -> NDArray[Any]:
    """The 2D plane [C, H, W] of an image [C, H, W] or of a volume [C, D, H, W] (at `index` of its first spatial axis; None: the middle)."""
    if image.ndim == 3:
        return image
    return image[:, image.shape[1] // 2 if index is None else index]


def displayed(plane: NDArray[Any], window: tuple[float, float] | None = None) -> Picture:
    """plane [C, H, W] as uint8 [H, W] or, for three channels, [H, W, 3].

    window: the values shown as black and white; by default 0 and 255 for uint8 and the 0.5th and 99.5th percentile for the rest.
    Of two or more than three channels the first is shown.
    """
    low, high = window or display_window(plane)
    channels = plane if len(plane) == 3 else plane[:1]
    scaled = np.clip((np.nan_to_num(channels.astype(np.float64), nan=low) - low) / max(high - low, 1e-12), 0, 1) * 255
    picture = scaled.round().astype(np.uint8)
    return np.moveaxis(picture, 0, -1) if len(picture) == 3 else picture[0]


def display_window(values: NDArray[Any]) -> tuple[float, float]:
    """The values to show as black and as white."""
    if values.dtype == np.uint8:
        return 0.0, 255.0
    sample = values.reshape(-1)[:: -(-values.size // MOST_VOXELS)]
    finite = sample[np.isfinite(sample)]
    low, high = np.percentile(finite, [0.5, 99.5]) if finite.size else (0.0, 1.0)
    return float(low), float(high)


def data_uri(picture: Picture) -> str:
    """picture uint8 [H, W], [H, W, 3] or [H, W, 4] as a PNG data URI, reduced to LARGEST_SIDE where it is larger."""
    image = Image.fromarray(picture)
    if max(image.size) > LARGEST_SIDE:
        share = LARGEST_SIDE / max(image.size)
        image = image.resize((max(1, round(image.width * share)), max(1, round(image.height * share))), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
