"""What an image looks like, in a few hundred bytes, and which of many look like the same picture encoded, resized or brightened anew.

A 64-bit perceptual hash (signs of the lowest cosine coefficients; Zauner, "Implementation and benchmarking of perceptual image
hash functions", 2010) finds the candidates; chest X-rays of different people look alike to it, so that a thumbnail without its
slow changes, which all chests share, decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter

SIDE = 16
"""Thumbnails are 16 x 16 or 16 x 16 x 16."""
SLOW = 2.0
"""Standard deviation, in thumbnail pixels, of the Gaussian that is taken away."""
FAR = 7
"""Bits in which the hashes of one picture may differ: 4 in 99 % of copies, 7 at most."""
ALIKE = 0.975
"""Least correlation of two thumbnails of one picture. The nearest of 16,974,051 pairs of different PneumoniaMNIST images (28 x 28)
have 0.950, of 13,203 pairs of lung X-rays 0.934, of a million pairs of adrenal glands 0.951; over 95 % of copies at JPEG quality 50
have 0.976 and more at 28 x 28, 0.9999 at the size of films (tests/test_ingest_likeness.py). A copy below 16 x 16 is not found."""
BANDS, BITS = 4, 16
AT_ONCE = 1 << 20


def likeness_of(image: np.ndarray) -> bytes:
    """[C, *spatial] as 8 bytes of hash and an int8 thumbnail of 16^2 or 16^3; empty for an image without features."""
    length = image.shape[1]
    if len(image) == 1 and image.dtype == np.uint8 and length % SIDE == 0:  # in whole numbers: no copy of all pixels as floats
        sums = np.add.reduce(image[0].reshape(SIDE, length // SIDE, *image.shape[2:]), axis=1, dtype=np.uint32)
        small, axes = sums.astype(np.float32) * np.float32(SIDE / length), range(1, sums.ndim)
    else:
        small, axes = np.asarray(np.mean(image, axis=0, dtype=np.float32)), range(image.ndim - 1)
    for axis in axes:
        small = np.moveaxis(np.tensordot(_boxes(small.shape[axis]), small, (1, axis)), 0, axis)
    detail = small - gaussian_filter(small, SLOW, mode="nearest")
    top = float(np.abs(detail).max())
    if not np.isfinite(top) or top <= 1e-4 * float(np.abs(small).max()):
        return b""
    coefficients = dctn(small, norm="ortho")[_lowest(small.ndim)]
    return np.packbits(coefficients > 0).tobytes() + np.round(detail * (127 / top)).astype(np.int8).tobytes()


def near_pairs(likenesses: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """Pairs of indices that show one picture, enough of them to join all copies into one group; each may come more than once.

    Time grows with n log n while few pairs are candidates: a pair within 7 bits is within 1 bit in one of four 16-bit bands.
    """
    seen: dict[bytes, int] = {}
    for index, likeness in enumerate(likenesses):
        if (first := seen.setdefault(likeness, index)) != index:
            yield first, index
    for length in {len(likeness) for likeness in seen}:  # an image is never like a volume
        where = np.array([i for likeness, i in seen.items() if len(likeness) == length])
        packed = np.frombuffer(b"".join(likeness for likeness in seen if len(likeness) == length), np.uint8).reshape(-1, length)
        hashes = packed[:, :8].copy().view(np.uint64)[:, 0]
        details = packed[:, 8:].view(np.int8)
        for i, j in _candidates(hashes):
            alike = _correlation(details[i], details[j]) >= ALIKE
            yield from zip(where[i[alike]].tolist(), where[j[alike]].tolist(), strict=True)


def _candidates(hashes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Indices (i, j) of hashes that differ in no more than FAR bits, of a million or so looked at; a pair may come more than once."""
    everyone = np.arange(len(hashes))
    for band in range(BANDS):
        part = (hashes >> np.uint64(band * BITS)).astype(np.uint16)
        order = np.argsort(part, kind="stable")
        size = np.bincount(part, minlength=1 << BITS)
        start = np.cumsum(size) - size
        for flip in (0, *(1 << bit for bit in range(BITS))):
            left = np.flatnonzero((part & flip) == 0) if flip else everyone  # each two buckets meet once
            other = part[left] ^ np.uint16(flip)
            ends = np.cumsum(size[other])
            first = 0
            while first < len(left):
                done = ends[first - 1] if first else 0
                last = max(first + 1, int(np.searchsorted(ends, done + AT_ONCE, "right")))
                n = size[other[first:last]]
                i = np.repeat(left[first:last], n)
                j = order[np.arange(len(i)) + np.repeat(start[other[first:last]] - (np.cumsum(n) - n), n)]
                near = np.bitwise_count(hashes[i] ^ hashes[j]) <= FAR
                if not flip:
                    near &= i < j
                yield i[near], j[near]
                first = last


def _correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """float32[n] of int8[n, pixels] and int8[n, pixels], about 0."""
    found = np.empty(len(one), np.float32)
    for k in range(0, len(one), 1 << 14):
        a, b = one[k : k + (1 << 14)].astype(np.float32), other[k : k + (1 << 14)].astype(np.float32)
        norm = np.sqrt(np.einsum("np,np->n", a, a) * np.einsum("np,np->n", b, b))
        found[k : k + (1 << 14)] = np.einsum("np,np->n", a, b) / norm
    return found


@cache
def _boxes(length: int) -> np.ndarray:
    """float32[SIDE, length]: weights of the pixels in the mean over each of SIDE equal parts, pixels on an edge by their share."""
    edges = np.arange(SIDE + 1) * (length / SIDE)
    pixels = np.arange(length)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.maximum(overlap, 0) * (SIDE / length)).astype(np.float32)


@cache
def _lowest(axes: int) -> tuple[np.ndarray, ...]:
    """Indices of the 64 coefficients of lowest frequency but the mean."""
    indices = np.indices((SIDE,) * axes).reshape(axes, -1)
    order = np.lexsort((*indices, (indices**2).sum(axis=0)))
    return tuple(indices[:, order[1:65]])
