"""What becomes of DICOM files that can not or may not be ingested: each is accounted for, and no reason names anybody."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from dicom_files import image, ingested, outcomes, save, slices, stored_values, uid

from hepdist.errors import IngestError
from hepdist.ingest.dicom import DicomSource
from hepdist.ingest.dicom_refused import muted, quiet
from hepdist.ingest.files import Files


@pytest.fixture
def stored() -> np.ndarray:
    """uint16[6, 8, 10] stored values, 1024 above their HU."""
    return stored_values()


def test_bad_files_end_in_the_audit_with_their_reason_and_the_rest_is_read(tmp_path: Path) -> None:
    pixels = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    save(image(pixels, "CR", "good"), tmp_path, ["good"])
    save(image(pixels, "CR", "burned", BurnedInAnnotation="YES"), tmp_path, ["burned"])
    save(image(pixels, "OT", "capture", SOPClassUID="1.2.840.10008.5.1.4.1.1.7"), tmp_path, ["capture"])
    save(image(np.full((4, 4), np.nan, np.float32), "CR", "nan"), tmp_path, ["nan"])
    save(image(pixels, "CR", "no study", StudyInstanceUID=None), tmp_path, ["nobody"])
    save(image(pixels, "MR", "mr"), tmp_path, ["mr"])
    save(image(pixels, "CR", "cine", NumberOfFrames=2, PixelData=pixels.tobytes() * 2), tmp_path, ["cine"])
    report = image(pixels, "CR", "report", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11", Rows=None, Columns=None, PixelData=None)
    save(report, tmp_path, ["report"])
    whole = (tmp_path / "good").read_bytes()
    (tmp_path / "cut").write_bytes(whole.replace(image(pixels, "CR", "good").SOPInstanceUID.encode(), uid("cut").encode()[:64])[:-100])
    (tmp_path / "cut header").write_bytes(whole[:300])
    (tmp_path / "notes.dcm").write_text("The patient's name is CANARY.")
    (tmp_path / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (tmp_path / "empty").write_bytes(b"")
    bad = image(pixels, "CR", "unknown syntax")
    save(bad, tmp_path, ["syntax"])
    (tmp_path / "syntax").write_bytes((tmp_path / "syntax").read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.4\0"))
    samples, findings = ingested(tmp_path)
    assert [s.files for s in samples] == [("good",)]
    assert {f.file: (f.outcome, f.check) for f in findings} == {
        "burned": ("quarantined", "burned-in"),
        "capture": ("ignored", "modality"),
        "nan": ("quarantined", "nan"),
        "nobody": ("quarantined", "no-identity"),
        "mr": ("ignored", "modality"),
        "cine": ("quarantined", "multi-frame"),
        "report": ("ignored", "no-image"),
        "cut": ("quarantined", "truncated"),
        "cut header": ("quarantined", "truncated"),
        "notes.dcm": ("quarantined", "not-dicom"),
        ".DS_Store": ("ignored", "hidden-file"),
        "empty": ("quarantined", "empty"),
        "syntax": ("quarantined", "decode"),
    }
    assert "8092 bytes of pixel data where 8192 are declared" in {f.reason for f in findings}
    samples, _ = ingested(tmp_path, allow_burned_in=True)
    assert {s.files for s in samples} == {("good",), ("burned",)}


def test_one_damaged_slice_takes_its_series_along_and_both_are_named(tmp_path: Path, stored: np.ndarray) -> None:
    names = [f"slice{i}" for i in range(6)]
    save(slices(stored), tmp_path, names)
    (tmp_path / "slice3").write_bytes((tmp_path / "slice3").read_bytes()[:-10])
    samples, findings = ingested(tmp_path)
    assert not samples
    assert {f.file: f.check for f in findings} == {n: "truncated" if n == "slice3" else "incomplete" for n in names}


def test_copies_count_once_and_differing_files_of_one_uid_not_at_all(tmp_path: Path) -> None:
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    save(image(pixels, "CR", "1"), tmp_path, ["a"])
    (tmp_path / "b").write_bytes((tmp_path / "a").read_bytes())
    save([image(pixels, "CR", "2"), image(pixels + 1, "CR", "2")], tmp_path, ["c", "d"])
    samples, findings = ingested(tmp_path)
    assert [s.files for s in samples] == [("a",)]
    assert {f.file: (f.outcome, f.check) for f in findings} == {
        "b": ("ignored", "duplicate"),
        "c": ("quarantined", "duplicate"),
        "d": ("quarantined", "duplicate"),
    }


def test_series_of_two_patients_is_refused(tmp_path: Path, stored: np.ndarray) -> None:
    series = slices(stored)
    series[0].PatientID = "P2"
    save(series, tmp_path)
    samples, findings = ingested(tmp_path)
    assert not samples
    assert outcomes(findings) == {("quarantined", "identity")}


def test_commonest_modality_by_studies_is_kept_unless_one_is_asked_for(tmp_path: Path, stored: np.ndarray) -> None:
    save(slices(stored), tmp_path)
    save([image(stored[0], "CR", "1", study="2"), image(stored[0], "DX", "2", study="3")], tmp_path)
    assert DicomSource(Files(tmp_path)).modality == "CR"
    assert len(DicomSource(Files(tmp_path), modality="ct").items) == 1
    with pytest.raises(IngestError, match="ingest key 'modality' is 'MR', which no DICOM image of the source has; it has CR, CT"):
        DicomSource(Files(tmp_path), modality="MR")


def test_no_reason_quotes_a_name_or_an_identifier(tmp_path: Path, stored: np.ndarray) -> None:
    canary = {
        "patient": "CANARY1",
        "PatientName": "CANARY2",
        "Modality": "CANARY3",
        "PhotometricInterpretation": "CANARY4",
        "ImageType": ["CANARY5"],
    }
    save(image(stored[0], "CR", "1", **canary), tmp_path, ["CANARY6"])
    save(image(stored[0], "CR", "2", WindowWidth=0, WindowCenter=1, StudyDescription="CANARY7"), tmp_path, ["CANARY8"])
    save(slices(stored[[0, 1, 3]], series="CANARY9"), tmp_path)
    (tmp_path / "CANARY10.dcm").write_text("CANARY11")
    for modality in ("CR", "CT"):
        _, findings = ingested(tmp_path, modality=modality)
        assert findings
        assert not any("CANARY" in f.reason + f.check for f in findings)


@pytest.mark.parametrize("modality", ["CR", "US", "OT", "CT", "MR", "NM"])
def test_zoo_is_accounted_for_whatever_is_asked_of_it(shared_data: Path, modality: str) -> None:
    archive = shared_data / "dicom_zoo/pydicom_data_dev.tar.xz"
    samples, findings = ingested(archive, modality=modality, allow_burned_in=True, least_slices=1)
    assert samples
    assert all(f.reason for f in findings)


@pytest.mark.parametrize("state", [quiet, muted])
def test_blocks_that_threads_are_in_at_once_leave_the_process_as_it_was(state):
    """Left in another order than nested ones would be: the first one to begin ends first."""
    before = logging.root.manager.disable, os.fstat(2).st_ino
    inside, leave = threading.Barrier(3), [threading.Event(), threading.Event()]

    def work(number: int) -> None:
        with state():
            inside.wait(10)
            leave[number].wait(10)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    inside.wait(10)
    for event, thread in zip(leave, threads, strict=True):
        assert (logging.root.manager.disable, os.fstat(2).st_ino) != before
        event.set()
        thread.join(10)
    assert (logging.root.manager.disable, os.fstat(2).st_ino) == before
