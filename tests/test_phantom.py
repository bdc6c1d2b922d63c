"""The phantom cohort keeps its word: valid lossless DICOM, the same bytes for the same seed, and a Bayes score that is the true one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import highdicom
import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.pixels import apply_modality_lut
from scipy.integrate import quad
from scipy.ndimage import gaussian_filter1d
from scipy.special import expit
from scipy.stats import norm, spearmanr
from sklearn.metrics import roc_auc_score

from hepdist.errors import IngestError
from hepdist.phantom import PhantomSummary, bayes_scores, write_phantom
from hepdist.phantom.abdomen import SPACING_MM, render_abdomen
from hepdist.phantom.bayes import emr_log_ratio, expected_score, image_log_ratio, posterior
from hepdist.phantom.chest import PIXEL_MM, SIZE, draw_chest, elevation_of, render_chest
from hepdist.phantom.cohort import xray_path
from hepdist.phantom.dicom import Encoding, Person, stored_values, write_xray
from hepdist.phantom.disease import AGE_MEAN, AGE_SPREAD, EMR_SHIFT, LABS, MALE, PREVALENCE, SITES, draw_emr, draw_latents
from hepdist.phantom.records import index_date, patient_id
from hepdist.phantom.streams import stream

PATIENTS, SEED = 9, 7


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PhantomSummary]:
    out = tmp_path_factory.mktemp("phantom") / "cohort"
    return out, write_phantom(out, PATIENTS, SEED)


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and log-likelihood ratios (image, EMR) of 20,000 patients whom the stated scores were not computed on."""
    latents = draw_latents(20_000, seed=11)
    return latents.hepatitis, image_log_ratio(latents.image), emr_log_ratio(draw_emr(latents, seed=11))


def sums(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def chest(index: int, seed: int = SEED) -> np.ndarray:
    rng = stream(seed, f"chest {index}")
    return render_chest(draw_chest(float(draw_latents(index + 1, seed).image[index]), rng), rng)


def elements(ds: pydicom.Dataset) -> list[pydicom.DataElement]:
    return [*ds.file_meta, *ds.iterall()]


def person(index: int) -> Person:
    return Person(patient_id(index), "Phantom^Test", "F", 40, SITES[0], index_date(index, SEED), SEED)


# --- disease and its Bayes score


@pytest.mark.parametrize("what", ["image", "emr", "both"])
def test_exact_posteriors_score_what_the_generator_states(drawn: tuple[np.ndarray, ...], what: str) -> None:
    hepatitis, image, emr = drawn
    exact = posterior(*{"image": [image], "emr": [emr], "both": [image, emr]}[what])
    stated = bayes_scores()[what]
    assert roc_auc_score(hepatitis, exact) == pytest.approx(stated.auroc, abs=0.01)
    assert ((exact > 0.5) == hepatitis).mean() == pytest.approx(stated.accuracy, abs=0.01)


def test_neither_image_nor_emr_decides_and_fusion_gains() -> None:
    scores = bayes_scores()
    assert 0.84 < scores["image"].auroc < 0.88
    assert 0.84 < scores["emr"].auroc < 0.88
    assert scores["both"].auroc > max(scores["image"].auroc, scores["emr"].auroc) + 0.06


def test_closed_form_of_the_image_equals_its_monte_carlo(drawn: tuple[np.ndarray, ...]) -> None:
    auroc, accuracy = expected_score(posterior(drawn[1]))
    assert bayes_scores()["image"].auroc == pytest.approx(auroc, abs=0.005)
    assert bayes_scores()["image"].accuracy == pytest.approx(accuracy, abs=0.005)


def test_posteriors_are_calibrated(drawn: tuple[np.ndarray, ...]) -> None:
    hepatitis, image, emr = drawn
    exact = posterior(image, emr)
    bins = np.digitize(exact, np.linspace(0, 1, 11)[1:-1])
    for b in range(10):
        inside = bins == b
        assert hepatitis[inside].mean() == pytest.approx(exact[inside].mean(), abs=4.5 * 0.5 / np.sqrt(inside.sum()))


def test_emr_ratio_equals_adaptive_integration_of_the_model_written_out() -> None:
    emr = draw_emr(draw_latents(12, seed=3), seed=3)
    assert emr[[lab.name for lab in LABS]].isna().any(axis=None)

    def likelihood(severity: float, row: pd.Series) -> float:
        product = 1.0
        for lab in LABS:
            absent = expit(lab.missing[SITES.index(row["site"])] + lab.missing_slope * severity)
            if np.isnan(row[lab.name]):
                product *= absent
                continue
            edges = row[lab.name] + np.array([-0.5, 0.5]) * 10.0**-lab.decimals
            centre = np.log(lab.middle) if lab.log else lab.middle
            below, above = norm.cdf(np.log(edges) if lab.log else edges, centre + lab.slope * severity, lab.spread)
            product *= (1 - absent) * (above - below)
        return product

    for (_, row), ratio in zip(emr.iterrows(), emr_log_ratio(emr), strict=True):
        sides = []
        for sick, shift in enumerate((0.0, EMR_SHIFT)):
            values = quad(lambda s, row=row, shift=shift: 1e6 * likelihood(s, row) * norm.pdf(s, shift), -7, 9, epsabs=0, epsrel=1e-9)[0]
            sex = MALE[sick] if row["sex"] == "M" else 1 - MALE[sick]
            age = np.diff(norm.cdf([row["age"] - 0.5, row["age"] + 0.5], AGE_MEAN[sick], AGE_SPREAD))[0]
            sides.append(values * sex * age)
        assert 18 < row["age"] < 89
        assert ratio == pytest.approx(np.log(sides[1] / sides[0]), abs=1e-6)


def test_prevalence_and_missing_values_are_as_declared() -> None:
    latents = draw_latents(20_000, seed=5)
    emr = draw_emr(latents, seed=5)
    assert latents.hepatitis.mean() == pytest.approx(PREVALENCE, abs=0.015)
    assert set(emr["sex"]) == {"F", "M"}
    assert set(emr["site"]) == set(SITES)
    for name in ("albumin", "inr"):  # left out more often in the mild, and more at some sites
        missing = emr[name].isna()
        assert missing[latents.emr < 0].mean() > missing[latents.emr > 2].mean() + 0.1
        by_site = missing.groupby(emr["site"]).mean()
        assert by_site[SITES[0]] < by_site[SITES[1]] < by_site[SITES[2]]
    raised = emr[latents.hepatitis].median(numeric_only=True) - emr[~latents.hepatitis].median(numeric_only=True)
    assert (raised[["alt", "ast", "bilirubin", "inr", "temperature"]] > 0).all()
    assert raised["albumin"] < 0


# --- images


def dome_heights(image: np.ndarray) -> tuple[float, float]:
    """mm from the image's centre up to the steepest brightening in the lower lung: right and left."""
    heights = []
    for x, highest in ((-62, 0.57), (66, 0.64)):  # only the right dome may stand high; above, the heart's edge would be found
        column = int((x + SIZE * PIXEL_MM / 2) / PIXEL_MM)
        profile = gaussian_filter1d(image[:, column - 4 : column + 5].mean(axis=1), 2.5)
        lower = slice(int(SIZE * highest), int(SIZE * 0.88))
        row = lower.start + int(np.argmax(np.diff(profile)[lower]))
        heights.append((SIZE / 2 - row) * PIXEL_MM)
    return heights[0], heights[1]


def test_right_hemidiaphragm_measured_in_the_image_rises_with_severity() -> None:
    severities = np.linspace(-2, 4, 48)
    streams = [stream(1, f"test {i}") for i in range(len(severities))]
    chests = [draw_chest(s, rng) for s, rng in zip(severities, streams, strict=True)]
    right, left = np.array([dome_heights(render_chest(c, rng)) for c, rng in zip(chests, streams, strict=True)]).T
    assert spearmanr(right - left, severities).statistic > 0.85
    assert abs(spearmanr(left, severities).statistic) < 0.4
    assert np.median(np.abs(right - left - [c.right_elevation for c in chests])) < 5  # mm, measured against drawn


def test_expected_elevation_is_strictly_monotone_and_anatomical() -> None:
    elevation = np.array([elevation_of(s) for s in np.linspace(-4, 6, 101)])
    assert (np.diff(elevation) > 0).all()
    assert elevation.min() > 0
    assert elevation.max() < 65


def test_radiograph_fills_its_range_without_saturating() -> None:
    for index in range(4):
        image = chest(index)
        assert image.shape == (SIZE, SIZE)
        assert image.dtype == np.float32
        assert image.min() >= 0
        assert image.max() <= 1
        assert np.ptp(image) > 0.7
        assert (image == 1).mean() < 0.02
        assert (image == 0).mean() < 0.02


def test_liver_grows_with_severity_and_is_brighter_than_fat() -> None:
    volumes = []
    for severity in (-1.0, 3.0):
        sizes = []
        for i in range(4):
            ct, liver = render_abdomen(severity, stream(2, f"abdomen {i}"))
            sizes.append(float(liver.sum()) * np.prod(SPACING_MM) / 1000)
            assert 40 < ct[liver == 1].mean() < 75
        volumes.append(np.mean(sizes))
    assert 900 < volumes[0] < volumes[1] < 2500  # ml
    assert volumes[1] / volumes[0] > 1.1


# --- DICOM


def test_all_forty_encodings_read_back_to_the_values_written(tmp_path: Path) -> None:
    image, encodings = chest(0), [Encoding.of(i) for i in range(40)]
    assert len(set(encodings)) == 5 * 4 * 2
    for index, encoding in enumerate(encodings):
        path = tmp_path / f"{index}"
        write_xray(path, image, PIXEL_MM, person(index), encoding)
        ds = pydicom.dcmread(path)
        assert ds.file_meta.TransferSyntaxUID == encoding.transfer_syntax
        assert (ds.BitsStored, ds.PhotometricInterpretation) == (encoding.bits_stored, encoding.photometric)
        np.testing.assert_array_equal(ds.pixel_array, stored_values(image, encoding))
        bright = ds.pixel_array / (2**encoding.bits_stored - 1)
        bright = 1 - bright if encoding.photometric == "MONOCHROME1" else bright
        np.testing.assert_allclose(bright, image, atol=0.5 / (2**encoding.bits_stored - 1) + 1e-6)


def test_every_xray_of_the_cohort_holds_the_rendered_picture(cohort: tuple[Path, PhantomSummary]) -> None:
    out, _ = cohort
    for index in range(PATIENTS):
        ds = pydicom.dcmread(out / "dicom" / xray_path(index))
        assert ds.PatientID == patient_id(index)
        np.testing.assert_array_equal(ds.pixel_array, stored_values(chest(index), Encoding.of(index)))


def test_ct_series_reads_back_to_hounsfield_units_with_its_geometry(cohort: tuple[Path, PhantomSummary]) -> None:
    out, summary = cohort
    files = [pydicom.dcmread(p) for p in (out / "dicom" / patient_id(4) / "CT1" / "SERIES1").iterdir()]
    files.sort(key=lambda ds: ds.ImagePositionPatient[2])
    expected, _ = render_abdomen(float(draw_latents(5, SEED).image[4]), stream(SEED, "abdomen 4"))
    np.testing.assert_array_equal(np.stack([apply_modality_lut(ds.pixel_array, ds) for ds in files]), expected)
    assert np.unique(np.diff([ds.ImagePositionPatient[2] for ds in files])) == pytest.approx([SPACING_MM[0]])
    assert {tuple(ds.PixelSpacing) for ds in files} == {SPACING_MM[1:]}
    assert summary.ct_slices == summary.ct_series * len(files)


def test_highdicom_reads_the_liver_mask_and_it_references_the_ct(cohort: tuple[Path, PhantomSummary]) -> None:
    out, summary = cohort
    masks = sorted((out / "dicom").rglob("liver.dcm"))
    assert len(masks) == summary.liver_masks == 3
    for path in masks:
        slices = [pydicom.dcmread(p) for p in (path.parent / "SERIES1").iterdir()]
        slices.sort(key=lambda ds: ds.ImagePositionPatient[2])
        seg = highdicom.seg.segread(path)
        index = int(seg.PatientID[3:])
        _, liver = render_abdomen(float(draw_latents(index + 1, SEED).image[index]), stream(SEED, f"abdomen {index}"))
        read = seg.get_pixels_by_source_instance(
            [ds.SOPInstanceUID for ds in slices], segment_numbers=[1], assert_missing_frames_are_empty=True
        )
        np.testing.assert_array_equal(read[..., 0], liver)
        assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == slices[0].SeriesInstanceUID
        assert seg.FrameOfReferenceUID == slices[0].FrameOfReferenceUID
        assert seg.StudyInstanceUID == slices[0].StudyInstanceUID
        assert seg.get_segment_description(1).SegmentLabel == "Liver"


def test_every_attribute_that_the_standard_requires_is_there(cohort: tuple[Path, PhantomSummary]) -> None:
    standard = pytest.importorskip("highdicom._standard_utils", reason="this highdicom has no tables of the standard")
    attributes, seen = standard.get_module_attribute_map(), set()
    for path in (cohort[0] / "dicom").rglob("*"):
        if path.is_dir():
            continue
        ds = pydicom.dcmread(path)
        seen.add(iod := standard.get_sop_class_iod_map()[ds.SOPClassUID])
        required = [
            a
            for m in standard.get_iod_module_map()[iod]
            if m["usage"] == "M"
            for a in attributes[m["key"]]
            if not a["path"] and a["type"] in "12"
        ]
        assert len(required) > 20
        assert [a["keyword"] for a in required if a["keyword"] not in ds] == []
        assert [a["keyword"] for a in required if a["type"] == "1" and ds[a["keyword"]].is_empty] == []
    assert seen == {"computed-radiography-image", "ct-image", "segmentation"}


def test_uids_are_valid_and_each_instance_has_its_own(cohort: tuple[Path, PhantomSummary]) -> None:
    files = [pydicom.dcmread(p) for p in (cohort[0] / "dicom").rglob("*") if p.is_file()]
    for ds in files:
        for element in elements(ds):
            assert element.VR != "UI" or pydicom.uid.UID(element.value).is_valid, element.keyword
    assert len({ds.SOPInstanceUID for ds in files}) == len(files)
    studies = {(ds.PatientID, ds.StudyInstanceUID, "xray" if ds.Modality == "CR" else "ct") for ds in files}
    assert len({uid for _, uid, _ in studies}) == len(studies) == PATIENTS + 3


def test_no_date_or_time_comes_from_the_clock(cohort: tuple[Path, PhantomSummary]) -> None:
    for path in (cohort[0] / "dicom").rglob("*"):
        if path.is_file():
            ds = pydicom.dcmread(path)
            dated = [e for e in elements(ds) if e.VR in ("DA", "DT") and e.keyword != "PatientBirthDate"]
            assert dated
            assert {str(e.value)[:8] for e in dated} == {ds.StudyDate}
            assert {str(e.value) for e in elements(ds) if e.VR == "TM"} == {"120000"}


# --- cohort


def test_same_seed_writes_the_same_bytes_and_another_seed_others(cohort: tuple[Path, PhantomSummary], tmp_path: Path) -> None:
    write_phantom(tmp_path / "again", PATIENTS, SEED)
    assert sums(tmp_path / "again") == sums(cohort[0])
    write_phantom(tmp_path / "other", 1, SEED + 1)
    first = sums(cohort[0])
    assert all(first.get(name) != digest for name, digest in sums(tmp_path / "other").items())


def test_larger_cohort_begins_with_the_patients_of_a_smaller_one(cohort: tuple[Path, PhantomSummary], tmp_path: Path) -> None:
    small = tmp_path / "small"
    write_phantom(small, 3, SEED)
    large = sums(cohort[0] / "dicom")
    assert all(large[name] == digest for name, digest in sums(small / "dicom").items())
    for table in ("emr.csv", "visits.csv"):
        assert (cohort[0] / table).read_text().startswith((small / table).read_text())


def test_tables_join_the_images_and_the_index_visit_repeats_the_emr_row(cohort: tuple[Path, PhantomSummary]) -> None:
    out, summary = cohort
    emr, visits = pd.read_csv(out / "emr.csv"), pd.read_csv(out / "visits.csv")
    labs = [lab.name for lab in LABS]
    assert list(emr.columns) == ["patient_id", "age", "sex", "site", *labs, "hepatitis"]
    assert list(visits.columns) == ["patient_id", "date", *labs]
    assert emr["hepatitis"].map({"yes": True, "no": False}).tolist() == draw_latents(PATIENTS, SEED).hepatitis.tolist()
    assert len(visits) == summary.visits
    assert visits.groupby("patient_id").size().between(2, 8).all()
    for index, row in emr.iterrows():
        ds = pydicom.dcmread(out / "dicom" / xray_path(int(index)))
        assert (ds.PatientID, ds.PatientSex, int(ds.PatientAge[:3])) == (row["patient_id"], row["sex"], row["age"])
        day = visits[(visits["patient_id"] == row["patient_id"]) & (visits["date"].str.replace("-", "") == ds.StudyDate)]
        pd.testing.assert_series_equal(day[labs].iloc[0], row[labs], check_names=False, check_dtype=False)


def test_phantom_json_states_the_bayes_scores_and_names_no_patient(cohort: tuple[Path, PhantomSummary]) -> None:
    out, summary = cohort
    text = (out / "phantom.json").read_text()
    told = json.loads(text)
    assert told["bayes"] == summary.bayes
    assert set(told["bayes"]) == {"image", "emr", "both"}
    assert all("assumes" in score for score in told["bayes"].values())
    assert (told["patients"], told["xrays"], told["ct_series"], told["seed"]) == (PATIENTS, PATIENTS, 3, SEED)
    assert "PH-" not in text
    assert "Phantom^" not in text


def test_ct_can_be_left_out_and_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    summary = write_phantom(tmp_path / "p", 2, 0, ct=False, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]
    assert (summary.ct_series, summary.ct_slices, summary.liver_masks) == (0, 0, 0)
    assert len(list((tmp_path / "p" / "dicom").rglob("*.dcm"))) == 2


def test_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(IngestError) as error:
        write_phantom(tmp_path, 1, 0)
    assert str(error.value) == f"'{tmp_path}' is not an empty folder; name a new one for the phantom cohort"
