"""Ten kinds of work that use much memory and harm nobody, as jobs of a worker. Started by benign.py.

Each is written for a machine of 3 GiB whose brake is at 1 GiB, and comes as near to that as it may: PEAK_BYTES of memory that cannot be given back.
"""

import mmap
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Final

from msgspec import Struct

from tests.bench._hog import CHUNK_BYTES, MIB, PRIVATE
from workers.base import Job, Report, Worker, main

PEAK_BYTES: Final = 1600 * MIB
FILE_BYTES: Final = 2200 * MIB
_STEP_BYTES: Final = 64 * MIB
_PATTERN: Final = b"x" * CHUNK_BYTES


def filled(size: int) -> mmap.mmap:
    """Return so much memory, all of it written."""
    held = mmap.mmap(-1, size, flags=PRIVATE)
    for start in range(0, size, CHUNK_BYTES):
        held[start : start + CHUNK_BYTES] = _PATTERN
    return held


def _wait(seconds: float) -> None:
    time.sleep(seconds)  # noqa: TID251  # work that goes on for so long


def _write(path: Path, size: int) -> None:
    with path.open("wb") as file:
        for _ in range(0, size, CHUNK_BYTES):
            file.write(_PATTERN)


def copy(folder: Path, _step: Callable[[], None]) -> None:
    """Write a big file and copy it: the page cache takes all there is, and gives it back."""
    source, target = folder / "source", folder / "target"
    _write(source, FILE_BYTES)
    with source.open("rb") as reads, target.open("wb") as writes:
        while data := reads.read(CHUNK_BYTES):
            writes.write(data)
    source.unlink()
    target.unlink()


def mapped(folder: Path, step: Callable[[], None]) -> None:
    """Map a big file and read all of it, again and again: RSS shows it, and it is cache."""
    path = folder / "mapped"
    _write(path, FILE_BYTES)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as seen:
        for _ in range(6):
            sum(seen[:: os.sysconf("SC_PAGE_SIZE")])
            step()
            _wait(0.5)
    path.unlink()


def tmpfs(_folder: Path, step: Callable[[], None]) -> None:
    """Write a file into memory: that is not given back, but it stays above the line."""
    path = Path(f"/dev/shm/bench-{os.getpid()}")  # a tmpfs is what is meant
    try:
        _write(path, PEAK_BYTES)
        for _ in range(30):
            _wait(0.1)
            step()
    finally:
        path.unlink(missing_ok=True)


def spike(_folder: Path, step: Callable[[], None]) -> None:
    """Take it at once and let go, five times."""
    for _ in range(5):
        filled(PEAK_BYTES).close()
        step()
        _wait(0.5)


def temporary(_folder: Path, step: Callable[[], None]) -> None:
    """A temporary array of 1 GB each second."""
    for _ in range(8):
        held = filled(1024 * MIB)
        step()
        held.close()
        _wait(0.8)


def plateau(_folder: Path, step: Callable[[], None]) -> None:
    """Grow step by step, and then no more."""
    held = []
    for _ in range(0, PEAK_BYTES, _STEP_BYTES):
        held.append(filled(_STEP_BYTES))
        _wait(0.1)
        step()
    for _ in range(30):
        _wait(0.1)
        step()


def readers(_folder: Path, step: Callable[[], None]) -> None:
    """Share 1 GB with four forked children that read it: their RSS is 5 GB."""
    shared = filled(1024 * MIB)
    pids = []
    for _ in range(4):
        pids.append(os.fork())
        if pids[-1] == 0:
            for _ in range(5):
                sum(shared[:: os.sysconf("SC_PAGE_SIZE")])
                _wait(1.0)
            os._exit(0)
    for pid in pids:
        os.waitpid(pid, 0)
        step()


def crowd(_folder: Path, step: Callable[[], None]) -> None:
    """Start 300 small processes, thirty at a time."""
    for _ in range(10):
        started = [subprocess.Popen(["/bin/sh", "-c", "sleep 0.2"]) for _ in range(30)]
        for one in started:
            one.wait()
        step()


def compiling(folder: Path, step: Callable[[], None]) -> None:
    """Compile a library with four processes, which come and go."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for part in ("asyncio", "email", "unittest", "xml", "json", "http"):
        if (library / part).is_dir():
            environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder)}
            subprocess.run([sys.executable, "-m", "compileall", "-q", "-f", "-j", "4", str(library / part)], env=environment, check=True)
        step()


def neighbour(_folder: Path, step: Callable[[], None]) -> None:
    """Work on, while somebody else takes the memory."""
    for _ in range(40):
        _wait(0.1)
        step()


WORK: Final[dict[str, Callable[[Path, Callable[[], None]], None]]] = {
    one.__name__: one for one in (copy, mapped, tmpfs, spike, temporary, plateau, readers, crowd, compiling, neighbour)
}


class BenignParams(Struct, frozen=True, kw_only=True):
    """Which work."""

    name: str


class Benign(Worker):
    """Does what it is told, and says after each step that it goes on."""

    serves: ClassVar[tuple[str, ...]] = ("bench.benign",)
    params: ClassVar[dict[str, type[Struct]]] = {"bench.benign": BenignParams}

    def run(self, job: Job, report: Report) -> dict[str, Any]:
        """Return its pid."""
        steps = 0

        def step() -> None:
            nonlocal steps
            steps += 1
            report.progress(steps, 100, phase=job.params.name)

        WORK[job.params.name](job.dir, step)
        return {"pid": os.getpid()}


if __name__ == "__main__":
    if sys.argv[1:] == ["neighbour"]:  # nobody's worker: it takes its memory, says so, and keeps it until its stdin ends
        kept = filled(PEAK_BYTES)
        print("ready", flush=True)  # its parent waits for it
        sys.stdin.read()
        kept.close()
    else:
        main(Benign)
