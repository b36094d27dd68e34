"""How things look in a terminal: columns, times, sizes. What is unknown is `?`, what does not apply is `-`."""

import os
import shutil
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from supervisor.units import format_size, short_duration

_COLOURS: Final = {"good": "32", "busy": "36", "warn": "33", "bad": "31", "dim": "2"}
_TONE_OF_STATE: Final = {
    "ready": "good",
    "busy": "busy",
    "running": "busy",
    "completed": "good",
    "starting": "warn",
    "preparing": "warn",
    "pausing": "warn",
    "paused": "warn",
    "cancelling": "warn",
    "draining": "warn",
    "stopping": "warn",
    "backoff": "bad",
    "quarantined": "bad",
    "unkillable": "bad",
    "failed": "bad",
    "cancelled": "dim",
    "down": "dim",
}


def colour(text: str, tone: str) -> str:
    """Return the text in a colour, on a terminal that wants any."""
    if not sys.stdout.isatty() or "NO_COLOR" in os.environ or tone not in _COLOURS:
        return text
    return f"\033[{_COLOURS[tone]}m{text}\033[0m"


def tone_of(state: str) -> str:
    """Return the colour of a state."""
    return _TONE_OF_STATE.get(state, "")


def size(value: int | None) -> str:
    """Return a size, `?` for an unknown one."""
    return "?" if value is None else format_size(value)


def ago(seconds: float | None) -> str:
    """Return a time span short enough for a column, `-` for none."""
    return "-" if seconds is None else short_duration(seconds)


def clock(iso: str | None) -> str:
    """Return the local time of day of an ISO instant."""
    return datetime.fromisoformat(iso).astimezone().strftime("%H:%M:%S") if iso else "-"


def when(iso: str | None) -> str:
    """Return an instant near or far, in local time, and how far: 2026-12-24 03:00:00 (in 13 h 05 min)."""
    if not iso:
        return "-"
    at = datetime.fromisoformat(iso).astimezone()
    ahead_s = at.timestamp() - time.time()
    return f"{at:%Y-%m-%d %H:%M:%S} ({f'in {ago(ahead_s)}' if ahead_s > 0 else f'{ago(-ahead_s)} ago'})"


def bar(fraction: float, width: int = 22) -> str:
    """Return a progress bar."""
    full = round(width * min(1.0, max(0.0, fraction)))
    return "#" * full + "_" * (width - full)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, state_column: int | None = None) -> list[str]:
    """Return lines of aligned columns; the last column takes what is left of the terminal. Colours the state column."""
    columns = len(head)
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(columns - 1)]
    room = shutil.get_terminal_size((160, 24)).columns - sum(widths) - 2 * (columns - 1) if sys.stdout.isatty() else 10_000
    lines = []
    for number, row in enumerate((head, *rows)):
        cells = [f"{cell:<{width}}" for cell, width in zip(row[:-1], widths, strict=True)]
        if number and state_column is not None:
            cells[state_column] = colour(cells[state_column], tone_of(row[state_column]))
        last = row[-1] if len(row[-1]) <= max(room, 12) else row[-1][: max(room, 12) - 1] + "…"
        lines.append("  ".join((*cells, last)).rstrip())
    return lines
