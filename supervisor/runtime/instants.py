"""Wall times as people write and read them: ISO 8601."""

from datetime import UTC, datetime


def instant(wall_s: float | None) -> str | None:
    """Return ISO 8601 UTC with milliseconds."""
    return datetime.fromtimestamp(wall_s, tz=UTC).isoformat(timespec="milliseconds") if wall_s else None


def wall_of(text: str) -> float:
    """Return seconds since 1970. A text that names no zone is local time. Raises ValueError with a sentence."""
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise ValueError(f"{text!r} found; expected an ISO 8601 time, such as 2026-12-24T03:00:00+01:00") from error
