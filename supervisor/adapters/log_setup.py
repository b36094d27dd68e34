"""The supervisor's own log: watchdog.log for people, watchdog.jsonl for machines, stderr for the journal, each as its readers expect it."""

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from supervisor.adapters.log_writer import Event, LogFile, Render, Stream, Writer
from supervisor.adapters.small_structlog import structlog
from supervisor.errors import StateError
from supervisor.units import format_size

_EVENT_WIDTH: Final = 16
_LEVEL_WIDTH: Final = 7
_LEADING: Final = ("timestamp", "level", "event")
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_PRIORITIES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3}
"""sd-daemon(3): a line that begins with <N> has this priority in the journal."""


def spell(key: str, value: Any) -> tuple[str, str]:
    """Return a key and value as people read them: silent_s=0.41 as silent=0.4s, free_bytes as free=2.27GiB."""
    if key.endswith("_s") and isinstance(value, int | float):
        return key.removesuffix("_s"), f"{value:.0f}s" if abs(value) >= 10 else f"{value:.2g}s" if abs(value) < 1 else f"{value:.1f}s"  # noqa: PLR2004  # three figures at most
    if key.endswith("_bytes") and isinstance(value, int):
        return key.removesuffix("_bytes"), format_size(value)
    if isinstance(value, float):
        return key, f"{value:.4g}"
    if isinstance(value, list | tuple):
        return key, ",".join(str(item) for item in value) or "-"
    text = str(value)
    return key, msgspec.json.encode(text).decode() if not text or any(c.isspace() or c in '"=' for c in text) else text


def line(event: Mapping[str, Any]) -> str:
    """Return the line for people: ISO time with offset and milliseconds, level, event, then key=value, and key=value/limit where there is one for it."""
    moment = datetime.fromtimestamp(event["timestamp"], tz=UTC).isoformat(timespec="milliseconds")
    limits = {limit for key in event if (limit := _limit_of(key)) in event}
    pairs = (_pair(event, key) for key in event if key not in _LEADING and key not in limits)
    words = " ".join(f"{key}={value}" for key, value in pairs)
    return f"{moment} {event['level']:<{_LEVEL_WIDTH}} {event['event']:<{_EVENT_WIDTH}} {words}".rstrip()


def _limit_of(key: str) -> str:
    """Return the key of the limit for a number, which has the same unit: age_limit_s for age_s, mem_limit_bytes for mem_bytes."""
    stem, _, unit = key.rpartition("_")
    return f"{stem}_limit_{unit}" if unit in {"s", "bytes"} else ""


def _pair(event: Mapping[str, Any], key: str) -> tuple[str, str]:
    name, text = spell(key, event[key])
    limit = _limit_of(key)
    return name, f"{text}/{spell(limit, event[limit])[1]}" if limit in event else text


def journal_line(event: Mapping[str, Any]) -> str:
    """Return the line for people with the priority that systemd's journal reads off its front."""
    return f"<{_PRIORITIES.get(event['level'], 6)}>{line(event)}"


def machine_line(event: Mapping[str, Any]) -> str:
    """Return the line for machines: JSON with raw numbers; what JSON does not know is spelt as text."""
    moment = datetime.fromtimestamp(event["timestamp"], tz=UTC).isoformat(timespec="milliseconds")
    return msgspec.json.encode({**event, "timestamp": moment}, enc_hook=str).decode()


def to_journal(environ: Mapping[str, str], fd: int) -> bool:
    """Return whether this descriptor leads to systemd's journal: JOURNAL_STREAM names its device and inode, and a child may have another stderr."""
    with suppress(OSError):
        found = os.fstat(fd)
        return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
    return False


class Logs:
    """The supervisor's own log. `write` never waits; `close` writes what waits."""

    def __init__(self, log_dir: Path, *, level: str, max_bytes: int, keep: int, echo: bool, environ: Mapping[str, str] = os.environ) -> None:
        """Open both files; echo: also to stderr, for whoever runs it in the foreground. Raises StateError."""
        self._files: list[LogFile] = []
        for name, render in (("watchdog.log", line), ("watchdog.jsonl", machine_line)):
            try:
                self._files.append(LogFile(log_dir / name, render, max_bytes=max_bytes, keep=keep))
            except OSError as error:
                raise StateError(f"{log_dir / name}: {error.strerror}: Warden must be able to write its log there") from error
        self._writers = [Writer("log-files", self._files)]
        if echo and sys.stderr is not None:
            # a writer of its own: a terminal that was paused must not hold up the files
            self._writers.append(Writer("log-stderr", [Stream(sys.stderr.fileno(), _render_for(sys.stderr.fileno(), environ))]))
        self._level = _LEVELS[level]
        self._log = structlog.wrap_logger(
            _Handover(self._writers),
            processors=[structlog.processors.add_log_level, _stamp, _render],
            wrapper_class=structlog.BoundLogger,
            cache_logger_on_first_use=True,
        )

    def write(self, level: str, event: str, fields: Mapping[str, Any]) -> None:
        """Write one event to both files."""
        if _LEVELS[level] >= self._level:
            getattr(self._log, level)(event, **fields)

    def set_limits(self, *, level: str, max_bytes: int, keep: int) -> None:
        """Take new settings; they count from the next line."""
        self._level = _LEVELS[level]
        for file in self._files:
            file.max_bytes, file.keep = max_bytes, keep

    def stuck_for_s(self) -> float:
        """Return how long the longest write under way has taken, 0.0 when none is. More than ten seconds means a disk, or a stderr, that does not answer."""
        return max(writer.stuck_for_s() for writer in self._writers)

    def trouble(self) -> str:
        """Return why lines do not reach a file, in a sentence; empty where they do."""
        return next((sentence for file in self._files if (sentence := file.trouble())), "")

    def close(self) -> None:
        """Write what waits, and close."""
        for writer in self._writers:
            writer.close()


class _Handover:
    """The end of the processors' chain: gives the event to the writing threads."""

    def __init__(self, writers: list[Writer]) -> None:
        self._writers = writers

    def info(self, event: Event) -> None:
        for writer in self._writers:
            writer.put(event)

    debug = warning = error = info


def _render_for(fd: int, environ: Mapping[str, str]) -> Render:
    return journal_line if to_journal(environ, fd) else line


def _stamp(_logger: Any, _method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    return {"timestamp": datetime.now(UTC).timestamp(), "level": event.pop("level"), "event": event.pop("event"), **event}


def _render(_logger: Any, _method: str, event: structlog.types.EventDict) -> tuple[tuple[structlog.types.EventDict], dict[str, Any]]:
    return (event,), {}
