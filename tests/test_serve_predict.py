"""What the server says is what the Predictor says: of DICOM, pictures, NIfTI and EMR, in JSON and in DICOM objects."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import dicom_files
import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
import served as models
from PIL import Image
from served import OPENS, TOKEN, as_bytes, classifier, emr_classifier, form, radiograph, segmenter, series, visits_classifier, zipped
from starlette.testclient import TestClient

from hepdist.inference.case import Case
from hepdist.inference.predictor import Answer, Predictor
from hepdist.inference.reading import Reading
from hepdist.ingest.emr_sequence import Visits, pack
from hepdist.ingest.pseudonym import Pseudonyms
from hepdist.ingest.sample import Sample
from hepdist.serve.app import Service, build_app

NAMES = Pseudonyms(b"a salt of sixteen bytes")
runs, radiographs = models.runs, models.radiographs


def client(predictor: Predictor, **changes) -> TestClient:
    return TestClient(build_app(Service(predictor, TOKEN, **changes)), headers=OPENS)


def straight(predictor: Predictor, folder: Path) -> list[Answer]:
    """The Predictor's own answers for what lies in a folder."""
    reading = Reading(str(folder), predictor.signature, [], NAMES)
    cases = [found for item in reading.items for found in reading.read(item) if isinstance(found, Case)]
    return [predictor([predictor.upright(case)])[0] for case in cases]


@pytest.fixture(scope="module")
def ct(runs) -> Predictor:
    return Predictor([segmenter(runs / "ct")])


def test_a_radiograph_gets_exactly_the_probabilities_of_the_predictor(radiographs, tmp_path):
    dicom_files.save(radiograph(3), tmp_path)
    answer = client(radiographs).post("/v1/predict", **form(as_bytes(radiograph(3))))
    assert answer.status_code == 200, answer.text
    result = answer.json()["results"][0]
    expected = straight(radiographs, tmp_path)[0].probability
    assert [np.float32(p) for p in result["probabilities"].values()] == expected.tolist()
    assert list(result["probabilities"]) == ["normal", "hepatitis"]
    assert result["decision"] == ["normal", "hepatitis"][int(expected[1] >= 0.5)]
    assert result["input"] == {"form": "DICOM", "files": [1], "shape": [48, 48], "spacing_mm": None}
    assert result["spread"] is None


def test_several_files_and_a_zip_of_them_give_the_same_results(radiographs):
    files = [as_bytes(radiograph(n)) for n in range(3)]
    served = client(radiographs)
    apart, packed = (served.post("/v1/predict", **form(*sent)).json() for sent in (files, [zipped(*files)]))
    assert len(apart["results"]) == 3
    assert apart["results"] == packed["results"]
    assert len({tuple(r["probabilities"].values()) for r in apart["results"]}) == 3  # they are not one answer three times


def test_a_picture_gets_the_probabilities_of_the_predictor(radiographs, tmp_path):
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (40, 30), dtype=np.uint8)).save(tmp_path / "1.png")
    result = client(radiographs).post("/v1/predict", **form((tmp_path / "1.png").read_bytes())).json()["results"][0]
    assert [np.float32(p) for p in result["probabilities"].values()] == straight(radiographs, tmp_path)[0].probability.tolist()
    assert result["input"]["form"] == "picture"


def test_an_ensemble_says_how_far_its_members_lie_apart(runs):
    paths = [classifier(runs / "one", seed=5), classifier(runs / "two", seed=6)]
    sent = form(as_bytes(radiograph(1)))
    alone = [client(Predictor([path])).post("/v1/predict", **sent).json()["results"][0]["probabilities"] for path in paths]
    told = client(Predictor(paths)).post("/v1/predict", **sent).json()
    result = told["results"][0]
    assert result["spread"]["members"] == alone
    assert result["probabilities"]["hepatitis"] == pytest.approx(np.mean([a["hepatitis"] for a in alone]), abs=1e-7)
    assert result["spread"]["std"]["hepatitis"] == pytest.approx(np.std([a["hepatitis"] for a in alone]), abs=1e-7)
    assert told["model"]["runs"] == ["one", "two"]
    assert told["model"]["sha256"][0] == json.loads((runs / "one/model/sha256.json").read_text())["model.safetensors"]


def test_a_seg_reads_back_as_the_predicted_mask_and_the_report_has_its_volumes(ct, tmp_path):
    datasets = series(1)
    dicom_files.save(datasets, tmp_path)
    answer = straight(ct, tmp_path)[0]
    assert set(np.unique(answer.mask)) == {0, 1, 2}, "the made-up model must find both classes for this test to say anything"
    served = client(ct)
    sent = form(*map(as_bytes, datasets))
    seg = served.post("/v1/predict?dicom=seg", **sent)
    assert seg.headers["content-type"] == "application/dicom", seg.text
    read = highdicom.seg.segread(io.BytesIO(seg.content))
    planes = sorted(datasets, key=lambda d: float(d.ImagePositionPatient[2]))
    mask = read.get_pixels_by_source_instance(
        [d.SOPInstanceUID for d in planes], combine_segments=True, relabel=True, ignore_spatial_locations=True
    )
    if float(straight_affine(ct, tmp_path)[2, 0]) < 0:
        mask = mask[::-1]
    assert np.array_equal(mask, answer.mask)
    assert {s.SegmentLabel for s in read.SegmentSequence} == {"liver", "tumour"}
    assert read.FrameOfReferenceUID == datasets[0].FrameOfReferenceUID
    result = served.post("/v1/predict", **sent).json()["results"][0]
    assert list(result["volumes_ml"].values()) == pytest.approx(answer.volumes_ml.tolist())
    report = pydicom.dcmread(io.BytesIO(served.post("/v1/predict?dicom=sr", **sent).content))
    assert report.Modality == "SR"
    content = highdicom.sr.srread(io.BytesIO(served.post("/v1/predict?dicom=sr", **sent).content)).content
    volumes = [m.value for group in content.get_volumetric_roi_measurement_groups() for m in group.get_measurements()]
    assert volumes == pytest.approx(answer.volumes_ml.tolist(), rel=1e-6)


def straight_affine(predictor: Predictor, folder: Path) -> np.ndarray:
    reading = Reading(str(folder), predictor.signature, [], NAMES)
    return next(iter(reading.read(reading.items[0]))).sample.affine


def test_dicom_all_is_a_zip_of_the_objects_and_the_json(ct):
    answer = client(ct).post("/v1/predict?dicom=all", **form(*map(as_bytes, series(1))))
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.namelist() == ["result.json", "1-seg.dcm", "1-sr.dcm"]
        assert json.loads(archive.read("result.json"))["results"][0]["volumes_ml"].keys() == {"liver", "tumour"}


def test_the_same_request_gives_objects_of_the_same_uids(ct):
    served, sent = client(ct), form(*map(as_bytes, series(1)))
    one, two = (pydicom.dcmread(io.BytesIO(served.post("/v1/predict?dicom=seg", **sent).content)) for _ in range(2))
    assert one.SOPInstanceUID == two.SOPInstanceUID
    assert np.array_equal(one.pixel_array, two.pixel_array)


def test_a_nifti_volume_that_does_not_say_that_it_is_in_hu_is_refused_by_a_model_of_hu(ct, tmp_path):
    voxels = np.random.default_rng(2).integers(-500, 900, (28, 24, 12)).astype(np.int16)
    nibabel.Nifti1Image(voxels, np.diag([0.75, 0.5, 2.5, 1])).to_filename(tmp_path / "1.nii.gz")
    sent = form((tmp_path / "1.nii.gz").read_bytes())
    answer = client(ct).post("/v1/predict", **sent)
    assert answer.status_code == 422  # this model reads HU, and NIfTI doesn't say that it is
    assert "HU" in answer.json()["left_out"][0]["reason"]


def test_emr_values_are_answered_with_and_without_units_as_the_predictor_does(runs):
    predictor = Predictor([emr_classifier(runs / "emr")])
    served = client(predictor)
    expected = predictor([Case(Sample("x", "x"), {"alt": 80.0, "age": None, "sex": 1.0})])[0].probability
    told = served.post("/v1/predict", json={"values": {"alt": 80, "sex": "male"}}).json()
    assert [np.float32(p) for p in told["results"][0]["probabilities"].values()] == expected.tolist()
    assert "age" in told["notes"][0]
    other = served.post("/v1/predict", json={"values": {"alt": {"value": 80 / 60, "unit": "µkat/L"}, "sex": "male"}}).json()
    assert other["results"][0]["probabilities"]["hepatitis"] == pytest.approx(float(expected[1]), abs=1e-5)


def test_visits_are_packed_as_ingest_packs_them(runs):
    predictor = Predictor([visits_classifier(runs / "visits")])
    visits = [{"day": 400 + 30 * n, "values": {"bilirubin": 1.0 + n, "ascites": "yes" if n > 3 else "no"}} for n in range(6)]
    told = client(predictor).post("/v1/predict", json={"visits": visits})
    assert told.status_code == 200, told.text
    days = np.array([30.0 * n for n in range(6)])
    values = np.array([[1.0 + n, float(n > 3)] for n in range(6)])
    expected = predictor([Case(Sample("x", "x"), {}, pack(Visits.of(days, values), 4))])[0].probability
    assert [np.float32(p) for p in told.json()["results"][0]["probabilities"].values()] == expected.tolist()


def test_requests_at_once_share_forward_passes_and_their_answers_stay_theirs(radiographs):
    import anyio
    import httpx2

    sizes: list[int] = []
    service = Service(radiographs, TOKEN)
    service.batches._seen = sizes.append
    files = [as_bytes(radiograph(n)) for n in range(16)]
    alone = [client(radiographs).post("/v1/predict", **form(data)).json()["results"][0]["probabilities"]["hepatitis"] for data in files]
    together: dict[int, float] = {}

    async def ask(http: httpx2.AsyncClient, n: int) -> None:
        answer = await http.post("/v1/predict", **form(files[n]))
        together[n] = answer.json()["results"][0]["probabilities"]["hepatitis"]

    async def ask_all() -> None:
        transport = httpx2.ASGITransport(build_app(service))
        async with (
            httpx2.AsyncClient(transport=transport, base_url="http://test", headers=OPENS) as http,
            anyio.create_task_group() as group,
        ):
            for n in range(16):
                group.start_soon(ask, http, n)

    anyio.run(ask_all)
    assert sum(sizes) == 16
    assert len(sizes) < 16
    assert [together[n] for n in range(16)] == pytest.approx(alone, abs=1e-6)
    assert np.std(alone) > 1e-4


def test_an_overlay_is_a_picture_and_nothing_is_left_behind(ct, tmp_path):
    answer = client(ct, scratch=str(tmp_path)).post("/v1/predict?overlay=true", **form(*map(as_bytes, series(1))))
    assert answer.json()["results"][0]["overlay"].startswith("data:image/png;base64,")
    assert list(tmp_path.iterdir()) == []


def test_every_kind_of_model_can_be_warmed(radiographs, ct, runs, monkeypatch):
    answered, real = [], Predictor.__call__
    monkeypatch.setattr(Predictor, "__call__", lambda self, cases: answered.extend(found := real(self, cases)) or found)
    for predictor in (
        radiographs,
        ct,
        Predictor([emr_classifier(runs / "warm-emr")]),
        Predictor([visits_classifier(runs / "warm-visits")]),
    ):
        Service(predictor, TOKEN).warm()
    assert [(answer.probability is not None, answer.mask is not None) for answer in answered] == [
        (True, False),
        (False, True),
        (True, False),
        (True, False),
    ]
