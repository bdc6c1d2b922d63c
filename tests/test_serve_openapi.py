"""The API against its own description: schemathesis sends what /openapi.json allows and what it forbids, and holds the answers against it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from hepdist.inference.predictor import Predictor
from hepdist.serve.app import Service, build_app
from served import OPENS, TOKEN, emr_classifier

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed (pip install 'hepdist[dev]')")


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    run: Path = emr_classifier(tmp_path_factory.mktemp("runs") / "emr")
    return schemathesis.openapi.from_asgi("/openapi.json", build_app(Service(Predictor([run]), TOKEN)), headers=OPENS)


schema = schemathesis.pytest.from_fixture("api")


@schema.parametrize()
@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_answers_keep_to_the_description(case):
    case.call_and_validate(headers=OPENS)


def test_every_route_is_described(api):
    assert set(api.raw_schema["paths"]) == {"/v1/predict", "/v1/model", "/health", "/metrics", "/"}
