"""JSON bodies: bytes become the shape that the route asks for, or a problem that says what did not fit and where."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from supervisor.front.problems import Refusal
from supervisor.front.shapes_in import PATTERNS

Shape = TypeVar("Shape", bound=Struct)


def body_of(shape: type[Shape]) -> Callable[[Request], Awaitable[Shape]]:
    """Return the dependency that reads this shape from a request's body."""

    async def read(request: Request) -> Shape:
        media = media_type(request)
        if media != "application/json":
            raise Refusal(415, "media_type", f"expected a JSON body with Content-Type: application/json, found {media[:100]!r}")
        try:
            data = await request.body()
        except ClientDisconnect:
            raise Refusal(400, "truncated", "the connection ended before the body did") from None
        return decoded(data, shape)

    return read


def body_or_none_of(shape: type[Shape]) -> Callable[[Request], Awaitable[Shape]]:
    """Return the dependency that reads this shape from a request's body, and its defaults from a request without one."""
    read = body_of(shape)

    async def read_if_any(request: Request) -> Shape:
        bare = not media_type(request) and request.headers.get("content-length", "0") == "0" and "transfer-encoding" not in request.headers
        return shape() if bare else await read(request)

    return read_if_any


def decoded(data: bytes | str, shape: type[Shape], *, where: str = "the body") -> Shape:
    """Return the shape. Raises Refusal: 400 for what is no JSON, 422 for what does not fit."""
    try:
        return msgspec.json.decode(data, type=shape)
    except msgspec.ValidationError as error:
        raise Refusal(422, "invalid", f"{where} does not fit: {_in_words(str(error))}") from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Refusal(400, "usage", f"{where} is not JSON: {error}") from error


def _in_words(sentence: str) -> str:
    """Return what did not fit, with each pattern by what it asks for."""
    for pattern, words in PATTERNS.items():
        sentence = sentence.replace(f"matching regex {pattern!r}", f"that is {words}")
    return sentence


def media_type(request: Request) -> str:
    """Return the media type of the body, without its parameters; empty where none is named."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def answer(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON response."""
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json", headers=headers)
