"""Volumes with masks as NIfTI pairs, laid out as in the Medical Segmentation Decathlon (imagesTr, labelsTr) or nnU-Net.

Antonelli et al., Nature Communications 13, 4128, 2022. What has no partner, or can't be read, goes to the audit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

import numpy as np

from hepdist.ingest.files import Files, is_hidden
from hepdist.ingest.nifti import UnreadableVolume, Volume, read_nifti
from hepdist.ingest.sample import Finding, Sample
from hepdist.ingest.spec import IngestSpec

IMAGES, LABELS, UNLABELLED = ("imagesTr", "images"), ("labelsTr", "labels", "masks"), ("imagesTs",)
SUFFIXES = (".nii.gz", ".nii")
CHANNEL = re.compile(r"_(\d{4})$")


def is_nifti(name: str) -> bool:
    return name.endswith(SUFFIXES) and not is_hidden(name)


def has_pairs(names: list[str]) -> bool:
    """Whether there are NIfTI files in an image folder and in a label folder."""
    folders = {PurePosixPath(name).parent.name for name in names if is_nifti(name)}
    return bool(folders & set(IMAGES)) and bool(folders & set(LABELS))


class DecathlonSource:
    """One case a pair: image [C, D, H, W] and mask with the same stem; each case is a patient."""

    kind = "decathlon"
    label_names: tuple[str, ...] = ()
    multilabel = False

    def __init__(self, files: Files, spec: IngestSpec):
        self._files = files
        self._description = next((n for n in files.names if PurePosixPath(n).name == "dataset.json" and not is_hidden(n)), None)
        self._ids, names, self._modality = self._declared()
        self.mask_classes = spec.classes or names
        self._images: dict[str, list[str]] = {}
        self._masks: dict[str, str] = {}
        self.findings: list[Finding] = []
        self.items: list[tuple[str, list[str], str]] = []
        for name in files.names:
            self._sort(name)
        self._join_channels()
        self._pair()

    def read(self, item: tuple[str, list[str], str]) -> Iterator[Sample | Finding]:
        yield from self._case(*item)

    def _pair(self) -> None:
        """Cases with image and label become items; what has no partner, findings."""
        for case in sorted(self._images.keys() | self._masks.keys()):
            images, mask = self._images.get(case, []), self._masks.get(case)
            if mask is None:
                self.findings += [Finding(name, "quarantined", "unpaired", "image without a label") for name in images]
            elif not images:
                self.findings.append(Finding(mask, "quarantined", "unpaired", "label without an image"))
            else:
                self.items.append((case, images, mask))

    def _case(self, case: str, images: list[str], mask: str) -> Iterator[Sample | Finding]:
        volumes: list[Volume] = []
        for name in [*images, mask]:
            try:
                volumes.append(read_nifti(self._files.read(name)))
            except UnreadableVolume as error:
                yield from self._refuse(name, error.check, str(error), [*images, mask])
                return
            except OSError:
                yield from self._refuse(name, "truncated", "can't be read", [*images, mask])
                return
        *channels, label = volumes
        first = channels[0]
        for name, volume in zip([*images[1:], mask], [*channels[1:], label], strict=True):
            if volume.voxels.shape[1:] != first.voxels.shape[1:]:
                reason = f"its shape is {volume.voxels.shape[1:]}, its image's {first.voxels.shape[1:]}"
                yield from self._refuse(name, "geometry", reason, [*images, mask])
                return
            if not np.allclose(volume.affine, first.affine, rtol=1e-4, atol=1e-3):
                yield from self._refuse(name, "geometry", "its affine differs from its image's", [*images, mask])
                return
        classes = self._class_indices(label.voxels)
        if isinstance(classes, str):
            yield from self._refuse(mask, "label-unknown", classes, [*images, mask])
            return
        image = first.voxels if len(channels) == 1 else np.concatenate([c.voxels for c in channels])
        yield Sample(
            key=case, patient=case, image=image, image_unit="HU" if self._modality == "CT" else "raw", mask=classes,
            spacing=first.spacing, affine=first.affine, files=(*images, mask),
        )  # fmt: skip

    def _class_indices(self, voxels: np.ndarray) -> np.ndarray | str:
        """uint8[1, D, H, W]; a sentence where a voxel is no class."""
        if len(voxels) != 1:
            return f"the label has {len(voxels)} channels; class indices have one"
        values = np.unique(voxels)
        if not np.isfinite(values).all() or (values != np.round(values)).any() or values[0] < 0 or values[-1] > 255:
            return "the label holds values that are not whole numbers from 0 to 255"
        if self._ids:
            foreign = sorted({int(v) for v in values} - self._ids.keys())
            if foreign:
                return f"the label holds the value {foreign[0]}, which is none of the declared classes {sorted(self._ids)}"
            table = np.zeros(256, np.uint8)
            table[list(self._ids)] = list(self._ids.values())
            return table[voxels.astype(np.uint8)]
        return voxels.astype(np.uint8)

    def _refuse(self, culprit: str, check: str, reason: str, case: list[str]) -> Iterator[Finding]:
        """The file at fault with its reason; its partners because of it."""
        for name in case:
            if name == culprit:
                yield Finding(name, "quarantined", check, reason)
            else:
                yield Finding(name, "quarantined", "unpaired", f"its partner is quarantined: {check}")

    def _declared(self) -> tuple[dict[int, int], tuple[str, ...], str]:
        """Label value to class index, class names and first modality of dataset.json; empty without one (or a damaged one)."""
        if self._description is None:
            return {}, (), ""
        try:
            content = json.loads(self._files.read(self._description))
            labels = {int(k): str(v) for k, v in content["labels"].items()} if all(str(k).isdigit() for k in content["labels"]) else {
                int(v): str(k) for k, v in content["labels"].items()  # nnU-Net 2: names to values
            }  # fmt: skip
            modalities = content.get("modality") or content.get("channel_names") or {}
            order = sorted(labels)
            return {value: i for i, value in enumerate(order)}, tuple(labels[v] for v in order), str(modalities.get("0", ""))
        except (ValueError, KeyError, TypeError, AttributeError, OSError):
            return {}, (), ""

    def _sort(self, name: str) -> None:
        path = PurePosixPath(name)
        if is_hidden(name):
            self.findings.append(Finding(name, "ignored", "hidden-file", "left by an operating system"))
        elif name == self._description:
            known = bool(self._ids)
            self.findings.append(
                Finding(name, "ingested" if known else "quarantined", "" if known else "description", "" if known else "no labels in it")
            )
        elif not name.endswith(SUFFIXES):
            self.findings.append(Finding(name, "ignored", "not-an-image", "is not a NIfTI file by its name"))
        elif path.parent.name in IMAGES:
            self._images.setdefault(_stem(path), []).append(name)
        elif path.parent.name in LABELS:
            if _stem(path) in self._masks:
                self.findings.append(Finding(name, "quarantined", "ambiguous", "a second label for the same image"))
            else:
                self._masks[_stem(path)] = name
        elif path.parent.name in UNLABELLED:
            self.findings.append(Finding(name, "ignored", "unlabelled", "an image of the official test set, without a label"))
        else:
            self.findings.append(Finding(name, "quarantined", "unpaired", "lies outside the folders of images and labels"))

    def _join_channels(self) -> None:
        """nnU-Net writes a file a channel, CASE_0000 and so on, for the label CASE; a folder name tells doubles apart."""
        for stem in list(self._images):
            channel = CHANNEL.search(stem)
            if channel and stem not in self._masks and stem[: channel.start()] in self._masks:
                self._images.setdefault(stem[: channel.start()], []).extend(self._images.pop(stem))
        for case, names in list(self._images.items()):
            stems = [_stem(PurePosixPath(n)) for n in names]
            if len(set(stems)) < len(stems):
                del self._images[case]
                self.findings += [Finding(n, "quarantined", "ambiguous", "several images have this name") for n in names]


def _stem(path: PurePosixPath) -> str:
    return re.sub(r"\.nii(\.gz)?$", "", path.name)
