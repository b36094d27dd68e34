"""Takes memory in one of several ways and writes down when it had how much, as a process of its own or as a worker's job. Started by hogs.py.

What it wrote outlives it, so nobody has to look at it while it runs: with 10 GB/s whoever looks each millisecond is 10 MB late, and takes a core from the hog.
"""

import mmap
import os
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple

from msgspec import Struct

from workers.base import Job, Report, Worker, main

MIB: Final = 2**20
CHUNK_BYTES: Final = 4 * MIB
"""So much is taken between two entries: under half a millisecond at 10 GB/s."""
PRIVATE: Final = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
"""Else Python maps memory that is shared, which is never in huge pages and is not copied by a write."""
HOLD_MAX_S: Final = 20.0
"""A hog that nobody ends lets go by itself."""
_PAGE_BYTES: Final = 4096
_READERS: Final = 4
_SHARED_BYTES: Final = 1024 * MIB
_LEAK_BYTES: Final = 2 * MIB
_LEAK_EVERY_S: Final = 0.02
_FLOATS: Final = CHUNK_BYTES // 40
"""An object of 24 bytes, which takes 32, and its pointer of 8."""

_ENTRY: Final = struct.Struct("<dQ")
_LEDGER_BYTES: Final = MIB


class Entry(NamedTuple):
    """At that moment (CLOCK_MONOTONIC) the hog had taken so many bytes, with all that it forked."""

    at_s: float
    taken_bytes: int


class Ledger:
    """What one process of a hog takes, in a file of its own in the folder."""

    def __init__(self, folder: Path) -> None:
        """Begin one."""
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"ledger-{os.getpid()}").open("w+b") as file:
            file.truncate(_LEDGER_BYTES)
            self._map = mmap.mmap(file.fileno(), _LEDGER_BYTES)
        self._place = 0

    def note(self, size: int) -> None:
        """Write down that so much more was taken by now."""
        if self._place + _ENTRY.size <= _LEDGER_BYTES:
            _ENTRY.pack_into(self._map, self._place, time.monotonic(), size)
            self._place += _ENTRY.size


def entries(folder: Path) -> list[Entry]:
    """Return what the processes of a hog took, in the order of time; the first entry is its start, with nothing."""
    steps = [step for path in folder.glob("ledger-*") for step in _ENTRY.iter_unpack(path.read_bytes()) if step[0]]
    taken, found = 0, []
    for at_s, size in sorted(steps):
        taken += size
        found.append(Entry(at_s, taken))
    return found


def _first() -> None:
    """Get a core before everybody else, where that is allowed: else the hog is as slow as the machine is busy, and the race is of somebody slower."""
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


def _numpy(size: int, ledger: Ledger) -> Iterator[Any]:
    import numpy as np  # not everybody who takes memory has it

    _first()
    block = np.zeros(size, np.uint8)  # in huge pages, which numpy asks for; they are there once something is written into them
    for start in range(0, size, CHUNK_BYTES):
        block[start : start + CHUNK_BYTES : _PAGE_BYTES] = 1
        ledger.note(CHUNK_BYTES)
        yield block


def _mapping(size: int, ledger: Ledger, *, huge: bool = True) -> Iterator[Any]:
    """As numpy does it, without numpy."""
    held = mmap.mmap(-1, size, flags=PRIVATE)
    if huge:
        held.madvise(mmap.MADV_HUGEPAGE)
    pattern = b"x" * CHUNK_BYTES
    for start in range(0, size, CHUNK_BYTES):
        held[start : start + CHUNK_BYTES] = pattern
        ledger.note(CHUNK_BYTES)
        yield held


def _bytes(size: int, ledger: Ledger) -> Iterator[Any]:
    held = []
    for _ in range(0, size, CHUNK_BYTES):
        held.append(b"x" * CHUNK_BYTES)
        ledger.note(CHUNK_BYTES)
        yield held


def _floats(size: int, ledger: Ledger) -> Iterator[Any]:
    held: list[float] = []
    for _ in range(0, size, CHUNK_BYTES):
        held.extend(map(float, range(_FLOATS)))
        ledger.note(CHUNK_BYTES)
        yield held


def _leak(size: int, ledger: Ledger) -> Iterator[Any]:
    """Three eighths at once, so that it does not take a minute to be seen; then 100 MB a second."""
    held = list(_mapping(size * 3 // 8 // CHUNK_BYTES * CHUNK_BYTES, ledger))[-1:]
    left = size - len(held[0])
    more = []
    for _ in range(0, left, _LEAK_BYTES):
        more.append(bytearray(b"x" * _LEAK_BYTES))
        ledger.note(_LEAK_BYTES)
        time.sleep(_LEAK_EVERY_S)  # noqa: TID251  # the pace of the leak
        yield held, more


def _readers(size: int, ledger: Ledger, folder: Path) -> Iterator[Any]:
    """Share 1 GB with four forked children, who read it and then write on it, each on a copy of its own."""
    shared = None
    for shared in _mapping(_SHARED_BYTES, ledger, huge=False):
        yield shared
    assert shared is not None
    each = min(_SHARED_BYTES, (size - _SHARED_BYTES) // _READERS)
    for _ in range(_READERS):
        if os.fork() == 0:
            _write_over(shared, each, folder)
    end_s = time.monotonic() + HOLD_MAX_S
    while time.monotonic() < end_s:
        time.sleep(0.05)  # noqa: TID251  # its children take the memory
        yield shared


def _write_over(shared: mmap.mmap, size: int, folder: Path) -> None:
    """Be one of the children, and end with the parent."""
    parent = os.getppid()
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        own = Ledger(folder)
        sum(shared[::_PAGE_BYTES])
        for start in range(0, size, CHUNK_BYTES):
            for place in range(start, start + CHUNK_BYTES, _PAGE_BYTES):
                shared[place] = 1
            own.note(CHUNK_BYTES)
        end_s = time.monotonic() + HOLD_MAX_S
        while os.getppid() == parent and time.monotonic() < end_s:
            time.sleep(0.05)  # noqa: TID251  # until somebody ends it
    finally:
        os._exit(0)


SHAPES: Final[dict[str, Callable[[int, Ledger], Iterator[Any]]]] = {
    "numpy": _numpy,
    "mapping": _mapping,
    "bytes": _bytes,
    "floats": _floats,
    "leak": _leak,
}


def take(shape: str, size: int, folder: Path, step: Callable[[], None]) -> None:
    """Take so many bytes, and hold them until somebody ends this, or for HOLD_MAX_S. `step` is called by the leak alone: all others are one step."""
    ledger = Ledger(folder)
    ledger.note(0)
    hog = _readers(size, ledger, folder) if shape == "readers" else SHAPES[shape](size, ledger)
    for _held in hog:  # the last one keeps all of it
        if shape == "leak":
            step()
    end_s = time.monotonic() + HOLD_MAX_S
    while time.monotonic() < end_s:
        time.sleep(0.05)  # noqa: TID251  # what it has taken stays until somebody ends it


class HogParams(Struct, frozen=True, kw_only=True):
    """Which hog, how much it takes at the most, and where it writes that down. Nothing is taken with size 0."""

    shape: str = "mapping"
    size: int = 0
    folder: str = ""


class Hog(Worker):
    """Takes memory, and says after each chunk that it is there."""

    serves: ClassVar[tuple[str, ...]] = ("bench.hog",)
    params: ClassVar[dict[str, type[Struct]]] = {"bench.hog": HogParams}

    def load(self) -> None:
        """Have numpy where there is one, as a worker with a model does: to load it is no part of the race."""
        if find_spec("numpy"):
            import numpy as np

            np.ones(1)

    def run(self, job: Job, report: Report) -> dict[str, Any]:
        """Return its pid, once it has let go of everything."""
        params: HogParams = job.params
        if params.size:
            steps = count()
            take(params.shape, params.size, Path(params.folder), lambda: report.progress(next(steps), params.size // _LEAK_BYTES, phase=params.shape))
        report.progress(1, 1, phase="done")
        return {"pid": os.getpid()}


def _alone(words: list[str]) -> None:
    """Be a hog that nobody supervises: SHAPE BYTES FOLDER; it says that it is ready, and begins at a line on stdin."""
    shape, size, folder = words
    if shape == "numpy":
        import numpy as np

        np.ones(1)
    print("ready", flush=True)  # its parent waits for it
    sys.stdin.readline()
    take(shape, int(size), Path(folder), lambda: None)


def _ballast(size: int) -> None:
    """Keep so much memory, and let go of it and take it back in turns, at each line on stdin."""
    _first()
    held = mmap.mmap(-1, size, flags=PRIVATE)
    held.madvise(mmap.MADV_HUGEPAGE)
    pattern = b"x" * CHUNK_BYTES
    while True:
        for start in range(0, size, CHUNK_BYTES):
            held[start : start + CHUNK_BYTES] = pattern
        print("ready", flush=True)  # its parent waits for it
        if not sys.stdin.readline():
            return
        held.madvise(mmap.MADV_DONTNEED)
        print("free", flush=True)
        if not sys.stdin.readline():
            return


if __name__ == "__main__":
    if sys.argv[1:2] == ["alone"]:
        _alone(sys.argv[2:])
    elif sys.argv[1:2] == ["ballast"]:
        _ballast(int(sys.argv[2]))
    else:
        main(Hog)
