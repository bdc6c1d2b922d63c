"""Predictions of DICOM studies: SEG and SR refer to the images, say what the table says, and are read back as they were predicted."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pandas as pd
import predictors
import pydicom
import pytest
from dicom_files import enhanced, save
from predictors import RESNET, SALT, UNET, abdomen, ct_cohort, ct_study, nifti_cohort, picture_cohort, saved_run, xray, xray_cohort

from hepdist.inference.case import Case
from hepdist.inference.predictor import Predictor
from hepdist.inference.reading import Reading
from hepdist.inference.run import predict
from hepdist.ingest.pseudonym import Pseudonyms

salt, chest = predictors.salt, predictors.chest


@pytest.fixture(scope="module")
def liver(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("liver")
    return saved_run(folder / "liver", ct_cohort(folder), "segmentation", UNET)


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def predicted_mask(run: Path, source: Path) -> np.ndarray:
    predictor = Predictor([run])
    reading = Reading(str(source), predictor.signature, [], Pseudonyms(SALT.encode()))
    (item,) = reading.items
    (case,) = [found for found in reading.read(item) if isinstance(found, Case)]
    mask = predictor([predictor.upright(case)])[0].mask
    assert mask is not None
    return mask


def in_order(folder: Path) -> list[pydicom.Dataset]:
    """The series by position, as pydicom alone reads it."""
    return sorted((pydicom.dcmread(path) for path in folder.rglob("*") if path.is_file()), key=lambda d: float(d.ImagePositionPatient[2]))


def valid(path: Path) -> None:
    """As dciodvfy sees it, where it is installed (dicom3tools)."""
    if shutil.which("dciodvfy"):
        said = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
        assert [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")] == []


def test_a_segmentation_read_back_is_the_predicted_mask_on_the_series_own_planes(liver, tmp_path):
    ct_study(tmp_path / "in", 50)
    predict(str(liver), str(tmp_path / "in"), str(tmp_path / "out"))
    mask, source = predicted_mask(liver, tmp_path / "in"), in_order(tmp_path / "in")
    assert mask.any() and not mask.all()
    seg = hd.seg.segread(only(tmp_path / "out", "dicom/*.seg.dcm"))
    instances = [d.SOPInstanceUID for d in source]
    back = seg.get_pixels_by_source_instance(instances, combine_segments=True, assert_missing_frames_are_empty=True)
    np.testing.assert_array_equal(back, mask)
    assert seg.FrameOfReferenceUID == source[0].FrameOfReferenceUID
    assert (seg.PatientID, seg.StudyInstanceUID) == (source[0].PatientID, source[0].StudyInstanceUID)
    (segment,) = seg.SegmentSequence
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"  # SNOMED CT: liver
    sha256 = Predictor([liver]).members[0].sha256
    assert segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters == f"model sha256={sha256}"
    valid(only(tmp_path / "out", "dicom/*.seg.dcm"))


def test_the_report_says_the_volumes_of_the_table_and_refers_to_the_segments(liver, tmp_path):
    ct_study(tmp_path / "in", 50)
    table = predict(str(liver), str(tmp_path / "in"), str(tmp_path / "out")).table
    report = hd.sr.srread(only(tmp_path / "out", "dicom/*.sr.dcm"))
    seg = pydicom.dcmread(only(tmp_path / "out", "dicom/*.seg.dcm"))
    (group,) = report.content.get_volumetric_roi_measurement_groups()
    (measurement,) = group.get_measurements()
    voxel_ml = 2.5 * 0.5 * 0.75 / 1000
    voxels = np.count_nonzero(predicted_mask(liver, tmp_path / "in"))
    assert measurement.value == pytest.approx(voxels * voxel_ml, rel=1e-12)
    assert table["volume_ml_Liver"].item() == pytest.approx(measurement.value, rel=1e-12)
    assert (measurement.name.meaning, measurement.unit.value) == ("Volume", "ml")
    assert group.referenced_segment[0].referenced_sop_instance_uid == seg.SOPInstanceUID
    valid(only(tmp_path / "out", "dicom/*.sr.dcm"))


def test_an_enhanced_multi_frame_series_is_referenced_frame_by_frame(liver, tmp_path):
    values, _ = abdomen(50)
    save(enhanced(values), tmp_path / "in")  # its frames lie from the head down
    predict(str(liver), str(tmp_path / "in"), str(tmp_path / "out"))
    seg = hd.seg.segread(only(tmp_path / "out", "dicom/*.seg.dcm"))
    source = pydicom.dcmread(only(tmp_path / "in", "*"))
    back = seg.get_pixels_by_source_frame(
        source.SOPInstanceUID, list(range(1, 7)), combine_segments=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(back[::-1], predicted_mask(liver, tmp_path / "in"))
    ct_study(tmp_path / "plain", 50)
    np.testing.assert_array_equal(back[::-1], predicted_mask(liver, tmp_path / "plain"))


def test_where_two_members_differ_lies_on_the_series_own_planes_beside_the_objects(liver, tmp_path):
    ct_study(tmp_path / "in", 50)
    other = saved_run(tmp_path / "other", liver.parent / "cohort", "segmentation", UNET, seed=1)
    row = predict(f"{liver}+{other}", str(tmp_path / "in"), str(tmp_path / "out")).table.iloc[0]
    assert {"seg", "sr"} <= set(row.index) and "mask" not in row
    found = nib.load(tmp_path / "out" / row["entropy_map"])
    assert found.shape == (20, 16, 6)  # columns, rows and planes
    for number, plane in enumerate(in_order(tmp_path / "in")):  # patient coordinates of DICOM are LPS, of NIfTI RAS
        place = np.diag([-1, -1, 1]) @ np.array(plane.ImagePositionPatient, float)
        np.testing.assert_allclose((found.affine @ [0, 0, number, 1])[:3], place, atol=1e-4)
    assert 0.3 < found.get_fdata().max() <= np.log(2) + 1e-6
    ours, theirs = (predicted_mask(run, tmp_path / "in") > 0 for run in (liver, other))
    both = ours.sum() + theirs.sum()
    assert row["pairwise_dice_Liver"] == pytest.approx(2 * (ours & theirs).sum() / both, rel=0.02)  # on the model's grid, not the files'


def test_a_classifier_writes_probabilities_and_its_call_for_radiographs(chest, tmp_path):
    save([xray(number) for number in (30, 31, 32)], tmp_path / "in")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    summary = predict(str(chest), str(tmp_path / "in"), str(tmp_path / "out"))
    table = summary.table
    assert len(table) == 3
    np.testing.assert_allclose(table[["probability_normal", "probability_pneumonia"]].sum(axis=1), 1, atol=1e-6)
    assert (table["positive"] == (table["probability_pneumonia"] >= 0.5)).all()
    assert table["label"].tolist() == ["pneumonia" if positive else "normal" for positive in table["positive"]]
    for row in table.itertuples():
        report = hd.sr.srread(tmp_path / "out" / row.sr)
        groups = {group.finding_type.value: group for group in report.content.get_image_measurement_groups()}
        pneumonia = groups["233604007"]  # SNOMED CT
        assert pneumonia.get_measurements()[0].value == pytest.approx(row.probability_pneumonia, rel=1e-6)
        assert pneumonia.get_qualitative_evaluations()[0].value.meaning == ("Present" if row.positive else "Absent")
        valid(tmp_path / "out" / row.sr)
    audit = pd.read_parquet(tmp_path / "out/audit.parquet")
    assert sorted(audit["outcome"]) == ["predicted"] * 3 + ["quarantined"]
    assert sorted(path.name for path in (tmp_path / "out/overlays").iterdir()) == sorted(f"{name}.png" for name in table["sample_id"])


def test_a_model_of_sixteen_bits_is_shown_files_as_it_was_shown_rows(tmp_path):
    cohort = xray_cohort(tmp_path, display="uint16")
    run = saved_run(tmp_path / "run", cohort, "classification", RESNET, data={"cohort": str(cohort), "normalise": "none"})
    rows = pd.concat([pd.read_parquet(path, columns=["sample_id", "image"]) for path in (cohort / "shards").glob("*.parquet")])
    stored = {row.sample_id: np.frombuffer(row.image, np.uint16).reshape(1, 32, 32) for row in rows.itertuples()}
    assert max(image.max() for image in stored.values()) > 255
    predictor, names, shown = Predictor([run]), Pseudonyms(SALT.encode()), []
    reading = Reading(str(tmp_path / "cr"), predictor.signature, [], names)
    cases = [found for item in reading.items for found in reading.read(item) if isinstance(found, Case)]
    predictor.members[0].model.register_forward_pre_hook(lambda _, given: shown.append(given[0].numpy()))
    predictor(cases)
    for case, image in zip(cases, np.concatenate(shown), strict=True):
        np.testing.assert_allclose(image, stored[names.of("sample", case.sample.key)] / 65535, rtol=1e-6)


def test_a_case_has_the_sample_id_that_its_cohort_gives_it(liver, tmp_path):
    cohort = liver.parent / "cohort"
    ids = {i for path in (cohort / "shards").glob("*.parquet") for i in pd.read_parquet(path, columns=["sample_id"])["sample_id"]}
    shutil.copytree(liver.parent / "ct/study3", tmp_path / "in")
    table = predict(str(liver), str(tmp_path / "in"), str(tmp_path / "out")).table
    assert table["sample_id"].item() in ids


def test_a_radiograph_is_segmented_on_its_own_instance(tmp_path):
    cohort = tmp_path / "cohort"
    picture_cohort(tmp_path / "png", cohort)
    run = saved_run(tmp_path / "run", cohort, "segmentation", UNET)
    save(xray(60), tmp_path / "in")
    table = predict(str(run), str(tmp_path / "in"), str(tmp_path / "out")).table
    source = pydicom.dcmread(only(tmp_path / "in", "*"))
    seg = hd.seg.segread(tmp_path / "out" / table["seg"].item())
    back = seg.get_pixels_by_source_instance([source.SOPInstanceUID], combine_segments=True, ignore_spatial_locations=True)
    np.testing.assert_array_equal(back[0], predicted_mask(run, tmp_path / "in"))
    assert table["area_mm2_foreground"].item() == pytest.approx(np.count_nonzero(back) * 0.25)
    report = hd.sr.srread(tmp_path / "out" / table["sr"].item())
    (group,) = report.content.get_planar_roi_measurement_groups()
    assert group.get_measurements()[0].value == pytest.approx(np.count_nonzero(back) * 0.25)
    valid(tmp_path / "out" / table["sr"].item())


@pytest.mark.slow
def test_a_real_series_gets_a_segmentation_that_a_validator_accepts(shared_data, liver, tmp_path):
    import tarfile

    with tarfile.open(shared_data / "dicom_mr/study1_hcrop.tar.xz") as archive:
        archive.extractall(tmp_path / "in", filter="data")
    run = saved_run(tmp_path / "run", nifti_cohort(tmp_path), "segmentation", UNET)
    table = predict(str(run), str(tmp_path / "in"), str(tmp_path / "out")).table
    mask, source = predicted_mask(run, tmp_path / "in"), in_order(tmp_path / "in")
    seg = hd.seg.segread(tmp_path / "out" / table["seg"].item())
    instances = [d.SOPInstanceUID for d in source]
    back = seg.get_pixels_by_source_instance(instances, combine_segments=True, assert_missing_frames_are_empty=True)
    np.testing.assert_array_equal(back, mask)
    for column in ("seg", "sr"):
        valid(tmp_path / "out" / table[column].item())
