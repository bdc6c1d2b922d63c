"""What compressed data say of their own size, before a decoder believes them: a damaged byte can ask for any amount of memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import DeflatedExplicitVRLittleEndian

from hepdist.ingest.dicom_refused import Refused

JPEG_START, J2K_START, J2K_SIZE = b"\xff\xd8", b"\xff\x4f", b"\xff\x51"
JP2_BOX = b"\x00\x00\x00\x0cjP  "
FRAME_HEADERS = (*(m for m in range(0xC0, 0xD0) if m not in (0xC4, 0xC8, 0xCC)), 0xF7)
"""JPEG's start-of-frame markers (ITU-T T.81, B.1.1.3), and JPEG-LS's (T.87)."""
MOST_TILES = 65_535
LARGEST = 2 << 30
"""Decoded bytes above which a file is refused: a damaged header can claim any size."""
STEP = 1 << 20


def check_frames(dataset: Dataset) -> None:
    """Raises Refused('decode') where a compressed frame is of another size than the header's rows and columns."""
    expected = int(dataset.Rows), int(dataset.Columns)
    for frame in generate_frames(dataset.PixelData, number_of_frames=int(dataset.get("NumberOfFrames") or 1)):
        check_frame(frame, expected)


def check_frame(frame: bytes, expected: tuple[int, int]) -> None:
    size = _size(frame)
    if size is not None and size != expected:
        raise Refused("decode", f"the compressed image is of {size[0]} x {size[1]} pixels, its header of {expected[0]} x {expected[1]}")


def refuse_bomb(data: bytes, largest: int) -> None:
    """Raises Refused('too-large') for a file of the deflated transfer syntax that unpacks to more than `largest` bytes."""
    if not is_deflated(data):
        return
    group_length = int.from_bytes(data[140:144], "little")  # of the first element, (0002,0000), which is type 1 in PS3.10 7.1
    if data[132:140] != b"\x02\x00\x00\x00UL\x04\x00":
        raise Refused("damaged-header", "the file meta information doesn't begin with its length")
    unpacker, total, rest = zlib.decompressobj(-zlib.MAX_WBITS), 0, data[144 + group_length :]
    while rest and not unpacker.eof:
        total += len(unpacker.decompress(rest, STEP))
        rest = unpacker.unconsumed_tail
        if total > largest:
            raise Refused("too-large", f"deflated data that unpack to more than the {largest >> 20} MiB accepted")


def is_deflated(start: bytes) -> bool:
    """Whether a file's first KiB names the deflated transfer syntax."""
    return DeflatedExplicitVRLittleEndian.encode() in start[132:1024]


def _size(frame: bytes) -> tuple[int, int] | None:
    """Rows and columns by the codestream itself; None where it is of no known kind, which is for the decoder to say."""
    if frame.startswith(JP2_BOX):
        frame = frame[max(0, frame.find(J2K_START + J2K_SIZE)) :]
    if frame.startswith(J2K_START + J2K_SIZE):
        return _j2k_size(frame)
    if not frame.startswith(JPEG_START):
        return None
    return next(
        ((int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")) for m, body in _segments(frame) if m in FRAME_HEADERS), None
    )


def _j2k_size(frame: bytes) -> tuple[int, int]:
    """ITU-T T.800, A.5.1: the reference grid less its offset, over the largest component's sampling step."""
    fields = [int.from_bytes(frame[at : at + 4], "big") for at in range(8, 40, 4)]
    columns, rows, left, top, tile_columns, tile_rows = fields[:6]
    components = int.from_bytes(frame[40:42], "big")
    if len(frame) < 42 + 3 * components or components < 1 or min(tile_columns, tile_rows) < 1:
        raise Refused("decode", "the compressed image's own header is damaged")
    if (columns // tile_columns + 1) * (rows // tile_rows + 1) > MOST_TILES:
        raise Refused("decode", f"the compressed image claims more than {MOST_TILES} tiles")
    steps = [(frame[43 + 3 * c] or 1, frame[44 + 3 * c] or 1) for c in range(components)]
    across, down = min(s[0] for s in steps), min(s[1] for s in steps)
    return -(-rows // down) - -(-top // down), -(-columns // across) - -(-left // across)


def _segments(frame: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and body of each segment up to the first scan."""
    at = 2
    while at + 4 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == 0xDA:
            return
        length = int.from_bytes(frame[at + 2 : at + 4], "big")
        if length < 2:
            return
        yield marker, frame[at + 4 : at + 2 + length]
        at += 2 + length
