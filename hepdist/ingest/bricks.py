"""Where the bricks of a volume lie: overlapping windows of one size that together cover all of it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product


def brick_offsets(shape: Sequence[int], size: Sequence[int], overlap: float) -> list[tuple[int, ...]]:
    """The first voxel of each brick in a volume of `shape`, in C order, so that bricks come layer by layer along the first axis.

    overlap: the share of a side that neighbours have in common at least. The last brick of an axis is moved back inside. An axis
    shorter than a brick has one brick about its centre, whose offset is negative: padding lies there. Positions are those of
    MONAI's sliding window (dense_patch_slices), but for the padding, which MONAI adds before it.
    """
    return list(product(*(_starts(have, want, overlap) for have, want in zip(shape, size, strict=True))))


def centred(have: int, want: int) -> int:
    """Offset of a window of `want` voxels about the centre of `have`; an odd voxel more goes before when padding."""
    return (have - want) // 2


def _starts(have: int, want: int, overlap: float) -> list[int]:
    if have <= want:
        return [centred(have, want)]
    step = max(1, int(want * (1 - overlap)))
    return [*range(0, have - want, step), have - want]
