"""Masks as pictures: what is one structure, what are class indices, and what nobody can tell apart without being told."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from hepdist.ingest.detect import open_source
from hepdist.ingest.files import Files
from hepdist.ingest.pictures import UnreadablePicture, class_indices
from hepdist.ingest.sample import Finding, Sample
from hepdist.ingest.spec import IngestSpec


def encoded(pixels: np.ndarray, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def scene(*levels: int) -> np.ndarray:
    """uint8[40, 40]: background and a square of 10 pixels a side for each level."""
    pixels = np.zeros((40, 40), np.uint8)
    for place, level in enumerate(levels):
        pixels[5:15, 3 + 12 * place : 13 + 12 * place] = level
    return pixels


def colours(*each: tuple[int, int, int]) -> np.ndarray:
    pixels = np.zeros((40, 40, 3), np.uint8)
    for place, colour in enumerate(each):
        pixels[5:15, 3 + 12 * place : 13 + 12 * place] = colour
    return pixels


@pytest.mark.parametrize("levels", [(128, 255), (100, 200), (64, 128, 255)])
def test_several_grey_levels_that_fill_areas_are_refused(levels):
    with pytest.raises(UnreadablePicture, match=rf"^its mask has areas of {1 + len(levels)} grey levels; what each is isn't said") as error:
        class_indices(encoded(scene(*levels)))
    assert error.value.check == "label-unknown"


def test_several_levels_of_16_bits_are_refused_too():
    with pytest.raises(UnreadablePicture, match="areas of 3 grey levels"):
        class_indices(encoded(scene(1, 2).astype(np.uint16) * 1000))
    assert np.array_equal(class_indices(encoded(scene(1).astype(np.uint16) * 1000))[0], scene(1))


@pytest.mark.parametrize("level", [255, 200, 128])
def test_one_level_above_half_is_one_structure(level):
    assert np.array_equal(class_indices(encoded(scene(level)))[0], scene(1))


def test_class_indices_stay_as_they_are():
    assert np.array_equal(class_indices(encoded(scene(1, 2, 3)))[0], scene(1, 2, 3))
    assert np.array_equal(class_indices(encoded(scene(50, 100)))[0], scene(50, 100))


def test_smoothing_and_compression_are_no_structures():
    smooth = np.asarray(Image.fromarray(scene(255)).resize((173, 173), Image.Resampling.BICUBIC))
    assert len(np.unique(smooth)) > 20
    assert np.array_equal(class_indices(encoded(smooth))[0], smooth > 127)
    halved = np.asarray(Image.fromarray(scene(255)).resize((20, 20), Image.Resampling.BOX))
    assert set(np.unique(halved)) >= {0, 255}
    assert np.array_equal(class_indices(encoded(halved))[0], halved > 127)
    jpeg = class_indices(encoded(scene(255), "JPEG", quality=60))[0]
    assert (jpeg != scene(1)).mean() < 0.01


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 0, 255), (120, 200, 40)])
def test_one_colour_on_black_is_one_structure(colour):
    assert np.array_equal(class_indices(encoded(colours(colour)))[0], scene(1))
    jpeg = class_indices(encoded(colours(colour), "JPEG", quality=90, subsampling=0))[0]
    assert (jpeg != scene(1)).mean() < 0.02


@pytest.mark.parametrize("second", [(0, 255, 0), (255, 255, 255), (0, 0, 160)])
def test_several_colours_are_refused(second):
    with pytest.raises(UnreadablePicture, match=r"^its mask has areas of several colours; what each is isn't said"):
        class_indices(encoded(colours((255, 0, 0), second)))


def lines(*levels: int | tuple[int, int, int]) -> np.ndarray:
    """Lines of one pixel, which have no inside, as vessels are drawn."""
    picture = Image.new("L" if isinstance(levels[0], int) else "RGB", (64, 64))
    for place, level in enumerate(levels):
        ImageDraw.Draw(picture).line((5, 5 + 20 * place, 60, 20 + 20 * place), level, 1)
    return np.asarray(picture)


@pytest.mark.parametrize(
    ("drawn", "reason"),
    [
        (lines(128, 255), "areas of 3 grey levels"),
        (lines((255, 0, 0), (0, 0, 255)), "areas of several colours"),
        (np.maximum(np.pad(np.full((30, 30), 255, np.uint8), 17), lines(128)), "areas of 3 grey levels"),
        (
            np.maximum(colours((255, 0, 0)), np.pad(np.full((3, 3, 3), (0, 255, 0), np.uint8), ((30, 7), (30, 7), (0, 0)))),
            "several colours",
        ),
    ],
)
def test_vessels_and_nodules_too_small_for_an_inside_are_structures(drawn: np.ndarray, reason: str):
    with pytest.raises(UnreadablePicture, match=reason):
        class_indices(encoded(drawn))


@pytest.mark.parametrize("method", [Image.Resampling.BILINEAR, Image.Resampling.HAMMING])
@pytest.mark.parametrize("colour", [None, (255, 0, 0)])
def test_edges_of_few_levels_are_no_structures(method: Image.Resampling, colour: tuple[int, int, int] | None):
    source = scene(255) if colour is None else colours(colour)
    smooth = np.asarray(Image.fromarray(source).resize((80, 80), method))
    bright = smooth if colour is None else smooth.max(axis=2)
    assert 3 < len(np.unique(bright)) <= 16
    assert np.array_equal(class_indices(encoded(smooth))[0], bright > 127)


@pytest.mark.parametrize("drawn", [lines(255), lines((0, 200, 0))])
def test_lines_of_one_level_are_one_structure(drawn: np.ndarray):
    assert np.array_equal(class_indices(encoded(drawn))[0], (drawn if drawn.ndim == 2 else drawn.max(axis=2)) > 0)


def test_grey_saved_as_rgb_is_grey():
    assert np.array_equal(class_indices(encoded(np.repeat(scene(255)[..., None], 3, axis=2)))[0], scene(1))
    assert np.array_equal(class_indices(encoded(np.repeat(scene(1, 2)[..., None], 3, axis=2)))[0], scene(1, 2))


def test_an_image_whose_mask_nobody_understands_is_quarantined_with_it(tmp_path: Path):
    for i in range(4):
        (tmp_path / "masks").mkdir(exist_ok=True)
        noise = np.random.default_rng(i).integers(0, 256, (40, 40), dtype=np.uint8)
        (tmp_path / f"c{i}.png").write_bytes(encoded(noise))
        (tmp_path / f"masks/c{i}.png").write_bytes(encoded(scene(128, 255) if i == 2 else scene(255)))
    source = open_source(Files(tmp_path), IngestSpec())
    found = [*source.findings, *(thing for item in source.items for thing in source.read(item))]
    assert [f.files[0] for f in found if isinstance(f, Sample)] == ["c0.png", "c1.png", "c3.png"]
    assert sorted((f.file, f.check) for f in found if isinstance(f, Finding)) == [("c2.png", "unpaired"), ("masks/c2.png", "label-unknown")]


def test_no_mask_of_real_lungs_is_refused(shared_data):
    with tarfile.open(shared_data / "cxr_lung_masks/cxr_lung_masks.tar") as archive:
        masks = [archive.extractfile(n).read() for n in archive.getnames() if n.startswith("masks/") and n.endswith(".png")]
    assert len(masks) > 100
    assert {int(class_indices(mask).max()) for mask in masks} == {1}
