"""Writes the supervisor's own lines in threads of their own: what the disk does to a thread, it does not do to the supervisor."""

import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol

from supervisor.adapters import log_archive as archive
from supervisor.units import format_size

Event = Mapping[str, Any]
Render = Callable[[Event], str]

WAITING_MAX: Final = 10_000
"""Events that wait for a disk that does not answer: about 10 MB. Later ones are counted."""
PENDING_MAX_BYTES: Final = 4 * 2**20
LULL_S: Final = 1.0
"""Whoever tails the file has read everything after a second without a line; so nothing unread is lost when it is emptied."""
_FORCED: Final = 2
_KEPT_BYTES: Final = 64 * 2**10
_KEPT_SHARE: Final = 4
_GATHER_S: Final = 0.004
"""So long a line waits for those that come with it: a thread that wakes for each takes the interpreter from the loop, just when an answer is on its way."""
_AT_ONCE: Final = 64
_TRY_AGAIN_S: Final = 60.0
_JOIN_S: Final = 5.0


class Sink(Protocol):
    """Where lines go."""

    def write(self, events: Sequence[Event], lost: int) -> None:
        """Write what it can of these; lost: how many never came this far."""

    def idle(self) -> bool:
        """A lull of LULL_S has passed. Returns whether it wants to be called at the next one too."""

    def close(self) -> None:
        """Let go of what is open."""


class Writer:
    """One thread, one bounded queue, a few sinks. `put` never waits."""

    def __init__(self, name: str, sinks: Sequence[Sink], *, waiting_max: int = WAITING_MAX) -> None:
        """Start the thread."""
        self._sinks = sinks
        self._waiting: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._waiting_max = waiting_max
        self._counting = threading.Lock()
        self._lost = 0
        self._began_s: float | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, event: Event) -> None:
        """Hand over one event; where too many wait it is dropped and counted."""
        if self._waiting.qsize() < self._waiting_max:
            self._waiting.put(event)
        else:
            with self._counting:
                self._lost += 1

    def stuck_for_s(self) -> float:
        """Return how long the write under way has taken, 0.0 between two."""
        began_s = self._began_s
        return 0.0 if began_s is None else time.monotonic() - began_s

    def close(self, within_s: float = _JOIN_S) -> None:
        """Write what waits and let go; give up after a few seconds on a disk that does not answer."""
        self._waiting.put(None)
        self._thread.join(within_s)

    def _run(self) -> None:
        wants_lull, leave = True, False
        while not leave:
            events: list[Event] = []
            try:
                item = self._waiting.get(timeout=LULL_S if wants_lull else None)
                time.sleep(_GATHER_S)
                while item is not None:
                    events.append(item)
                    item = self._waiting.get_nowait()
                leave = True
            except queue.Empty:
                pass
            self._began_s = time.monotonic()
            if events:
                with self._counting:
                    lost, self._lost = self._lost, 0
                for sink in self._sinks:
                    sink.write(events, lost)
                wants_lull = True
            elif not leave:
                wants_lull = any([sink.idle() for sink in self._sinks])  # noqa: C419  # every sink is asked
            self._began_s = None
        for sink in self._sinks:
            sink.close()


def _rendered(render: Render, event: Event) -> bytes:
    """Return the line. A value that cannot be written must not end the thread: the line then says so."""
    try:
        return render(event).encode(errors="backslashreplace") + b"\n"
    except (TypeError, ValueError) as error:
        shown = {**{key: event[key] for key in ("timestamp", "level", "event")}, "unwritable": f"{error}: {dict(event)!a}"}
        return render(shown).encode() + b"\n"


class LogFile:
    """One log file with one writer. On a full disk lines wait in memory, then they are counted, and `log_lines_lost` says so when it works again."""

    def __init__(self, path: Path, render: Render, *, max_bytes: int, keep: int, pending_max: int = PENDING_MAX_BYTES) -> None:
        """Open it. Raises OSError."""
        self.max_bytes = max_bytes
        self.keep = keep
        self._path = path
        self._render = render
        self._pending = bytearray()
        self._pending_max = pending_max
        self._lost = 0
        self._refused = ""
        self._refused_at_s = 0.0
        self._rotate_at_s = 0.0
        self._fd = -1
        self._open()

    def write(self, events: Sequence[Event], lost: int) -> None:
        """Write these lines behind those that still wait."""
        self._lost += lost
        for number, event in enumerate(events, 1):
            self._take(event)
            if number == len(events) or number % _AT_ONCE == 0:
                self._flush()
                if self._size >= _FORCED * self.max_bytes:
                    self._rotate(lull=False)

    def idle(self) -> bool:
        """Empty the file if it is too large; try again what could not be written."""
        self._flush()
        if self._size > self.max_bytes:
            self._rotate(lull=True)
        return bool(self._pending) or self._size > self.max_bytes

    def trouble(self) -> str:
        """Return why the last lines are not in the file, and since when, in a sentence; empty where they are. From any thread."""
        if not self._refused:
            return ""
        lost = f", {self._lost} lines are lost" if self._lost else ""
        waits = f"{format_size(len(self._pending))} of lines wait in memory{lost}"
        return f"{self._path} cannot be written: {self._refused}, for {time.monotonic() - self._refused_at_s:.0f} s; {waits}"

    def close(self) -> None:
        """Close it; what the disk has not taken by now is lost."""
        self._flush()
        os.close(self._fd)

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        self._size = os.fstat(fd).st_size
        if self._size and os.pread(fd, 1, self._size - 1) != b"\n":  # the last writer was killed in the middle of a line
            self._pending[:0] = b"\n"
        if left := archive.left_copies(self._path):
            archive.shift_in(self._path, left, self.keep)

    def _take(self, event: Event) -> None:
        data = _rendered(self._render, event)
        if len(self._pending) + len(data) > self._pending_max:
            self._lost += 1
        else:
            self._pending += data

    def _flush(self) -> None:
        if not self._pending and not self._lost:
            return
        try:
            self._follow_name()
            self._drain()
            if self._lost:
                event = {"timestamp": time.time(), "level": "warning", "event": "log_lines_lost", "count": self._lost}
                self._lost = 0
                self._take(event)
                self._drain()
        except OSError as error:  # what waits goes on waiting, or is counted: nobody can be told through this file now
            if not self._refused:
                self._refused_at_s = time.monotonic()
            self._refused = error.strerror or str(error)
        else:
            self._refused = ""

    def _drain(self) -> None:
        while self._pending:
            written = os.write(self._fd, self._pending)
            self._size += written
            del self._pending[:written]

    def _follow_name(self) -> None:
        """Open the file anew where somebody removed or renamed it."""
        try:
            there = self._path.stat()
        except FileNotFoundError:
            self._open()
            return
        ours = os.fstat(self._fd)
        if (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            self._open()
        else:
            self._size = ours.st_size  # somebody may have emptied it

    def _rotate(self, *, lull: bool) -> None:
        """Copy it to NAME.1 and empty it. Without a lull the last lines stay in it as well: `tail -f` prints them again instead of missing them."""
        if time.monotonic() < self._rotate_at_s:
            return
        try:
            kept = 0 if lull else min(_KEPT_BYTES, self.max_bytes // _KEPT_SHARE)
            last = os.pread(self._fd, kept, archive.line_start(self._fd, self._size - kept))
            copies = [archive.copy_path(self._path, 1)] if self.keep else []
            for path in copies:
                archive.copy(self._fd, 0, self._size, path)
            os.ftruncate(self._fd, 0)
            archive.shift_in(self._path, copies, self.keep)
            self._size = 0
            self._pending[:0] = last
        except OSError as error:
            self._rotate_at_s = time.monotonic() + _TRY_AGAIN_S
            reason = f"{error.strerror or error}: {error.filename or self._path}; nothing is lost, it is tried again in a minute"
            self._take({"timestamp": time.time(), "level": "warning", "event": "log_not_rotated", "reason": reason})
        self._flush()


class Stream:
    """Lines to an open descriptor, such as stderr. One that nobody reads any more is left alone."""

    def __init__(self, fd: int, render: Render) -> None:
        """Write to fd."""
        self._fd = fd
        self._render = render

    def write(self, events: Sequence[Event], lost: int) -> None:
        """Write them."""
        more = [{"timestamp": time.time(), "level": "warning", "event": "log_lines_lost", "count": lost}] if lost else []
        data = b"".join(_rendered(self._render, event) for event in (*events, *more))
        with suppress(OSError):  # the reader is gone, or its disk is full; the files have the lines too
            while data:
                data = data[os.write(self._fd, data) :]

    def idle(self) -> bool:
        """Nothing to do."""
        return False

    def close(self) -> None:
        """Leave it open: it is not ours."""
