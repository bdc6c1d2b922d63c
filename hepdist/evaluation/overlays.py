"""Segmentation over the image: outlines of truth and prediction and a map of errors, on the slice that holds most of either."""

from __future__ import annotations

from typing import Any

import numpy as np
from contourpy import contour_generator
from markupsafe import Markup, escape
from numpy.typing import NDArray

from hepdist.evaluation.images import data_uri, display_window, displayed, slice_of

Mask = NDArray[np.uint8]


def busiest_slice(truth: Mask, prediction: Mask) -> int | None:
    """Index of the slice with most foreground of either mask [1, D, H, W]; None for masks [1, H, W]."""
    if truth.ndim == 3:
        return None
    return int(((truth > 0) | (prediction > 0))[0].sum(axis=(1, 2)).argmax())


def panels(image: NDArray[Any], truth: Mask, prediction: Mask, spacing: tuple[float, ...], name: str) -> dict[str, Markup]:
    """Four inline SVGs of the busiest slice: 'image', 'truth', 'prediction' and 'errors'.

    image: [C, *spatial]; truth, prediction: [1, *spatial], class index; spacing: mm of the spatial axes, so that the picture has
    the patient's proportions. name: what is shown, for those who can't see. In the error map a voxel is missed (truth only), false
    (prediction only) or confused (both, of different classes).
    """
    index = busiest_slice(truth, prediction)
    plane = slice_of(image, index)
    t, p = slice_of(truth, index)[0], slice_of(prediction, index)[0]
    height_mm, width_mm = t.shape[0] * spacing[-2], t.shape[1] * spacing[-1]
    picture = data_uri(displayed(plane, display_window(image)))

    def panel(kind: str, drawn: str, dim: bool = False) -> Markup:
        base = f'<image href="{picture}" width="{t.shape[1]}" height="{t.shape[0]}" preserveAspectRatio="none"{_DIM if dim else ""}/>'
        stretch = f'<g transform="scale({spacing[-1]:.6g} {spacing[-2]:.6g})">'
        label = f"{kind} of {name}"
        return Markup(
            f'<svg class="overlay" viewBox="0 0 {width_mm:.6g} {height_mm:.6g}" role="img" aria-label="{escape(label)}">{stretch}{base}{drawn}</g></svg>'
        )

    return {
        "image": panel("image", ""),
        "truth": panel("truth", outlines(t)),
        "prediction": panel("prediction", outlines(p)),
        "errors": panel(
            "errors",
            _regions({"missed": (t > 0) & (p == 0), "false": (p > 0) & (t == 0), "confused": (t > 0) & (p > 0) & (t != p)}),
            dim=True,
        ),
    }


_DIM = ' opacity="0.55"'


def outlines(mask: Mask) -> str:
    """An SVG path of class `c<k>` around every foreground class of mask [H, W], in pixels with (0, 0) at the corner."""
    return "".join(
        f'<path class="outline c{k}" d="{_path(mask == k)}"/>' for k in range(1, int(mask.max(initial=0)) + 1) if (mask == k).any()
    )


def _regions(kinds: dict[str, NDArray[np.bool_]]) -> str:
    return "".join(
        f'<path class="region {kind}" fill-rule="evenodd" d="{_path(region)}"/>' for kind, region in kinds.items() if region.any()
    )


def _path(region: NDArray[np.bool_]) -> str:
    """Closed polygons along the border of a region: half-way between the centres of pixels inside and outside."""
    padded = np.pad(region, 1).astype(np.float64)
    lines = contour_generator(z=padded).lines(0.5)
    # A pixel's centre is at +0.5 of its corner; the padding moved everything by one.
    return "".join("M" + "L".join(f"{x - 0.5:g} {y - 0.5:g}" for x, y in line[:-1]) + "Z" for line in lines)
