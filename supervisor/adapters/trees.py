"""One generation's process tree: what is written down of it, who lives of it, its end. For threads: a look at /proc takes milliseconds."""

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from supervisor.adapters import proc
from supervisor.adapters.cgroups import Leaf
from supervisor.core.model import WorkerName

_LOOKS_MAX: Final = 5
"""Who bears faster than we stop is killed as far as it was seen; whoever sweeps does so until nobody is left."""
_KNOWN_MAX: Final = 10_000


class Record(Struct, kw_only=True):
    """One generation, written down before it is spawned and completed after: what a later supervisor needs to prove that a process is ours."""

    worker: WorkerName
    generation: int
    token: str
    tag: str
    log: str
    boot_id: str
    pid: int = 0
    start_ticks: int = 0
    cgroup: str = ""  # the leaf that it was born in; empty where none could be made
    adopted: bool = False
    log_bytes: int = 0  # how long its log was before it wrote into it
    forks: int = 0  # how many processes had been born on the machine before it was
    known: dict[int, int] = msgspec.field(default_factory=dict)  # members of the last looks: pid -> start ticks

    @property
    def leaf(self) -> Leaf | None:
        """Return its cgroup. None as well where the record names a folder that no supervisor would have made for it."""
        path = Path(self.cgroup)
        ours = path.name.startswith("warden-") and path.name.endswith(f"-{self.worker}-{self.generation}")
        return Leaf(path) if self.cgroup and ours else None

    def remove_leaf(self) -> None:
        """Remove its cgroup, where it had one, with whoever is in it still: a shim that failed may be dying there."""
        if (leaf := self.leaf) is not None:
            leaf.kill()
            leaf.remove()

    @property
    def tree(self) -> proc.Tree:
        """Return what tells its processes from others where there is no cgroup."""
        return proc.Tree(self.pid, self.start_ticks, self.tag, self.known, self.forks)

    def members(self) -> list[proc.Seen]:
        """Return who lives of it: in its cgroup, and by session, tag and descent."""
        found = proc.trees([self.tree])[0]
        outside = {member.pid for member in found}
        inside = self.leaf.pids() if self.leaf else []
        return found + [seen for pid in inside if pid not in outside and (seen := proc.look(pid)) is not None and seen.state not in "ZX"]

    def remember(self, tree: proc.Tree, members: Sequence[proc.Seen]) -> None:
        """Keep who was there at a look for this tree: they are found again by it when they have lost session, tag and parents.

        Who was seen first by another look meanwhile stays known.
        """
        later = {pid: ticks for pid, ticks in self.known.items() if pid not in tree.known}
        self.known = {**later, **{member.pid: member.start_ticks for member in members[:_KNOWN_MAX]}}

    def write(self, run_dir: Path) -> None:
        """Write it whole or not at all. Raises OSError. Not fsynced: only our own death has to be survived, and a reboot ends the process as well."""
        path = run_dir / f"{self.worker}.json"
        partial = path.with_suffix(".partial")
        partial.write_bytes(msgspec.json.encode(self))
        partial.replace(path)


def members_of(records: Sequence[Record]) -> list[list[proc.Seen]]:
    """Return who there is of each tree, and remember them. One pass for all."""
    wanted = [record.tree for record in records]
    found = proc.trees(wanted) if wanted else []
    for record, tree, members in zip(records, wanted, found, strict=True):
        record.remember(tree, members)
    return found


def remember_all(records: Sequence[Record]) -> list[list[int]]:
    """Remember who there is of each tree, and return the pids."""
    return [[member.pid for member in members] for members in members_of(records)]


def sweep(records: Sequence[Record]) -> list[list[int]]:
    """SIGKILL every member of these trees and return who there was of each. An empty answer is the proof that nobody of it is left.

    The cgroup is killed by one call of the kernel, those born meanwhile included. Its word alone is not the proof: a worker that runs as root, or as whoever
    owns the cgroup, can write itself into another. Who is outside is stopped before anybody is killed: nobody is born while parents stand still, and nobody
    loses the parent by whom alone we know him.
    """
    insides = []
    for record in records:
        leaf = record.leaf
        insides.append(leaf.pids() if leaf is not None else [])
        if leaf is not None and (insides[-1] or not leaf.empty()):
            leaf.kill()
    answers = []
    for record, inside, members in zip(records, insides, _stop_outside(records, insides), strict=True):
        youngest_first = sorted(members, key=lambda member: member.start_ticks, reverse=True)  # a leader that dies wakes those it stopped (SIGHUP, SIGCONT)
        outside = _send_to(youngest_first, signal.SIGKILL)
        found = sorted({*inside, *outside})
        answers.append(found or ([record.pid] if record.leaf is not None and not record.leaf.empty() else []))
    return answers


def _stop_outside(records: Sequence[Record], insides: Sequence[Sequence[int]]) -> list[list[proc.Seen]]:
    """SIGSTOP who is not in the cgroup, of each tree, and look again until there is nobody new. One pass for all, and one alone where there is nobody."""
    found: list[dict[int, proc.Seen]] = [{} for _ in records]
    for _ in range(_LOOKS_MAX):
        fresh: list[proc.Seen] = []
        for seen, inside, members in zip(found, insides, proc.trees([record.tree for record in records]), strict=True):
            new = [member for member in members if member.pid not in inside and member.pid not in seen]
            seen.update((member.pid, member) for member in new)
            fresh += new
        if not fresh:
            break
        _send_to(fresh, signal.SIGSTOP)
    return [list(seen.values()) for seen in found]


def go_on(record: Record) -> None:
    """SIGCONT who stands still: an earlier supervisor may have ended between stopping a tree and killing it."""
    _send_to([member for member in record.members() if member.state == "T"], signal.SIGCONT)


def send_to_group(record: Record, number: signal.Signals) -> None:
    """Signal the other members of the group of a leader that is not our child: it may be reaped at any moment, and then the number means nothing."""
    _send_to([member for member in proc.trees([record.tree])[0] if member.group == record.pid != member.pid], number)


def _send_to(members: Sequence[proc.Seen], number: signal.Signals) -> list[int]:
    """Signal each of them, proved again after its pidfd was opened, and return who was there."""
    found = []
    for member in members:
        try:
            pidfd = os.pidfd_open(member.pid)
        except OSError:
            continue
        try:
            again = proc.look(member.pid)
            if again is not None and again.start_ticks == member.start_ticks:
                found.append(member.pid)
                with suppress(ProcessLookupError, PermissionError):  # somebody else's by now (sudo): he stays, and is named as stuck
                    signal.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)
    return found
