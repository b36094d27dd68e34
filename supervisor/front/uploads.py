"""Uploads: multipart bodies that go to the disk as they come, with their limits kept on the way. What did not come whole leaves nothing behind."""

import asyncio
import os
import re
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Final

from msgspec import Struct
from python_multipart.exceptions import FormParserError, MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from supervisor.front.problems import Refusal, of_disk

_FIELD_MAX: Final = 256 * 1024
_FIELDS_MAX: Final = 20
_SUFFIX: Final = re.compile(r"\.[A-Za-z0-9]{1,8}")
FILE: Final = "file"


class Upload(Struct, frozen=True, kw_only=True):
    """A file that came whole and is on disk. name: as its sender calls it; fields: the other parts, as text."""

    path: Path
    name: str
    size_bytes: int
    digest: str
    fields: dict[str, str]


class _Parts:
    """The parts of a multipart body, in pieces as they come. `out` holds what of the file is not written yet."""

    def __init__(self, boundary: bytes) -> None:
        self.out: list[bytes] = []
        self.fields: dict[str, bytearray] = {}
        self.name: str | None = None
        self.whole = False
        self._header = self._value = b""
        self._disposition = b""
        self._field: bytearray | None = None
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._data,
                "on_end": self._end,
            },
        )

    def feed(self, data: bytes) -> None:
        """Take the next piece. Raises Refusal for what is no multipart body."""
        try:
            self._parser.write(data)
        except (FormParserError, MultipartParseError) as error:
            raise Refusal(400, "usage", f"this is not a multipart body: {error}") from error

    def _begin(self) -> None:
        self._header = self._value = self._disposition = b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition.decode("latin-1"))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name == FILE:
            if self.name is not None:
                raise Refusal(422, "invalid", 'two parts "file" were sent: expected one')
            self.name = options.get(b"filename", b"").decode("utf-8", "replace")[:200]
            self._field = None
            return
        if name in self.fields or len(self.fields) >= _FIELDS_MAX:
            raise Refusal(422, "invalid", f"the part {name[:60]!r} is one too many")
        self._field = self.fields[name] = bytearray()

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._field is None:
            self.out.append(data[start:end])
            return
        self._field += data[start:end]
        if len(self._field) > _FIELD_MAX:
            raise Refusal(413, "too_large", f"a part that is no file is over {_FIELD_MAX} bytes: send less")

    def _end(self) -> None:
        self.whole = True


async def receive(request: Request, folder: Path, *, stem: str, limit: int) -> Upload:
    """Return the file of a multipart body, written to a new folder. Raises Refusal; the folder is gone then."""
    boundary = parse_options_header(request.headers.get("content-type", ""))[1].get(b"boundary", b"")
    if not boundary:
        raise Refusal(400, "usage", "the multipart body names no boundary: let your HTTP client set the Content-Type")
    try:
        return await _received(request, folder, _Parts(boundary), stem=stem, limit=limit)
    except BaseException as error:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        if isinstance(error, ClientDisconnect):
            raise Refusal(400, "truncated", "the connection ended before the upload did: nothing of it is kept") from None
        if isinstance(error, OSError):
            raise of_disk(error, "the upload") from error
        if isinstance(error, FormParserError):
            raise Refusal(400, "usage", f"this is not a multipart body: {error}") from error
        raise


async def _received(request: Request, folder: Path, parts: _Parts, *, stem: str, limit: int) -> Upload:
    await asyncio.to_thread(folder.mkdir, parents=True, mode=0o700)
    partial = folder / "partial"
    size, digest = 0, sha256()
    with await asyncio.to_thread(partial.open, "wb") as file:
        async for chunk in request.stream():
            parts.feed(chunk)
            if parts.out:
                data = b"".join(parts.out)
                parts.out.clear()
                size += len(data)
                if size > limit:
                    raise Refusal(
                        413, "too_large", f"the file is over api.max_upload = {limit} bytes: put it under a folder of api.allowed_roots, send its path"
                    )
                digest.update(data)
                await asyncio.to_thread(file.write, data)
        if not parts.whole:
            raise Refusal(400, "truncated", "the body ends before its last part does: nothing of it is kept, send it again")
        if parts.name is None or size == 0:
            raise Refusal(422, "invalid", f'no file came: expected one part named "{FILE}" with a file in it')
        file.flush()
        await asyncio.to_thread(os.fsync, file.fileno())
    suffix = Path(parts.name).suffix
    target = folder / f"{stem}{suffix.lower() if _SUFFIX.fullmatch(suffix) else ''}"
    await asyncio.to_thread(partial.rename, target)
    fields = {name: bytes(value).decode("utf-8", "replace") for name, value in parts.fields.items()}
    return Upload(path=target, name=parts.name, size_bytes=size, digest=digest.hexdigest(), fields=fields)
