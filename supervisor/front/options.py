"""What the supervisor tells the front at its start: the environment, read once, every mistake one sentence."""

import ipaddress
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from supervisor.front.tokens import Tokens, read_tokens

EXIT_CONFIG: Final = 78
OFF: Final = "off"
_GIB: Final = 2**30


class Given(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """WARDEN_OPTIONS, as the supervisor writes it."""

    bind: str = "127.0.0.1:8650"
    token_file: str = ""
    max_upload_bytes: int = 2 * _GIB
    allowed_roots: list[str] = []
    log_dir: str = ""


class Options(Struct, frozen=True, kw_only=True):
    """What the front was given. listen: the descriptors of listening sockets. loopback: whether only this machine can reach it. tokens: at the start."""

    state_dir: Path
    bind: str
    loopback: bool
    tokens: Tokens
    max_upload_bytes: int
    allowed_roots: tuple[Path, ...]
    listen: tuple[int, ...]
    token_file: Path | None = None


class BadOptions(Exception):
    """The front cannot start; the sentence says what to do."""


def read_options(environ: Mapping[str, str]) -> Options:
    """Return the options. Raises BadOptions."""
    state_dir = environ.get("WARDEN_STATE_DIR", "")
    if not state_dir:
        raise BadOptions("WARDEN_STATE_DIR is not set: the front is started by the supervisor (warden run), which says where its sockets are")
    try:
        given = msgspec.json.decode(environ.get("WARDEN_OPTIONS") or "{}", type=Given)
    except msgspec.DecodeError as error:
        raise BadOptions(f"WARDEN_OPTIONS: {error}; expected a JSON object such as {json.dumps({'bind': '127.0.0.1:8650'})}") from error
    loopback = given.bind == OFF or is_loopback(host_of(given.bind))  # a unix socket alone is reached from this machine by whoever may open it
    try:
        tokens = read_tokens(Path(given.token_file)) if given.token_file else Tokens(())
    except (OSError, ValueError) as error:
        raise BadOptions(f"api.token_file = {given.token_file!r} cannot be used: {error}") from error
    if not loopback and not tokens:
        raise BadOptions(f"api.bind = {given.bind!r} is not a loopback address and no token is set: name a file in api.token_file, or bind to 127.0.0.1")
    return Options(
        state_dir=Path(state_dir).absolute(),
        bind=given.bind,
        loopback=loopback,
        tokens=tokens,
        max_upload_bytes=given.max_upload_bytes,
        allowed_roots=tuple(Path(root).expanduser().absolute() for root in given.allowed_roots),
        listen=_descriptors(environ.get("WARDEN_LISTEN", "")),
        token_file=Path(given.token_file).absolute() if given.token_file else None,
    )


def host_of(bind: str) -> str:
    """Return the host of "host:port"; IPv6 stands in brackets."""
    return bind.rpartition(":")[0].strip("[]")


def is_loopback(host: str) -> bool:
    """Return whether a name or address can be reached from this machine alone. An unknown name cannot be told, so it is not."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _descriptors(text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(one) for one in text.split(",") if one.strip())
        for number in found:
            os.fstat(number)
    except (ValueError, OSError) as error:
        raise BadOptions(f"WARDEN_LISTEN = {text!r}: {error}; expected the numbers of listening sockets, such as 3,4") from error
    if not found:
        raise BadOptions("WARDEN_LISTEN is not set: expected the numbers of the listening sockets that the supervisor hands down, such as 3")
    return found
