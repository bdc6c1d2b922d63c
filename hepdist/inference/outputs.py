"""What is written of one case: SEG and SR for DICOM, a mask and where it is doubtful on the file's own grid, a restored image, an overlay; its row."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from hepdist.errors import HepdistError
from hepdist.inference.case import Case
from hepdist.inference.doubt import MaskDoubt, entropy, mutual_information, spread
from hepdist.inference.identity import Identity
from hepdist.inference.predictor import Answer, Predictor
from hepdist.ingest.files import Files
from hepdist.ingest.pseudonym import Pseudonyms
from hepdist.place import Place

DICOM, MASKS, ENTROPY, RESTORED, OVERLAYS = "dicom", "masks", "entropy", "restored", "overlays"
"""Folders of what is written. The first one's files carry identities, the others' pseudonyms alone."""
Row = dict[str, Any]


class Outputs:
    """Writes the files of cases into one place, each whole or not at all, under the case's pseudonym."""

    def __init__(self, place: Place, files: Files | None, names: Pseudonyms, predictor: Predictor, *, dicom: bool, overlays: bool) -> None:
        """files: those of the source; None of a cohort, which has none of its own."""
        self._place, self._files, self._names = place, files, names
        self._predictor, self._identity = predictor, Identity.of(predictor)
        self._dicom, self._overlays = dicom, overlays

    def write(self, kind: str, item: Any, original: Case, answer: Answer, name: str) -> Row:
        """The columns that this case's row has beside its keys. original: as its files lie; kind: of the source; name: the case's pseudonym."""
        notes = [note] if (note := field_of_view(original, self._predictor)) else []
        row = self._said(original, answer)
        if answer.image is not None:
            row |= self._restored(kind, original, answer.image, name)
        if kind == "dicom" and self._dicom:
            found, problem = self._objects(item, original, answer, row, name)
            row |= found
            notes += [problem] if problem else []
        if answer.mask is not None and "seg" not in row:  # of DICOM the SEG is the mask
            row["mask"] = self._put(MASKS, name, *self._as_file(kind, original, answer.mask))
        if answer.doubt is not None:
            row["entropy_map"] = self._put(ENTROPY, name, *self._as_file(kind, original, answer.doubt.entropy, answer.doubt.step))
        if self._overlays and original.sample.image is not None:
            row["overlay"] = self._overlay(original, answer, name)
        return {**row, "note": "; ".join(notes)}

    def _said(self, case: Case, answer: Answer) -> Row:
        """Numbers."""
        identity, row, multilabel = self._identity, Row(), self._predictor.signature.multilabel
        if answer.probability is not None and answer.passes is not None:
            called = calls(answer.probability, identity, multilabel=multilabel)
            row["label"] = "; ".join(n for n, there in zip(identity.classes, called, strict=True) if there)
            if len(identity.classes) == 2 and not multilabel:
                row["positive"] = bool(called[1])
            row |= {f"probability_{n}": float(p) for n, p in zip(identity.classes, answer.probability, strict=True)}
            passes = answer.passes.reshape(-1, len(answer.probability))
            if len(passes) > 1:
                row["uncertainty"] = spread(passes)
                row["entropy_nats"] = float(entropy(answer.probability.astype(np.float64), multilabel=multilabel))
                row["mutual_information_nats"] = mutual_information(passes, multilabel=multilabel)
        if answer.mask is not None and answer.volumes_ml is not None:
            sizes = answer.volumes_ml if answer.mask.ndim == 3 else areas(case, answer.mask, len(identity.classes))
            unit = "volume_ml" if answer.mask.ndim == 3 else "area_mm2"
            row |= {f"{unit}_{n}": float(v) for n, v in zip(identity.classes[1:], sizes, strict=True)}
            if answer.doubt is not None:
                row |= self._differences(answer.doubt, unit.partition("_")[0])
        return row

    def _differences(self, doubt: MaskDoubt, size: str) -> Row:
        """size: what is measured of a class, volume or area."""
        columns = {f"{size}_cv": doubt.size_variation, "pairwise_dice": doubt.pairwise_dice}
        names = self._identity.classes[1:]
        return {f"{column}_{n}": float(v) for column, values in columns.items() for n, v in zip(names, values, strict=True)}

    def _restored(self, kind: str, case: Case, image: np.ndarray, name: str) -> Row:
        from hepdist.inference.onto_files import displayed

        array = image if image.ndim == 4 else displayed(image, case.sample.image_unit)
        return {"restored": self._put(RESTORED, name, *self._as_file(kind, case, array))}

    def _as_file(self, kind: str, case: Case, array: np.ndarray, step: float = 1.0) -> tuple[str, bytes]:
        """Suffix and bytes of array[(C,) D, H, W] or [H, W]; step: what one of its whole numbers stands for, which NIfTI says and PNG can't."""
        from hepdist.inference.onto_files import nifti, nifti_like, png

        if array.ndim == 2:
            return ".png", png(array)
        if kind == "nifti":
            assert self._files is not None
            return ".nii.gz", nifti_like(self._files, case.sample.files, array, np.asarray(case.sample.affine), step)
        affine = case.sample.affine
        return ".nii.gz", nifti(array, np.eye(4)[:, [2, 1, 0, 3]] if affine is None else np.asarray(affine), step=step)

    def _overlay(self, case: Case, answer: Answer, name: str) -> str:
        from hepdist.inference.overlays import overlay

        sample, buffer = case.sample, io.BytesIO()
        assert sample.image is not None
        doubt = None if answer.doubt is None else (answer.doubt.entropy, answer.doubt.step)
        picture = overlay(sample.image, answer.mask, sample.spacing, sample.affine, sample.image_unit, beside=answer.image, entropy=doubt)
        picture.save(buffer, "PNG", optimize=True)
        return self._put(OVERLAYS, name, ".png", buffer.getvalue())

    def _objects(self, item: Any, case: Case, answer: Answer, row: Row, name: str) -> tuple[Row, str]:
        """SEG and SR, or why there are none. Headers come from anywhere, and what highdicom says of one may quote it."""
        from hepdist.inference.dicom_source import Unreferenced
        from hepdist.ingest.dicom_refused import quiet

        try:
            with quiet():
                return self._made(item, case, answer, row, name)
        except HepdistError:
            raise
        except Unreferenced as error:
            return {}, f"no DICOM objects: {error}"
        except Exception as error:
            return {}, f"no DICOM objects: the header of the source can't be referred to ({type(error).__name__})"

    def _made(self, item: Any, case: Case, answer: Answer, row: Row, name: str) -> tuple[Row, str]:
        from hepdist.inference import dicom_image, dicom_seg, dicom_sr
        from hepdist.inference.codes import ML, MM2
        from hepdist.inference.dicom_source import source_images

        assert self._files is not None
        identity, key = self._identity, case.sample.key
        frame = int(key.rpartition("#")[2]) if case.sample.affine is None and "#" in key else 0
        source = source_images(self._files, item, frame)
        row, problem, seg = Row(), "", None
        groups: list[dicom_sr.Group] = []
        if answer.mask is not None and answer.volumes_ml is not None:
            if answer.mask.any():
                seg = dicom_seg.segmentation(source, answer.mask, identity, self._uids("seg", key), name)
                row["seg"] = self._save(seg, f"{name}.seg.dcm")
            else:
                problem = "nothing was found, so there is no DICOM SEG"
            volume = answer.mask.ndim == 3
            sizes = answer.volumes_ml if volume else areas(case, answer.mask, len(identity.classes))
            groups = dicom_sr.volume_groups(source, seg, sizes.tolist(), ML if volume else MM2, identity, self._uids("seg", key), name)
        if answer.probability is not None:
            called = calls(answer.probability, identity, multilabel=self._predictor.signature.multilabel)
            groups = dicom_sr.probability_groups(source, answer.probability.tolist(), called, identity, name, self._uids("sr", key))
        if groups:
            row["sr"] = self._save(dicom_sr.report(source, seg, groups, identity, self._uids("sr", key)), f"{name}.sr.dcm")
        if answer.image is not None and answer.image.ndim == 3:
            row["derived"] = self._save(
                dicom_image.restored(source, answer.image, case, identity, self._uids("image", key)), f"{name}.restored.dcm"
            )
        return row, problem

    def _uids(self, what: str, key: str) -> dict[str, str]:
        """The same for the same model and case, so that a repeated prediction replaces the first one in an archive."""
        of = f"{self._identity.sha256}/{key}"
        uids = {part: self._names.uid(f"{what}/{part}/{of}") for part in ("series", "instance")}
        uids["device"] = self._names.uid(f"device/{self._identity.sha256}")
        numbers = range(1, len(self._identity.classes) + 1)
        return uids | {f"{part} {k}": self._names.uid(f"{part} {k}/{of}") for part in ("segment", "class") for k in numbers}

    def _save(self, dataset: Any, name: str) -> str:
        with self._place.writing(f"{DICOM}/{name}") as path:
            dataset.save_as(path, enforce_file_format=True)
        return f"{DICOM}/{name}"

    def _put(self, folder: str, name: str, suffix: str, data: bytes) -> str:
        path = f"{folder}/{name}{suffix}"
        self._place.write(path, data)
        return path


def calls(probability: np.ndarray, identity: Identity, *, multilabel: bool) -> list[bool]:
    """Which classes a case is called to be of: by the threshold of two, one half of each finding, else the most probable one."""
    if multilabel:
        return [bool(p >= 0.5) for p in probability]
    if len(probability) == 2:
        positive = bool(probability[1] >= identity.threshold)
        return [not positive, positive]
    return [k == int(probability.argmax()) for k in range(len(probability))]


def areas(case: Case, mask: np.ndarray, classes: int) -> np.ndarray:
    """mm2 of each foreground class of a mask[H, W]; NaN where the source has no spacing."""
    pixel = float(np.prod(case.sample.spacing)) if case.sample.spacing is not None else float("nan")
    return np.bincount(mask.reshape(-1), minlength=classes)[1:classes] * pixel


def field_of_view(case: Case, predictor: Predictor) -> str:
    """A remark where a volume shows far more of the patient than any that the model was trained on."""
    facts = predictor.signature.origin.get("fingerprint", {})
    largest, spacing = facts.get("largest_shape"), facts.get("median_spacing")
    if case.spacing is None or len(case.shape) != 3 or not largest or not spacing or len(largest) != 3:
        return ""
    # sorted, since a series may lie along another axis than the cohort's do
    have, seen = (np.sort(np.multiply(*pair)) for pair in ((case.shape, case.spacing), (largest, spacing)))
    if not (have > 2 * seen).any():
        return ""
    sides = " x ".join(f"{mm:.0f}" for mm in np.multiply(case.shape, case.spacing))
    trained = " x ".join(f"{mm:.0f}" for mm in np.multiply(largest, spacing))
    return f"shows {sides} mm, and the model was trained on at most {trained} mm"
