"""The API against its own description: schemathesis sends what /openapi.json allows and what it forbids, and holds the answers against it."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from served import OPENS, TOKEN, emr_classifier

from hepdist.inference.predictor import Predictor
from hepdist.serve.app import Service, build_app

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed (pip install 'hepdist[dev]')")
checks = pytest.importorskip("schemathesis.specs.openapi.checks")
OPERATIONS = [("/v1/predict", "POST"), ("/v1/model", "GET"), ("/health", "GET"), ("/metrics", "GET"), ("/", "GET")]


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    run = emr_classifier(tmp_path_factory.mktemp("runs") / "emr")
    return schemathesis.openapi.from_asgi("/openapi.json", build_app(Service(Predictor([run]), TOKEN)), headers=OPENS)


@pytest.mark.parametrize(("path", "method", "kind"), [*((*each, "positive") for each in OPERATIONS), ("/v1/predict", "POST", "negative")])
def test_answers_keep_to_the_description(api, path, method, kind):
    operation, answered = api[path][method], 0
    cases = operation.as_strategy(generation_mode=schemathesis.GenerationMode(kind))

    @given(case=cases)
    @settings(
        max_examples=25 if method == "POST" else 5, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    def keeps(case):
        nonlocal answered
        answer = case.call(headers=OPENS)
        excluded = [checks.positive_data_acceptance]  # bytes of any kind are a valid upload to a schema, and no image
        if answer.status_code == 413:  # a refusal as well, which schemathesis doesn't count among those of forbidden data
            excluded.append(checks.negative_data_rejection)
        case.validate_response(answer, headers=OPENS, excluded_checks=excluded)  # raises what it finds
        answered += 1

    keeps()
    assert answered


def test_every_route_is_described(api):
    assert set(api.raw_schema["paths"]) == {path for path, _ in OPERATIONS}
