"""Restored images: what the generator of a run with a critic gives, on the file's own grid; of DICOM a derived image of the same patient."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import predictors
import pydicom
import pytest
import torch
from dicom_files import save
from PIL import Image
from predictors import ct_cohort, ct_study, nifti_cohort, picture_cohort, saved_run, xray, xray_cohort

from hepdist.augment import normalise
from hepdist.cli import main
from hepdist.inference.run import predict
from hepdist.training.saved_model import load_model

RESTORER = {"family": "restorer", "width": 4, "encoder": [1], "middle": 1, "decoder": [1], "dropout": 0.1}
SECTIONS = {"degrade": {"kinds": ["noise"]}, "adversary": {"weight": 0.01, "width": 8, "layers": 1}}


salt = predictors.salt


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    picture_cohort(folder / "png", folder / "cohort")
    return saved_run(folder / "run", folder / "cohort", "restoration", RESTORER, **SECTIONS)


def restored(run: Path, image: np.ndarray) -> np.ndarray:
    """float32[C, *spatial] in the unit of image[C, *spatial], which has the model's size; by plain PyTorch."""
    model, recipe, signature = load_model(run)
    batch = normalise({"image": torch.from_numpy(image[None])}, recipe.data.normalise, signature.normalisation)
    stats = signature.normalisation["image"]
    with torch.no_grad():
        return (model(batch["image"]) * stats["std"][0] + stats["mean"][0])[0].numpy()


def test_a_picture_is_restored_in_its_own_grey_values_and_size(pictures, tmp_path):
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    square, wide = rng.integers(40, 200, (32, 32), dtype=np.uint8), rng.integers(0, 255, (50, 70), dtype=np.uint8)
    Image.fromarray(square).save(tmp_path / "in/a.png")
    Image.fromarray(wide).save(tmp_path / "in/b.png")
    summary = predict(str(pictures), str(tmp_path / "in"), str(tmp_path / "out"), ["tta=false"])
    found = {image.shape: image for name in summary.table["restored"] for image in [np.asarray(Image.open(tmp_path / "out" / name))]}
    assert set(found) == {(32, 32), (50, 70)} and {image.dtype for image in found.values()} == {np.dtype(np.uint8)}
    want = np.rint(restored(pictures, square[None])[0].clip(0, 255))
    np.testing.assert_allclose(found[32, 32], want, atol=1)  # a half may be rounded either way
    assert np.abs(want - square).max() > 1, "a model that changes nothing would prove nothing"
    assert {"label", "mask", "volume_ml_foreground", "entropy_map"}.isdisjoint(summary.table)
    assert "restored image" in (tmp_path / "out/index.html").read_text(encoding="utf-8")
    panels = {Image.open(tmp_path / "out" / name).width for name in summary.table["overlay"]}
    assert panels == {2 * 360 + 6}, "the restored image stands beside its source"


def test_a_radiograph_becomes_a_derived_image_of_the_same_patient_and_study(tmp_path):
    run = saved_run(tmp_path / "run", xray_cohort(tmp_path), "restoration", RESTORER, **SECTIONS)
    save(xray(60), tmp_path / "in")
    row = predict(str(run), str(tmp_path / "in"), str(tmp_path / "out")).table.iloc[0]
    made, source = pydicom.dcmread(tmp_path / "out" / row["derived"]), pydicom.dcmread(next((tmp_path / "in").iterdir()))
    assert (made.PatientID, made.StudyInstanceUID) == (source.PatientID, source.StudyInstanceUID)
    assert made.SeriesInstanceUID != source.SeriesInstanceUID and made.SOPInstanceUID != source.SOPInstanceUID
    assert list(made.ImageType) == ["DERIVED", "SECONDARY"] and "model sha256" in made.DerivationDescription
    assert made.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert made.pixel_array.shape == source.pixel_array.shape
    np.testing.assert_array_equal(made.pixel_array, np.asarray(Image.open(tmp_path / "out" / row["restored"])))
    assert row["note"] == ""


def test_a_volume_is_restored_on_the_grid_of_its_file_whichever_way_it_lies(tmp_path):
    run = saved_run(tmp_path / "run", nifti_cohort(tmp_path), "restoration", RESTORER, **SECTIONS)
    plain = nib.load(tmp_path / "nii/imagesTr/case3.nii.gz")
    turn = nib.orientations.ornt_transform(nib.io_orientation(plain.affine), nib.orientations.axcodes2ornt("PIR"))
    (tmp_path / "in").mkdir()
    nib.save(plain.as_reoriented(turn), tmp_path / "in/case3.nii.gz")
    row = predict(str(run), str(tmp_path / "in"), str(tmp_path / "out"), ["tta=false"]).table.iloc[0]
    found = nib.load(tmp_path / "out" / row["restored"])
    np.testing.assert_array_equal(found.affine, plain.as_reoriented(turn).affine)
    # ingest turns a volume so that D runs to the head, H to the back and W to the left
    lying = plain.as_reoriented(nib.orientations.axcodes2ornt("LPS"))
    want = restored(run, np.ascontiguousarray(np.asarray(lying.dataobj).transpose(2, 1, 0))[None])[0].transpose(2, 1, 0)
    own = nib.Nifti1Image(want, lying.affine)
    there = nib.orientations.ornt_transform(nib.io_orientation(own.affine), nib.io_orientation(found.affine))
    np.testing.assert_allclose(np.asarray(found.dataobj).reshape(found.shape[:3]), np.asarray(own.as_reoriented(there).dataobj), atol=1e-2)


def test_a_ct_series_is_restored_in_hounsfield_units_as_nifti_where_its_planes_are(tmp_path):
    run = saved_run(tmp_path / "run", ct_cohort(tmp_path, (12, 16, 20)), "restoration", RESTORER, **SECTIONS)
    ct_study(tmp_path / "in", 50, (12, 16, 20))
    row = predict(str(run), str(tmp_path / "in"), str(tmp_path / "out")).table.iloc[0]
    found = nib.load(tmp_path / "out" / row["restored"])
    planes = sorted((pydicom.dcmread(p) for p in (tmp_path / "in/study50").iterdir()), key=lambda d: float(d.ImagePositionPatient[2]))
    assert found.shape[:3] == (20, 16, 12)
    for number, plane in enumerate(planes):  # patient coordinates of DICOM are LPS, of NIfTI RAS
        place = np.diag([-1, -1, 1]) @ np.array(plane.ImagePositionPatient, float)
        np.testing.assert_allclose((found.affine @ [0, 0, number, 1])[:3], place, atol=1e-4)
    assert "derived" not in row
    assert -300 < np.asarray(found.dataobj).mean() < 300, "in Hounsfield units, as its source"


def test_passes_with_dropout_are_refused_for_restored_images(pictures, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "in/a.png")
    assert main(["predict", str(pictures), str(tmp_path / "in"), str(tmp_path / "out"), "dropout_samples=3"]) == 2
    assert "restores images, of which it says nothing" in " ".join(capsys.readouterr().err.split())
