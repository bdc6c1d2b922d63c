"""What the chaos tests share: the cohort, and the run that nobody disturbs."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.runs import ROWS, values
from cohorts import tiny_classification_cohort
from hepdist.recipe import Recipe
from hepdist.spec import parse
from hepdist.training.launch import train


@pytest.fixture(scope="package")
def cohort(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cohorts") / "images"
    tiny_classification_cohort(folder, {"train": ROWS, "val": 21, "test": 21})
    return folder


@pytest.fixture(scope="package")
def undisturbed(cohort, tmp_path_factory, ray_cluster) -> Path:
    return train(parse(Recipe, values(cohort, tmp_path_factory.mktemp("runs"), "undisturbed")))
