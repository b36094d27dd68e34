"""The processes of one state folder as /proc shows them, whoever their parents are; and signals that cannot hit a stranger."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

_PROC = Path("/proc")


class Seen(Struct, frozen=True):
    """One living process that was born for our state folder. leader: it leads a session. tag: no two generations have the same."""

    pid: int
    worker: str
    generation: int
    leader: bool
    parent: int
    tag: str


def ours(state_dir: Path) -> list[Seen]:
    """Return the living processes of this folder, by pid. Zombies are not among them: they have no environment any more."""
    wanted = f"WARDEN_STATE_DIR={state_dir}".encode()
    found = []
    for path in _PROC.glob("[0-9]*"):
        try:
            environ = (path / "environ").read_bytes().split(b"\0")
            if wanted not in environ:
                continue
            fields = (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] in "ZX":
            continue
        names = dict(item.decode(errors="replace").partition("=")[::2] for item in environ if item.startswith(b"WARDEN_"))
        pid = int(path.name)
        own = Seen(
            pid, names.get("WARDEN_WORKER", "?"), int(names.get("WARDEN_GENERATION", "0")), int(fields[3]) == pid, int(fields[1]), names.get("WARDEN_TAG", "")
        )
        found.append(own)
    return sorted(found, key=lambda seen: seen.pid)


def inside(folder: Path) -> list[int]:
    """Return the living processes that work in this folder: those as well that threw their environment away."""
    found = []
    for path in _PROC.glob("[0-9]*"):
        with suppress(OSError):
            if (path / "cwd").readlink().is_relative_to(folder):  # a zombie has none
                found.append(int(path.name))
    return found


def leaders(state_dir: Path) -> list[Seen]:
    """Return the workers' own processes; a child in a session of its own is not one, its parent is of the same generation."""
    everyone = {seen.pid: seen for seen in ours(state_dir)}
    return [seen for seen in everyone.values() if seen.leader and not _same(seen, everyone.get(seen.parent))]


def _same(seen: Seen, parent: Seen | None) -> bool:
    return parent is not None and parent.tag == seen.tag


def zombies(parent: int) -> list[int]:
    """Return the zombies that this process has not reaped."""
    found = []
    for pid in _children(parent):
        with suppress(OSError):
            if (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "Z":
                found.append(pid)
    return found


def _children(parent: int) -> Iterator[int]:
    for task in (_PROC / str(parent) / "task").glob("*/children"):
        with suppress(OSError):
            yield from map(int, task.read_text().split())


class Handle:
    """One process for good: a signal through it reaches this process or nobody."""

    def __init__(self, pid: int) -> None:
        """Open it. Raises ProcessLookupError when it is gone."""
        self._pidfd = os.pidfd_open(pid)

    def signal(self, number: signal.Signals) -> None:
        """Send the signal, unless it is gone."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._pidfd)


def descriptors(pid: int) -> int:
    """Return how many descriptors a process has open. Raises OSError when it is gone."""
    return sum(1 for _ in (_PROC / str(pid) / "fd").iterdir())


def resident_bytes(pid: int) -> int:
    """Return its resident memory. Raises OSError when it is gone."""
    return int((_PROC / str(pid) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
