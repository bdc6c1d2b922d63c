"""The DICOM objects of one result, as bytes: a Segmentation of its mask and a Structured Report, which refer to the series that was sent."""

from __future__ import annotations

import io

from pydicom.dataset import Dataset

from hepdist.inference.codes import ML, MM2
from hepdist.inference.dicom_seg import segmentation
from hepdist.inference.dicom_source import SourceImages, Unreferenced, source_images
from hepdist.inference.dicom_sr import probability_groups, report, volume_groups
from hepdist.inference.identity import Identity
from hepdist.inference.outputs import areas, calls
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
    try:
        with quiet():
            source = source_images(study.reading.files, read.item, read.frame)
            return _made(source, read, answer, predictor, identity, names)
    except Unreferenced as why:
        raise Problem(422, f"no DICOM object can be made: {why}", WITHOUT) from None
    except Exception as error:  # headers come from anywhere, and what highdicom says of one may quote it
        raise Problem(422, f"the headers of the series can't be referred to ({type(error).__name__})", WITHOUT) from None


def _made(
    source: SourceImages, read: Read, answer: Answer, predictor: Predictor, identity: Identity, names: Pseudonyms
) -> dict[str, bytes]:
    key = read.original.sample.key
    name = names.of("sample", key)
    seg_uids, report_uids = (_uids(names, kind, f"{identity.sha256}/{key}", identity) for kind in ("seg", "sr"))
    seg: Dataset | None = None
    if answer.mask is not None and answer.volumes_ml is not None:
        if answer.mask.any():
            seg = segmentation(source, answer.mask, identity, seg_uids, name)
        volume = answer.mask.ndim == 3
        sizes = answer.volumes_ml if volume else areas(read.original, answer.mask, len(identity.classes))
        groups = volume_groups(source, seg, sizes.tolist(), ML if volume else MM2, identity, seg_uids, name)
    else:
        assert answer.probability is not None
        called = calls(answer.probability, identity, multilabel=predictor.signature.multilabel)
        groups = probability_groups(source, answer.probability.tolist(), called, identity, name, report_uids)
    made = {"sr": _bytes(report(source, seg, groups, identity, report_uids))}
    return made if seg is None else {"seg": _bytes(seg), **made}


def _uids(names: Pseudonyms, kind: str, of: str, identity: Identity) -> dict[str, str]:
    """Of one object's series, instance and parts."""
    numbered = [f"{part} {k}" for part in ("segment", "class") for k in range(1, len(identity.classes) + 1)]
    uids = {part: names.uid(f"{kind}/{part}/{of}") for part in ("series", "instance", *numbered)}
    return {**uids, "device": names.uid(f"device/{identity.sha256}")}


def _bytes(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
