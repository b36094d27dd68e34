"""The files of a job: its list, and each one, from the disk to the client without a detour."""

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header
from fastapi import Path as InPath
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from supervisor.front.bodies import answer
from supervisor.front.openapi import describe
from supervisor.front.parts import Caller, FromCaller, JobName
from supervisor.front.roots import files_inside, open_inside
from supervisor.front.shapes_out import FileView

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


class OpenFile(FileResponse):
    """An open file as a response: by its descriptor, so that what was checked is what is sent, whatever becomes of the name."""

    def __init__(self, descriptor: int, name: str) -> None:
        """Own the descriptor. A browser must neither show nor run it: a worker may have written anything."""
        self._descriptor = descriptor
        headers = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox"}
        path = f"/proc/self/fd/{descriptor}"
        super().__init__(path, filename=name.rpartition("/")[2], headers=headers, stat_result=os.fstat(descriptor))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, and close it whatever happens."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            os.close(self._descriptor)


@router.get("/{job}/files", **describe(list[FileView], also=(404, 410, 422)))
async def files(caller: FromCaller, job: JobName) -> Response:
    """Return the files in a job's folder, links left out."""
    found = await asyncio.to_thread(files_inside, await _folder(caller, job))
    return answer(
        [
            FileView(name=name, size_bytes=facts.st_size, modified_at=datetime.fromtimestamp(facts.st_mtime, UTC).isoformat(timespec="milliseconds"))
            for name, facts in found
        ]
    )


_PARTIAL = {206: {"description": "A part of it.", "content": {"*/*": {"schema": {"type": "string", "contentEncoding": "binary"}}}}}


@router.get("/{job}/files/{name:path}", **describe(bytes, media="*/*", says="The file.", also=(404, 410, 416, 422), answers=_PARTIAL))
async def file(
    caller: FromCaller,
    job: JobName,
    name: Annotated[str, InPath(max_length=1000)],
    _range: Annotated[str, Header(alias="Range", max_length=1000, description="bytes=0-99")] = "",
) -> Response:
    """Return one file, or a range of it. It never leaves the job's folder, by ".." or by a link."""
    descriptor = await asyncio.to_thread(open_inside, await _folder(caller, job), name)
    return OpenFile(descriptor, name)


async def _folder(caller: Caller, job: str) -> Path:
    return Path((await caller.job("jobs.show", {"job": job})).dir)
