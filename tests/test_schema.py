"""The routes that write against their own OpenAPI document: requests that fit it and requests that break it, made by
schemathesis, asked without a server. ``make fuzz`` makes more of them (EXAMPLES=200)."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.python import asgi
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from embedsvc.config import Settings
from embedsvc.service import create_app
from tests.server import until

EXAMPLES = int(os.environ.get("EXAMPLES", "10"))
NAME = "handbook"
KNOWN = {"model": "all-MiniLM-L6-v2", "dtype": "int8", "filter": "metadata.year < 2020"}


@pytest.mark.parametrize("mode", schemathesis.GenerationMode, ids=lambda mode: mode.value)
def test_writing_routes_answer_as_their_openapi_says(mode: schemathesis.GenerationMode, here: Settings) -> None:
    """No 5xx; status, content type and body as described; what fits is taken, what does not is refused; and no job
    that comes of it fails with anything but an error of ours."""
    app = create_app(replace(here, public_url="http://testserver"))  # as schemathesis calls it
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    schema = schema.include(method=["PUT", "POST", "DELETE"], path_regex="^/v1/collections").exclude(
        path_regex="/search$"
    )
    jobs = app.state.embedsvc.jobs
    asked = 0
    try:
        for operation in (found.ok() for found in schema.get_all_operations()):
            if mode == schemathesis.GenerationMode.NEGATIVE and not operation.body:
                continue  # a path that does not fit its pattern is all that could be wrong
            schema["/v1/collections/{name}"]["PUT"].Case(path_parameters={"name": NAME}, body={}).call()
            for job in _ask(operation, mode):
                state = until(lambda job=job: _ended(jobs.get(job)))
                assert "inside the service" not in (state["error"] or ""), state
            asked += 1
    finally:
        asgi.shutdown_lifespans()
    assert asked >= 5


def test_routes_in_openais_shape_answer_as_their_openapi_says(here: Settings) -> None:
    """No 5xx; content type and body as described. What of a request is wrong there, a schema cannot always say."""
    app = create_app(replace(here, public_url="http://testserver"))  # as schemathesis calls it
    schema = schemathesis.openapi.from_asgi("/openapi.json", app).include(path_regex="^/v1/(vector_stores|files)")
    passed_over = [negative_data_rejection, positive_data_acceptance]
    asked = 0
    try:
        for operation in (found.ok() for found in schema.get_all_operations()):
            schema["/v1/vector_stores"]["POST"].Case(body={"name": NAME}).call()

            @given(case=operation.as_strategy())
            @settings(max_examples=max(2, EXAMPLES // 3), suppress_health_check=list(HealthCheck))
            def ask(case: schemathesis.Case) -> None:
                case.path_parameters = {
                    **case.path_parameters,
                    **({"id": NAME} if "id" in case.path_parameters else {}),
                }
                case.validate_response(case.call(), excluded_checks=passed_over)

            ask()
            asked += 1
    finally:
        asgi.shutdown_lifespans()
    assert asked >= 15


def _ask(operation: Any, mode: schemathesis.GenerationMode) -> list[str]:
    """The ids of the jobs that were made."""
    jobs = []

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=EXAMPLES if operation.body else 2, suppress_health_check=list(HealthCheck))
    def ask(case: schemathesis.Case) -> None:
        case.path_parameters = {**case.path_parameters, "name": NAME}
        # Which models there are, in what arithmetic, and what is a filter, no schema can say.
        if isinstance(case.body, dict):
            known = {key: value for key, value in KNOWN.items() if isinstance(case.body.get(key), str)}
            case.body = {**case.body, **known}
        # In a form every value is a text, and so none is of the wrong type.
        passed_over = [negative_data_rejection] if case.media_type == "multipart/form-data" else []
        response = case.call()
        case.validate_response(response, excluded_checks=passed_over)
        if response.status_code == 202:
            jobs.append(response.json()["job"])

    ask()
    return jobs


def _ended(state: dict[str, Any]) -> dict[str, Any] | None:
    return state if state["status"] not in ("queued", "running") else None
