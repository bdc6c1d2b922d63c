"""The models of one or several runs on one device: cases in, answers on the cases' own grids out. Knows neither Ray nor files of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from hepdist.errors import RecipeError
from hepdist.evaluation.calibration import apply_temperature
from hepdist.inference.case import Case, lying_axially
from hepdist.inference.doubt import STEPS, Agreement, MaskDoubt, most_nats
from hepdist.inference.dropout import dropout_layers, dropping
from hepdist.inference.grid import labels_on, levels_on, values_on
from hepdist.inference.members import Member, check_together, layout_of, load_member
from hepdist.ingest.bricks import brick_offsets, centred
from hepdist.ingest.columns import emr_vector
from hepdist.ingest.fit import Layout, Whole, crop_or_pad, resample, rows_of
from hepdist.ingest.sample import Sample
from hepdist.ingest.stage import fault_of
from hepdist.shards.tensors import tensor_of

if TYPE_CHECKING:
    from hepdist.tasks.restoration import Restoration
    from hepdist.tasks.segmentation import Segmentation
    from hepdist.tasks.volumes import Assembly

OVERLAP = 0.5
"""Of a side, between windows of a volume that is larger than what the model was trained on (Isensee et al., 2021)."""
WINDOW_VOXELS = 1 << 21
"""In one forward pass; recipe.evaluation.batch was chosen for rows of a cohort, which may be much smaller than bricks."""


@dataclass
class Answer:
    """What the models say of one case; what its task has no use for is None."""

    probability: np.ndarray | None = None
    """float32[K]: classification the classes, survival no event and the event; the mean over passes."""
    passes: np.ndarray | None = None
    """float32[M, T, K]: of each member, with dropout in each of its T passes; T is 1 without."""
    mask: np.ndarray | None = None
    """uint8, class indices on the grid of the case's files; the highest class where classes overlap."""
    volumes_ml: np.ndarray | None = None
    """float64[K - 1]: of each foreground class in `mask`; NaN where the source has no spacing."""
    doubt: MaskDoubt | None = None
    """How far several passes differ about `mask`; on its grid."""
    image: np.ndarray | None = None
    """float32[C, *spatial] on the grid of the case's files: restored, in the source's unit."""


class Predictor:
    """An ensemble of runs that were trained for the same task, classes and inputs; each member normalises by its own statistics."""

    def __init__(
        self,
        runs: Sequence[str | Path],
        *,
        device: str = "cpu",
        threads: int | None = None,
        tta: bool = True,
        dropout_samples: int | None = None,
    ) -> None:
        """tta: average over mirrored and moved images where the recipes say so, as their evaluation did; dropout_samples: passes of each
        member with its dropout on, whose mean is the answer.

        Raises RunError where a run has no model, or the runs do not belong together, RecipeError where one has no dropout to sample.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        self.device = torch.device(device)
        self.members = [load_member(Path(run), self.device, tta) for run in runs]
        first = self.members[0]
        self.kind = first.recipe.task.kind
        self.signature = first.signature
        self.recipe = first.recipe
        for other in self.members[1:]:
            check_together(first, other)
        self.layout = layout_of(first)
        self.classes: tuple[str, ...] = (
            first.task.classes if self.kind == "segmentation" else self.signature.label_names if self.kind != "restoration" else ()
        )
        """Names of what `Answer.probability` and `Answer.mask` are indexed by."""
        self.reads: tuple[str, ...] = tuple(cast("Any", first.model).inputs)
        """Batch entries that the first model reads, such as image or emr."""
        self.threshold = float(np.mean([member.threshold for member in self.members]))
        """Probability from which a case of two classes counts as the second one: the members' mean."""
        self.dropout_samples = dropout_samples
        self._dropout = [self._dropout_of(member) if dropout_samples else [] for member in self.members]
        """Of each member, the layers that drop something in its passes."""

    def refusal(self, case: Case) -> tuple[str, str] | None:
        """(check, reason) of a case that the model can't read, as ingest would say it; None: it can be predicted."""
        fault = fault_of(case.sample)
        if fault is not None:
            return fault
        image, layout = case.sample.image, self.layout
        needs_image = "image" in self.reads and "image_missing" not in self.signature.tensors
        if image is None:
            return ("unpaired", "it has no image, and the model reads one") if needs_image else None
        if layout is None:
            return None
        have, want = (image.shape[0], image.ndim - 1), (layout.channels, len(layout.size))
        if have != want:
            return "geometry", f"it has {have[0]} channels and {have[1]} axes; the model reads {want[0]} channels and {want[1]} axes"
        if case.sample.image_unit != layout.unit:
            return "unit", f"its values are in '{case.sample.image_unit}'; the model reads '{layout.unit}'"
        return None

    def __call__(self, cases: Sequence[Case]) -> list[Answer]:
        """One answer a case, in order; none of them may have a `refusal`. Cases of one call share forward passes where they can."""
        if self.kind == "segmentation":
            return [self._segment(case) for case in cases]
        if self.kind == "restoration":
            return [self._restore(case) for case in cases]
        return self._classify(cases)

    def batch(self, cases: Sequence[Case]) -> dict[str, Tensor]:
        """The cases as one batch in stored units on the device, one row each, as a cohort's rows would be: what `normalise` takes."""
        rows = [self._row(case) for case in cases]
        return {name: _tensor(np.stack([row[name] for row in rows])).to(self.device) for name in rows[0]}

    def _row(self, case: Case) -> dict[str, np.ndarray]:
        fields, row = self.signature.fields, {}
        if "image" in fields:
            field = fields["image"]
            if case.sample.image is None:
                row["image"] = np.zeros(field.shape, field.dtype)
            else:
                row["image"] = next(rows_of(self._whole(case), self._form)).image
        if "image_missing" in fields:
            row["image_missing"] = np.array([case.sample.image is None], np.uint8)
        if self.signature.emr:
            row["emr"], row["emr_missing"] = emr_vector(case.emr, self.signature.emr)
        if self.signature.sequence:
            length, features = fields["sequence"].shape
            if case.visits is not None:
                values, missing, gaps, steps = case.visits
            else:
                values, missing, gaps, steps = np.zeros((length, features)), np.ones((length, features)), np.zeros(length), 0
            row |= {
                "sequence": np.asarray(values, np.float32), "sequence_missing": np.asarray(missing, np.uint8),
                "sequence_gap": np.asarray(gaps, np.float32), "sequence_length": np.array([steps], np.int32),
            }  # fmt: skip
        return row

    def _classify(self, cases: Sequence[Case]) -> list[Answer]:
        size = 1 if self.dropout_samples else self.recipe.evaluation.batch
        answers: list[Answer] = []
        for first in range(0, len(cases), size):
            batch = self.batch(cases[first : first + size])
            found = np.stack([self._probabilities(index, batch) for index in range(len(self.members))], axis=1)
            answers += [Answer(probability=each.mean((0, 1)), passes=each) for each in found]
        return answers

    def _probabilities(self, index: int, batch: dict[str, Tensor]) -> np.ndarray:
        """float32[b, T, K] of one member. With dropout b is 1, and the passes are copies of the case in one batch."""
        member = self.members[index]
        normalised = self._normalised(member, batch)
        if not self.dropout_samples:
            return self._scaled(member, member.task.predict(member.model, normalised)["probability"])[:, None]
        at_once = member.recipe.evaluation.batch
        with dropping(self._dropout[index], index, self.device):
            found = [
                member.task.predict(member.model, {name: values.repeat_interleave(some, 0) for name, values in normalised.items()})
                for some in (min(at_once, self.dropout_samples - first) for first in range(0, self.dropout_samples, at_once))
            ]
        return self._scaled(member, np.concatenate([each["probability"] for each in found]))[None]

    def _segment(self, case: Case) -> Answer:
        whole, classes = self._whole(case), len(self.classes)
        decided, doubt = self._decided(whole)
        mask = case.source_array(labels_on(decided, case.shape, whole.step))
        if doubt is not None:
            doubt = replace(doubt, entropy=case.source_array(levels_on(doubt.entropy, case.shape, whole.step)))
        spacing = case.sample.spacing
        voxel_ml = float(np.prod(spacing)) / 1000 if spacing is not None and mask.ndim == 3 else float("nan")
        voxels = np.bincount(mask.reshape(-1), minlength=classes)[1:classes]
        return Answer(mask=mask, volumes_ml=voxels * voxel_ml, doubt=doubt)

    def _decided(self, whole: Whole) -> tuple[np.ndarray, MaskDoubt | None]:
        """Class indices of all passes together, and with several of them how far they differ; on the model's grid."""
        shape, samples = whole.image.shape[1:], self.dropout_samples or 1
        if samples * len(self.members) == 1:
            return self._assembled(whole, 0).decided().reshape(shape), None
        classes, overlapping = len(self.classes), cast("Segmentation", self.members[0].task).sigmoid
        agreement = Agreement(classes, overlapping, _volume(shape))
        for index in range(len(self.members)):
            for sample in range(samples):
                with dropping(self._dropout[index], index * samples + sample, self.device):
                    agreement.add(self._assembled(whole, index, agreement.total))
        decided, levels = agreement.decided()
        step = most_nats(classes, overlapping=overlapping) / STEPS
        return decided.reshape(shape), MaskDoubt(levels.reshape(shape), step, agreement.size_variation(), agreement.pairwise_dice())

    def _assembled(self, whole: Whole, index: int, total: np.ndarray | None = None) -> Assembly:
        """One pass of a member over an image; an Assembly knows volumes, so a picture is one of one plane. total: as for an Assembly."""
        from hepdist.tasks.volumes import Assembly, importance_of

        member, size = self.members[index], self._form.size
        task, flat = cast("Segmentation", member.task), len(size) == 2
        shape, importance = _volume(whole.image.shape[1:]), importance_of(_volume(size), self.device)
        assembly = Assembly(len(task.classes), task.sigmoid, shape, importance, total)
        for images, offsets in self._parts(whole, member):
            for probability, offset in zip(task.probability(member.model, {"image": images}), offsets, strict=True):
                assembly.add(probability[:, None] if flat else probability, None, [0, *offset] if flat else list(offset))
        return assembly

    def _restore(self, case: Case) -> Answer:
        from hepdist.tasks.volumes import importance_of

        whole, size = self._whole(case), self._form.size
        weight = importance_of(_volume(size), self.device).reshape(size).cpu().numpy()
        total, weights = np.zeros(whole.image.shape, np.float32), np.zeros(whole.image.shape[1:], np.float32)
        for member in self.members:
            for images, offsets in self._parts(whole, member):
                restored = self._stored(member, cast("Restoration", member.task).restored(member.model, images))
                for image, offset in zip(restored.cpu().numpy(), offsets, strict=True):
                    inside, place = _overlap(offset, size, weights.shape)
                    total[(slice(None), *place)] += image[(slice(None), *inside)] * weight[inside]
                    weights[place] += weight[inside]
        return Answer(image=case.source_array(values_on(total / weights, case.shape, whole.step)))

    def _parts(self, whole: Whole, member: Member) -> Iterator[tuple[Tensor, list[tuple[int, ...]]]]:
        """The image in pieces of the model's size, layer by layer: normalised for the member float32[b, C, *size], and where each one lies.

        Bricks as training saw bricks: cut first, then normalised. What training saw whole is padded as at ingest and normalised first, and
        cut into overlapping windows only where it is larger.
        """
        size, shape = self._form.size, whole.image.shape[1:]
        if self._form.overlap is not None:
            fitted = rows_of(whole, self._form)
            while bricks := list(islice(fitted, self._at_once)):
                batch = {"image": _tensor(np.stack([brick.image for brick in bricks])).to(self.device)}
                yield self._normalised(member, batch)["image"], [brick.offset for brick in bricks]
            return
        before = tuple(min(0, centred(have, want)) for have, want in zip(shape, size, strict=True))
        grown = tuple(max(have, want) for have, want in zip(shape, size, strict=True))
        padded = {"image": _tensor(crop_or_pad(whole.image, before, grown, whole.outside)[None]).to(self.device)}
        image = self._normalised(member, padded)["image"]
        offsets = iter(brick_offsets(grown, size, OVERLAP))
        while some := list(islice(offsets, self._at_once)):
            windows: list[Any] = [(..., *(slice(o, o + n) for o, n in zip(offset, size, strict=True))) for offset in some]
            places = [tuple(o + b for o, b in zip(offset, before, strict=True)) for offset in some]
            yield torch.cat([image[window] for window in windows]), places

    def _whole(self, case: Case) -> Whole:
        assert case.sample.image is not None
        return resample(case.sample.image, None, case, self._form)

    def upright(self, case: Case) -> Case:
        """The case as its volume lies in the model's cohort; called once, before all else."""
        return lying_axially(case) if self.signature.origin.get("source") == "nifti" else case

    @property
    def _form(self) -> Layout:
        assert self.layout is not None
        return self.layout

    @property
    def _at_once(self) -> int:
        return max(1, min(self.recipe.evaluation.batch, WINDOW_VOXELS // int(np.prod(self._form.size))))

    def _normalised(self, member: Member, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        from hepdist.augment import normalise

        return normalise(batch, member.recipe.data.normalise, member.signature.normalisation)

    def _stored(self, member: Member, image: Tensor) -> Tensor:
        from hepdist.augment import denormalise

        signature = member.signature
        return denormalise(image, member.recipe.data.normalise, signature.normalisation, signature.fields["image"].dtype)

    def _dropout_of(self, member: Member) -> list[nn.Module]:
        """Raises RecipeError where there is nothing to sample."""
        asked = f"predict key 'dropout_samples' is {self.dropout_samples}, but run '{Path(member.run).name}'"
        if self.kind == "restoration":
            raise RecipeError(f"{asked} restores images, of which it says nothing; leave it out")
        layers = dropout_layers(member.model, self._normalised(member, self.batch([Case(Sample("", ""))])))
        if not layers:
            raise RecipeError(f"{asked} has no dropout in its network; leave it out, or train the run with model.dropout=0.2")
        return layers

    def _scaled(self, member: Member, probability: np.ndarray) -> np.ndarray:
        if member.temperature == 1:
            return probability
        found = apply_temperature(probability.astype(np.float64), member.temperature, multilabel=self.signature.multilabel)
        return found.astype(np.float32)


def _tensor(values: np.ndarray) -> Tensor:
    return tensor_of(np.require(values, requirements=["C", "W"]))  # what was read from a file may be read-only


def _volume(sides: Sequence[int]) -> tuple[int, ...]:
    """Of a volume as it is; of a picture those of a volume of one plane."""
    return (1, *sides) if len(sides) == 2 else tuple(sides)


def _overlap(offset: Sequence[int], size: Sequence[int], shape: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The part of a window of `size` at `offset` that lies within `shape`: in the window, and in the whole."""
    low = [max(0, o) for o in offset]
    high = [min(o + n, have) for o, n, have in zip(offset, size, shape, strict=True)]
    inside = tuple(slice(a - o, b - o) for a, b, o in zip(low, high, offset, strict=True))
    return inside, tuple(slice(a, b) for a, b in zip(low, high, strict=True))
