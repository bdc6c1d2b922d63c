"""What the model expects and answers, as GET /v1/model tells it: inputs, shapes, units, columns and classes."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from hepdist.inference.identity import Identity
from hepdist.inference.predictor import Predictor
from hepdist.serve.answers import NOTICE, ModelIdentity, model_identity, threshold_of
from hepdist.serve.limits import Limits
from hepdist.serve.overlay import colours
from hepdist.shards.manifest import EMRColumn


class ImageFacts(BaseModel):
    axes: Annotated[int, Field(description="2: pictures and radiographs; 3: volumes.")]
    channels: int
    unit: str
    shape: Annotated[
        list[int], Field(description="That the model sees; other sizes are resampled, scaled or cut into windows as training was.")
    ]
    spacing_mm: Annotated[list[float] | None, Field(description="That volumes are resampled to.")]
    modality: Annotated[str | None, Field(description="Of DICOM, where the model's cohort was made of one.")]
    needed: Annotated[bool, Field(description="False: the model also predicts without an image.")]


class ColumnFacts(BaseModel):
    name: str
    kind: Annotated[str, Field(description="number, category or ordinal.")]
    unit: str
    categories: list[str]
    low: Annotated[float | None, Field(description="Smallest value that is taken, in the unit.")]
    high: float | None
    missing_share: Annotated[float, Field(description="Share of the model's cohort that had no value.")]


class ModelFacts(BaseModel):
    identity: ModelIdentity
    image: ImageFacts | None
    emr: list[ColumnFacts]
    visits: Annotated[list[ColumnFacts], Field(description="Columns of each visit.")]
    most_visits: Annotated[int, Field(description="The last so many visits are used.")]
    threshold: float | None
    colours: Annotated[dict[str, str], Field(description="Of the outlines of segmented classes.")]
    limits: dict[str, int]
    notice: str = NOTICE


def model_facts(predictor: Predictor, identity: Identity, limits: Limits) -> ModelFacts:
    signature, layout = predictor.signature, predictor.layout
    options: dict[str, Any] = signature.origin.get("options", {})
    image = None
    if layout is not None:
        image = ImageFacts(
            axes=len(layout.size), channels=layout.channels, unit=layout.unit, shape=list(layout.size),
            spacing_mm=None if layout.spacing is None else list(layout.spacing), modality=options.get("modality"),
            needed="image" in predictor.reads and "image_missing" not in signature.tensors,
        )  # fmt: skip
    return ModelFacts(
        identity=model_identity(identity), image=image, emr=_columns(signature.emr), visits=_columns(signature.sequence),
        most_visits=signature.fields["sequence"].shape[0] if signature.sequence else 0, threshold=threshold_of(predictor), colours=colours(predictor.classes) if predictor.kind == "segmentation" else {},
        limits={"upload_bytes": limits.upload, "files": limits.files, "unpacked_bytes": limits.unpacked, "voxels": limits.voxels},
    )  # fmt: skip


def _columns(columns: tuple[EMRColumn, ...]) -> list[ColumnFacts]:
    return [
        ColumnFacts(
            name=c.name, kind=c.kind, unit=c.unit, categories=list(c.categories), low=c.low, high=c.high, missing_share=c.missing_share
        )
        for c in columns
    ]
