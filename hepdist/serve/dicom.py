"""The DICOM objects of one result: a Segmentation of its mask and a Structured Report, which refer to the series that was sent."""

from __future__ import annotations

import io

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from hepdist.inference.codes import ML, MM2
from hepdist.inference.dicom_seg import segmentation
from hepdist.inference.dicom_source import Unreferenced, source_images
from hepdist.inference.dicom_sr import probability_groups, report, volume_groups
from hepdist.inference.identity import Identity
from hepdist.inference.predictor import Answer, Predictor
from hepdist.ingest.dicom_refused import quiet
from hepdist.serve.answers import decision
from hepdist.serve.limits import Problem
from hepdist.serve.study import Read, Study


def objects(study: Study, read: Read, answer: Answer, number: int, predictor: Predictor, identity: Identity) -> dict[str, bytes]:
    """'seg' (where the mask holds anything) and 'sr' as files; number: of the case in the request. Raises Problem where there can be none."""
    if study.form != "DICOM" or study.reading is None:
        raise Problem(422, "DICOM objects refer to a DICOM series, and the upload is none", "leave out dicom=, or send DICOM files")
    name = f"case {number}"
    with quiet():
        try:
            source = source_images(study.reading.files, read.item, read.frame)
        except Unreferenced as why:
            raise Problem(422, f"no DICOM object can be made: {why}", "leave out dicom=, or send single-frame files") from None
        uids = {key: generate_uid(prefix=None) for key in ("instance", "series", "sr", "sr series", "device")}
        uids |= {f"{kind} {n}": generate_uid(prefix=None) for kind in ("segment", "class") for n in range(1, 1 + len(predictor.classes))}
        report_uids = {**uids, "instance": uids["sr"], "series": uids["sr series"]}
        seg: Dataset | None = None
        if answer.mask is not None:
            if answer.mask.any():
                seg = segmentation(source, answer.mask, identity, uids, name)
            sizes, unit = _sizes(read, answer, len(predictor.classes))
            groups = volume_groups(source, seg, sizes, unit, identity, report_uids, name)
        else:
            assert answer.probability is not None
            decided = decision(predictor, answer.probability)
            called = [label in decided if isinstance(decided, list) else label == decided for label in predictor.classes]
            groups = probability_groups(source, answer.probability.tolist(), called, identity, name, report_uids)
        made = {"sr": _bytes(report(source, seg, groups, identity, report_uids))}
        return made if seg is None else {"seg": _bytes(seg), **made}


def _sizes(read: Read, answer: Answer, classes: int) -> tuple[list[float], object]:
    assert answer.mask is not None and answer.volumes_ml is not None
    if answer.mask.ndim == 3:
        return answer.volumes_ml.tolist(), ML
    spacing = read.case.sample.spacing
    area = float(np.prod(spacing)) if spacing is not None else float("nan")
    pixels = np.bincount(answer.mask.reshape(-1), minlength=classes)[1:classes]
    return (pixels * area).tolist(), MM2


def _bytes(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
