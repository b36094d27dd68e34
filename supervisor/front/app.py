"""The application: routes, the door before them, and one shape for everything that goes wrong."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import supervisor
from supervisor.control import Refused, Unreachable
from supervisor.front import (
    openapi,
    routes_events,
    routes_files,
    routes_fleet,
    routes_health,
    routes_jobs,
    routes_locks,
    routes_orders,
    routes_predict,
    routes_sessions,
    routes_training,
)
from supervisor.front.gate import Gate
from supervisor.front.head import HeadAsGet
from supervisor.front.options import Options
from supervisor.front.problems import MEDIA_TYPE, Refusal, of_supervisor, response
from supervisor.front.queries import check_query

_BIG: Final = 2048
_ROUTERS: Final = (
    routes_health.router,
    routes_fleet.router,
    routes_locks.router,
    routes_orders.router,
    routes_events.router,
    routes_jobs.router,
    routes_files.router,
    routes_sessions.router,
    routes_predict.router,
    routes_training.router,
)
_LENIENT: Final = (routes_health.router,)
"""Asked by probes and scrapers, which add parameters of their own."""


def build(options: Options, *, parts: Callable[[], Any]) -> FastAPI:
    """Return the application. parts: an async context manager of what its routes work with, open while it runs."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with parts() as front:
            app.state.front = front
            yield

    app = FastAPIOffline(redoc_url=None, title="Warden", version=supervisor.__version__, lifespan=lifespan)
    for router in _ROUTERS:
        app.include_router(router, dependencies=[] if router in _LENIENT else [Depends(check_query)])
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)
    app.add_middleware(GZipMiddleware, minimum_size=_BIG, compresslevel=5)
    app.add_middleware(PlainTextToProblem)
    app.add_middleware(Counted)
    app.add_middleware(HeadAsGet)
    app.add_middleware(Gate, options=options)
    return app


def _document(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        app.openapi_schema = openapi.document(app)
    return app.openapi_schema


async def _refusal(_request: Request, error: Refusal) -> Response:
    return response(error)


async def _of_supervisor(_request: Request, error: Refused | Unreachable) -> Response:
    return response(of_supervisor(error))


async def _of_http(request: Request, error: HTTPException) -> Response:
    words = {404: ("unknown", "there is no such path: see /docs"), 405: ("method", "this path knows other methods: see the header Allow")}
    reason, detail = words.get(error.status_code, ("usage", str(error.detail)))
    headers = {"Allow": ", ".join(_methods_at(request))} if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED else error.headers
    return response(Refusal(error.status_code, reason, detail, headers=headers))


def _methods_at(request: Request) -> list[str]:
    """Return every method that this path knows: each of its routes knows only its own."""
    every = [*request.app.routes, *(route for router in _ROUTERS for route in router.routes)]
    routes = [route for route in every if route.matches(request.scope)[0] is not Match.NONE]
    methods = {method for route in routes for method in getattr(route, "methods", None) or ()}
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))


async def _of_validation(_request: Request, error: RequestValidationError) -> Response:
    found = [f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors()[:10]]
    return response(Refusal(422, "invalid", "; ".join(found)))


async def _of_bug(_request: Request, _error: Exception) -> Response:
    return response(Refusal(500, "bug", "this is a mistake of Warden's: its log (logs/workers/api-0.log) has the traceback; please report it"))


_HANDLERS: Final[dict[type[Exception], Any]] = {
    Refusal: _refusal,
    Refused: _of_supervisor,
    Unreachable: _of_supervisor,
    HTTPException: _of_http,
    RequestValidationError: _of_validation,
    Exception: _of_bug,
}


class PlainTextToProblem:
    """Whatever below answers an error in plain text (a bad Range) answers it as a problem instead."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand before this application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection of ASGI."""
        plain: dict[str, Any] = {}

        async def watching(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= HTTPStatus.BAD_REQUEST:
                headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]}
                if not headers.get("content-type", "").startswith(MEDIA_TYPE):
                    plain.update(status=message["status"], headers=headers, text=b"")
                    return
            if plain and message["type"] == "http.response.body":
                plain["text"] += message.get("body", b"")
                if not message.get("more_body"):
                    kept = {name: value for name, value in plain["headers"].items() if name in {"content-range", "allow"}}
                    detail = plain["text"].decode("utf-8", "replace") or HTTPStatus(plain["status"]).phrase
                    await response(Refusal(plain["status"], "usage", detail, headers=kept))(scope, receive, send)
                return
            await send(message)

        await self._app(scope, receive, watching)


class Counted:
    """Counts requests by their route, never by their path: ids are no labels."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand before this application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection of ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "none")
                scope["app"].state.front.metrics.requests.labels(scope["method"], route, str(message["status"])).inc()
            await send(message)

        await self._app(scope, receive, counting)
