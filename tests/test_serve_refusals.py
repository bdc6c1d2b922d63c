"""Bad input is refused in one form, {error, fix}, with the right 4xx; nothing passes without the token, and no answer tells of the patient."""

from __future__ import annotations

import gzip
import io
import json
import logging
import stat
import zipfile
from collections.abc import Callable

import nibabel
import numpy as np
import pytest
import served as models
from PIL import Image
from pydicom.uid import JPEG2000Lossless
from served import OPENS, TOKEN, as_bytes, emr_classifier, form, radiograph, segmenter, series, zipped
from starlette.testclient import TestClient

from hepdist.errors import RunError
from hepdist.inference.predictor import Predictor
from hepdist.serve.app import Service, build_app
from hepdist.serve.limits import Limits
from hepdist.serve.page import PAGE
from hepdist.serve.token import read_token

SMALL = Limits(upload=3_000_000, files=20, unpacked=2_000_000, voxels=400_000, results=3, field=20_000)
runs, radiographs = models.runs, models.radiographs


@pytest.fixture(scope="module")
def served(radiographs) -> TestClient:
    return TestClient(build_app(Service(radiographs, TOKEN, SMALL)), headers=OPENS)


def png(side: int = 32, mode: str = "L", **options) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (side, side), 7).save(buffer, "PNG", **options)
    return buffer.getvalue()


def nifti(shape: tuple[int, ...], claims: tuple[int, ...] | None = None) -> bytes:
    """claims: the sizes that its header says."""
    data = bytearray(nibabel.Nifti1Image(np.zeros(shape, np.int16), np.eye(4)).to_bytes())
    if claims is not None:
        data[40:56] = np.array([len(claims), *claims, *(1,) * (7 - len(claims))], "<i2").tobytes()
    return bytes(data)


def bomb(size: int = 30_000_000) -> bytes:
    return zipped(bytes(size))


def encrypted() -> bytes:
    data = bytearray(zipped(as_bytes(radiograph())))
    data[6] |= 1
    at = data.index(b"PK\x01\x02")
    data[at + 8] |= 1
    return bytes(data)


GOOD = as_bytes(radiograph())
CASES: dict[str, tuple[int, Callable[[], bytes | list[bytes]]]] = {
    "nothing": (422, lambda: b""),
    "text": (415, lambda: b"Doe, Jane; born 1970"),
    "html": (415, lambda: b"<html><script>alert(1)</script></html>"),
    "a pickle": (415, lambda: b"\x80\x04\x95" + bytes(50)),
    "an EXE": (415, lambda: b"MZ" + bytes(500)),
    "a PDF": (415, lambda: b"%PDF-1.7 " + bytes(500)),
    "zeros": (415, lambda: bytes(10_000)),
    "DICOM without anything after its magic": (422, lambda: bytes(128) + b"DICM"),
    "half of a header": (422, lambda: GOOD[:400]),
    "half of the pixels": (422, lambda: GOOD[: len(GOOD) // 2]),
    "a random body after a good start": (422, lambda: GOOD[:300] + np.random.default_rng(0).bytes(3000)),
    "no pixels": (422, lambda: as_bytes(radiograph(PixelData=None))),
    "no study": (422, lambda: as_bytes(radiograph(StudyInstanceUID=None))),
    "a codestream that is none": (422, lambda: as_bytes(_compressed(b"not JPEG 2000 at all"))),
    "burned-in text": (422, lambda: as_bytes(radiograph(BurnedInAnnotation="YES"))),
    "a cine": (422, lambda: as_bytes(radiograph(NumberOfFrames=4))),
    "more rows than there are": (413, lambda: as_bytes(radiograph(Rows=60_000, Columns=60_000))),
    "another modality": (422, lambda: [as_bytes(d) for d in series()]),
    "half a PNG": (422, lambda: png(200)[:100]),
    "a PNG of too many pixels": (413, lambda: png(700)),
    "a JPEG that is none": (422, lambda: b"\xff\xd8\xff" + bytes(200)),
    "a TIFF of two pages": (422, lambda: _two_pages()),
    "a NIfTI for a model of pictures": (422, lambda: nifti((8, 8, 8))),
    "a NIfTI that claims too much": (413, lambda: nifti((8, 8, 8), (30_000, 30_000, 1000))),
    "a NIfTI of negative sizes": (422, lambda: nifti((8, 8, 8), (-5, 8, 8))),
    "a truncated NIfTI": (422, lambda: nifti((8, 8, 8))[:500]),
    "gzip of nothing known": (415, lambda: gzip.compress(b"Doe, Jane")),
    "broken gzip": (415, lambda: b"\x1f\x8b" + bytes(100)),
    "a zip bomb": (413, bomb),
    "a zip of zips": (415, lambda: zipped(zipped(GOOD))),
    "a broken zip": (422, lambda: zipped(GOOD)[:300]),
    "an empty zip": (415, lambda: zipped()),
    "a zip with a password": (422, encrypted),
    "a zip of too many files": (413, lambda: zipped(*[GOOD[:200]] * 25)),
    "too many files": (413, lambda: [GOOD] * 21),
    "too many images": (413, lambda: [as_bytes(radiograph(n)) for n in range(4)]),
    "too large": (413, lambda: bytes(4_000_000)),
}


def _compressed(frame: bytes):
    from pydicom.encaps import encapsulate

    dataset = radiograph(PixelData=encapsulate([frame]))
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset["PixelData"].VR = "OB"
    return dataset


def _two_pages() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (32, 32)).save(buffer, "TIFF", save_all=True, append_images=[Image.new("L", (32, 32))])
    return buffer.getvalue()


@pytest.mark.parametrize("name", CASES)
def test_an_upload_that_can_not_be_read_is_refused(served, name):
    status, made = CASES[name]
    data = made()
    answer = served.post("/v1/predict", **form(*(data if isinstance(data, list) else [data])))
    assert answer.status_code == status, answer.text
    told = answer.json()
    assert told["error"]
    assert told["fix"]
    assert "Doe" not in answer.text
    assert "Jane" not in answer.text


@pytest.mark.slow
def test_two_hundred_mutated_uploads_each_get_a_4xx_or_an_answer(served, caplog):
    caplog.set_level(logging.DEBUG)
    rng = np.random.default_rng(7)
    good = [GOOD, png(60), zipped(GOOD, as_bytes(radiograph(1)))]
    seen: dict[int, int] = {}
    for n in range(200):
        data = bytearray(good[n % 3])
        for at in rng.integers(0, len(data) if n % 2 else min(700, len(data)), 40):
            data[at] = rng.integers(256)
        if n % 5 == 0:
            data = data[: rng.integers(1, len(data))]
        status = served.post("/v1/predict", **form(bytes(data))).status_code
        seen[status] = seen.get(status, 0) + 1
    assert all(status == 200 or 400 <= status < 500 for status in seen), seen
    assert sum(seen.values()) - seen.get(200, 0) > 100, seen  # most mutations are refused, a few leave a valid image
    assert "Doe" not in caplog.text


@pytest.mark.slow
def test_two_hundred_malformed_uploads_each_get_a_4xx(served):
    rng = np.random.default_rng(8)
    for n in range(200):
        kind = n % 5
        if kind == 0:  # no image at all
            body = rng.bytes(int(rng.integers(0, 4000)))
        elif kind == 1:  # cut off inside the header or the pixels
            body = GOOD[: int(rng.integers(132, len(GOOD) - 2))]
        elif kind == 2:  # noise instead of a header
            body = bytes(128) + b"DICM" + rng.bytes(int(rng.integers(0, 4000)))
        elif kind == 3:
            body = zipped(GOOD)[: int(rng.integers(4, 600))]
        else:
            body = png(200)[: int(rng.integers(8, 150))]
        answer = served.post("/v1/predict", **form(body))
        assert 400 <= answer.status_code < 500, (n, answer.status_code, answer.text)


@pytest.mark.parametrize(
    "path", ["/v1/model", "/v1/predict", "/metrics", "/openapi.json", "/docs", "/v1/predict/", "//v1/model", "/HEALTH"]
)
@pytest.mark.parametrize(
    "header", [None, "Bearer", "Bearer ", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer é"]
)
def test_no_request_without_the_token_passes(radiographs, path, header):
    bare = TestClient(build_app(Service(radiographs, TOKEN, SMALL)))
    headers = {} if header is None else {"Authorization": header.encode("utf-8")}
    for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"):
        answer = bare.request(method, path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["connection"] == "close"


def test_health_and_the_empty_page_need_no_token_and_tell_nothing_of_the_model(radiographs):
    bare = TestClient(build_app(Service(radiographs, TOKEN, SMALL)))
    assert bare.get("/health").json() == {"status": "ok"}
    assert bare.get("/").text == PAGE
    assert "hepatitis" not in PAGE


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nothing", 404), ("GET", "/v1/predict", 405), ("DELETE", "/v1/model", 405)]
)
def test_unknown_paths_and_methods_are_told_in_the_same_form(served, method, path, status):
    answer = served.request(method, path)
    assert answer.status_code == status
    assert answer.json().keys() == {"error", "fix"}


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"content": b"x", "headers": {"content-type": "text/plain"}}, 415),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 422),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=b"}}, 422),
        ({"files": [("other", b"x")]}, 422),
        ({"files": [("emr", b"{}")]}, 422),
        ({"files": [("files", (None, "a text"))]}, 422),
        ({"files": [("files", GOOD)], "data": {"emr": "x" * 30_000}}, 413),
        ({"content": b"", "headers": {"content-type": "application/json"}}, 422),
        ({"json": {}}, 422),
        ({"json": {"values": {"alt": 3}}}, 422),
        ({"files": [("files", GOOD)], "params": {"dicom": "pdf"}}, 422),
        ({"files": [("files", GOOD)], "params": {"overlay": "perhaps"}}, 422),
        ({"files": [("files", GOOD)], "params": {"dicom": "seg"}}, 422),
        ({"files": [("files", png())], "params": {"dicom": "sr"}}, 422),
        ({"files": [("files", GOOD), ("files", as_bytes(radiograph(2)))], "params": {"dicom": "sr"}}, 422),
    ],
)
def test_requests_of_another_form_are_refused(served, request_, status):
    answer = served.post("/v1/predict", **request_)
    assert answer.status_code == status, answer.text
    assert answer.json().keys() >= {"error", "fix"}


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"values": {"Doe^Jane": 3}}, "key 1 is no column"),
        ({"values": {"alt": "high"}}, "takes a number"),
        ({"values": {"alt": True}}, "values"),
        ({"values": {"alt": [1]}}, "values"),
        ({"values": {"sex": "Doe^Jane"}}, "female, male"),
        ({"values": {"sex": 1}}, "female, male"),
        ({"values": {"alt": {"value": 1, "unit": "furlongs"}}}, "can't be converted"),
        ({"values": {"alt": 1e300}}, "finite"),
        ({"values": {"alt": 1, "ALT": 2}}, "twice"),
        ({"values": {}, "other": 1}, "the top level"),
        ({"values": {"alt": 1}, "visits": [{"day": 0, "values": {}}]}, "no visits"),
        ({"values": {"alt": None}}, "no value"),
    ],
)
def test_emr_values_that_mean_nothing_to_the_model_are_refused(runs, record, says):
    emr = TestClient(build_app(Service(Predictor([emr_classifier(runs / "emr")]), TOKEN)), headers=OPENS)
    answer = emr.post("/v1/predict", json=record)
    assert answer.status_code == 422
    assert says in answer.json()["error"]
    assert "Doe" not in answer.text


def test_values_outside_a_columns_range_are_refused(runs):
    from served import visits_classifier

    visits = TestClient(build_app(Service(Predictor([visits_classifier(runs / "visits")]), TOKEN)), headers=OPENS)
    answer = visits.post("/v1/predict", json={"visits": [{"day": 0, "values": {"bilirubin": 99.0}}]})
    assert answer.json()["error"] == "visits.0.values: column 'bilirubin' takes 0 to 90 mg/dL"


def test_json_that_no_parser_should_take_is_refused(served):
    for text in (b"{", b"[]", b"null", b'{"values": {"alt": NaN}}', b"[" * 5000, b'"\xff"'):
        answer = served.post("/v1/predict", content=text, headers={"content-type": "application/json"})
        assert answer.status_code == 422, text[:20]


def test_an_upload_of_unsaid_length_is_counted(served):
    answer = served.post("/v1/predict", content=iter([bytes(1_000_000)] * 5), headers={"content-type": "multipart/form-data; boundary=b"})
    assert answer.status_code == 413


def test_more_requests_than_the_server_takes_are_told_to_come_again(radiographs):
    full = TestClient(build_app(Service(radiographs, TOKEN, Limits(waiting=0))), headers=OPENS)
    answer = full.post("/v1/predict", **form(GOOD))
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"


def test_a_failure_inside_is_told_and_logged_without_its_message(radiographs, capsys):
    service = Service(radiographs, TOKEN)

    def broken(cases):
        raise ValueError("Doe^Jane")

    service.batches._predict = broken
    answer = TestClient(build_app(service), headers=OPENS).post("/v1/predict", **form(GOOD))
    assert answer.status_code == 500
    assert answer.json().keys() == {"error", "fix"}
    logged = capsys.readouterr().err
    assert "ValueError at test_serve_refusals.py" in logged
    assert "Doe" not in logged + answer.text


def test_files_that_no_result_holds_are_named_by_number_and_check(runs):
    ct = TestClient(build_app(Service(Predictor([segmenter(runs / "ct")]), TOKEN)), headers=OPENS)
    files = [as_bytes(d) for d in series(1)] + [GOOD, series_cut()]
    told = ct.post("/v1/predict", **form(*files)).json()
    assert len(told["results"]) == 1
    assert {(each["file"], each["check"]) for each in told["left_out"]} == {(13, "modality"), (14, "truncated")}


def series_cut() -> bytes:
    return as_bytes(series(1)[0])[:-1700]


def test_metrics_count_by_route_and_status_and_nothing_else(radiographs):
    counted = TestClient(build_app(Service(radiographs, TOKEN)), headers=OPENS)
    counted.post("/v1/predict", **form(GOOD))
    counted.post("/v1/predict", **form(b"Doe"))
    counted.get("/Doe^Jane")
    text = counted.get("/metrics").text
    assert 'hepdist_requests_total{path="/v1/predict",status="200"} 1.0' in text
    assert 'hepdist_requests_total{path="/v1/predict",status="415"} 1.0' in text
    assert 'hepdist_requests_total{path="other",status="404"} 1.0' in text
    assert "hepdist_batch_cases_count 1.0" in text
    assert "Doe" not in text


def test_a_token_is_made_once_for_its_owner_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    token = read_token()
    path = tmp_path / ".config/hepdist/serve_token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(token) == 64
    assert read_token() == token
    path.chmod(0o644)
    with pytest.raises(RunError, match="chmod 600"):
        read_token()


def test_a_token_file_that_is_missing_or_short_is_refused(tmp_path):
    with pytest.raises(RunError, match="openssl"):
        read_token(tmp_path / "none")
    (tmp_path / "short").write_text("abc")
    (tmp_path / "short").chmod(0o600)
    with pytest.raises(RunError, match="at least 20"):
        read_token(tmp_path / "short")


def test_the_page_refers_to_nothing_outside_itself():
    assert "://" not in PAGE
    assert "@import" not in PAGE
    assert "innerHTML" not in PAGE


def test_a_zip_may_hold_other_files_beside_the_images(served):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("README.txt", "of Jane Doe")
        archive.writestr("__MACOSX/._1.dcm", b"x")
        archive.writestr("1", GOOD)
    told = served.post("/v1/predict", **form(buffer.getvalue())).json()
    assert len(told["results"]) == 1
    assert told["notes"] == ["1 members of archives are no images and were skipped."]
    assert "Doe" not in json.dumps(told)
