"""What the API answers, as typed JSON: one result an image, volume or record, with the model's identity and what was left out."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field

from hepdist.inference.conclusions import calls, field_of_view
from hepdist.inference.identity import Identity
from hepdist.inference.predictor import Answer, Predictor
from hepdist.serve.study import Read, Study, told_number

NOTICE = "Research use only: hepdist is not a medical device, and a prediction is no diagnosis."


class Refusal(BaseModel):
    """Every answer with a status of 400 or more."""

    error: str
    fix: str
    left_out: list[LeftOut] = Field(default_factory=list)


class LeftOut(BaseModel):
    file: Annotated[int | None, Field(description="Its number among the images sent; null for what is no file of its own.")]
    check: Annotated[str, Field(description="Which check failed, as in the audit of an ingest.")]
    reason: str


class Input(BaseModel):
    form: Annotated[str, Field(description="DICOM, NIfTI, picture or EMR.")]
    files: Annotated[list[int], Field(description="Numbers of the files that it came from, in the order sent.")]
    shape: Annotated[list[int], Field(description="Voxels along D, H, W or H, W, as it was read; empty without an image.")]
    spacing_mm: list[float] | None


class Spread(BaseModel):
    """How far the members of an ensemble lie apart."""

    std: Annotated[dict[str, float], Field(description="Standard deviation of each class's probability over the members.")]
    members: Annotated[list[dict[str, float]], Field(description="The probabilities of each member, in the order of model.runs.")]


class Result(BaseModel):
    input: Input
    probabilities: dict[str, float] | None = None
    threshold: Annotated[
        float | None,
        Field(
            description="Probability from which the second of two classes counts; null with more classes, where the largest wins, or one half of each finding."
        ),
    ] = None
    decision: Annotated[str | list[str] | None, Field(description="The class, or those present where several can be.")] = None
    spread: Spread | None = None
    volumes_ml: Annotated[
        dict[str, float | None] | None, Field(description="Of each segmented class; null where the source has no spacing.")
    ] = None
    pixels: Annotated[dict[str, int] | None, Field(description="Voxels of each segmented class, on the grid of the files.")] = None
    overlay: Annotated[str | None, Field(description="A picture as a data URI, where overlay=true asked for it.")] = None


class ModelIdentity(BaseModel):
    runs: list[str]
    sha256: Annotated[list[str], Field(description="Of each run's model.safetensors.")]
    hepdist: str
    task: str
    classes: list[str]
    calibration: Annotated[str, Field(description="How probabilities were scaled; empty where they were not.")]


class Reply(BaseModel):
    results: list[Result]
    model: ModelIdentity
    notes: list[str]
    left_out: list[LeftOut]
    notice: str = NOTICE


Refusal.model_rebuild()


def reply(study: Study, answers: list[Answer], pictures: list[str | None], predictor: Predictor, identity: Identity) -> Reply:
    results = [result(study, read, answer, predictor, identity) for read, answer in zip(study.found, answers, strict=True)]
    for one, picture in zip(results, pictures, strict=True):
        one.overlay = picture
    return Reply(
        results=results, model=model_identity(identity), notes=_notes(study, answers, predictor, identity),
        left_out=[LeftOut(**each) for each in study.left_out],
    )  # fmt: skip


def model_identity(identity: Identity) -> ModelIdentity:
    return ModelIdentity(
        runs=list(identity.runs), sha256=list(identity.sha256s), hepdist=identity.version.removeprefix("hepdist "), task=identity.kind,
        classes=list(identity.classes), calibration=identity.calibration,
    )  # fmt: skip


def result(study: Study, read: Read, answer: Answer, predictor: Predictor, identity: Identity) -> Result:
    classes, original = predictor.classes, read.original
    numbers = [number for name in original.sample.files if (number := told_number(name)) is not None]
    spacing = None if original.spacing is None else [float(side) for side in original.spacing]
    told = Input(form=study.form, files=numbers, shape=list(original.shape), spacing_mm=spacing)
    if answer.mask is not None and answer.volumes_ml is not None:
        voxels = np.bincount(answer.mask.reshape(-1), minlength=len(classes))
        ml = {name: None if math.isnan(v) else float(v) for name, v in zip(classes[1:], answer.volumes_ml, strict=True)}
        return Result(input=told, volumes_ml=ml, pixels={name: int(voxels[n]) for n, name in enumerate(classes) if n})
    assert answer.probability is not None and answer.passes is not None
    members = answer.passes.mean(1)
    return Result(
        input=told, probabilities=_by_class(classes, answer.probability), threshold=threshold_of(predictor),
        decision=decision(predictor, identity, answer.probability),
        spread=Spread(std=_by_class(classes, members.std(0)), members=[_by_class(classes, m) for m in members]) if len(members) > 1 else None,
    )  # fmt: skip


def threshold_of(predictor: Predictor) -> float | None:
    """Where one decides between two classes."""
    return predictor.threshold if len(predictor.classes) == 2 and predictor.kind != "segmentation" else None


def decision(predictor: Predictor, identity: Identity, probability: np.ndarray) -> str | list[str]:
    present = calls(probability, identity, multilabel=predictor.signature.multilabel)
    names = [name for name, there in zip(predictor.classes, present, strict=True) if there]
    return names if predictor.signature.multilabel else names[0]


def _by_class(classes: tuple[str, ...], values: np.ndarray) -> dict[str, float]:
    return {name: float(value) for name, value in zip(classes, values, strict=True)}


def _notes(study: Study, answers: list[Answer], predictor: Predictor, identity: Identity) -> list[str]:
    notes: list[str] = []
    if len(identity.runs) > 1:
        notes.append(f"Probabilities are the mean over {len(identity.runs)} models.")
    if identity.calibration:
        notes.append(f"Probabilities are calibrated: {identity.calibration}.")
    columns: dict[str, Any] = {column.name: None for column in predictor.signature.emr}
    absent = [name for name in columns if all(read.case.emr.get(name) is None for read in study.found)]
    if absent:
        notes.append(f"EMR columns without a value were taken as missing: {', '.join(absent)}.")
    if predictor.signature.sequence and all(read.case.visits is None for read in study.found):
        notes.append("No visits were given; the model was shown none.")
    if any(answer.volumes_ml is not None and np.isnan(answer.volumes_ml).any() for answer in answers):
        notes.append("A source without spacing has no volumes in ml.")
    notes += dict.fromkeys(f"An image {note}." for read in study.found if (note := field_of_view(read.original, predictor)))
    if study.skipped:
        notes.append(f"{study.skipped} members of archives are no images and were skipped.")
    return notes
