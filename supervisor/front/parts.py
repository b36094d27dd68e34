"""What every route works with, and what several of them do: ask the supervisor under the caller's name, find a job, answer with one."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import Depends, Header, Path, Request
from starlette.responses import Response

from supervisor.front.bodies import answer
from supervisor.front.client import DEADLINE_S, Supervisor
from supervisor.front.connection import LOCAL
from supervisor.front.hub import Hub
from supervisor.front.metrics import Metrics
from supervisor.front.options import Options
from supervisor.front.problems import Refusal
from supervisor.front.roots import Roots
from supervisor.front.sessions import Sessions
from supervisor.shapes import JobView, StatusView

_JOB: Final = re.compile(r"j-[0-9A-Za-z]{6,40}")
"""A whole id. The control socket takes the beginning of one too, which is for people: a program must not cancel what it did not name."""


@dataclass(frozen=True, kw_only=True)
class Front:
    """The parts of the front."""

    options: Options
    supervisor: Supervisor
    hub: Hub
    metrics: Metrics
    roots: Roots
    sessions: Sessions


class Caller:
    """The supervisor, asked in the name of whoever sent this request."""

    def __init__(self, request: Request) -> None:
        """Note who it is."""
        self.front: Front = request.app.state.front
        client = request.client
        self.by = "http unix socket" if request.scope.get("state", {}).get(LOCAL) else f"http {client.host if client else 'unknown'}"

    async def ask(self, op: str, args: dict[str, Any] | None = None, *, timeout_s: float = DEADLINE_S) -> Any:
        """Return the answer's data. Raises Refused, Unreachable."""
        return await self.front.supervisor.ask(op, args, by=self.by, timeout_s=timeout_s)

    async def view(self, op: str, shape: Any, args: dict[str, Any] | None = None, *, timeout_s: float = DEADLINE_S) -> Any:
        """Return the answer as its shape. Raises Refused, Unreachable."""
        return await self.front.supervisor.view(op, shape, args, by=self.by, timeout_s=timeout_s)

    async def status(self) -> StatusView:
        """Return the status, which is shared with whoever asks for it at the same time. Raises Refused, Unreachable."""
        return await self.front.supervisor.status()

    async def job(self, op: str, args: dict[str, Any]) -> JobView:
        """Return the job that an operation answers with."""
        found: JobView = await self.view(op, JobView, args)
        return found

    async def submit(self, kind: str, params: dict[str, Any], **more: Any) -> JobView:
        """Submit a job whose files may be named over HTTP, and return it. Arguments that are None are left out."""
        await self.front.roots.check_params(params)
        return await self.job("jobs.submit", {"kind": kind, "params": params, **{name: value for name, value in more.items() if value is not None}})


def accepted(job: JobView, *, headers: dict[str, str] | None = None) -> Response:
    """Return 202 with a job, where it is, and when to ask again."""
    return answer(job, status=202, headers={"Location": f"/v1/jobs/{job.id}", "Retry-After": "1", **(headers or {})})


async def _caller(request: Request) -> Caller:  # async, though it waits for nothing: FastAPI sends each other callable through a thread
    return Caller(request)


async def _whole_id(job: Annotated[str, Path(max_length=100, description="The job's id.")]) -> str:
    if not _JOB.fullmatch(job):
        raise Refusal(404, "unknown", f"no job {job[:60]!r} is known: an id looks like j-8f447bgnfj")
    return job


FromCaller = Annotated[Caller, Depends(_caller)]
JobName = Annotated[str, Depends(_whole_id)]
IdempotencyKey = Annotated[
    str,
    Header(
        alias="Idempotency-Key", max_length=200, pattern=r"^[!-~]*$", description="The same key again within 24 hours gives the same thing, and makes no other."
    ),
]
