"""Predictions of NIfTI, pictures and cohorts; restarts, refusals, ensembles; and that nothing but DICOM objects says who somebody is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import canary_files
import nibabel as nib
import numpy as np
import pandas as pd
import predictors
import pytest
from canaries import Canaries, listening, search
from dicom_files import save
from PIL import Image
from predictors import RESNET, UNET, ct_cohort, ct_study, nifti_cohort, picture_cohort, saved_run, xray

from hepdist.cli import main
from hepdist.errors import RunError
from hepdist.inference.predictor import Predictor
from hepdist.inference.run import predict
from hepdist.ingest import ingest
from hepdist.jobs.order import order

salt, chest = predictors.salt, predictors.chest


@pytest.fixture(scope="module")
def volumes(tmp_path_factory) -> Path:
    """A run on NIfTI volumes, beside its cohort and its source."""
    folder = tmp_path_factory.mktemp("volumes")
    return saved_run(folder / "run", nifti_cohort(folder), "segmentation", UNET)


def radiographs(folder: Path, count: int = 3) -> Path:
    save([xray(number) for number in range(40, 40 + count)], folder)
    return folder


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR"])
def test_a_nifti_mask_has_the_shape_and_affine_of_its_file_whichever_way_it_lies(volumes, tmp_path, axes):
    plain = nib.load(volumes.parent / "nii/imagesTr/case3.nii.gz")
    turn = nib.orientations.ornt_transform(nib.io_orientation(plain.affine), nib.orientations.axcodes2ornt(axes))
    turned = plain.as_reoriented(turn)
    (tmp_path / "in").mkdir()
    nib.save(turned, tmp_path / "in/case3.nii.gz")
    row = predict(str(volumes), str(tmp_path / "in"), str(tmp_path / "out")).table.iloc[0]
    mask = nib.load(tmp_path / "out" / row["mask"])
    assert mask.shape == turned.shape
    np.testing.assert_array_equal(mask.affine, turned.affine)
    assert mask.get_data_dtype() == np.uint8
    voxels = np.asarray(mask.dataobj)
    assert row["volume_ml_liver"] == pytest.approx(np.count_nonzero(voxels) / 1000)
    # the same voxels of the patient, however the file lies
    (tmp_path / "plain").mkdir()
    nib.save(plain, tmp_path / "plain/case3.nii.gz")
    other = predict(str(volumes), str(tmp_path / "plain"), str(tmp_path / "out2")).table.iloc[0]
    want = nib.load(tmp_path / "out2" / other["mask"]).as_reoriented(turn)
    np.testing.assert_array_equal(voxels, np.asarray(want.dataobj))


def test_a_cohort_gives_the_volumes_that_its_source_gives(volumes, tmp_path):
    of_files = predict(str(volumes), str(volumes.parent / "nii/imagesTr"), str(tmp_path / "files"), ["overlays=false"]).table
    of_rows = predict(str(volumes), str(volumes.parent / "cohort"), str(tmp_path / "rows"), ["overlays=false"]).table
    pd.testing.assert_series_equal(*(t.sort_values("volume_ml_liver", ignore_index=True)["volume_ml_liver"] for t in (of_files, of_rows)))
    test = predict(str(volumes), str(volumes.parent / "cohort"), str(tmp_path / "test"), ["overlays=false"], split="test").table
    assert len(test) == 2 and set(test["sample_id"]) < set(of_rows["sample_id"])


def test_pictures_get_masks_of_their_size(tmp_path):
    picture_cohort(tmp_path / "png", tmp_path / "cohort")
    run = saved_run(tmp_path / "run", tmp_path / "cohort", "segmentation", UNET)
    (tmp_path / "in").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70), dtype=np.uint8)).save(tmp_path / "in/a.png")
    row = predict(str(run), str(tmp_path / "in"), str(tmp_path / "out")).table.iloc[0]
    mask = np.asarray(Image.open(tmp_path / "out" / row["mask"]))
    assert mask.shape == (50, 70)
    assert set(np.unique(mask)) <= {0, 1}


def test_the_same_command_leaves_finished_cases_alone_and_takes_up_new_and_changed_ones(chest, tmp_path):
    source, out = radiographs(tmp_path / "in"), tmp_path / "out"
    first = predict(str(chest), str(source), str(out)).table
    before = {path: path.stat().st_mtime_ns for path in (out / "dicom").iterdir()}
    again = predict(str(chest), str(source), str(out)).table
    pd.testing.assert_frame_equal(first, again)
    assert {path: path.stat().st_mtime_ns for path in (out / "dicom").iterdir()} == before
    save([xray(50)], source, ["new"])
    more = predict(str(chest), str(source), str(out)).table
    assert len(more) == 4
    assert all((path.stat().st_mtime_ns == time) for path, time in before.items())
    changed = sorted(source.iterdir())[0]
    data = bytearray(changed.read_bytes())
    data[-500] ^= 0x55
    changed.write_bytes(bytes(data))
    predict(str(chest), str(source), str(out))
    assert sum(path.stat().st_mtime_ns != time for path, time in before.items()) == 1


def test_files_of_cases_that_are_gone_go_with_them_and_come_back_with_them(chest, tmp_path):
    source, out = radiographs(tmp_path / "in"), tmp_path / "out"
    whole = predict(str(chest), str(source), str(out)).table
    gone = sorted(source.iterdir())[0]
    kept = gone.read_bytes()
    gone.unlink()
    fewer = predict(str(chest), str(source), str(out)).table
    assert len(fewer) == 2
    for folder, column in (("overlays", "overlay"), ("dicom", "sr")):
        assert {f"{folder}/{path.name}" for path in (out / folder).iterdir()} == set(fewer[column])
    gone.write_bytes(kept)
    pd.testing.assert_frame_equal(predict(str(chest), str(source), str(out)).table, whole)
    assert all((out / name).is_file() for column in ("overlay", "sr") for name in whole[column])


def test_an_output_inside_the_input_is_refused(chest, tmp_path, capsys):
    source = radiographs(tmp_path / "in")
    assert main(["predict", str(chest), str(source), str(source / "out")]) == 1
    assert "lies inside the input, which would be read with it the next time; choose a folder beside" in capsys.readouterr().err
    assert not (source / "out").exists()


def test_a_cohort_that_was_ingested_anew_is_predicted_anew(tmp_path):
    picture_cohort(tmp_path / "png", tmp_path / "cohort")
    run = saved_run(tmp_path / "run", tmp_path / "cohort", "segmentation", UNET)
    arguments = (str(run), str(tmp_path / "cohort"), str(tmp_path / "out"), ["overlays=false"])
    assert len(predict(*arguments).table) == 10
    for number in range(10):
        if number % 2:
            (tmp_path / f"png/images/{number}.png").unlink()
            (tmp_path / f"png/masks/{number}.png").unlink()
    shutil.rmtree(tmp_path / "cohort")
    ingest(str(tmp_path / "png"), str(tmp_path / "cohort"), ["near_identical=false"])
    again = predict(*arguments).table
    assert len(again) == 5
    pd.testing.assert_frame_equal(again, predict(arguments[0], arguments[1], str(tmp_path / "fresh"), arguments[3]).table)


def test_a_case_that_was_cut_off_is_done_again(chest, tmp_path, monkeypatch):
    from hepdist.inference import outputs

    source, out = radiographs(tmp_path / "in"), tmp_path / "out"
    whole = predict(str(chest), str(source), str(tmp_path / "undisturbed")).table
    calls = 0

    def dying(self, *arguments):
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return drawn(self, *arguments)

    drawn = outputs.Outputs._overlay
    monkeypatch.setattr(outputs.Outputs, "_overlay", dying)
    with pytest.raises(KeyboardInterrupt):
        predict(str(chest), str(source), str(out))
    monkeypatch.setattr(outputs.Outputs, "_overlay", drawn)
    assert not (out / "predictions.parquet").exists()
    assert [path for path in out.rglob("*") if path.name.endswith(".part")] == []
    pd.testing.assert_frame_equal(predict(str(chest), str(source), str(out)).table, whole)


def test_another_model_input_or_option_is_refused_in_one_sentence(chest, tmp_path, capsys):
    source, out = radiographs(tmp_path / "in"), tmp_path / "out"
    predict(str(chest), str(source), str(out))
    other = saved_run(tmp_path / "other", chest.parent / "cohort", "classification", RESNET, seed=1)
    for arguments, words in (
        ((other, source), "predictions by another model"), ((chest, radiographs(tmp_path / "in2")), "predictions of another input"),
        ((chest, source, "tta=false"), "predictions with other options"),
    ):  # fmt: skip
        assert main(["predict", *map(str, arguments[:2]), str(out), *arguments[2:]]) == 1
        assert words in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("")
    assert main(["predict", str(chest), str(source), str(tmp_path / "full")]) == 1
    assert main(["predict", str(chest), str(source), str(tmp_path / "new"), "ovrlays=false"]) == 2
    assert "did you mean 'overlays'" in capsys.readouterr().err


def test_an_ensemble_answers_with_the_mean_and_says_how_far_its_members_differ(chest, tmp_path):
    source = radiographs(tmp_path / "in")
    other = saved_run(tmp_path / "other", chest.parent / "cohort", "classification", RESNET, seed=1)
    columns = ["probability_normal", "probability_pneumonia"]
    one, two, both = (
        predict(runs, str(source), str(tmp_path / name), ["overlays=false"]).table
        for runs, name in ((str(chest), "a"), (str(other), "b"), (f"{chest}+{other}", "c"))
    )
    np.testing.assert_allclose(both[columns], (one[columns] + two[columns]) / 2, atol=1e-6)
    apart = np.stack([one["probability_pneumonia"], two["probability_pneumonia"]]).std(axis=0)
    np.testing.assert_allclose(both["uncertainty"], apart, atol=1e-6)
    assert "uncertainty" not in one


def test_a_fitted_temperature_scales_probabilities_and_changes_no_call(chest, tmp_path):
    source = radiographs(tmp_path / "in", 6)
    plain = predict(str(chest), str(source), str(tmp_path / "a"), ["overlays=false"])
    run = tmp_path / "scaled"
    shutil.copytree(chest, run)
    p = plain.table["probability_pneumonia"].to_numpy()
    threshold = float(np.median(p)) + 1e-4
    (run / "result.json").write_text(json.dumps({"threshold": {"value": threshold}, "calibration": {"temperature": 2.5}}))
    found = predict(str(run), str(source), str(tmp_path / "b"), ["overlays=false"])
    want = 1 / (1 + ((1 - p) / p) ** (1 / 2.5))
    np.testing.assert_allclose(found.table["probability_pneumonia"], want, atol=1e-5)
    assert found.table["positive"].tolist() == (p >= threshold).tolist()
    assert found.identity.calibration == "temperature 2.5"
    assert "temperature 2.5" in (tmp_path / "b/index.html").read_text(encoding="utf-8")


def test_a_far_larger_field_of_view_is_remarked(tmp_path):
    run = saved_run(tmp_path / "run", ct_cohort(tmp_path), "segmentation", UNET)
    ct_study(tmp_path / "in", 60, shape=(8, 16, 60))
    row = predict(str(run), str(tmp_path / "in"), str(tmp_path / "out")).table.iloc[0]
    assert row["note"] == "shows 20 x 8 x 45 mm, and the model was trained on at most 15 x 8 x 15 mm"


def test_only_dicom_objects_tell_who_somebody_is(chest, tmp_path):
    canaries = Canaries()
    canary_files.radiographs(tmp_path / "in", canaries, count=3)
    with listening() as heard:
        predict(str(chest), str(tmp_path / "in"), str(tmp_path / "out"))
    assert heard.error is None or isinstance(heard.error, RunError), heard.error
    assert canaries.leaks(heard.said) == []
    identified = [leak for leak in search(canaries, tmp_path / "out/dicom") if "name:" not in leak]
    shutil.rmtree(tmp_path / "out/dicom", ignore_errors=True)
    assert search(canaries, tmp_path / "out") == []
    assert identified, "an object that goes back beside the image carries the patient's identity"


def test_keys_are_told_where_they_are_asked_for(chest, tmp_path):
    source = radiographs(tmp_path / "in", 1)
    table = predict(str(chest), str(source), str(tmp_path / "out"), ["identify=true"]).table
    keys = pd.read_csv(tmp_path / "out/keys.csv")
    assert keys["sample_id"].item() == table["sample_id"].item()
    assert keys["patient_key"].item() == "P40"
    assert (tmp_path / "out/keys.csv").stat().st_mode & 0o077 == 0


def test_a_source_of_which_nothing_can_be_predicted_is_an_error_that_says_why(chest, tmp_path, capsys):
    (file,) = radiographs(tmp_path / "in", 1).iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    assert main(["predict", str(chest), str(tmp_path / "in"), str(tmp_path / "out")]) == 1
    assert "the commonest reason is truncated" in capsys.readouterr().err
    assert pd.read_parquet(tmp_path / "out/audit.parquet")["outcome"].tolist() == ["quarantined"]


@pytest.mark.slow
def test_actors_of_a_cluster_give_the_same_table(ray_cluster, chest, tmp_path):
    source = radiographs(tmp_path / "in", 5)
    here = predict(str(chest), str(source), str(tmp_path / "a"), ["workers=1"]).table
    there = predict(str(chest), str(source), str(tmp_path / "b"), ["workers=2"]).table
    pd.testing.assert_frame_equal(here, there, rtol=1e-5)


def test_members_name_their_weights(chest):
    (member,) = Predictor([chest]).members
    assert member.sha256 == json.loads((chest / "model/sha256.json").read_text())["model.safetensors"]


def test_a_job_gets_absolute_paths_of_every_member(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = order("predict", ["runs/a+runs/b", "in", "out", "tta=false", "--split", "test"], here=True, cluster="here")
    here = tmp_path.resolve()
    assert found.arguments == [f"{here}/runs/a+{here}/runs/b", f"{here}/in", f"{here}/out", "tta=false", "--split=test"]
