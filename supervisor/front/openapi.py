"""The contract in OpenAPI 3.1: shapes are the msgspec ones, and each route says every answer that it can give."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.responses import Response

import supervisor
from supervisor.front.problems import MEDIA_TYPE, RETRY_AFTER_S, ProblemView

_TEMPLATE: Final = "#/components/schemas/{name}"
_COMPONENTS: Final[dict[str, Any]] = {}
"""Filled while the routes are declared, read when the document is made: a schema stands where its first user is."""

ALWAYS: Final = (400, 401, 403, 421, 422, 503)
"""What the door, a query that is unknown, and a supervisor that is away, can answer to any request."""
BODY: Final = (408, 413, 415, 422)
"""What a request with a body can get on top of it."""

_WHY: Final = {
    400: "The request makes no sense.",
    401: "No token, or an unknown one.",
    403: "The token's scope is too small, or the page that asks comes from another site.",
    404: "There is no such thing.",
    405: "This path knows other methods.",
    408: "The body came too slowly.",
    409: "The state forbids it.",
    410: "There was one; it has expired and was cleaned up.",
    413: "The body is too large.",
    415: "The body is of another media type.",
    416: "The file has no such range.",
    421: "The Host is another machine's.",
    422: "The parameters can never work.",
    429: "The queue is full: try again later.",
    503: "Not now: the supervisor, a worker or the device is away. Retry-After says when to ask again.",
    507: "The disk is full.",
}
_RETRIED: Final = frozenset({*RETRY_AFTER_S, 404, 409})
"""Some 404 (a frame that has no masks yet) and 409 (a key whose first request is not answered yet) pass by themselves."""
_HEADERS: Final = {
    "Location": {"description": "Where the job is.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds after which it is worth asking again.", "schema": {"type": "integer"}},
    "ETag": {"description": "Of this state; send it as If-None-Match.", "schema": {"type": "string"}},
}


def schema_of(shape: Any) -> dict[str, Any]:
    """Return the JSON Schema of a shape, its parts among the components."""
    (schema,), components = msgspec.json.schema_components([shape], ref_template=_TEMPLATE)
    _COMPONENTS.update(components)
    return schema


def describe(
    shape: Any = None,
    *,
    status: int = 200,
    says: str = "As asked.",
    also: Iterable[int] = (),
    takes: Any = None,
    media: str = "application/json",
    headers: Iterable[str] = (),
    request: dict[str, Any] | None = None,
    answers: dict[int, dict[str, Any]] | None = None,
    always: Iterable[int] = ALWAYS,
) -> dict[str, Any]:
    """Return what a route's decorator is told.

    shape: of the answer, None for one without a body; takes: the shape of the JSON body; request: a whole requestBody instead of it.
    also: further problems that it answers; answers: further answers that are none.
    """
    content = {media: {"schema": schema_of(shape)}} if shape is not None else {}
    good = {"description": says, "headers": {name: _HEADERS[name] for name in headers}, **({"content": content} if content else {})}
    body = request or ({"required": True, "content": {"application/json": {"schema": schema_of(takes)}}} if takes is not None else None)
    codes = sorted({*always, *also, *(BODY if body else ())})
    return {
        "status_code": status,
        "response_class": Response,
        "response_model": None,
        "responses": {**{code: _problem(code) for code in codes}, status: good, **(answers or {})},
        "openapi_extra": {"requestBody": body} if body else None,
    }


def _problem(code: int) -> dict[str, Any]:
    retry = {"Retry-After": _HEADERS["Retry-After"]} if code in _RETRIED else {}
    return {
        "description": _WHY.get(code, HTTPStatus(code).phrase),
        "headers": retry,
        "content": {MEDIA_TYPE: {"schema": schema_of(ProblemView)}},
    }


def document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document."""
    made = get_openapi(
        title="Warden",
        version=supervisor.__version__,
        summary="GPU model workers, their jobs and their devices",
        description="Errors are RFC 9457 problem details. Times are ISO 8601 UTC, durations seconds, sizes bytes.",
        routes=app.routes,
    )
    components = made.setdefault("components", {})
    components["schemas"] = dict(sorted(_COMPONENTS.items()))
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer", "description": "One of api.token_file; asked for where one is set."}}
    made["security"] = [{}, {"token": []}]
    return made
