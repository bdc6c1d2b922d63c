"""Pixels of one DICOM object: decoding by any transfer syntax, modality values (HU), and grey display values; knows nothing of series."""

from __future__ import annotations

import io
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pydicom
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, apply_windowing, iter_pixels, pixel_array
from pydicom.pixels.decoders.rle import _rle_decode_segment
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from hepdist.ingest.dicom_codestream import LARGEST, check_frames, refuse_bomb
from hepdist.ingest.dicom_header import functional_group
from hepdist.ingest.dicom_refused import Refused, muted, quiet
from hepdist.ingest.files import Files

GREY = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue: the luminance of ITU-R BT.601, which DICOM's YBR_FULL has as its Y."""
DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"
UNCOMPRESSED = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
FASTEST = {JPEGLSLossless: "pyjpegls", JPEG2000Lossless: "pylibjpeg"}
"""By transfer syntax, where it isn't the one that pydicom tries first: 23 ms and 137 ms for 1024 x 1024 pixels of 12 bits, where gdcm takes
42 ms and 145 ms (it hands pixels over as a text). The values are the same: a lossless code has one decoding."""
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def read_pixels(files: Files, name: str) -> tuple[Dataset, np.ndarray]:
    """The dataset of one file and its decoded pixels (see `decode`). Raises Refused."""
    dataset = read_dataset(files, name)
    return dataset, decode(dataset)


def read_dataset(files: Files, name: str) -> Dataset:
    """One whole file. Raises Refused."""
    try:
        with quiet():
            data = files.read(name)
            refuse_bomb(data, LARGEST)
            return pydicom.dcmread(io.BytesIO(data), force=True)
    except Refused:
        raise
    except Exception:  # a damaged file can make the parser raise anything; its message may quote the file
        raise Refused("damaged-header", "the DICOM file can't be parsed") from None


def read_frames(files: Files, name: str, frames: Sequence[int]) -> Iterator[tuple[Dataset, np.ndarray]]:
    """The header of a multi-frame file and the stored values of each frame asked for, in that order.

    [H, W], or [H, W, 3] of colour. One decoded frame is in memory at a time; of uncompressed data no more than one is read.
    Raises Refused as `decode` does.
    """
    with files.open(name) as stream:
        header = Dataset()
        try:
            with quiet():
                header = pydicom.dcmread(cast(Any, stream), force=True, stop_before_pixels=True)
                decoded = _frame_by_frame(files, name, cast(Any, stream), header, frames)
            with closing(decoded):  # before the stream is: it seeks in it when it ends
                for _ in frames:
                    with quiet(), muted():  # not around the loop: what the consumer warns of is its own
                        pixels = next(decoded)
                    yield header, _native(pixels)
        except Refused:
            raise
        except Exception:
            raise _undecodable(header) from None


def decode(dataset: Dataset) -> np.ndarray:
    """Stored values as pydicom decodes them: [H, W] or [H, W, 3], with a leading axis for several frames; native byte order.

    Colour is RGB (YBR is converted, a palette is not yet applied). Adds to pydicom's decoders: files without file meta
    information, run-length-encoded 1-bit frames and Deflated Image Frame Compression (1-bit segmentations use both). Raises Refused with check 'truncated', 'no-pixels', 'too-large' or 'decode'; the reason names the transfer syntax.
    """
    if not any(keyword in dataset for keyword in PIXELS):
        raise Refused("truncated", "the file ends inside its pixel data")
    try:
        with quiet():
            _ensure_syntax(dataset)
            _check_claims(dataset)
            syntax = dataset.file_meta.TransferSyntaxUID
            if (dataset.get("BitsAllocated") == 1 and syntax == RLELossless) or syntax == DEFLATED_FRAMES:
                return _native(_packed_frames(dataset))
            with muted():
                return _native(_whole(dataset))
    except Refused:
        raise
    except Exception:  # every plug-in raises its own; the messages may quote the file
        raise _undecodable(dataset) from None


def _whole(dataset: Dataset) -> np.ndarray:
    """All frames by the fastest plug-in for plain grey, else or where that one fails by any, in pydicom's order."""
    plugin = FASTEST.get(dataset.file_meta.TransferSyntaxUID)
    if plugin and dataset.get("SamplesPerPixel") == 1 and dataset.get("PixelRepresentation") == 0:
        try:
            return pixel_array(dataset, decoding_plugin=plugin)
        except Exception:  # not installed, or it can't read what another one can
            pass
    return pixel_array(dataset)


def modality_values(dataset: Dataset, frame: int, pixels: np.ndarray) -> np.ndarray:
    """One frame's stored values [H, W] through its modality LUT or rescale slope and intercept (HU in CT).

    Integers where slope and intercept are whole numbers, else float32. Raises Refused with check 'nan' or 'lut'.
    """
    with quiet():
        try:
            transform: Dataset = functional_group(dataset, frame, "PixelValueTransformationSequence") or dataset
            slope, intercept = transform.get("RescaleSlope"), transform.get("RescaleIntercept")
            values = apply_modality_lut(pixels, transform)
        except Exception:
            raise Refused("lut", "the modality LUT or rescale can't be applied") from None
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise Refused("nan", "the image holds values that are not finite numbers")
    if values.dtype.kind == "f" and pixels.dtype.kind in "iu" and slope is not None and intercept is not None:
        whole = float(slope).is_integer() and float(intercept).is_integer()
        return values.astype(np.int64 if whole and np.abs(values).max() < 2**53 else np.float32)
    return values.astype(np.float32, copy=False) if values.dtype.kind == "f" else values


def display_values(dataset: Dataset, pixels: np.ndarray, levels: int = 255) -> np.ndarray:
    """A projection image [H, W] or [H, W, 3] as grey 0..levels, bright = dense; uint8, or uint16 where levels > 255.

    Grey: modality LUT, then VOI LUT (else the first window), scaled from that step's output range. Without either: 8-bit
    data is already for display and keeps its stored range; wider data is scaled from its smallest to its largest value,
    Pixel Padding Value aside. MONOCHROME1 is inverted. Colour and palette become luminance (GREY).
    PS3.3 C.11.1 and C.11.2. Raises Refused with check 'nan' or 'lut'.
    """
    if pixels.ndim == 2 and pixels.dtype.kind in "iu" and dataset.get("PhotometricInterpretation") != "PALETTE COLOR":
        low, high = int(pixels.min()), int(pixels.max())
        if high - low < pixels.size:  # each value once, not each pixel: a radiograph has a million of them, of 4,096 values
            return _looked_up(dataset, pixels, low, high, levels)
    return _grey_levels(dataset, pixels, levels)


def _looked_up(dataset: Dataset, pixels: np.ndarray, low: int, high: int, levels: int) -> np.ndarray:
    """The same by a table over low..high. What becomes of a value depends on which others occur only at the two ends of their range, unless
    a lookup table or a padding value comes first: then the table holds the values that occur alone.
    """
    unsigned = np.dtype(f"u{pixels.dtype.itemsize}")
    index = (pixels.view(unsigned) - unsigned.type(low & np.iinfo(unsigned).max)).ravel()  # of the same width; wraps to the exact offset
    table = np.zeros(high - low + 1, np.uint8 if levels <= 255 else np.uint16)
    if any(keyword in dataset for keyword in ("PixelPaddingValue", "ModalityLUTSequence")):
        there = np.flatnonzero(np.bincount(index, minlength=len(table)))
    else:
        there = np.arange(len(table))
    table[there] = _grey_levels(dataset, (there + low).astype(pixels.dtype)[None], levels)[0]
    # NumPy copies an index to 64 bits first; Arrow takes it as it is: a quarter of the time
    found = pc.take(pa.array(table), pa.array(index), boundscheck=False)
    return np.frombuffer(found.buffers()[1], table.dtype, count=index.size).reshape(pixels.shape)


def _grey_levels(dataset: Dataset, pixels: np.ndarray, levels: int) -> np.ndarray:
    kind = str(dataset.get("PhotometricInterpretation") or "")
    try:
        with quiet():
            if kind == "PALETTE COLOR":
                pixels = apply_color_lut(pixels, dataset)
                share = pixels @ GREY / np.iinfo(pixels.dtype).max
            elif pixels.ndim == 3:
                share = pixels @ GREY / (2.0 ** int(dataset.BitsStored) - 1)
            else:
                share = _windowed(dataset, pixels)
        if not np.isfinite(share).all():
            raise Refused("lut", "a lookup table or window of the header gives no numbers")
    except Refused:
        raise
    except Exception:
        raise Refused("lut", "a lookup table or window of the header can't be applied") from None
    if kind == "MONOCHROME1":
        share = 1 - share
    return np.rint(np.clip(share, 0, 1) * levels).astype(np.uint8 if levels <= 255 else np.uint16)


def pixel_spacing(dataset: Dataset) -> tuple[float, float] | None:
    """mm between rows and between columns of a projection image: in the patient where calibrated, else on the detector."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        try:
            with quiet():
                value = tuple(float(v) for v in dataset.get(keyword) or ())
        except Exception:  # a damaged value: not known
            continue
        if len(value) == 2 and all(np.isfinite(value)) and min(value) > 0:
            return value
    return None


def _windowed(dataset: Dataset, pixels: np.ndarray) -> np.ndarray:
    """Share 0..1 of the VOI step's output range."""
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise Refused("nan", "the image holds values that are not finite numbers")
    values = modality_values(dataset, 0, pixels)
    if dataset.get("VOILUTSequence"):
        whole = values if values.dtype.kind in "iu" else np.rint(values).astype(np.int64)  # a table is looked up by whole numbers
        depth = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        return apply_voi_lut(whole, dataset) / (2.0**depth - 1)
    if dataset.get("WindowWidth") not in (None, "") and dataset.get("WindowCenter") not in (None, "") and pixels.dtype.kind != "f":
        low, high = apply_windowing(np.array([-np.inf, np.inf]), dataset)  # the range that pydicom maps the window to
        return (apply_windowing(values, dataset) - low) / (high - low)
    bits = int(dataset.get("BitsStored") or 16)
    if bits <= 8 and not dataset.get("PixelRepresentation") and values.dtype.kind in "iu" and np.array_equal(values, pixels):
        return values / (2.0**bits - 1)
    padding = dataset.get("PixelPaddingValue")
    inside = values[pixels != padding] if isinstance(padding, int) else values
    inside = inside if inside.size else values
    low, high = float(inside.min()), float(inside.max())
    return (values - low) / (high - low) if high > low else np.zeros(values.shape)


def _check_claims(dataset: Dataset) -> None:
    """Raises Refused where a header claims more pixels than there are, or than may be decoded."""
    expected = _claimed(dataset)
    if "PixelData" not in dataset:
        return
    if dataset.file_meta.TransferSyntaxUID not in UNCOMPRESSED:
        check_frames(dataset)
    elif len(dataset.PixelData) < expected:
        raise Refused("truncated", f"{len(dataset.PixelData)} bytes of pixel data where {expected} are declared")


def _claimed(dataset: Dataset) -> int:
    """Decoded bytes by the header. Raises Refused('too-large')."""
    expected = get_expected_length(dataset)
    if expected > LARGEST:
        raise Refused("too-large", f"the header claims {expected >> 20} MiB of pixels, more than the {LARGEST >> 20} MiB accepted")
    return expected


def _frame_by_frame(files: Files, name: str, stream: BinaryIO, header: Dataset, frames: Sequence[int]) -> Generator[np.ndarray, None, None]:
    if header.file_meta.get("TransferSyntaxUID") in (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian):
        at, expected = stream.tell(), _claimed(header)
        if stream.seek(0, io.SEEK_END) - at < expected:
            raise Refused("truncated", f"the file ends inside its pixel data, of which {expected} bytes are declared")
        stream.seek(0)
        return cast(Any, iter_pixels(stream, indices=frames))
    dataset = read_dataset(files, name)
    _ensure_syntax(dataset)
    _check_claims(dataset)
    return cast(Any, iter_pixels(dataset, indices=frames))


def _undecodable(dataset: Dataset) -> Refused:
    with quiet():  # a damaged UID is warned of
        syntax = UID(str(getattr(dataset, "file_meta", {}).get("TransferSyntaxUID") or ""))
        name = "an unknown transfer syntax" if syntax.name == str(syntax) else syntax.name  # a UID without a name could be anything
    return Refused("decode", f"the pixel data can't be decoded ({name})")


def _native(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _ensure_syntax(dataset: Dataset) -> None:
    """A file without file meta information is decoded by the encoding that its header was read with."""
    if dataset.file_meta.get("TransferSyntaxUID") is None:
        implicit, little = dataset.original_encoding
        syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = syntax


def _packed_frames(dataset: Dataset) -> np.ndarray:
    """1-bit frames, each padded to whole bytes and compressed alone (PS3.5 8.1.1 and 8.2; run lengths in Annex G)."""
    rows, columns, frames = int(dataset.Rows), int(dataset.Columns), int(dataset.get("NumberOfFrames") or 1)
    bits, unpacked = int(dataset.BitsAllocated), []
    for frame in generate_frames(dataset.PixelData, number_of_frames=frames):
        if dataset.file_meta.TransferSyntaxUID == RLELossless:
            start = int.from_bytes(frame[4:8], "little")  # the header's first offset; 1-bit data has a single segment
            data = bytes(_rle_decode_segment(frame[start:]))
        else:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(frame, LARGEST)
        if bits == 1:
            flat = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
        else:
            flat = np.frombuffer(data, f"<{'i' if dataset.PixelRepresentation else 'u'}{bits // 8}")
        unpacked.append(flat[: rows * columns].reshape(rows, columns))
    return np.stack(unpacked) if len(unpacked) > 1 else unpacked[0]
