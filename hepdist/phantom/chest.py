"""A frontal chest X-ray from anatomy to detector signal: draws the anatomy, integrates attenuation, adds scatter and photon noise; writes nothing.

Lengths are millimetres on the detector. x runs to the patient's left (the viewer's right), y runs down, (0, 0) is the image's centre.
Attenuation is a line integral without unit: the logarithm of incoming over outgoing photons.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom
from scipy.special import expit

Image = NDArray[np.floating[Any]]

SIZE = 256
"""Rows and columns of the image."""
PIXEL_MM = 1.5
"""Side of a detector pixel; the field is 384 mm wide."""


@dataclass(frozen=True)
class Chest:
    """Everything that one radiograph shows; severity moves the first four, the rest is nuisance."""

    right_elevation: float
    """mm that the top of the right hemidiaphragm stands above the left's."""
    hepatomegaly: float
    """Relative size of the liver; 1 is normal."""
    right_effusion: float
    """Height in mm to which fluid blunts the right costophrenic angle; 0 is none."""
    left_effusion: float
    inspiration: float
    """mm that both domes lie below (positive) or above their usual height: breathing in pushes them down."""
    heart: float
    """Relative size of the heart."""
    build: float
    """Relative size of the skeleton."""
    thickness: float
    """Front-to-back thickness of the soft tissue in mm."""
    breast: float
    """Thickness of breast tissue in mm; 0 is none."""
    stomach_gas: float
    """Thickness in mm of the gas bubble under the left dome; 0 is none."""
    tilt: float
    """Rotation in the image plane, degrees."""
    turn: float
    """Rotation about the body's axis as the shift in mm of the mediastinum against the spine."""
    centre: tuple[float, float]
    """Where the body's centre falls on the detector, mm (x, y)."""
    rib_spacing: float
    rib_phase: float
    photons: float
    """Photons a pixel that leave the tube towards the detector, after the patient's least attenuating path."""
    scatter: float
    """Scattered over primary radiation, as the detector sees it behind its grid."""
    latitude: float
    """Width of the displayed range, relative to the image's own."""


def elevation_of(severity: float) -> float:
    """Expected elevation of the right dome over the left, mm: strictly rising in severity, between 2 and 62.

    About 17 mm without and 35 mm with hepatitis; anatomy books give 10 to 20 mm as normal.
    """
    return float(2 + 60 * expit((severity - 1.5) / 1.4))


def draw_chest(severity: float, rng: np.random.Generator) -> Chest:
    """Anatomy and exposure of one patient; `severity` is the image severity of hepdist.phantom.disease."""
    effusion = rng.random() < expit(1.2 * severity - 4.0)
    return Chest(
        right_elevation=elevation_of(severity) + rng.normal(0, 3.0),
        hepatomegaly=1 + 0.05 * severity + rng.normal(0, 0.06),
        right_effusion=rng.uniform(15, 55) * effusion,
        left_effusion=rng.uniform(15, 45) * (rng.random() < 0.05),
        inspiration=rng.normal(0, 7.0),
        heart=rng.normal(1, 0.09),
        build=rng.normal(1, 0.045),
        thickness=rng.normal(215, 18),
        breast=rng.uniform(10, 35) * (rng.random() < 0.45),
        stomach_gas=rng.uniform(15, 60) * (rng.random() < 0.6),
        tilt=rng.normal(0, 1.5),
        turn=rng.normal(0, 4.0),
        centre=(rng.normal(0, 5.0), rng.normal(0, 6.0)),
        rib_spacing=rng.normal(23, 1.2),
        rib_phase=rng.random(),
        photons=float(np.exp(rng.normal(np.log(9000), 0.35))),
        scatter=rng.uniform(0.25, 0.6),
        latitude=rng.uniform(0.9, 1.15),
    )


def render_chest(chest: Chest, rng: np.random.Generator) -> Image:
    """The radiograph as a reader sees it: float32[256, 256] in 0..1, bone bright, lungs dark."""
    return expose(attenuation(chest, rng), chest, rng)


def attenuation(chest: Chest, rng: np.random.Generator) -> Image:
    """Line integrals of attenuation through the patient, float32[256, 256]; `rng` draws the course of the lung vessels."""
    x, y = _body_grid(chest)
    side = np.abs(x)
    lateral = _rib_cage(y)
    inside = _soft(lateral - side, 1.5)
    floor = np.where(x < 0, _lung_floor(chest, side, lateral, right=True), _lung_floor(chest, side, lateral, right=False))
    heart = _heart(chest, x, y)
    medial = 21 + 8 * _soft(y - 40, 15) + 30 * np.clip((-92 - y) / 42, 0, 1) ** 2.5
    across = np.clip((side - medial) / np.maximum(lateral - medial, 1), 0, 1)
    lung = np.sqrt(1 - (2 * across - 1) ** 4) * inside
    # Lung reaches down behind the dome, so the dome's edge is a step of most, not all, of the air.
    air = 150 * lung * (0.84 * _soft(floor - y, 1.8) + 0.16 * _soft(floor + 30 - y, 9))
    air *= 1 - 0.72 * heart
    water = _torso(chest, x, y) - air - _airway(chest, x, y)
    water += 0.35 * 150 * heart * _soft(floor - y + 6, 6) * (1 - lung)
    water += _abdomen(chest, x, y, floor)
    water += chest.breast * _ellipse((side - 72) / 52, (y - 55) / 48, 0.12)
    vessels = _vessels(x - chest.turn, y, rng) * air / 150
    return (_MU_WATER * np.maximum(water, 0) + vessels + _skeleton(chest, x, y, side, lateral)).astype(np.float32)


def expose(attenuated: Image, chest: Chest, rng: np.random.Generator) -> Image:
    """What computed radiography makes of it: Beer-Lambert, scatter, quantum noise, logarithm, and its own choice of range.

    Returns float32[256, 256] in 0..1, rising with attenuation.
    """
    primary = np.exp(-attenuated)
    coarse = gaussian_filter(primary.reshape(SIZE // 8, 8, SIZE // 8, 8).mean(axis=(1, 3)), 3.0, mode="nearest")
    scattered = chest.scatter * (_ENLARGE @ coarse @ _ENLARGE.T)
    photons = rng.poisson(chest.photons * 4 * (primary + scattered)).astype(np.float32)
    optical = -np.log(photons + 4)
    low, high = (float(v) for v in np.percentile(optical[::4, ::4], [3, 99]))
    middle, half = (low + high) / 2, (high - low) / 2 * chest.latitude
    return np.clip(0.5 + (optical - middle) / (2 * half) * 0.9, 0, 1).astype(np.float32)


_MU_WATER = 0.0145
"""Effective attenuation of soft tissue a millimetre: 110 kVp, hardened by the patient."""
_AXIS = ((np.arange(SIZE) + 0.5) * PIXEL_MM - SIZE * PIXEL_MM / 2).astype(np.float32)
_ENLARGE = zoom(np.eye(SIZE // 8, dtype=np.float32), (8, 1), order=1, mode="nearest", grid_mode=True)
"""Linear interpolation by 8 along one axis as a matrix: scatter is smooth, so it is blurred on a coarse grid."""
_Y, _X = np.meshgrid(_AXIS, _AXIS, indexing="ij")


def _body_grid(chest: Chest) -> tuple[Image, Image]:
    """Detector pixels in the coordinates of an upright patient of usual build."""
    angle = np.deg2rad(chest.tilt)
    x, y = (_X - chest.centre[0]) / chest.build, (_Y - chest.centre[1]) / chest.build
    cos, sin = float(np.cos(angle)), float(np.sin(angle))  # plain floats keep the arrays float32
    return cos * x + sin * y, cos * y - sin * x


def _soft(distance: Image, width: float) -> Image:
    """0 below 0, 1 above, over six `width` mm: a shadow's edge with the focal spot's blur, which has an end.

    A smoothstep, as steep in the middle as the logistic function of that width, which costs five times as much.
    """
    t = np.clip(distance * (1 / (6 * width)) + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def _ellipse(u: Image, v: Image, edge: float) -> Image:
    """Line integral through an ellipsoid with half axes 1, its rim softened by `edge`."""
    return np.sqrt(np.clip(1 - u**2 - v**2, 0, None) + edge**2) * _soft(1 - u**2 - v**2, edge)


def _rib_cage(y: Image) -> Image:
    """Half width of the lungs' outline at each height, mm: an egg, apex at -135, widest from 80 down."""
    rise = np.clip((80 - y) / 215, 0, 1)
    return 20 + 112 * (1 - rise * rise * rise) ** 0.5


def _lung_floor(chest: Chest, side: Image, lateral: Image, right: bool) -> Image:
    """y of the lower edge of one lung at each pixel: the dome, the costophrenic angle, and fluid in it."""
    top = 92 + chest.inspiration - (chest.right_elevation if right else 0.0)
    peak = 58 if right else 66
    outward = np.clip(side - peak, 0, None)
    # A raised dome starts from the same attachment at the ribs: the flank steepens.
    drop = 34 + 0.55 * (chest.right_elevation if right else 0.0)
    dome = top + drop * (outward / 62) ** 2 * np.sqrt(outward / 62) + 0.004 * np.clip(peak - side, 0, None) ** 2
    fluid = chest.right_effusion if right else chest.left_effusion
    sulcus = top + drop - fluid
    meniscus = sulcus - 0.5 * fluid * np.exp(-np.clip(lateral - side, 0, None) / 9)
    return np.minimum(dome, meniscus + 3 * np.clip(peak + 20 - side, 0, None)) if fluid else dome


def _torso(chest: Chest, x: Image, y: Image) -> Image:
    """Thickness of the body along the beam if it were all water, mm."""
    half_width = 172 + 75 * _soft(-62 - y, 13) + 0.05 * (y - 60)
    shoulder = -112 - 110 * np.exp(-((x / 78) ** 2)) + 16 * (np.abs(x) / 150) ** 2
    slab = np.sqrt(np.clip(1 - (x / half_width) ** 2, 0, None))
    upper = 1 - 0.38 * _soft(-95 - y, 25)
    return chest.thickness * slab * upper * _soft(y - shoulder, 3.0)


def _heart(chest: Chest, x: Image, y: Image) -> Image:
    """0..1: how much of the depth heart and great vessels fill."""
    shift = chest.turn
    size = chest.heart
    u, v = (x - 20 - shift) / (62 * size), (y - 48) / (54 * size)
    body = _ellipse(0.87 * u + 0.5 * v, 0.87 * v - 0.5 * u, 0.08)
    atrium = _ellipse((x + 20 - shift) / (27 * size), (y - 45) / (40 * size), 0.12)
    arch = _ellipse((x - 24 - shift) / 17, (y + 52) / 17, 0.12)
    trunk = _soft(28 - np.abs(x - shift - 2), 3) * _soft(y + 110, 15) * _soft(60 - y, 10)
    return np.clip(body + 0.7 * atrium + 0.75 * arch + 0.5 * trunk, 0, 1)


def _airway(chest: Chest, x: Image, y: Image) -> Image:
    """Air in trachea and main bronchi, mm."""
    middle = 2 + chest.turn
    trachea = np.sqrt(np.clip(1 - ((x - middle) / 8.5) ** 2, 0, None)) * _soft(-38 - y, 4)
    branch = 5.5
    course = np.where(x < middle, -0.9, 0.65).astype(np.float32) * (x - middle) - 40
    bronchi = np.exp(-(((y - course) / branch) ** 2)) * _soft(34 - np.abs(x - middle), 5)
    return 17 * trachea + 9 * bronchi


def _abdomen(chest: Chest, x: Image, y: Image, floor: Image) -> Image:
    """Liver, spleen and gas under the diaphragm: extra water in mm (negative where gas replaces it)."""
    below = _soft(y - floor, 4)
    top = 92 + chest.inspiration - chest.right_elevation
    reach = 96 * chest.hepatomegaly
    liver = _ellipse((x + 62 - 18 * (chest.hepatomegaly - 1)) / (86 * chest.hepatomegaly), (y - top - 0.52 * reach) / (0.62 * reach), 0.1)
    gas = _ellipse((x - 62) / 34, (y - 122 - chest.inspiration) / 17, 0.15)
    return below * (34 * liver - chest.stomach_gas * gas)


def _skeleton(chest: Chest, x: Image, y: Image, side: Image, lateral: Image) -> Image:
    """Extra attenuation of bone over soft tissue."""
    within = _soft(lateral + 4 - side, 1.2)
    posterior_course = 0.16 * side + 34 * np.clip(side / 132, 0, 1.1) ** 5
    posterior = _rods((y - posterior_course) / chest.rib_spacing + chest.rib_phase, 0.19) * within * _soft(side - 14, 2)
    anterior_course = 58 - 0.62 * side + 0.0012 * side**2
    anterior = _rods((y - anterior_course) / chest.rib_spacing + chest.rib_phase + 0.35, 0.2) * within * _soft(side - 55, 10)
    cage = _soft(y + 128, 4) * _soft(150 - y, 12)
    wall = np.exp(-(((side - lateral - 1) / 4) ** 2)) * _soft(y + 110, 10)
    clavicle_course = -80 - 0.2 * side - 6 * np.sin(side / 22)
    clavicle = np.sqrt(np.clip(1 - ((y - clavicle_course) / 6.5) ** 2, 0, None)) * _soft(side - 12, 1.5) * _soft(140 - side, 4)
    bodies = 0.75 + 0.25 * np.tanh(4 * np.cos(2 * np.pi * (y / 25 + chest.rib_phase)) + 2.2)
    spine = _soft(17 - side, 1.5) * bodies
    blade = np.exp(-(((side - 104 + 0.28 * (y + 40)) / 3.0) ** 2)) * _soft(y + 100, 8) * _soft(5 - y, 12)
    return (0.26 * posterior + 0.15 * anterior) * cage + 0.10 * wall + 0.36 * clavicle + 0.42 * spine + 0.08 * blade


def _rods(phase: Image, half_width: float) -> Image:
    """Parallel hollow rods, one each unit of phase: cortical edges brighter than the middle."""
    offset = (phase - np.round(phase)) / half_width
    solid = np.sqrt(np.clip(1 - offset**2, 0, None))
    hollow = np.sqrt(np.clip(0.6 - offset**2, 0, None))
    return 1.6 * solid - 0.9 * hollow


def _vessels(x: Image, y: Image, rng: np.random.Generator) -> Image:
    """Attenuation of lung vessels: ridges of smooth noise, dense at the hila, thinning outwards."""
    noise = rng.standard_normal((SIZE, SIZE), dtype=np.float32)
    wide, fine = gaussian_filter(noise, 5.0), gaussian_filter(noise, 2.0)
    ridges = np.exp(-((wide / wide.std() / 0.22) ** 2)) + 0.6 * np.exp(-((fine / fine.std() / 0.25) ** 2))
    distance = np.hypot(np.abs(x) - 34, (y + 2) * 0.8)
    return 0.5 * ridges * np.exp(-distance / 48) + 0.5 * np.exp(-((distance / 16) ** 2))
