"""/proc: who a process is, who belongs to a tree, what a tree uses. Every function may be slow and belongs in a thread."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil
from msgspec import Struct

_PROC: Final = Path("/proc")
_SESSION_FIELD: Final = 3  # counted after the command's closing parenthesis: state ppid pgrp session ...
_START_FIELD: Final = 19


class Seen(Struct, frozen=True):
    """One process as /proc shows it. start_ticks tells a reused pid from the old one."""

    pid: int
    state: str
    ppid: int
    session: int
    start_ticks: int


def boot_id() -> str:
    """Return the id of this boot: start ticks mean nothing across two."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def look(pid: int) -> Seen | None:
    """Return the process, or None when there is none (a zombie is one)."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return Seen(pid=pid, state=fields[0], ppid=int(fields[1]), session=int(fields[_SESSION_FIELD]), start_ticks=int(fields[_START_FIELD]))


def everyone() -> Iterator[Seen]:
    """Yield every process of the machine that can be seen."""
    for path in _PROC.iterdir():
        if path.name.isdigit():
            seen = look(int(path.name))
            if seen is not None:
                yield seen


def has_tag(pid: int, tag: str) -> bool:
    """Return whether the process was born with this WARDEN_TAG. False as well where its environment may not be read, or was overwritten by a new title."""
    try:
        return f"WARDEN_TAG={tag}\0".encode() in (_PROC / str(pid) / "environ").read_bytes() + b"\0"
    except OSError:
        return False


def members(leader: int, leader_ticks: int, tag: str) -> list[Seen]:
    """Return the living processes of a tree: those in the leader's session, and those born with its tag, whatever session they made for themselves.

    Zombies count as gone. The session of a pid that was given out anew is not ours: its leader then has other start ticks. leader 0: only the tag is known.
    """
    reused = any(seen.pid == leader and seen.start_ticks != leader_ticks for seen in [look(leader)] if seen is not None)
    return [
        seen
        for seen in everyone()
        if seen.state not in "ZX"
        and seen.start_ticks >= leader_ticks
        and ((leader and seen.session == leader and not reused) or (seen.pid != os.getpid() and has_tag(seen.pid, tag)))
    ]


def leader(pid: int, start_ticks: int, tag: str) -> Seen | None:
    """Return the living leader of a recorded generation, if it is provably that one.

    pid 0: the record was written before the spawn and never completed; the leader is then who was born with the tag and leads a session.
    """
    if pid:
        seen = look(pid)
        ours = seen is not None and seen.start_ticks == start_ticks and seen.state not in "ZX" and (seen.session == pid or has_tag(pid, tag))
        return seen if ours else None
    return next((seen for seen in everyone() if seen.session == seen.pid and seen.state not in "ZX" and has_tag(seen.pid, tag)), None)


def age_s(seen: Seen) -> float:
    """Return how long ago the process was started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - seen.start_ticks / os.sysconf("SC_CLK_TCK")


def pss_bytes(pid: int) -> int:
    """Return the proportional set size, 0 for a process that is gone. Costs about 15 ms per GB. RSS where the kernel shows no PSS."""
    try:
        process = psutil.Process(pid)
        try:
            return int(process.memory_full_info().pss)
        except psutil.AccessDenied:
            return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def catches(pid: int, signal_number: int) -> bool:
    """Return whether the process has a handler for this signal: one without would be killed by it."""
    try:
        for line in (_PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (signal_number - 1) & 1)
    except OSError:
        return False
    return False


_STATES: Final = {"R": "running", "S": "sleeping", "D": "in uninterruptible sleep", "T": "stopped by a signal", "t": "traced", "Z": "zombie", "I": "idle"}


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
