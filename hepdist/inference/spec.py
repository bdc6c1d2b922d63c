"""The options of `hepdist predict`, typed and checked; the others given are those of ingest that say how a source is laid out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import NonNegativeInt, PositiveInt

from hepdist.ingest.spec import IngestSpec
from hepdist.spec import Spec, known_keys, parse, unknown_key


class PredictSpec(Spec):
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where this machine has one."""
    workers: PositiveInt | None = None
    """Processes that predict, on as many GPUs or CPUs of the cluster. None: this one alone for a small input, else one a device."""
    tta: bool = True
    """Average over mirrored and moved images where the recipe's augment.test_flip and test_shift say so, as evaluation did."""
    dropout_samples: Annotated[int, Ge(2), Le(1000)] | None = None
    """Passes of each model with its dropout on, as in training (Gal & Ghahramani, 2016): the mean is the answer, and how far they differ is told.
    None: dropout is off."""
    overlays: bool = True
    """Draw a picture of every case."""
    embed: NonNegativeInt = 100
    """Pictures that stand in index.html itself; those of further cases are linked, so that the page stays small enough to open."""
    dicom: bool = True
    """Write DICOM SEG and SR objects for DICOM input. They carry the patient's identity; nothing else does."""
    identify: bool = False
    """Also write keys.csv, which says whose every pseudonym is: patient, study, series and files. Keep it as you keep the images."""
    salt: str | None = None
    """File that holds the secret behind all pseudonyms, as for ingest: the same salt gives a case the name it has in a cohort."""


ASIDE = frozenset(["workers", "embed", "salt"])
"""Options that change nothing in what is said of a case; the salt is seen by the names themselves."""


def parse_predict(options: list[str]) -> tuple[PredictSpec, list[str]]:
    """The options of predict, and the others, which are ingest's. Raises RecipeError with one sentence that names the key and the fix."""
    own: dict[str, Any] = {}
    others = []
    for option in options:
        key, _, value = option.partition("=")
        if key in PredictSpec.model_fields:
            own[key] = value
        elif key in IngestSpec.model_fields or not key.isidentifier():
            others.append(option)
        else:
            raise unknown_key("predict", key, [*known_keys(PredictSpec), *known_keys(IngestSpec)])
    return parse(PredictSpec, own, what="predict"), others
