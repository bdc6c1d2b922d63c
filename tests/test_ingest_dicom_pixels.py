"""Pixels of DICOM files: every transfer syntax, depth and colour is worth what pydicom says after the declared lookup tables."""

from __future__ import annotations

import warnings
from pathlib import Path

import gdcm
import numpy as np
import pydicom
import pytest
from dicom_files import image, ingested, save, stored_values, uid, unpacked
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from hepdist.ingest.dicom_codestream import refuse_bomb
from hepdist.ingest.dicom_pixels import FASTEST, decode, display_values, modality_values
from hepdist.ingest.dicom_refused import Refused


@pytest.fixture
def stored() -> np.ndarray:
    """uint16[6, 8, 10] stored values, 1024 above their HU."""
    return stored_values()


def test_every_decodable_zoo_file_decodes_as_pydicom_does_and_four_more(tmp_path: Path, shared_data: Path) -> None:
    files = sorted(p for p in unpacked(shared_data / "dicom_zoo/pydicom_data_dev.tar.xz", tmp_path).rglob("*.dcm"))
    decoded, refusals, by_us_alone = {}, {}, []
    for file in files:
        dataset = pydicom.dcmread(file, force=True)
        try:
            decoded[file.stem] = decode(dataset)
        except Refused as refused:
            refusals[file.stem] = refused.check
            continue
        try:
            reference = pydicom.dcmread(file, force=True).pixel_array
        except Exception:
            by_us_alone.append(file.stem)
        else:
            assert np.array_equal(decoded[file.stem], reference)
    assert (len(files), len(decoded), refusals) == (59, 58, {"emri_small_jpeg_2k_lossless_too_short": "truncated"})
    assert by_us_alone == ["OT-PAL-8-face", "liver_nonbyte_aligned_deflate", "liver_nonbyte_aligned_rle", "liver_rle"]
    assert np.array_equal(decoded["liver_rle"], decoded["liver"])
    assert np.array_equal(decoded["liver_nonbyte_aligned_rle"], decoded["liver_nonbyte_aligned_j2k"])
    assert np.array_equal(decoded["liver_nonbyte_aligned_deflate"], decoded["liver_nonbyte_aligned_j2k"])


@pytest.mark.parametrize("syntax", [ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_transfer_syntax_changes_no_value(tmp_path: Path, stored: np.ndarray, syntax: UID) -> None:
    plain = image(np.tile(stored[0], (4, 4)), "CR", "1")
    expected = display_values(plain, decode(plain))
    coded = image(np.tile(stored[0], (4, 4)), "CR", "1")
    if syntax.is_compressed and syntax != DeflatedExplicitVRLittleEndian:
        coded.compress(syntax)
    else:
        if syntax == ExplicitVRBigEndian:
            coded.PixelData = coded.pixel_array.astype(">u2").tobytes()
        coded.file_meta.TransferSyntaxUID = syntax
    fresh = Dataset(coded)  # without the memory of another encoding, which pydicom refuses to change
    fresh.file_meta = coded.file_meta
    fresh.save_as(tmp_path / "coded", enforce_file_format=True)
    (sample,), _ = ingested(tmp_path)
    assert np.array_equal(sample.image[0], expected)  # type: ignore[index]


def test_radiograph_is_windowed_as_pydicom_does_and_bright_is_dense(tmp_path: Path) -> None:
    pixels = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    window = {"BitsStored": 12, "HighBit": 11, "WindowCenter": 2000, "WindowWidth": 1000}
    save(image(pixels, "CR", "1", PixelSpacing=[0.2, 0.1], **window), tmp_path)
    save(image(pixels, "DX", "2", PhotometricInterpretation="MONOCHROME1", ImagerPixelSpacing=[0.3, 0.3], **window), tmp_path)
    samples, findings = ingested(tmp_path, modality="DX")
    assert not findings
    by_key = {s.key: s for s in samples}
    two, one = by_key[uid("instance", "1", "1", "1")], by_key[uid("instance", "1", "1", "2")]
    reference = pydicom.pixels.apply_windowing(pixels, image(pixels, "CR", "1", **window)) / 4095 * 255
    assert two.image is not None
    assert one.image is not None
    assert two.image.dtype == np.uint8
    assert np.array_equal(two.image[0], np.rint(reference).astype(np.uint8))
    assert np.abs(one.image.astype(int) + two.image - 255).max() <= 1  # each is rounded
    assert (one.image[0, 0, 0], one.image[0, -1, -1]) == (255, 0)
    assert (two.spacing, one.spacing) == ((0.2, 0.1), (0.3, 0.3))
    assert two.image_unit == "display 0..255"


def test_lookup_tables_of_modality_and_voi_are_applied() -> None:
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    modality, voi = Dataset(), Dataset()
    modality.LUTDescriptor, modality.LUTData, modality.ModalityLUTType = [16, 0, 16], [100 * i for i in range(16)], "US"
    voi.LUTDescriptor, voi.LUTData = [1501, 0, 12], [min(4095, 3 * i) for i in range(1501)]
    dataset = image(pixels, "CR", "1", ModalityLUTSequence=Sequence([modality]), VOILUTSequence=Sequence([voi]))
    shown = display_values(dataset, decode(dataset), 65535)
    assert np.array_equal(shown, np.rint(np.minimum(4095, 300 * pixels.astype(int)) / 4095 * 65535).astype(np.uint16))


def test_eight_bit_images_keep_their_values_and_wider_ones_are_stretched() -> None:
    eight, wide = np.array([[10, 200]], np.uint8), np.array([[300, 800, 1300, 9999]], np.uint16)
    narrow = image(eight, "US", "1")
    assert display_values(narrow, decode(narrow)).tolist() == [[10, 200]]
    padded = image(wide, "CR", "1", PixelPaddingValue=9999)
    assert display_values(padded, decode(padded)).tolist() == [[0, 128, 255, 255]]
    flat = image(np.full((2, 2), 7, np.uint16), "CR", "1")
    assert not display_values(flat, decode(flat)).any()


@pytest.mark.parametrize(("dtype", "low"), [(np.uint8, 0), (np.int8, -128), (np.uint16, 300), (np.int16, -1500), (np.int32, -70_000)])
def test_display_values_by_a_table_are_those_of_each_pixel(dtype: type, low: int) -> None:
    top = min(low + 3000, np.iinfo(dtype).max)
    pixels = np.random.default_rng(0).integers(low, top, (64, 64), dtype)  # fewer values than pixels: by a table
    shown = {"WindowCenter": 0.75 * (low + top) - 7, "WindowWidth": (top - low) / 3, "RescaleSlope": 1.5, "RescaleIntercept": -7}
    dataset = image(pixels, "CR", "1", **shown)
    for levels in (255, 65535):
        each = [display_values(dataset, row[None], levels) for row in pixels]  # more values than pixels in a row: each for itself
        assert np.array_equal(display_values(dataset, pixels, levels), np.vstack(each))
    assert len(np.unique(each)) > 50


def test_values_that_do_not_occur_do_not_stretch_an_image() -> None:
    pixels = np.random.default_rng(0).integers(100, 200, (64, 64), np.uint16)
    pixels[0, :2] = 1000
    padded = image(pixels, "CR", "1", PixelPaddingValue=1000)
    inside = pixels[pixels < 1000].astype(float)
    expected = np.rint(np.clip((pixels - inside.min()) / (inside.max() - inside.min()), 0, 1) * 255)
    assert np.array_equal(display_values(padded, decode(padded)), expected)
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [1001, 0, 16], "US"
    table.LUTData = [min(n, 200) + 60_000 * (n == 500) for n in range(1001)]
    looked_up = image(pixels, "CR", "1", ModalityLUTSequence=Sequence([table]))  # to 0..200; its peak at 500 is no pixel's
    assert display_values(looked_up, decode(looked_up)).max() == 255


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless])
def test_what_the_fastest_plugin_cannot_decode_another_one_does(syntax: UID, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 4096, (64, 64), dtype=np.uint16)
    coded = image(pixels, "CR", "1", BitsStored=12, HighBit=11)
    coded.compress(syntax)
    assert np.array_equal(decode(coded), pixels)
    monkeypatch.setitem(FASTEST, syntax, "absent")
    assert np.array_equal(decode(coded), pixels)


def test_colour_becomes_luminance() -> None:
    pixels = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]]], np.uint8)
    colour = image(pixels, "US", "1")
    assert display_values(colour, decode(colour)).tolist() == [[76, 150, 29, 9]]
    tables = {f"{c}PaletteColorLookupTableDescriptor": [4, 0, 8] for c in ("Red", "Green", "Blue")}
    data = {f"{c}PaletteColorLookupTableData": bytes(pixels[0, :, i]) for i, c in enumerate(("Red", "Green", "Blue"))}
    palette = image(np.arange(4, dtype=np.uint8).reshape(1, 4), "US", "1", PhotometricInterpretation="PALETTE COLOR", **tables, **data)
    assert display_values(palette, decode(palette)).tolist() == [[76, 150, 29, 9]]


@pytest.mark.parametrize(
    "syntax",
    [gdcm.TransferSyntax.JPEGLosslessProcess14_1, gdcm.TransferSyntax.JPEGBaselineProcess1, gdcm.TransferSyntax.JPEGExtendedProcess2_4],
)
def test_jpeg_of_each_process_decodes_as_pydicom_does(tmp_path: Path, syntax: int) -> None:
    wide = syntax == gdcm.TransferSyntax.JPEGExtendedProcess2_4
    ramp = np.add.outer(np.arange(64), np.arange(64))
    pixels = (ramp * 8).astype(np.uint16) if wide else ramp.astype(np.uint8)
    tags = {"BitsStored": 12, "HighBit": 11} if wide else {}
    save(image(pixels, "CR", "1", **tags), tmp_path, ["plain"])
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(tmp_path / "plain"))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    if not change.Change():
        pytest.skip("this gdcm can't encode the process")
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(tmp_path / "coded"))
    assert writer.Write()
    coded = pydicom.dcmread(tmp_path / "coded")
    if wide:  # no freely licensed plug-in decodes 12-bit lossy JPEG
        with pytest.raises(Refused, match="JPEG Extended"):
            decode(coded)
        return
    assert str(coded.file_meta.TransferSyntaxUID).startswith("1.2.840.10008.1.2.4.")
    decoded = decode(coded)
    assert np.array_equal(decoded, pydicom.dcmread(tmp_path / "coded").pixel_array)
    assert np.abs(decoded.astype(int) - pixels).max() <= (0 if syntax == gdcm.TransferSyntax.JPEGLosslessProcess14_1 else 4)


def test_files_that_pydicom_comes_with_are_worth_what_pydicom_says_and_warn_of_nothing() -> None:
    """Their syntaxes: all of JPEG, JPEG-LS, JPEG 2000, RLE and uncompressed; 1 to 64 bits, signed, float, RGB, YBR, palette."""
    seen, wrong, syntaxes = 0, [], set()
    for file in sorted((Path(pydicom.__file__).parent / "data/test_files").glob("*.dcm")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                reference = pydicom.dcmread(file, force=True)
                pixels = reference.pixel_array
                grey = pixels.ndim == 2 and reference.SamplesPerPixel == 1
                values = apply_modality_lut(pixels, reference) if grey else None
            except Exception:
                continue
            dataset = pydicom.dcmread(file, force=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                ours = decode(dataset)
                same = np.array_equal(ours, pixels)
                if values is not None:
                    same = same and np.array_equal(
                        modality_values(dataset, 0, ours), values.astype(np.float32 if values.dtype.kind == "f" else values.dtype)
                    )
                    assert display_values(dataset, ours).dtype == np.uint8
            except Refused as refused:
                wrong.append((file.name, refused.reason))
                continue
        seen += 1
        syntaxes.add(str(dataset.file_meta.TransferSyntaxUID))
        if not same:
            wrong.append((file.name, "differs"))
    assert not wrong
    assert seen >= 50
    assert len(syntaxes) >= 9


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.float32, np.float64])
def test_every_depth_keeps_its_values(tmp_path: Path, dtype: type) -> None:
    top = 1e6 if np.dtype(dtype).kind == "f" or np.dtype(dtype).itemsize == 4 else np.iinfo(dtype).max
    low = -top / 2 if np.dtype(dtype).kind in "if" else 0
    pixels = np.linspace(low, top, 64).astype(dtype).reshape(8, 8)
    save(image(pixels, "CR", "1"), tmp_path, ["one"])
    dataset = pydicom.dcmread(tmp_path / "one")
    stored = decode(dataset)
    assert stored.dtype == dtype
    assert np.array_equal(stored, pixels)
    assert np.array_equal(modality_values(dataset, 0, stored), pixels.astype(np.float32) if np.dtype(dtype).kind == "f" else pixels)
    (sample,), findings = ingested(tmp_path)
    assert not findings
    assert sample.image is not None
    assert (np.diff(sample.image.ravel().astype(int)) >= 0).all()
    assert sample.image.max() == 255


def test_one_bit_and_twelve_bit_pixels_are_unpacked(tmp_path: Path) -> None:
    bits = np.random.default_rng(0).integers(0, 2, (8, 16), dtype=np.uint8)
    one = image(bits, "OT", "1", BitsAllocated=1, BitsStored=1, HighBit=0, PixelData=np.packbits(bits, bitorder="little").tobytes())
    assert np.array_equal(decode(one), bits)
    signed = np.array([[-2048, -1, 0, 2047]], np.int16)
    twelve = image(signed, "CT", "2", BitsStored=12, HighBit=11, RescaleSlope=2, RescaleIntercept=-10)
    assert modality_values(twelve, 0, decode(twelve)).tolist() == [[-4106, -12, -10, 4084]]


def test_a_file_without_preamble_or_meta_information_is_read(tmp_path: Path, stored: np.ndarray) -> None:
    plain = image(stored[0], "CR", "1")
    save(plain, tmp_path / "whole", ["a"])
    (tmp_path / "bare").mkdir()
    bare = Dataset(plain)
    pydicom.dcmwrite(tmp_path / "bare/a", bare, implicit_vr=True, little_endian=True, enforce_file_format=False)
    assert (tmp_path / "bare/a").read_bytes()[128:132] != b"DICM"
    (whole,), _ = ingested(tmp_path / "whole")
    (other,), findings = ingested(tmp_path / "bare")
    assert not findings
    assert np.array_equal(whole.image, other.image)  # type: ignore[arg-type]


def test_compressed_images_that_claim_another_size_are_refused_before_decoding(stored: np.ndarray) -> None:
    for syntax, marker in ((JPEGLSLossless, b"\xff\xf7"), (JPEG2000Lossless, b"\xff\x51")):
        coded = image(np.tile(stored[0], (4, 4)), "CR", "1")
        coded.compress(syntax)
        at = coded.PixelData.index(marker) + (7 if syntax == JPEGLSLossless else 6)
        coded.PixelData = coded.PixelData[:at] + b"\x7f" + coded.PixelData[at + 1 :]
        with pytest.raises(Refused, match=r"the compressed image (is of|claims more)"):
            decode(coded)
    huge = image(stored[0], "CR", "1", Rows=60000, Columns=60000)
    with pytest.raises(Refused, match="the header claims 6866 MiB of pixels, more than the 2048 MiB accepted"):
        decode(huge)


def test_deflated_data_are_counted_before_they_are_unpacked(tmp_path: Path) -> None:
    deflated = image(np.zeros((1024, 1024), np.uint8), "CR", "1")
    deflated.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    save(deflated, tmp_path, ["deflated"])
    data = (tmp_path / "deflated").read_bytes()
    assert len(data) < 10_000
    refuse_bomb(data, 2 << 20)
    with pytest.raises(Refused, match="deflated data that unpack to more than the 1 MiB accepted"):
        refuse_bomb(data, 1 << 20)
