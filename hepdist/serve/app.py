"""The HTTP API over one Predictor: routes, their errors and their OpenAPI; runs under any ASGI server, Ray Serve's or a test's."""

from __future__ import annotations

import asyncio
import io
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

import hepdist
from hepdist.inference.case import Case
from hepdist.inference.identity import Identity
from hepdist.inference.predictor import Answer, Predictor
from hepdist.ingest.pseudonym import Pseudonyms
from hepdist.ingest.sample import Sample
from hepdist.serve.answers import Refusal, Reply, reply
from hepdist.serve.batches import Batches
from hepdist.serve.facts import ModelFacts, model_facts
from hepdist.serve.gate import FAILED, PREDICT, Gate
from hepdist.serve.limits import Limits, Problem
from hepdist.serve.metrics import CONTENT_TYPE, Metrics
from hepdist.serve.openapi import PREDICT_BODY, PREDICT_RESPONSES, complete
from hepdist.serve.page import CONTENT_POLICY, PAGE
from hepdist.serve.study import Study, read_record, read_study
from hepdist.serve.values import Record, parse_record

MULTIPART, JSON = "multipart/form-data", "application/json"
FORM_FIELDS = ("files", "emr")


@dataclass
class Service:
    """What one process needs to answer: the model, its queue, and threads that decode."""

    predictor: Predictor
    token: str
    limits: Limits = field(default_factory=Limits)
    options: tuple[str, ...] = ()
    """Of ingest, on how sources are laid out."""
    scratch: str | None = None
    """Folder for the uploads of requests under way; None: the system's for temporary files."""
    batch: int = 16
    """Cases of one forward pass; volumes go through alone, since they share none."""
    decoders: int = 2
    """Studies that are decoded at once."""

    def __post_init__(self) -> None:
        self.identity = Identity.of(self.predictor)
        self.names = Pseudonyms(self.token.encode())
        self.metrics = Metrics(lambda: self.batches.waiting)
        most = 1 if self.predictor.kind == "segmentation" else self.batch
        self.batches = Batches(self.predictor, most, self.metrics.batch)
        self.threads = ThreadPoolExecutor(self.decoders, "decode")

    def warm(self) -> None:
        """Predict something blank, so that no client waits for libraries and kernels that load at their first use."""
        import hepdist.ingest.dicom
        import hepdist.serve.dicom
        import hepdist.serve.overlay  # noqa: F401

        layout = self.predictor.layout
        blank = Sample(key="", patient="")
        if layout is not None:
            image = np.zeros((layout.channels, *layout.size), layout.dtype)
            spacing = layout.spacing or (1.0,) * len(layout.size)
            blank = Sample(key="", patient="", image=image, image_unit=layout.unit, spacing=spacing)
        self.predictor([Case(blank)])

    def close(self) -> None:
        self.batches.close()
        self.threads.shutdown(wait=False, cancel_futures=True)


class Asked(BaseModel):
    """What the answer shall be."""

    model_config = ConfigDict(extra="forbid")
    dicom: Literal["seg", "sr", "all"] | None = None
    overlay: bool = False


def build_app(service: Service) -> ASGIApp:
    app = FastAPI(
        title="hepdist serve", version=hepdist.__version__, docs_url=None, redirect_slashes=False, redoc_url=None,
        description="Predictions of trained hepdist runs. Research use only: not a medical device.",
        exception_handlers={
            Problem: _problem, HTTPException: _http_problem, RequestValidationError: _invalid, Exception: _failed,
        },
    )  # fmt: skip

    @app.post(PREDICT, response_model=Reply, responses=PREDICT_RESPONSES, openapi_extra=PREDICT_BODY, summary="Predict one study")
    async def predict(request: Request, asked: Annotated[Asked, Query()]) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == JSON:
            return await _answer(service, [], parse_record(await request.body()), asked)
        if kind != MULTIPART:
            raise Problem(
                415, "the request's content type is none that is read here", f"send {MULTIPART} with files, or {JSON} with EMR values"
            )
        async with request.form(max_files=service.limits.files, max_fields=4, max_part_size=service.limits.field) as form:
            files, record = _parts(form)
            return await _answer(service, files, record, asked)

    @app.get("/v1/model", response_model=ModelFacts, responses=_errors(401), summary="What the model expects and answers")
    async def model() -> ModelFacts:
        return model_facts(service.predictor, service.identity, service.limits)

    @app.get("/health", responses={200: {"content": {JSON: {"schema": {"type": "object"}}}}}, summary="Whether the server lives")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get(
        "/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}, **_errors(401)}, summary="For Prometheus"
    )
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/", response_class=Response, responses={200: {"content": {"text/html": {}}}}, summary="A page to drop a study on")
    async def page() -> Response:
        return Response(PAGE, media_type="text/html; charset=utf-8", headers={"content-security-policy": CONTENT_POLICY})

    complete(app)
    paths = frozenset([PREDICT, "/v1/model", "/health", "/metrics", "/", "/openapi.json"])
    return Gate(app, token=service.token, limits=service.limits, metrics=service.metrics, paths=paths)


async def _answer(service: Service, files: list[UploadFile], record: Record | None, asked: Asked) -> Response:
    if not files:
        if record is None:
            raise Problem(422, "the request holds neither a file nor EMR values", "send files in the field 'files', or EMR values in 'emr'")
        study = read_record(record, service.predictor)
        answers = await service.batches([read.case for read in study.found])
        return await _in_thread(service, lambda: _written(service, study, answers, asked))
    folder = Path(await _in_thread(service, lambda: tempfile.mkdtemp(dir=service.scratch)))  # 0700: this user's alone
    try:
        uploads = [file.file for file in files]
        study = await _in_thread(
            service, lambda: read_study(uploads, record, folder, service.predictor, service.limits, service.options)
        )  # fmt: skip
        answers = await service.batches([read.case for read in study.found])
        return await _in_thread(service, lambda: _written(service, study, answers, asked))
    finally:
        await _in_thread(service, lambda: shutil.rmtree(folder, ignore_errors=True))


def _written(service: Service, study: Study, answers: list[Answer], asked: Asked) -> Response:
    pictures: list[str | None] = [None] * len(answers)
    if asked.overlay:
        from hepdist.serve.overlay import overlay_uri

        pictures = [overlay_uri(read.original, answer) for read, answer in zip(study.found, answers, strict=True)]
    told = reply(study, answers, pictures, service.predictor, service.identity)
    if asked.dicom is None:
        return Response(told.model_dump_json(), media_type=JSON)
    from hepdist.serve.dicom import objects  # highdicom takes a second to import

    made = [
        objects(study, read, answer, service.predictor, service.identity, service.names)
        for read, answer in zip(study.found, answers, strict=True)
    ]
    if asked.dicom == "all":
        return Response(_zipped(told, made), media_type="application/zip")
    wanted = [each[asked.dicom] for each in made if asked.dicom in each]
    if len(made) > 1:
        raise Problem(
            422, f"the study gives {len(made)} results, and one DICOM object holds one", "ask for dicom=all, which gives a zip of all"
        )
    if not wanted:
        raise Problem(422, "nothing was segmented, so that there is no DICOM SEG", "ask for JSON, or for dicom=sr")
    return Response(wanted[0], media_type="application/dicom")


def _zipped(told: Reply, made: list[dict[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("result.json", told.model_dump_json(indent=1))
        for number, objects in enumerate(made, 1):
            for kind, data in objects.items():
                archive.writestr(f"{number}-{kind}.dcm", data)
    return buffer.getvalue()


def _parts(form: FormData) -> tuple[list[UploadFile], Record | None]:
    files: list[UploadFile] = []
    record: Record | None = None
    for name, value in form.multi_items():
        if name == "files" and isinstance(value, UploadFile):
            files.append(value)
        elif name == "emr" and isinstance(value, str) and record is None:
            record = parse_record(value)
        else:
            raise Problem(
                422,
                "the form has a field that is not read here",
                "send each file in a field 'files', and EMR values once, as text, in 'emr'",
            )
    return files, record


async def _in_thread(service: Service, work: Callable[[], Any]) -> Any:
    return await asyncio.get_running_loop().run_in_executor(service.threads, work)


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Refusal} for status in statuses}


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    headers = {"connection": "close"} if error.status == 413 else None  # what is left of the upload is not read
    return JSONResponse(error.body(), error.status, headers)


async def _http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 400:  # the form's parser
        detail = str(error.detail)
        if detail.startswith(("Too many", "Part exceeded")):
            return await _problem(request, Problem(413, "the form has too many or too large parts", "GET /v1/model names the limits"))
        return await _problem(request, Problem(422, "the form can't be parsed", "send multipart/form-data, as curl -F does"))
    texts = {
        404: ("there is nothing at this path", "the API is described at /openapi.json"),
        405: ("this path takes another method", "the API is described at /openapi.json"),
    }
    error_text, fix = texts.get(error.status_code, ("the request can't be answered", "the API is described at /openapi.json"))
    return JSONResponse({"error": error_text, "fix": fix}, error.status_code, dict(error.headers or {}))


async def _invalid(request: Request, error: Exception) -> Response:
    """A query parameter; its value is not repeated."""
    return await _problem(
        request, Problem(422, "a query parameter is not known or has a wrong value", "take dicom=seg, sr or all, and overlay=true")
    )


async def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse(FAILED.body(), 500)
