"""The door: who may come in, and how much may be brought. Pure ASGI, because it must neither buffer a stream nor start one that it will refuse."""

from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from supervisor.front.body_limits import Body
from supervisor.front.connection import LOCAL
from supervisor.front.options import Options, host_of, is_loopback
from supervisor.front.problems import Refusal, response
from supervisor.front.tokens import Scope as Right
from supervisor.front.tokens import TokenFile, Tokens

READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
OPEN: Final = frozenset({"/healthz"})
"""Whoever watches whether we live needs no token."""
_ADMIN: Final = frozenset({"/v1/hold", "/v1/release", "/v1/gpu/reset", "/v1/gpu/force-release-all"})
"""What acts on the work of everybody."""


class Gate:
    """Lets a request through, or answers it with a problem."""

    def __init__(self, app: ASGIApp, options: Options) -> None:
        """Guard this application."""
        self._app = app
        self._options = options
        self._tokens = TokenFile(options.token_file, options.tokens) if options.token_file else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection of ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = Body(scope, receive, send, max_upload_bytes=self._options.max_upload_bytes)
        try:
            self._check(scope)
            body.check_declared()
        except Refusal as refusal:
            await response(refusal)(scope, body.receive, body.send)
            return
        await self._app(scope, body.receive, self._while_allowed(scope, body.send))

    def _while_allowed(self, scope: Scope, send: Send) -> Send:
        """Return a `send` that ends a stream of no known length once its token is good no longer. The application is told that the client left."""
        if self._tokens is None or _is_local(scope):
            return send
        tokens, admitted, ended, sized = self._tokens, self._tokens.now(), False, False

        async def watched(message: Message) -> None:
            nonlocal admitted, ended, sized
            if ended:
                return
            if not sized and message["type"] == "http.response.body" and message.get("more_body") and (now := tokens.now()) is not admitted:
                admitted = now
                try:
                    self._check(scope)
                except Refusal:
                    ended, message = True, {"type": "http.response.body", "body": b"", "more_body": False}
            elif message["type"] == "http.response.start":
                sized = any(name == b"content-length" for name, _ in message["headers"])
            await send(message)

        return watched

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        local = _is_local(scope)
        if not local and self._options.loopback:
            _check_host(headers)
        if scope["method"] not in READING:
            _check_origin(headers)
        if not local and self._tokens is not None and scope["path"] not in OPEN:
            _check_token(headers, self._tokens.now(), needed(scope))


def _is_local(scope: Scope) -> bool:
    return bool(scope.get("state", {}).get(LOCAL))


def _check_token(headers: Headers, tokens: Tokens, right: Right) -> None:
    kind, _, token = headers.get("authorization", "").partition(" ")
    ask = {"WWW-Authenticate": 'Bearer realm="warden"'}
    if kind.lower() != "bearer" or not token.strip():
        raise Refusal(401, "unauthorized", "no token was sent: send the header Authorization: Bearer TOKEN, with one of api.token_file", headers=ask)
    found = tokens.scope_of(token.strip())
    if found is None:
        raise Refusal(401, "unauthorized", "this token is unknown: it must be one of api.token_file", headers=ask)
    if found < right:
        say = f"this token has the scope {found.name.lower()}, and this needs {right.name.lower()}: use another one of api.token_file"
        raise Refusal(403, "forbidden", say)


def needed(scope: Scope) -> Right:
    """Return what a request needs: reading needs read, work needs operate, workers need admin."""
    if scope["method"] in READING:
        return Right.READ
    return Right.ADMIN if scope["path"].startswith("/v1/workers/") or scope["path"] in _ADMIN else Right.OPERATE


def _check_host(headers: Headers) -> None:
    """Refuse a name that is not this machine's: a page somewhere may have its name point here (DNS rebinding)."""
    host = headers.get("host", "")
    name = host_of(host) if ":" in host.rpartition("]")[2] else host.strip("[]")
    if not is_loopback(name):
        raise Refusal(421, "host", f"the host {host[:100]!r} is not this one: the front listens on loopback only, so ask for 127.0.0.1 or localhost")


def _check_origin(headers: Headers) -> None:
    """Refuse a change that another site's page asks for."""
    origin = headers.get("origin")
    if origin is None:
        return
    if urlsplit(origin).netloc.lower() != headers.get("host", "").lower() or not origin.startswith(("http://", "https://")):
        raise Refusal(403, "origin", f"the origin {origin[:100]!r} is another site: only pages that come from here may change something")
