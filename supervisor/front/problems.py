"""What is answered when the answer is no: RFC 9457 problem details, one shape for every failure of every route."""

import errno
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec
from msgspec import Struct
from starlette.responses import Response

from supervisor.control import Refused, Unreachable

MEDIA_TYPE: Final = "application/problem+json"

CODES: Final = {
    "usage": 400,
    "invalid": 422,
    "unknown": 404,
    "gone": 410,
    "conflict": 409,
    "busy": 429,
    "stopping": 503,
    "full": 507,
    "config": 422,
    "failed": 503,
}
"""The HTTP status of each code with which the supervisor refuses."""

RETRY_AFTER_S: Final = {408: 1, 425: 1, 429: 5, 503: 2, 507: 30}
"""After which statuses the same request may be sent again, and how soon. Any other needs something changed first, or says itself when."""

KEY_UNDER_WAY: Final = "is being taken just now"
"""In the supervisor's sentence about a key whose first request is not answered yet: the one conflict that passes by itself."""
_KEY_RETRY_S: Final = 1

_TEXT_MAX: Final = 4000


class ProblemView(Struct, frozen=True, kw_only=True):
    """A problem. detail: the sentence for people, what was found, expected, and what to do; reason: one word for programs; evidence: the numbers.

    retryable: the same request may be sent again as it is, after the seconds of Retry-After, which is there exactly then.
    """

    type: str
    title: str
    status: int
    detail: str
    reason: str
    evidence: str
    retryable: bool


class Refusal(Exception):
    """A request is answered with no. extra: further members of the problem, such as the job that failed."""

    def __init__(
        self,
        status: int,
        reason: str,
        detail: str,
        *,
        evidence: str = "",
        retry_after_s: int | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep it all."""
        super().__init__(detail)
        self.status = status
        self.reason = reason
        self.detail = detail
        self.evidence = evidence
        self.retry_after_s = RETRY_AFTER_S.get(status) if retry_after_s is None else retry_after_s
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})


def of_supervisor(error: Refused | Unreachable) -> Refusal:
    """Return the refusal that a supervisor's no, or its silence, means over HTTP."""
    if isinstance(error, Unreachable):
        return Refusal(503, "unreachable", f"the supervisor does not answer: {error}; it may be starting or restarting, so ask again")
    passing = error.code == "conflict" and KEY_UNDER_WAY in str(error)
    return Refusal(CODES.get(error.code, 503), error.code, str(error), retry_after_s=_KEY_RETRY_S if passing else None)


def of_disk(error: OSError, what: str) -> Refusal:
    """Return the refusal that a failed write means."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return Refusal(507, "full", f"{what} cannot be written, the disk is full: nothing of it is kept; make room under state_dir and send it again")
    return Refusal(503, "failed", f"{what} cannot be written: {error.strerror}; nothing of it is kept")


def response(refusal: Refusal) -> Response:
    """Return the problem as a response."""
    view = ProblemView(
        type=f"urn:warden:problem:{refusal.reason}",
        title=_title(refusal.status),
        status=refusal.status,
        detail=bounded(refusal.detail),
        reason=refusal.reason,
        evidence=bounded(refusal.evidence),
        retryable=refusal.retry_after_s is not None,
    )
    headers = dict(refusal.headers)
    if refusal.retry_after_s is not None:
        headers["Retry-After"] = str(refusal.retry_after_s)
    body = msgspec.to_builtins(view) | refusal.extra
    return Response(msgspec.json.encode(body), status_code=refusal.status, media_type=MEDIA_TYPE, headers=headers)


def bounded(text: str, limit: int = _TEXT_MAX) -> str:
    """Return a text that is not longer than the limit, with its middle left out where it was."""
    return text if len(text) <= limit else f"{text[: limit // 2]} … {text[-limit // 2 + 3 :]}"


def _title(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
