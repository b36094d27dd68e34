"""The OpenAPI document is exact: schemathesis asks everything it allows and much that it does not, and finds no 500 and no undocumented answer."""

import json
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import openapi
from schemathesis.checks import CHECKS  # noqa: F401 - loads the table of checks
from schemathesis.specs.openapi import checks

from supervisor.front.app import build
from supervisor.front.options import Options
from supervisor.front.tokens import Tokens
from tests.support.front import WITHIN_S, FrontChild

STREAMS = ("/v1/events", "/v1/jobs/{job}/events")  # they do not end; test_front_events.py reads them

DOCUMENT = build(
    Options(
        state_dir="/", bind="127.0.0.1:0", loopback=True, tokens=Tokens(()), max_upload_bytes=1, allowed_roots=(), listen=()  # type: ignore[arg-type]
    ),
    parts=lambda: None,
).openapi()  # fmt: skip

SCHEMA = openapi.from_dict(DOCUMENT).exclude(path=list(STREAMS))

EXPECTED = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.unsupported_method,
    checks.allow_header_conformance,
]


@pytest.fixture(scope="module", autouse=True)
def _jobs(front: FrontChild) -> None:
    """Some jobs in the states that the routes tell apart, under ids that the examples use."""
    for status in ("queued", "running", "paused", "completed"):
        front.warden.submit("demo.count", status=status)
    front.warden.do(lambda: front.warden.gone.add("j-gone000009"))


@pytest.mark.slow
@pytest.mark.timeout(300)
@SCHEMA.parametrize()
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_documented_and_none_is_a_bug(case: "schemathesis.Case[Any]", front: FrontChild) -> None:
    if "job" in (case.path_parameters or {}):
        known = ["j-0000000001", "j-0000000002", "j-0000000003", "j-0000000004", "j-gone000009", case.path_parameters["job"]]
        case.path_parameters["job"] = known[len(json.dumps(case.path_parameters["job"])) % len(known)]
    if case.query and "wait" in case.query:
        case.query["wait"] = 0

    answer = case.call(base_url=front.url, timeout=WITHIN_S)

    assert answer.status_code != 500, answer.text
    if answer.status_code >= 400:
        problem = answer.json()
        assert problem["status"] == answer.status_code
    case.validate_response(answer, checks=EXPECTED)


def test_every_route_says_what_it_takes_and_every_name_resolves() -> None:
    text = json.dumps(DOCUMENT)
    names = DOCUMENT["components"]["schemas"]

    assert DOCUMENT["openapi"].startswith("3.1")
    assert {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]} <= set(names)
    for path, methods in DOCUMENT["paths"].items():
        for method, route in methods.items():
            good = [code for code in route["responses"] if int(code) < 400]
            bad = {code: one for code, one in route["responses"].items() if int(code) >= 400}
            assert good, (method, path)
            assert route["description"], (method, path)
            assert all(list(one["content"]) == ["application/problem+json"] for one in bad.values()), (method, path)


@pytest.mark.parametrize(
    "route",
    [
        "GET /healthz", "GET /readyz", "GET /health", "GET /metrics", "GET /v1/status", "GET /v1/workers", "POST /v1/workers/{name}/{action}",
        "POST /v1/workers/{name}/dump", "POST /v1/jobs", "GET /v1/jobs", "GET /v1/jobs/{job}", "GET /v1/jobs/{job}/events", "GET /v1/events",
        "POST /v1/jobs/{job}/cancel", "POST /v1/jobs/{job}/pause", "POST /v1/jobs/{job}/resume", "POST /v1/jobs/{job}/retry", "GET /v1/jobs/{job}/why",
        "GET /v1/jobs/{job}/files", "GET /v1/jobs/{job}/files/{name}", "GET /v1/kinds", "GET /v1/schedules", "POST /v1/hold", "POST /v1/release",
        "GET /v1/gpu/status", "POST /sessions", "GET /sessions/{session}", "DELETE /sessions/{session}", "POST /sessions/{session}/prompts",
        "POST /v1/gpu/lock", "POST /v1/gpu/renew", "POST /v1/gpu/unlock", "POST /v1/gpu/reset",
        "POST /v1/gpu/force-release-all", "POST /v1/gpu/vacate",
        "POST /propagate", "GET /job/{job}/status", "POST /frame-masks", "POST /predict", "POST /api/training/jobs", "POST /api/training/jobs/{job}/start",
        "POST /api/review/{session}/push", "POST /api/training/execute", "POST /api/training/cancel", "GET /api/training/status/{job}",
    ],
)  # fmt: skip
def test_each_route_of_the_contract_is_there(route: str) -> None:
    method, path = route.split()

    assert method.lower() in DOCUMENT["paths"][path]


def test_what_is_served_is_this_document(http: httpx.Client) -> None:
    served: dict[str, Any] = http.get("/openapi.json").json()

    assert served["paths"] == json.loads(json.dumps(DOCUMENT["paths"]))
