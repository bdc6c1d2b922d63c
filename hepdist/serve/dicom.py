"""The DICOM objects of one result, as bytes: a Segmentation of its mask and a Structured Report, which refer to the series that was sent."""

from __future__ import annotations

import io

from pydicom.dataset import Dataset

from hepdist.inference import dicom_objects
from hepdist.inference.dicom_source import Unreferenced, source_images
from hepdist.inference.identity import Identity
from hepdist.inference.predictor import Answer, Predictor
from hepdist.ingest.dicom_refused import quiet
from hepdist.ingest.pseudonym import Pseudonyms
from hepdist.serve.limits import Problem
from hepdist.serve.study import Read, Study

WITHOUT = "ask for JSON instead, without dicom="


def objects(study: Study, read: Read, answer: Answer, predictor: Predictor, identity: Identity, names: Pseudonyms) -> dict[str, bytes]:
    """'seg' (where the mask holds anything) and 'sr' as files.

    Under one secret of `names` the same model and series give the same UIDs, so that a repeated prediction replaces the first one in an
    archive. Raises Problem where there can be no objects.
    """
    if study.form != "DICOM" or study.reading is None:
        raise Problem(422, "DICOM objects refer to a DICOM series, and the upload is none", WITHOUT)
    case, multilabel = read.original, predictor.signature.multilabel
    name, of = names.of("sample", case.sample.key), f"{identity.sha256}/{case.sample.key}"
    try:
        with quiet():
            source = source_images(study.reading.files, read.item, read.frame)
            made = dicom_objects.objects(
                source, case, answer, identity, lambda kind: _uids(names, kind, of, identity), name, multilabel=multilabel
            )
            return {kind: _bytes(dataset) for kind, dataset in made.items()}
    except Unreferenced as why:
        raise Problem(422, f"no DICOM object can be made: {why}", WITHOUT) from None
    except Exception as error:  # headers come from anywhere, and what highdicom says of one may quote it
        raise Problem(422, f"the headers of the series can't be referred to ({type(error).__name__})", WITHOUT) from None


def _uids(names: Pseudonyms, kind: str, of: str, identity: Identity) -> dict[str, str]:
    """Of one object's series, instance and parts."""
    numbered = [f"{part} {k}" for part in ("segment", "class") for k in range(1, len(identity.classes) + 1)]
    uids = {part: names.uid(f"{kind}/{part}/{of}") for part in ("series", "instance", *numbered)}
    return {**uids, "device": names.uid(f"device/{identity.sha256}")}


def _bytes(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
