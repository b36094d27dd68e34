"""/proc: who a process is, who belongs to a tree, what a tree uses. Every function may be slow and belongs in a thread."""

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from msgspec import Struct

_PROC: Final = Path("/proc")
_GROUP_FIELD: Final = 2  # counted after the command's closing parenthesis: state ppid pgrp session ...
_SESSION_FIELD: Final = 3
_START_FIELD: Final = 19
_CHUNK_BYTES: Final = 64 * 1024
_ANCESTORS_MAX: Final = 64
_RESERVED_PIDS: Final = 1000
"""Of each round of pids: the first 300 are left out after the first one; the rest is for those who are born while we look."""


class Seen(Struct, frozen=True):
    """One process as /proc shows it. start_ticks tells a reused pid from the old one."""

    pid: int
    state: str
    ppid: int
    group: int
    session: int
    start_ticks: int
    name: str


def boot_id() -> str:
    """Return the id of this boot: start ticks mean nothing across two."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def look(pid: int) -> Seen | None:
    """Return the process, or None when there is none (a zombie is one)."""
    try:
        data = read(f"/proc/{pid}/stat")
    except OSError:
        return None
    name, _, rest = data.decode(errors="replace").rpartition(")")  # a program may give itself a name of any bytes
    fields = rest.split(maxsplit=_START_FIELD + 1)
    return Seen(
        pid=pid,
        state=fields[0],
        ppid=int(fields[1]),
        group=int(fields[_GROUP_FIELD]),
        session=int(fields[_SESSION_FIELD]),
        start_ticks=int(fields[_START_FIELD]),
        name=name.partition("(")[2],
    )


def ancestors(pid: int) -> tuple[int, ...]:
    """Return the pids of those that it descends from, the parent first and without init; one whose parent ended has none left to tell."""
    found: list[int] = []
    seen = look(pid)
    while seen is not None and seen.ppid > 1 and len(found) < _ANCESTORS_MAX:
        found.append(seen.ppid)
        seen = look(seen.ppid)
    return tuple(found)


def everyone() -> Iterator[Seen]:
    """Yield every process of the machine that can be seen."""
    return _all_of(_pids())


def _all_of(pids: Iterable[int]) -> Iterator[Seen]:
    for pid in pids:
        seen = look(pid)
        if seen is not None:
            yield seen


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208  # a fifth of the time of Path, hundreds of times in a pass


def read(path: str) -> bytes:
    """Return all that a file of the kernel's holds. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = [os.read(fd, _CHUNK_BYTES)]
        while len(parts[-1]) == _CHUNK_BYTES:
            parts.append(os.read(fd, _CHUNK_BYTES))
    finally:
        os.close(fd)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def forks() -> int:
    """Return how many processes and threads were born on this machine since its boot; 0 where the kernel does not say."""
    try:
        return int(read("/proc/stat").partition(b"\nprocesses ")[2].split(maxsplit=1)[0])
    except (OSError, ValueError, IndexError):
        return 0


def _since(pids: Sequence[int], wanted: Sequence["Tree"]) -> Iterable[int]:
    """Return those of the pids that members of these trees can have; read just before. All of them where that cannot be known.

    Pids are given out in a circle: whoever was born after a leader has one from the leader's own on, up to the last that was given out, unless so many were
    born since that the circle may have been closed.
    """
    try:
        last = int(read("/proc/loadavg").split()[-1])
        lap = int(read("/proc/sys/kernel/pid_max")) - _RESERVED_PIDS
    except (OSError, ValueError, IndexError):
        return pids
    now = forks()
    if any(not tree.leader or not tree.forks or not 0 <= now - tree.forks < lap for tree in wanted):
        return pids
    spans = {(tree.leader, tree.leader <= last) for tree in wanted}
    straight = min((leader for leader, ahead in spans if ahead), default=last + 1)
    round_the_end = min((leader for leader, ahead in spans if not ahead), default=None)
    if round_the_end is None:
        return [pid for pid in pids if straight <= pid <= last]
    return [pid for pid in pids if pid <= last or pid >= round_the_end]  # those that began before the end of the circle reach over its start


def has_tag(pid: int, tag: str) -> bool:
    """Return whether the process was born with this WARDEN_TAG. False as well where its environment may not be read, or was overwritten by a new title."""
    return bool(tag) and tag_of(pid) == tag


def tag_of(pid: int) -> str:
    """Return the WARDEN_TAG that the process was born with; empty without one, or where its environment may not be read or was overwritten by a new title."""
    return born_with(pid, "WARDEN_TAG")


def born_with(pid: int, variable: str) -> str:
    """Return a variable of the environment that the process was born with; empty without one, or where it may not be read or was overwritten."""
    try:
        _, _, rest = (b"\0" + read(f"/proc/{pid}/environ")).partition(f"\0{variable}=".encode())
    except OSError:
        return ""
    return rest.partition(b"\0")[0].decode(errors="replace")


class Tree(Struct, frozen=True):
    """What tells the tree of one generation: its leader (0: not known), when that started, the tag its members were born with, and members seen before.

    known: pid -> start ticks of processes that were members at an earlier look: it finds those again that have lost session, tag and parents since.
    forks: how many had been born on the machine before the leader was; 0: not known, and everybody is looked at.
    """

    leader: int
    start_ticks: int
    tag: str
    known: Mapping[int, int]
    forks: int = 0


def trees(wanted: Sequence[Tree]) -> list[list[Seen]]:
    """Return the living processes of each tree, in one pass over those who were born since, however many trees are asked for.

    Of a tree are: its leader's session, those born with its tag, those known before, and the children of all of these, whatever session and title they made
    for themselves. Zombies count as gone. The session of a pid that was given out anew is not ours: its leader then has other start ticks.
    """
    ticks: dict[int, int] = {}
    living: list[Seen] = []
    for seen in _all_of(_since(_pids(), wanted)):
        ticks[seen.pid] = seen.start_ticks
        if seen.state not in "ZX" and seen.pid != os.getpid():
            living.append(seen)
    sessions = {tree.leader: place for place, tree in enumerate(wanted) if tree.leader and ticks.get(tree.leader, tree.start_ticks) == tree.start_ticks}
    tags = {tree.tag: place for place, tree in enumerate(wanted) if tree.tag}  # most of the machine was born with none
    known = {member: place for place, tree in enumerate(wanted) for member in tree.known.items()}
    oldest = min((tree.start_ticks for tree in wanted), default=0)
    found: list[list[Seen]] = [[] for _ in wanted]
    place_of: dict[int, int] = {}
    later: list[Seen] = []
    for seen in living:
        if seen.start_ticks < oldest:
            continue
        place = sessions.get(seen.session, known.get((seen.pid, seen.start_ticks)))
        place = tags.get(tag_of(seen.pid)) if place is None else place
        if place is not None and seen.start_ticks >= wanted[place].start_ticks:
            found[place].append(seen)
            place_of[seen.pid] = place
        else:
            later.append(seen)
    while grown := [seen for seen in later if seen.ppid in place_of and seen.start_ticks >= ticks[seen.ppid]]:
        for seen in grown:
            place_of[seen.pid] = place_of[seen.ppid]
            found[place_of[seen.pid]].append(seen)
        later = [seen for seen in later if seen.pid not in place_of]
    return found


def members(leader: int, leader_ticks: int, tag: str) -> list[Seen]:
    """Return the living processes of one tree, as `trees` does."""
    return trees([Tree(leader, leader_ticks, tag, {})])[0]


def leader(pid: int, start_ticks: int, tag: str, inside: Sequence[int] = ()) -> Seen | None:
    """Return the living leader of a recorded generation, if it is provably that one. inside: who is in its cgroup.

    pid 0: the record was written before the spawn and never completed. The leader is then the oldest that leads a session, in the cgroup or with the tag.
    """
    if pid:
        seen = look(pid)
        ours = seen is not None and seen.start_ticks == start_ticks and seen.state not in "ZX" and (seen.session == pid or pid in inside or has_tag(pid, tag))
        return seen if ours else None
    candidates = (seen for seen in everyone() if seen.session == seen.pid and seen.state not in "ZX" and (seen.pid in inside or has_tag(seen.pid, tag)))
    return min(candidates, key=lambda seen: seen.start_ticks, default=None)


def age_s(seen: Seen) -> float:
    """Return how long ago the process was started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - seen.start_ticks / os.sysconf("SC_CLK_TCK")


def pss_bytes(pid: int) -> int:
    """Return the proportional set size, 0 for a process that is gone. Costs about 15 ms per GB. RSS where the kernel shows no PSS."""
    try:
        lines = read(f"/proc/{pid}/smaps_rollup")
        return 1024 * int(lines.partition(b"\nPss:")[2].split(maxsplit=1)[0])
    except (OSError, ValueError, IndexError):
        return rss_bytes(pid)


def kept_bytes(pid: int) -> int:
    """Return the PSS without pages of files, which the kernel takes back when it needs them; 0 for a process that is gone. Costs what `pss_bytes` does.

    A model's weights that are mapped from their file are such pages: to end a worker for them would free nothing that was not free already.
    """
    try:
        counts = read(f"/proc/{pid}/smaps_rollup")
        return sum(1024 * int(counts.partition(name)[2].split(maxsplit=1)[0]) for name in (b"\nPss_Anon:", b"\nPss_Shmem:"))
    except (OSError, ValueError, IndexError):  # also where the kernel, before 5.4, tells them not apart
        return pss_bytes(pid)


def rss_bytes(pid: int) -> int:
    """Return the resident set size, 0 for a process that is gone. Costs nothing: the kernel keeps count."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * int(read(f"/proc/{pid}/statm").split(maxsplit=2)[1])
    except (OSError, ValueError, IndexError):
        return 0


def catches(pid: int, signal_number: int) -> bool:
    """Return whether the process has a handler for this signal: one without would be killed by it."""
    try:
        for line in (_PROC / str(pid) / "status").read_text(errors="replace").splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (signal_number - 1) & 1)
    except OSError:
        return False
    return False


def is_running(pid: int) -> bool:
    """Return whether one of its threads runs, or would if there was a processor for it."""
    with suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208  # names are all that is needed
            with suppress(OSError):
                if (_PROC / str(pid) / "task" / task / "stat").read_bytes().rpartition(b")")[2].split()[0] == b"R":
                    return True
    return False


_STATES: Final = {"R": "running", "S": "sleeping", "D": "in uninterruptible sleep", "T": "stopped by a signal", "t": "traced", "Z": "zombie", "I": "idle"}


def cgroup_of(pid: int) -> str:
    """Return the path of its cgroup below the v2 mount, a zombie's too; empty where there is none."""
    try:
        lines = (_PROC / str(pid) / "cgroup").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.removeprefix("0::").removesuffix(" (deleted)") for line in lines if line.startswith("0::")), "")


def story(pid: int) -> str:
    """Return what the process does just now, for people: its state, and the kernel function it waits in."""
    seen = look(pid)
    if seen is None:
        return f"pid {pid} is gone"
    try:
        channel = (_PROC / str(pid) / "wchan").read_text().strip()
    except OSError:
        channel = ""
    try:
        threads = sum(1 for _ in (_PROC / str(pid) / "task").iterdir())
    except OSError:
        threads = 0
    where = f", waits in {channel}" if channel and channel != "0" else ""
    return f"pid {pid} is {_STATES.get(seen.state, seen.state)}{where}, {threads} threads"
