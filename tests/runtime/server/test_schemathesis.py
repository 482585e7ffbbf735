"""The OpenAPI document against the server: whatever is sent, no 5xx, and no answer that the document does not know."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable

from .conftest import serving

schemathesis = pytest.importorskip("schemathesis")

EXAMPLES = 6
"""Requests of each operation."""
CHECKED = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
)
"""Not that all that the document allows is taken: it does not know the model's name, its vocabulary or its jobs."""


def attack(url, ids):
    """Requests as the document has them, and as it does not, to every operation; how many were answered."""
    from schemathesis.checks import CHECKS

    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", headers={"Authorization": "Bearer secret"})
    checks = CHECKS.get_by_names(CHECKED)
    answers = []
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in schemathesis.GenerationMode:

            @seed(15)
            @settings(
                max_examples=EXAMPLES,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def send(case):
                # Half of those that ask for a job get one that is there.
                if case.path_parameters and "id" in case.path_parameters and len(answers) % 2:
                    case.path_parameters["id"] = ids[len(answers) % len(ids)]
                response = case.call(timeout=20, headers={"Authorization": "Bearer secret"})
                answers.append((case.method, case.path, response.status_code))
                case.validate_response(response, checks=checks)

            # Of an operation without parameters nothing can be wrong.
            with suppress(Unsatisfiable):
                send()
    return answers


async def test_the_document_holds():
    limits = {"total_tokens": 40, "seconds": 5}
    async with serving("ann secret jobs=64", limits=limits, max_body=1 << 16) as served:
        async with served.http("secret") as http:
            job = {"method": {"method": "sequential", "prompt": "seq 24 : 8 3 1 ;", "max_tokens": 3}}
            ids = [(await http.post("/v1/jobs", json=job)).json()["id"] for _ in range(2)]
        answers = await asyncio.to_thread(attack, served.url, ids)
    reached = {(method, path) for method, path, status in answers if status < 300}
    assert len({(method, path) for method, path, _ in answers}) == 14
    assert {path for _, path in reached} >= {"/v1/jobs", "/v1/jobs/{id}", "/v1/jobs/{id}/result", "/v1/models"}
    assert not [answer for answer in answers if answer[2] >= 500]
