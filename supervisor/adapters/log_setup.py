"""The two log files: watchdog.log for people, watchdog.jsonl for machines. One writer each, in a thread: a frozen log disk does not stop the supervisor."""

import logging
import os
import queue
import shutil
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener, RotatingFileHandler
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from supervisor.errors import StateError
from supervisor.units import format_size

_EVENT_WIDTH: Final = 16
_LEVEL_WIDTH: Final = 7
_LEADING: Final = ("timestamp", "level", "event")


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
    """Return the line for people: ISO time with offset and milliseconds, level, event, then key=value."""
    moment = datetime.fromtimestamp(event["timestamp"], tz=UTC).isoformat(timespec="milliseconds")
    pairs = (spell(key, value) for key, value in event.items() if key not in _LEADING)
    words = " ".join(f"{key}={value}" for key, value in pairs)
    return f"{moment} {event['level']:<{_LEVEL_WIDTH}} {event['event']:<{_EVENT_WIDTH}} {words}".rstrip()


class _Formatter(logging.Formatter):
    """Renders the event that structlog handed through stdlib logging."""

    def __init__(self, *, people: bool) -> None:
        super().__init__()
        self._people = people

    def format(self, record: logging.LogRecord) -> str:
        event: Mapping[str, Any] = record.msg  # type: ignore[assignment]  # _render hands the event itself, not a text
        if self._people:
            return line(event)
        moment = datetime.fromtimestamp(event["timestamp"], tz=UTC).isoformat(timespec="milliseconds")
        return msgspec.json.encode({**event, "timestamp": moment}).decode()


class _CopyTruncate(RotatingFileHandler):
    """Rotates by copy and truncate: `tail -f` follows the file it opened, and would miss every line after a rename."""

    def rotate(self, source: str, dest: str) -> None:
        shutil.copyfile(source, dest)
        os.truncate(source, 0)


class _AsIs(QueueHandler):
    """Hands the record on untouched: it is formatted in the writing thread."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record


class Logs:
    """The supervisor's own log. `close` writes what waits."""

    def __init__(self, log_dir: Path, *, level: str, max_bytes: int, keep: int, echo: bool) -> None:
        """Open both files; echo: also to stderr, for whoever runs it in the foreground. Raises StateError."""
        self._waiting: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
        handlers: list[logging.Handler] = []
        for name, people in (("watchdog.log", True), ("watchdog.jsonl", False)):
            try:
                handler = _CopyTruncate(log_dir / name, maxBytes=max_bytes, backupCount=keep, encoding="utf-8")
            except OSError as error:
                raise StateError(f"{log_dir / name}: {error.strerror}: Warden must be able to write its log there") from error
            handler.setFormatter(_Formatter(people=people))
            handlers.append(handler)
        if echo:
            stream = logging.StreamHandler(sys.stderr)
            stream.setFormatter(_Formatter(people=True))
            handlers.append(stream)
        self._handlers = handlers
        logger = logging.getLogger("warden")
        logger.handlers = [_AsIs(self._waiting)]
        logger.setLevel(level.upper())
        logger.propagate = False
        self._listener = QueueListener(self._waiting, *handlers)
        self._listener.start()
        self._log = structlog.wrap_logger(
            logger,
            processors=[structlog.stdlib.filter_by_level, structlog.stdlib.add_log_level, _stamp, _render],
            wrapper_class=structlog.stdlib.BoundLogger,
            cache_logger_on_first_use=True,
        )

    def write(self, level: str, event: str, fields: Mapping[str, Any]) -> None:
        """Write one event to both files."""
        self._log.log(getattr(logging, level.upper()), event, **fields)

    def close(self) -> None:
        """Write what waits, and close."""
        self._listener.stop()
        for handler in self._handlers:
            handler.close()


def _stamp(_logger: Any, _method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    return {"timestamp": datetime.now(UTC).timestamp(), "level": event.pop("level"), "event": event.pop("event"), **event}


def _render(_logger: Any, _method: str, event: structlog.types.EventDict) -> tuple[tuple[structlog.types.EventDict], dict[str, Any]]:
    return (event,), {}
