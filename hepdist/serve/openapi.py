"""What FastAPI can't see of the API by itself: the two forms of a prediction's request, the binary answers, and the token."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from hepdist.serve.answers import Refusal
from hepdist.serve.values import Record

REF = "#/components/schemas/{model}"
PREDICT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "files": {
                            "type": "array",
                            "minItems": 1,
                            "items": {"type": "string", "format": "binary"},
                            "description": "Every file of one study: DICOM, a zip of them, a single-file NIfTI, PNG, JPEG, TIFF or BMP.",
                        },
                        "emr": {
                            "type": "string",
                            "contentMediaType": "application/json",
                            "contentSchema": {"$ref": REF.format(model="Record")},
                            "description": "EMR values as JSON, of the form of Record.",
                        },
                    },
                },
            },
            "application/json": {"schema": {"$ref": REF.format(model="Record")}},
        },
    }
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
PREDICT_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "JSON; with dicom=seg or sr the DICOM object of the one result, with dicom=all a zip of all objects and the JSON.",
        "content": {"application/dicom": _BINARY, "application/zip": _BINARY},
    },
    **{
        status: {"model": Refusal, "description": text}
        for status, text in {
            401: "No valid token.",
            413: "Larger than what the server takes.",
            415: "Of no kind that is read here.",
            422: "Read, but not possible to predict from; `left_out` says why of each file.",
            503: "As many requests as the server takes at once; try again.",
        }.items()
    },
}
OPEN = ("/health", "/")


def complete(app: FastAPI) -> None:
    """Makes app.openapi() accurate."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            told = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            schemas = told["components"]["schemas"]
            record = Record.model_json_schema(ref_template=REF)
            schemas.update(record.pop("$defs"))
            schemas["Record"] = record
            for unused in ("HTTPValidationError", "ValidationError"):  # errors have one form here
                schemas.pop(unused, None)
            told["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            told["security"] = [{"token": []}]
            for path, operations in told["paths"].items():
                for operation in operations.values():
                    if path in OPEN:
                        operation["security"] = []
            app.openapi_schema = told
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
