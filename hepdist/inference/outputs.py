"""What is written of one case: SEG and SR for DICOM, a mask and where it is doubtful on the file's own grid, a restored image, an overlay; its row."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from hepdist.errors import HepdistError
from hepdist.inference.case import Case
from hepdist.inference.conclusions import calls, field_of_view, sizes
from hepdist.inference.doubt import MaskDoubt, entropy, mutual_information, spread
from hepdist.inference.identity import Identity
from hepdist.inference.predictor import Answer, Predictor
from hepdist.ingest.files import Files
from hepdist.ingest.pseudonym import Pseudonyms
from hepdist.place import Place

FOLDERS = DICOM, MASKS, ENTROPY, RESTORED, OVERLAYS = "dicom", "masks", "entropy", "restored", "overlays"
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
            found, problem = self._objects(item, original, answer, name)
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
        if answer.mask is not None:
            unit = "volume_ml" if answer.mask.ndim == 3 else "area_mm2"
            row |= {f"{unit}_{n}": float(v) for n, v in zip(identity.classes[1:], sizes(case, answer), strict=True)}
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

    def _objects(self, item: Any, case: Case, answer: Answer, name: str) -> tuple[Row, str]:
        """SEG, SR and the restored picture, or why there are none. Headers come from anywhere, and what highdicom says of one may quote it."""
        from hepdist.inference.dicom_source import Unreferenced
        from hepdist.ingest.dicom_refused import quiet

        try:
            with quiet():
                row = self._made(item, case, answer, name)
        except HepdistError:
            raise
        except Unreferenced as error:
            return {}, f"no DICOM objects: {error}"
        except Exception as error:
            return {}, f"no DICOM objects: the header of the source can't be referred to ({type(error).__name__})"
        return row, "nothing was found, so there is no DICOM SEG" if answer.mask is not None and "seg" not in row else ""

    def _made(self, item: Any, case: Case, answer: Answer, name: str) -> Row:
        from hepdist.inference.dicom_objects import objects
        from hepdist.inference.dicom_source import source_images

        assert self._files is not None
        key, multilabel = case.sample.key, self._predictor.signature.multilabel
        frame = int(key.rpartition("#")[2]) if case.sample.affine is None and "#" in key else 0
        source = source_images(self._files, item, frame)
        made = objects(source, case, answer, self._identity, lambda what: self._uids(what, key), name, multilabel=multilabel)
        suffixes = {"seg": "seg", "sr": "sr", "derived": "restored"}
        return {what: self._save(dataset, f"{name}.{suffixes[what]}.dcm") for what, dataset in made.items()}

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
