"""A small axial CT of the upper abdomen with its liver mask, built from ellipsoids in Hounsfield units; writes nothing.

Axes are (z, y, x): z runs to the head, y to the back, x to the patient's left, as DICOM's patient coordinates do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Axis = NDArray[np.floating[Any]]
"""A coordinate in mm that broadcasts to SHAPE."""

SHAPE = (24, 96, 96)
SPACING_MM = (5.0, 4.0, 4.0)
"""Distance of slices, rows and columns."""


def render_abdomen(severity: float, rng: np.random.Generator) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """CT in Hounsfield units, int16[24, 96, 96], and the liver in it, uint8[24, 96, 96] of 0 and 1.

    severity: the image severity of hepdist.phantom.disease; the liver grows by about 6 % in volume a unit.
    """
    build = rng.normal(1, 0.04)
    z, y, x = (axis / build for axis in _GRID)
    # The beam's edges fall inside voxels, so the organs are drawn sharp and blurred like a reconstruction kernel.
    volume = np.full(SHAPE, -1000.0, dtype=np.float32)
    fat = rng.uniform(8, 30)
    volume[_ellipsoid(x / (150 + fat), y / (105 + fat))] = -100
    wall = _ellipsoid(x / 148, y / 103)
    volume[wall] = 55
    cavity = _ellipsoid(x / 134, (y + 4) / 86)
    volume[cavity] = -85
    ribs = wall & ~cavity & (np.cos(2 * np.pi * (z + 0.35 * np.abs(x) - 0.4 * y) / 26 + rng.uniform(0, 6)) > 0.55) & (np.abs(x) > 40)
    volume[ribs] = 320
    _place_organs(volume, x, y, z, rng)
    liver = _liver(x, y, z, severity, rng) & cavity
    volume[liver] = rng.normal(58, 4)
    for _ in range(14):  # unenhanced vessels, a little darker than the liver
        centre = rng.uniform((-110, -50, -40), (10, 40, 45))
        volume[liver & _ellipsoid((x - centre[0]) / 7, (y - centre[1]) / 7, (z - centre[2]) / 18)] -= 14
    lung = cavity & (z > 30 + 28 * ((x / 140) ** 2 + (y / 95) ** 2)) & _ellipsoid((np.abs(x) - 78) / 62, y / 88) & ~liver
    volume[lung & (np.hypot(np.abs(x) - 78, y) > 34)] = -820
    volume = gaussian_filter(volume, (0.3, 0.6, 0.6)) + _noise(rng)
    return np.clip(np.round(volume), -1024, 3071).astype(np.int16), liver.astype(np.uint8)


_GRID = np.meshgrid(
    *[(np.arange(n) - (n - 1) / 2).astype(np.float32) * step for n, step in zip(SHAPE, SPACING_MM, strict=True)],
    indexing="ij",
    sparse=True,
)


def _ellipsoid(*scaled: Axis) -> NDArray[np.bool_]:
    """Where the coordinates, divided by the half axes, lie inside the unit ball; two of them make a column along z."""
    inside = sum(axis**2 for axis in scaled) < 1
    return np.broadcast_to(inside, SHAPE)


def _liver(x: Axis, y: Axis, z: Axis, severity: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Right and left lobe, hollowed by the gallbladder's bed and the stomach."""
    size = np.exp(0.02 * severity + rng.normal(0, 0.025))
    right = _ellipsoid((x + 76) / (60 * size), (y - 2) / (80 * size), (z - 6 + 12 * (size - 1)) / (68 * size))
    left = _ellipsoid((x + 14 + 0.2 * y) / (64 * size), (y + 44) / (34 * size), (z - 14) / (34 * size))
    gallbladder = _ellipsoid((x + 50) / 18, (y + 46) / 26, (z + 42) / 24)
    return (right | left) & ~gallbladder & ~_ellipsoid((x - 4) / 26, (y - 40) / 34)


def _place_organs(volume: NDArray[np.float32], x: Axis, y: Axis, z: Axis, rng: np.random.Generator) -> None:
    """Spine, great vessels, kidneys, spleen, stomach, gallbladder and bowel, in place."""
    organs = (
        (rng.normal(50, 3), _ellipsoid((x - 100) / 30, (y - 34) / 46, (z - 8) / 46)),  # spleen
        (rng.normal(32, 3), _ellipsoid((x - 62) / 26, (y - 48) / 28, (z + 30) / 50)),  # left kidney
        (rng.normal(32, 3), _ellipsoid((x + 58) / 26, (y - 50) / 28, (z + 44) / 50)),  # right kidney
        (rng.normal(20, 5), _ellipsoid((x - 52) / 46, (y + 34) / 38, (z - 16) / 44)),  # stomach
        (rng.normal(8, 3), _ellipsoid((x + 50) / 16, (y + 46) / 22, (z + 42) / 22)),  # gallbladder
        (rng.normal(30, 6), _ellipsoid((x - 16) / 54, (y + 30) / 24, (z + 50) / 22)),  # bowel
        (40.0, _ellipsoid((x - 12) / 11, (y - 36) / 11)),  # aorta
        (38.0, _ellipsoid((x + 14) / 12, (y - 34) / 10)),  # inferior vena cava
        (52.0, _ellipsoid((np.abs(x) - 30) / 24, (y - 78) / 20)),  # paraspinal muscles
        (240.0, _ellipsoid(x / 22, (y - 62) / 17)),  # vertebral body
        (30.0, _ellipsoid(x / 9, (y - 83) / 7)),  # spinal canal
        (420.0, _ellipsoid(x / 6, (y - 97) / 8)),  # spinous process
    )
    for value, where in organs:
        volume[where] = value
    # Gas rises to the front of a patient lying on the back.
    volume[organs[3][1] & np.broadcast_to(y < rng.uniform(-62, -46), SHAPE)] = -900


def _noise(rng: np.random.Generator) -> NDArray[np.float32]:
    """Correlated image noise of 12 HU."""
    noise = gaussian_filter(rng.standard_normal(SHAPE, dtype=np.float32), (0, 0.6, 0.6))
    return noise * (12 / noise.std())
