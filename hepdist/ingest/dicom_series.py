"""Geometry of a series: which planes make a volume, in which order and on which grid, or why they make none; reads no pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np

from hepdist.ingest.dicom_header import PHASES, Plane
from hepdist.ingest.dicom_refused import Refused

SAME_DIRECTION = 1e-3
"""Largest difference of direction cosines within a volume: 0.06 degrees."""
SAME_SPACING = 1e-3
"""Largest relative difference of pixel spacing within a volume."""
DUPLICATE_MM = 0.01
CONCLUSIVE = ("TemporalPositionIdentifier", "EchoNumbers", "EchoTime", "DiffusionBValue")
"""Of PHASES, those that are the same for all planes of one volume. Packages of planes may differ in acquisition and trigger time."""
OVERLAPPING = 1.5
"""Thickness over distance from which planes overlap so far that two acquisitions of the same place are meant."""


@dataclass(frozen=True)
class Stack:
    """Planes of one volume, by position along their normal (row direction x column direction), which is the order of axis D."""

    planes: tuple[Plane, ...]
    step: tuple[float, float, float]
    """mm from one plane's first pixel to the next one's: along the normal, or sheared by a tilted gantry."""

    @cached_property
    def affine(self) -> np.ndarray:
        """float64[4, 4]: voxel index (d, h, w) to patient millimetres in DICOM's LPS (NIfTI has RAS: negate x and y)."""
        first = self.planes[0]
        assert first.orientation is not None
        assert first.spacing is not None
        row, column = np.array(first.orientation[:3]), np.array(first.orientation[3:])
        affine = np.eye(4)
        affine[:3, 0] = self.step
        affine[:3, 1] = column * first.spacing[0]
        affine[:3, 2] = row * first.spacing[1]
        affine[:3, 3] = np.array(first.position)
        return affine

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.planes), *self.planes[0].size

    @property
    def spacing(self) -> tuple[float, float, float]:
        """mm along D (between planes, along their normal), H and W."""
        spacing = self.planes[0].spacing
        assert spacing is not None
        return float(np.dot(self.step, _normal(self.planes[0]))), spacing[0], spacing[1]


@dataclass(frozen=True)
class Rejected:
    """Planes of a series that make no volume, with the audit row's outcome, check and reason."""

    planes: tuple[Plane, ...]
    outcome: str
    check: str
    reason: str


def arrange(planes: Sequence[Plane], least: int) -> tuple[list[Stack], list[Rejected]]:
    """The volumes of one series, largest first, and the planes that belong to none.

    Planes of one volume share image type, size, orientation and pixel spacing, so a scout can't move its spacing. Planes that
    still don't make a regular grid are told apart by acquisition, echo, phase and so on (PHASES) where that makes each part
    regular. A localizer, or fewer than `least` planes beside a volume, is ignored; an irregular grid is quarantined.
    """
    volumes: list[Stack] = []
    rejected: list[Rejected] = []
    few: list[list[Plane]] = []
    for group in _alike(planes):
        if "LOCALIZER" in group[0].image_type:
            rejected.append(Rejected(tuple(group), "ignored", "scout", f"localizer, {_counted(len(group))}"))
            continue
        for part in _separate(group, least):
            if len(part) < least:
                few.append(part)
                continue
            try:
                volumes.append(stack(part))
            except Refused as refused:
                rejected.append(Rejected(tuple(part), "quarantined", refused.check, refused.reason))
    volumes.sort(key=lambda s: (-len(s.planes), s.planes[0].position, s.planes[0].sop_instance))
    whole = max((len(s.planes) for s in volumes), default=0)
    for part in few:
        if whole:
            reason = f"{_counted(len(part))} of another geometry or acquisition in a series of {whole}"
            rejected.append(Rejected(tuple(part), "ignored", "scout", reason))
        else:
            reason = f"{_counted(len(part))} where a volume needs at least {least}"
            rejected.append(Rejected(tuple(part), "quarantined", "too-few-slices", reason))
    return volumes, rejected


def stack(planes: Sequence[Plane]) -> Stack:
    """The planes in order on their regular grid. Raises Refused('geometry') naming the position along the normal, in mm.

    Positions may deviate by 5 % of the spacing, or by 0.1 mm, to which many scanners round them.
    """
    if any(p.position is None or p.orientation is None or p.spacing is None for p in planes):
        raise Refused("geometry", "slices without position, orientation or pixel spacing")
    if abs(np.linalg.norm(_normal(planes[0])) - 1) > 10 * SAME_DIRECTION or min(planes[0].spacing or (0.0,)) <= 0:
        raise Refused("geometry", "direction cosines or pixel spacing that are impossible")
    normal = _normal(planes[0])
    ordered = sorted(planes, key=lambda p: (float(np.dot(p.position or (), normal)), p.sop_instance, p.frame))
    origins = np.array([p.position for p in ordered])
    if len(ordered) == 1:
        return Stack(tuple(ordered), _triple(normal * (ordered[0].thickness or 1.0)))
    along = origins @ normal
    apart = np.diff(along)
    usual = float(np.median(apart))
    if apart.min() < DUPLICATE_MM:
        raise Refused("geometry", f"more than one slice at position {along[int(apart.argmin())]:.1f} mm")
    slack = max(0.1, 0.05 * usual)
    worst = int(np.abs(apart - usual).argmax())
    if abs(apart[worst] - usual) > slack:
        missing = round(apart[worst] / usual) - 1
        if missing >= 1 and abs(apart[worst] - (missing + 1) * usual) <= slack * (missing + 1):
            raise Refused("geometry", f"gap of {_counted(missing)} after position {along[worst]:.1f} mm")
        raise Refused("geometry", f"slices {apart[worst]:.2f} mm apart after position {along[worst]:.1f} mm, {usual:.2f} mm elsewhere")
    step = (origins[-1] - origins[0]) / (len(ordered) - 1)
    aside = np.linalg.norm(origins - origins[0] - np.arange(len(ordered))[:, None] * step, axis=1)
    if aside.max() > slack:
        raise Refused(
            "geometry", f"slice off the line of the others by {aside.max():.1f} mm at position {along[int(aside.argmax())]:.1f} mm"
        )
    return Stack(tuple(ordered), _triple(step))


def _alike(planes: Sequence[Plane]) -> list[list[Plane]]:
    groups: list[list[Plane]] = []
    for plane in sorted(planes, key=lambda p: (p.sop_instance, p.frame)):
        home = next((g for g in groups if _same_kind(g[0], plane)), None)
        if home is None:
            groups.append([plane])
        else:
            home.append(plane)
    return groups


def _same_kind(a: Plane, b: Plane) -> bool:
    if (a.image_type, a.size) != (b.image_type, b.size) or (a.orientation is None) != (b.orientation is None):
        return False
    if (a.spacing is None) != (b.spacing is None):
        return False
    same_direction = a.orientation is None or np.allclose(a.orientation, b.orientation or (), rtol=0, atol=SAME_DIRECTION)
    same_spacing = a.spacing is None or np.allclose(a.spacing, b.spacing or (), rtol=SAME_SPACING, atol=0)
    return bool(same_direction and same_spacing)


def _separate(planes: list[Plane], least: int) -> list[list[Plane]]:
    """The parts by the first phase tag, or pair of them, that makes each a regular grid; one part where the planes make one together.

    Three exceptions. Phases whose positions interleave make a regular grid, too, and are parts all the same. Of phases that lie in one
    another's place, an irregular one doesn't take the others with it. And packages stay together where a plane is missing: each alone
    would pass for a volume with every other plane.
    """
    if len(planes) < 3:
        return [planes]
    whole = _regular(planes)
    singles = [(tag,) for tag in range(len(PHASES))]
    torn: list[list[list[Plane]]] = []
    for tags in singles if whole else (*singles, *combinations(range(len(PHASES)), 2)):
        parts = _by_phase(planes, tags)
        conclusive = any(PHASES[tag] in CONCLUSIVE and len({plane.phase[tag] for plane in planes}) > 1 for tag in tags)
        if len(parts) < 2 or max(map(len, parts)) < 3 or (not whole and not conclusive and _packages(planes, parts)):
            continue
        if all(len(part) < 2 or _regular(part) for part in parts):
            if not whole or _interleave(planes, parts, conclusive):
                return parts
        elif not whole and _in_place(parts):
            torn.append(parts)
    best = max(torn, key=lambda parts: _sound(parts, least), default=[planes])
    return best if _sound(best, least) else [planes]


def _sound(parts: list[list[Plane]], least: int) -> int:
    """Planes of the parts that are volumes."""
    return sum(len(part) for part in parts if len(part) >= least and _regular(part))


def _interleave(planes: list[Plane], parts: list[list[Plane]], conclusive: bool) -> bool:
    """Whether parts of a regular grid are volumes of their own, each over the whole extent.

    conclusive: the tag that parts them can't differ within a volume. An acquisition may be one of the packages that a scanner takes in
    turn: then the planes are as thick as they are apart, and not as those of their own part are.
    """
    counts = [len(part) for part in parts]
    if min(counts) < 3 or max(counts) - min(counts) > 1 or not _in_place(parts):
        return False
    step, thickness = stack(planes).spacing[0], planes[0].thickness
    return conclusive or (thickness is not None and thickness > OVERLAPPING * step)


def _packages(planes: list[Plane], parts: list[list[Plane]]) -> bool:
    """Whether the parts took turns at the places of one grid, some of which are empty: planes no thicker than the places are apart."""
    thickness = planes[0].thickness
    if thickness is None or not _in_place(parts):
        return False
    normal = _normal(planes[0])
    apart = np.diff(sorted(float(np.dot(p.position or (), normal)) for p in planes))
    step = float(apart.min())
    if step < DUPLICATE_MM or thickness > OVERLAPPING * step:
        return False
    places = np.round(apart / step)
    return bool((np.abs(apart - places * step) <= max(0.1, 0.05 * step) * places).all())


def _in_place(parts: list[list[Plane]]) -> bool:
    """Whether parts of several planes lie in one another's place, not one after the other along the normal."""
    if any(p.position is None or p.orientation is None for part in parts for p in part):
        return False
    normal = _normal(parts[0][0])
    ends = [
        (min(along), max(along)) for part in parts if len(part) > 1 and (along := [float(np.dot(p.position or (), normal)) for p in part])
    ]
    shared = min((high for _, high in ends), default=0.0) - max((low for low, _ in ends), default=0.0)
    return len(ends) > 1 and shared > 0.5 * max(high - low for low, high in ends)


def _by_phase(planes: list[Plane], tags: tuple[int, ...]) -> list[list[Plane]]:
    parts: dict[tuple[str, ...], list[Plane]] = {}
    for plane in planes:
        parts.setdefault(tuple(plane.phase[tag] for tag in tags), []).append(plane)
    return [parts[value] for value in sorted(parts)]


def _regular(planes: Sequence[Plane]) -> bool:
    try:
        stack(planes)
    except Refused:
        return False
    return True


def _normal(plane: Plane) -> np.ndarray:
    assert plane.orientation is not None
    return np.cross(plane.orientation[:3], plane.orientation[3:])


def _triple(vector: np.ndarray) -> tuple[float, float, float]:
    return float(vector[0]), float(vector[1]), float(vector[2])


def _counted(slices: int) -> str:
    return f"{slices} slice{'s' if slices != 1 else ''}"
