"""Segmentation over the image: outlines of truth and prediction and a map of errors, on the slice that holds most of either."""

from __future__ import annotations

from typing import Any

import numpy as np
from contourpy import LineType, contour_generator
from markupsafe import Markup
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
    the patient's proportions. name: unique in the page. In the error map a voxel is missed (truth only), false (prediction only) or
    confused (both, of different classes). The picture is in the first panel alone; the others refer to it.
    """
    index = busiest_slice(truth, prediction)
    t, p = slice_of(truth, index)[0], slice_of(prediction, index)[0]
    rows, columns = t.shape
    picture = data_uri(displayed(slice_of(image, index), display_window(image)))
    held = f'<image id="picture-{name}" href="{picture}" width="{columns}" height="{rows}" preserveAspectRatio="none"/>'
    wrong = {"missed": (t > 0) & (p == 0), "false": (p > 0) & (t == 0), "confused": (t > 0) & (p > 0) & (t != p)}

    def panel(kind: str, drawn: str) -> Markup:
        box = f"0 0 {columns * spacing[-1]:.6g} {rows * spacing[-2]:.6g}"
        stretch = f"scale({spacing[-1]:.6g} {spacing[-2]:.6g})"
        return Markup(
            f'<svg class="overlay" viewBox="{box}" role="img" aria-label="{kind} of {name}"><g transform="{stretch}">{drawn}</g></svg>'
        )

    again = f'<use href="#picture-{name}"/>'
    return {
        "image": panel("image", held),
        "truth": panel("truth", again + outlines(t)),
        "prediction": panel("prediction", again + outlines(p)),
        "errors": panel("errors", f'<g opacity="0.55">{again}</g>' + _regions(wrong)),
    }


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
    lines: list[NDArray[np.float64]] = contour_generator(z=padded, line_type=LineType.Separate).lines(0.5)  # type: ignore[assignment]
    # A pixel's centre is at +0.5 of its corner; the padding moved everything by one.
    return "".join("M" + "L".join(f"{x - 0.5:g} {y - 0.5:g}" for x, y in line[:-1]) + "Z" for line in lines)
