"""Pictures of every kind that hospitals and papers hold, and the chest X-rays of covid_cxr with their table: all become grey, or one reason why not."""

from __future__ import annotations

import csv
import io
import struct
import tarfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from salts import SALT

from hepdist.ingest.detect import open_source
from hepdist.ingest.files import Files
from hepdist.ingest.likeness import likeness_of
from hepdist.ingest.pictures import UnreadablePicture, class_indices, grey
from hepdist.ingest.pseudonym import Pseudonyms
from hepdist.ingest.sample import Finding, Sample
from hepdist.ingest.spec import IngestSpec
from hepdist.ingest.split import decide
from hepdist.ingest.stage import content_of
from hepdist.ingest.unite import Record

NAMES = Pseudonyms(SALT.encode())


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def read(source: Path, **options) -> tuple[list[Sample], list[Finding]]:
    """Samples and findings; every file is accounted for."""
    files = Files(source)
    opened = open_source(files, IngestSpec(**options))
    found = [*opened.findings, *(thing for item in opened.items for thing in opened.read(item))]
    samples = [thing for thing in found if isinstance(thing, Sample)]
    findings = [thing for thing in found if isinstance(thing, Finding)]
    assert {name for s in samples for name in s.files} | {f.file.split("#")[0] for f in findings} >= set(files.names)
    return samples, findings


@pytest.fixture(scope="module")
def covid(shared_data) -> tuple[list[Sample], list[Finding], list[dict[str, str]]]:
    table = shared_data / "covid_cxr/metadata.csv"
    samples, findings = read(shared_data / "covid_cxr/covid_cxr.tar", labels_table=str(table), label="finding", patient_key="patientid")
    with open(table, encoding="utf-8") as file:
        return samples, findings, list(csv.DictReader(file))


def test_covid_images_are_joined_with_their_rows_and_todo_stays_a_word_for_unlabelled(covid):
    samples, findings, rows = covid
    assert len(samples) == len(rows) == 116
    assert Counter((s.patient, Path(s.files[0]).name, s.label) for s in samples) == Counter(
        (r["patientid"], r["filename"], r["finding"]) for r in rows
    )
    assert sum(s.label in IngestSpec().unlabelled for s in samples) == 24
    assert len({s.key for s in samples}) == 116
    assert Counter((f.outcome, f.check) for f in findings) == {("ignored", "mask-unused"): 49}
    # 'January 25, 2020' and '2020' are days; '03/09/20', which may be two, is none
    assert {Path(s.files[0]).name for s in samples if s.date} <= {r["filename"] for r in rows if r["date"]}
    assert sum(s.date is not None for s in samples) == 75


def test_covid_grey_rgb_and_rgba_files_are_one_grey_channel_as_pillow_makes_it(shared_data, covid):
    by_name = {s.files[0]: s.image for s in covid[0]}
    modes: Counter[str] = Counter()
    with tarfile.open(shared_data / "covid_cxr/covid_cxr.tar") as archive:
        for name, image in by_name.items():
            picture = Image.open(archive.extractfile(name))
            modes[picture.mode] += 1
            np.testing.assert_array_equal(image[0], np.asarray(picture.convert("RGB").convert("L")))
    assert modes == {"L": 21, "RGB": 75, "RGBA": 17}


def test_covid_images_of_two_patients_never_straddle_a_split_under_any_salt(covid):
    samples = covid[0]
    for salt in range(20):
        names = Pseudonyms(f"salt number {salt}, long enough".encode())
        records = [
            Record(names.of("patient", s.patient), content_of(s.image), likeness_of(s.image) if salt < 2 else b"", str(s.label))
            for s in samples
        ]
        decision = decide(records, (6, 2, 2), names)
        where = [decision.splits[decision.leaders[r.person]] for r in records]
        of_image: dict[str, set[str]] = {}
        for sample, split in zip(samples, where, strict=True):
            of_image.setdefault(sample.files[0], set()).add(split)
        assert all(len(splits) == 1 for splits in of_image.values())
        # 285 and 339 share three files; 97 and 178 share four pictures that were encoded anew
        assert decision.rule["patients_merged"] == (2 if salt < 2 else 1)


def test_covid_masks_are_used_when_asked_for(shared_data):
    files = Files(shared_data / "covid_cxr/covid_cxr.tar")
    source = open_source(files, IngestSpec(labels_table=str(shared_data / "covid_cxr/metadata.csv"), masks="require"))
    masked = [item for item in source.items if item.mask]
    assert len({item.mask for item in masked}) == 49
    assert not source.findings
    for item in masked[::7]:
        (sample,) = source.read(item)
        assert sample.files == (item.image, item.mask)
        assert sample.mask.shape == sample.image.shape
        assert set(np.unique(sample.mask)) == {0, 1}


def test_two_rows_of_one_patient_that_differ_leave_the_image_unlabelled_and_rows_without_patient_are_told(tmp_path):
    for i in range(4):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (20, 16), dtype=np.uint8)).save(tmp_path / f"x{i}.png")
    (tmp_path / "t.csv").write_text("file,label,patient\nx0.png,a,1\nx0.png,b,1\nx1.png,a,2\nx1.png,a,2\nx2.png,b,\nx3.png,b,3,4\n")
    samples, findings = read(tmp_path)
    assert [(s.label, s.patient) for s in samples] == [(None, "1"), ("a", "2")]
    assert sorted((f.file, f.check) for f in findings if f.check) == [
        ("t.csv#2", "ambiguous"),
        ("t.csv#4", "duplicate-row"),
        ("t.csv#5", "no-patient-key"),
        ("t.csv#6", "ragged-row"),
        ("x2.png", "unknown-patient"),
        ("x3.png", "unknown-patient"),
    ]


RGB = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
LUMA = np.asarray(Image.fromarray(RGB).convert("L"))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_png_modes_become_what_pillow_calls_grey(mode):
    picture = Image.fromarray(RGB).convert(mode)
    expected = np.asarray(picture.convert("RGB").convert("L"))
    np.testing.assert_array_equal(grey(encoded(picture))[0], expected)


def test_sixteen_bits_are_kept_and_cmyk_is_near_its_rgb():
    deep = np.random.default_rng(1).integers(0, 65536, (7, 9)).astype(np.uint16)
    for kind in ("PNG", "TIFF"):
        found = grey(encoded(Image.fromarray(deep), kind))
        assert found.dtype == np.uint16
        np.testing.assert_array_equal(found[0], deep)
    smooth = Image.fromarray(RGB).resize((80, 96), Image.Resampling.BICUBIC)
    cmyk = grey(encoded(smooth.convert("CMYK"), "JPEG", quality=95))[0].astype(int)
    assert np.abs(cmyk - np.asarray(smooth.convert("L"))).mean() < 3


def test_exif_orientation_turns_the_picture_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # the top is at the right
    np.testing.assert_array_equal(grey(encoded(Image.fromarray(LUMA), exif=exif))[0], np.rot90(LUMA, -1))


def test_pages_and_frames_are_refused_not_cut_to_the_first():
    pages = [Image.fromarray(LUMA), Image.fromarray(LUMA[::-1].copy())]
    for kind in ("TIFF", "PNG"):
        with pytest.raises(UnreadablePicture, match="holds 2 pages or frames; save each as a file of its own") as refused:
            grey(encoded(pages[0], kind, save_all=True, append_images=pages[1:]))
        assert refused.value.check == "unsupported"


def test_a_bomb_is_refused_by_its_header_and_a_program_is_no_picture():
    small = bytearray(encoded(Image.new("1", (8, 8))))
    small[16:24] = struct.pack(">II", 60_000, 60_000)  # IHDR: width, height
    small[29:33] = struct.pack(">I", zlib.crc32(small[12:29]))
    with pytest.raises(UnreadablePicture, match="has more than 89478485 pixels") as refused:
        grey(bytes(small))
    assert refused.value.check == "unsupported"
    text = PngImagePlugin.PngInfo()
    text.add_text("note", "x" * (4 << 20), zip=True)
    with pytest.raises(UnreadablePicture):
        grey(encoded(Image.fromarray(LUMA), pnginfo=text))
    with pytest.raises(UnreadablePicture) as program:
        grey(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    assert program.value.check == "not-an-image"


def test_palette_masks_are_their_indices():
    picture = Image.fromarray(np.array([[0, 1, 2], [3, 200, 0]], np.uint8), "P")
    picture.putpalette([v for k in range(256) for v in (k, 255 - k, 7)])
    assert class_indices(encoded(picture))[0].tolist() == [[0, 1, 2], [3, 200, 0]]


def test_a_mask_of_another_size_is_quarantined_with_its_image(tmp_path):
    for i in range(3):
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(LUMA).save(tmp_path / f"{i}.png")
        Image.fromarray(((LUMA if i else LUMA[:-1]) // 128 * 255).astype(np.uint8)).save(tmp_path / f"masks/{i}.png")
    samples, findings = read(tmp_path)
    assert len(samples) == 2
    assert [(f.file, f.check) for f in findings] == [("masks/0.png", "geometry"), ("0.png", "unpaired")]
