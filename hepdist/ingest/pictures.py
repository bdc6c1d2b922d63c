"""One encoded picture's bytes as a grey image or as class indices; refuses what can't be decoded whole."""

from __future__ import annotations

import io
import logging
import struct
import warnings
import zlib

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

logging.getLogger("PIL").addHandler(logging.NullHandler())  # else Python prints its complaints about damaged files
DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
"""Pillow's grey modes of more than 8 bits."""


class UnreadablePicture(Exception):
    """check: the audit's slug; the message: its reason."""

    def __init__(self, check: str, reason: str):
        super().__init__(reason)
        self.check = check


def grey(data: bytes) -> np.ndarray:
    """[1, H, W]: uint8, or uint16 or float32 where the file is that deep; upright by its EXIF tag.

    Colour becomes ITU-R 601 luma; transparent pixels keep the colour they have. Raises UnreadablePicture.
    """
    picture = _decode(data)
    if picture.mode in DEEP:
        pixels = np.asarray(picture)
        if pixels.dtype.kind != "f":
            wide = pixels.min() < 0 or pixels.max() > np.iinfo(np.uint16).max
            pixels = pixels.astype(np.float32 if wide else np.uint16)
        return pixels[None]
    if picture.mode not in ("L", "1"):
        picture = picture.convert("RGB")  # straight from RGBA or a palette to L would blend or index
    return np.asarray(picture.convert("L"))[None]


def class_indices(data: bytes) -> np.ndarray:
    """uint8[1, H, W]: a palette's indices, values as they are up to 127, or 0/1 where any is above.

    Masks of 0 and 255 that were resized with smoothing hold values between; half way is the edge.
    Raises UnreadablePicture.
    """
    picture = _decode(data)
    if picture.mode == "P":
        return np.asarray(picture)[None]
    pixels = grey(data)
    if pixels.dtype != np.uint8:
        top = pixels.max()
        return (pixels > top / 2).astype(np.uint8) if top > 127 else pixels.astype(np.uint8)
    return (pixels > 127).astype(np.uint8) if pixels.max() > 127 else pixels


def _decode(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture: Image.Image = Image.open(io.BytesIO(data))
            picture.load()
            picture = ImageOps.exif_transpose(picture)
    except UnidentifiedImageError:
        raise UnreadablePicture("not-an-image", "is no image that can be decoded") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnreadablePicture("unsupported", f"has more than {Image.MAX_IMAGE_PIXELS} pixels") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, OverflowError, struct.error, zlib.error) as error:
        raise UnreadablePicture("truncated", f"its pixels can't be decoded whole ({type(error).__name__})") from None
    return picture
