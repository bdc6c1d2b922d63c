"""One encoded picture's bytes as a grey image or as class indices; refuses what can't be decoded whole."""

from __future__ import annotations

import io
import logging
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

logging.getLogger("PIL").setLevel(logging.CRITICAL + 1)  # it quotes tags of damaged files, and tags may name a person
DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
"""Pillow's grey modes of more than 8 bits."""
COLOURED = 32
"""Least difference between a pixel's channels, or between two colours, that is no noise of compression."""
NEAR = 0.08
"""Share of the range within which a level is background's or the structure's own."""
SMALLEST = 4
"""Pixels within an area, its outermost left out; or of a structure that is too thin to have such."""
FEW = 16
"""Values up to which a mask was drawn, not smoothed or compressed, so that thin lines in it are no edges."""
UNDECLARED = "what each is isn't said: save class indices (0, 1, 2, ...), or one structure alone as 0 and 255"
FORMATS = ("PNG", "JPEG", "BMP", "TIFF")


class UnreadablePicture(Exception):
    """check: the audit's slug; the message: its reason."""

    def __init__(self, check: str, reason: str):
        super().__init__(reason)
        self.check = check


def grey(data: bytes) -> np.ndarray:
    """[1, H, W]: uint8, or uint16 or float32 where the file is that deep; upright by its EXIF tag.

    Colour becomes ITU-R 601 luma, of CMYK by way of RGB, and of 16-bit colour from its upper 8 bits; transparent pixels keep
    the colour they have. Raises UnreadablePicture.
    """
    return _grey(_decode(data))


def class_indices(data: bytes) -> np.ndarray:
    """uint8[1, H, W]: a palette's indices, values as they are up to 127, or 0/1 where any is above or one colour stands on black.

    Masks of 0 and 255 that were resized with smoothing hold values between; half way is the edge. Several levels or colours that each
    fill an area, or lines of their own, are structures whose classes nobody declared. Raises UnreadablePicture.
    """
    picture = _decode(data)
    if picture.mode == "P":
        return np.asarray(picture)[None]
    if picture.mode not in (*DEEP, "L", "LA", "1"):
        colours = np.asarray(picture.convert("RGB"))
        if (np.ptp(colours, axis=2) > COLOURED).any():
            return _of_one_colour(colours)[None]
    pixels = _grey(picture)
    top = float(pixels.max())
    if top <= 127:
        return pixels.astype(np.uint8)
    between = {v for v in _drawn(pixels[0], pixels[0]) if NEAR * top < v < (1 - NEAR) * top}
    if between:
        raise UnreadablePicture("label-unknown", f"its mask has areas of {2 + len(between)} grey levels; {UNDECLARED}")
    return (pixels > (127 if pixels.dtype == np.uint8 else top / 2)).astype(np.uint8)


def _of_one_colour(colours: np.ndarray) -> np.ndarray:
    """uint8[H, W] of uint8[H, W, 3]: whether a pixel is nearer to the mask's one colour than to black."""
    packed = colours.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1])
    areas = np.array([(v >> 16, v >> 8 & 255, v & 255) for v in _drawn(packed, colours.max(axis=2)) if v], np.int32)
    areas = areas[areas.max(axis=1) > NEAR * 255] if len(areas) else colours.reshape(-1, 3)[[colours.max(axis=2).argmax()]].astype(np.int32)
    if len(areas) == 0 or (np.abs(areas - areas[0]).max(axis=1) > COLOURED).any():
        raise UnreadablePicture("label-unknown", f"its mask has areas of several colours; {UNDECLARED}")
    return (colours.max(axis=2) > areas[0].max() / 2).astype(np.uint8)


def _drawn(values: np.ndarray, brightness: np.ndarray) -> set[int]:
    """The values of [H, W] that are structures, or the background, and no edges.

    SMALLEST pixels or more have neighbours that are all the same; or, of FEW values, most have no brighter neighbour, as edges do.
    """
    there, counts = np.unique(values, return_counts=True)
    if len(there) <= 2:
        return set(there.tolist())
    from scipy.ndimage import maximum_filter, minimum_filter  # few masks need it

    flat, within = np.unique(values[maximum_filter(values, 3) == minimum_filter(values, 3)], return_counts=True)
    found = set(flat[within >= SMALLEST].tolist())
    if len(there) <= FEW:
        crest = maximum_filter(brightness, 3) == brightness
        found |= {v for v, n in zip(there.tolist(), counts, strict=True) if n >= SMALLEST and crest[values == v].mean() > 0.5}
    return found


def _grey(picture: Image.Image) -> np.ndarray:
    if picture.mode in DEEP:
        pixels = np.asarray(picture)
        if pixels.dtype.kind != "f":
            wide = pixels.min() < 0 or pixels.max() > np.iinfo(np.uint16).max
            pixels = pixels.astype(np.float32 if wide else np.uint16)
        return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)[None]
    if picture.mode not in ("L", "1"):
        try:
            picture = picture.convert("RGB")  # straight from RGBA or a palette to L would blend or index
        except ValueError:
            raise UnreadablePicture("unsupported", f"has colours of the kind {picture.mode}; save it as RGB or grey") from None
    return np.asarray(picture.convert("L"))[None]


def _decode(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # these decoders alone: others run programs (EPS) or hold documents
            picture: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
            pages = getattr(picture, "n_frames", 1) if picture.format != "MPO" else 1  # MPO: a camera's JPEG with its own preview
            if pages > 1:
                raise UnreadablePicture("unsupported", f"holds {pages} pages or frames; save each as a file of its own")
            picture.load()
            return ImageOps.exif_transpose(picture)
    except UnreadablePicture:
        raise
    except UnidentifiedImageError:
        raise UnreadablePicture("not-an-image", "is no image that can be decoded") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnreadablePicture("unsupported", f"has more than {Image.MAX_IMAGE_PIXELS} pixels") from None
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise UnreadablePicture("truncated", f"its pixels can't be decoded whole ({type(error).__name__})") from None
