"""Windows and bricks: a volume that is predicted piece by piece gets the probabilities that it gets whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from predictors import SALT, UNET, nifti_cohort, saved_run

from hepdist.inference.case import Case
from hepdist.inference.predictor import Predictor
from hepdist.ingest.sample import Sample
from hepdist.tasks import volumes

REACH = 10
"""Voxels that the network sees in each direction: nearer to the border of a window it sees padding instead of the volume."""
SHAPE, WINDOW = (64, 96, 64), (32, 64, 64)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("windows")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEPDIST_SALT", SALT)
        return saved_run(folder / "run", nifti_cohort(folder), "segmentation", UNET)


@pytest.fixture
def case() -> Case:
    image = np.random.default_rng(0).normal(80, 20, (1, *SHAPE)).astype(np.uint8)
    return Case(Sample("k", "p", image=image, image_unit="raw", spacing=(1.0, 1.0, 1.0), affine=np.eye(4)))


def probabilities(run: Path, case: Case, size: tuple[int, ...], overlap: float | None) -> torch.Tensor:
    """float32[classes, *spatial] from which the mask is decided; the network's norm has fixed statistics, so that a voxel's answer depends on
    its neighbourhood alone.
    """
    kept: list[torch.Tensor] = []

    class Keeping(volumes.Assembly):
        def _decide_before(self, plane: int) -> None:
            done = plane - self._top
            if done:
                kept.append((self._layer[:, :done] / self._weight[:done]).clone())
            super()._decide_before(plane)

    predictor = Predictor([run])
    assert predictor.layout is not None
    predictor.layout = replace(predictor.layout, size=size, overlap=overlap)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(volumes, "Assembly", Keeping)
        (answer,) = predictor([case])
    found = torch.cat(kept, 1)
    np.testing.assert_array_equal(found.argmax(0), answer.mask)
    return found


def seen_whole() -> np.ndarray:
    """bool[*SHAPE]: voxels whose neighbourhood is inside every window that holds them."""
    axes = []
    for n, side in zip(SHAPE, WINDOW, strict=True):
        good = np.ones(n, bool)
        for start in range(0, n - side + 1, side // 2):
            good[start : start + REACH] &= start == 0
            good[start + side - REACH : start + side] &= start + side == n
        axes.append(good)
    return axes[0][:, None, None] & axes[1][:, None] & axes[2]


@pytest.mark.parametrize("overlap", [None, 0.5], ids=["windows", "bricks"])
def test_a_volume_by_pieces_has_the_probabilities_of_the_whole(run, case, overlap):
    whole, pieces = probabilities(run, case, SHAPE, None), probabilities(run, case, WINDOW, overlap)
    inside = torch.from_numpy(seen_whole())
    assert inside.float().mean() > 0.3
    assert float(whole.std()) > 0.01, "a network that says the same everywhere would prove nothing"
    torch.testing.assert_close(pieces[:, inside], whole[:, inside], rtol=0, atol=1e-4)
    assert float((pieces - whole).abs().max()) > 1e-3, "at the borders of windows they differ, so the windows were there"


def test_windows_are_blended_as_monai_blends_them(run, case):
    from monai.inferers import SlidingWindowInferer

    predictor = Predictor([run])
    (member,) = predictor.members
    image = predictor._normalised(member, {"image": torch.from_numpy(case.sample.image[None])})["image"]
    inferer = SlidingWindowInferer(WINDOW, overlap=0.5, mode="gaussian", sigma_scale=0.125)
    reference = inferer(image, lambda windows: member.task.probability(member.model, {"image": windows}))[0]
    torch.testing.assert_close(probabilities(run, case, WINDOW, None), reference, rtol=0, atol=1e-5)
