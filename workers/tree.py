"""What a worker has of the machine's memory with all its processes, by its own count: the supervisor holds against it what the worker says it will need."""

import os
from typing import Final

from workers.idle import own_bytes

_PPID_FIELD, _SESSION_FIELD = 1, 3  # of /proc/PID/stat, counted after the command's closing parenthesis
_KEPT: Final = (b"Pss_Anon:", b"Pss_Shmem:", b"SwapPss:")
_RESIDENT: Final = (b"RssAnon:", b"RssShmem:", b"VmSwap:")


def tree_bytes() -> int:
    """Return the memory of this process, of its session and of all who descend from these, without mapped files; what is swapped out counts.

    A page that several share counts once. Costs 30 us for each process of the machine, and where there are others than this one 15 ms for each GB. One that
    made a session of its own, and whose parent has ended, is not found.
    """
    pids = _members()
    return sum(map(_bytes_of, pids)) if len(pids) > 1 else own_bytes()


def _members() -> list[int]:
    """Return the pids of the tree, in one pass over the machine."""
    own = os.getpid()
    found = [own]
    children: dict[int, list[int]] = {}
    leads = os.getsid(0) == own  # as every worker does that the supervisor started
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):  # noqa: PTH208  # a fifth of the time of Path
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123  # as above
                fields = file.read().rpartition(b")")[2].split(maxsplit=_SESSION_FIELD + 1)
        except OSError:
            continue
        children.setdefault(int(fields[_PPID_FIELD]), []).append(pid)
        if leads and pid != own and int(fields[_SESSION_FIELD]) == own:
            found.append(pid)
    seen = set(found)
    for pid in found:  # which grows
        new = [child for child in children.get(pid, ()) if child not in seen]
        seen.update(new)
        found += new
    return found


def _bytes_of(pid: int) -> int:
    """Return what a process has, its part of what it shares; all of that where the kernel does not tell it apart, and 0 where the process is gone."""
    for name, counts in (("smaps_rollup", _KEPT), ("status", _RESIDENT)):
        try:
            with open(f"/proc/{pid}/{name}", "rb") as file:  # noqa: PTH123  # as above
                found = [int(line.split()[1]) for line in file if line.startswith(counts)]
        except OSError:
            continue
        if found:
            return 1024 * sum(found)
    return 0
