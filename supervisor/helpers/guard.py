"""The guard: below the hard floor it ends workers by itself, also while the supervisor stands still. Started as `python -I -S guard.py PARENT PAGE KILLS`.

PAGE and KILLS are descriptors of shared memory. On PAGE the supervisor publishes, the first victim first, whom it may end, what each has, and how memory
is counted; on KILLS the guard writes whom it ended, before it does. It imports nothing of ours, keeps its pages in memory, and has a pidfd of each process
before it needs one.
"""

import ctypes
import mmap
import os
import select
import signal
import struct
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress

HEAD_AT = 8
"""PAGE begins with a number of 8 bytes, which is odd while the rest is written."""
HEAD = struct.Struct("<ddQQQ")
"""Then: when it was said to hold (monotonic; alone where nothing else changed), when the supervisor killed the last of those who are still there
(0: none is), the floor, the memory to pretend (0: none), bytes that follow."""
PAUSE_MIN_S, PAUSE_MAX_S, FALL_MAX = 0.005, 0.25, 16e9
STALE_S = 2.0
"""An order that is older is not believed: who has most goes first then."""
EXIT_MAX_S = 1.0
"""How long one is waited for before the next is ended as well."""
FLOOR_PAUSE_S = 0.3
"""As for the supervisor's brake: so long what somebody had, whom anybody killed, may be on its way back before another is ended."""
WORTH_BYTES, HELP_SHARE, BAND = 64 * 2**20, 10, 8
"""As for the supervisor's brake: less is no use to end anybody for; all of ours must have this part of what is missing, up to this part over the floor."""
_LOCK = 1 | 2 | 4  # MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Victim:
    """One worker: its name and generation, a pidfd of each of its processes, the leader's first, and what its end gives back: shared pages count once."""

    def __init__(self, name: str, pids: dict[int, int], size: int) -> None:
        self.name = name
        self.pids = pids
        self.shared = self.resident_bytes() - size

    def size_bytes(self) -> int:
        """Return what it has: what was published, and what its RSS gained since."""
        return max(0, self.resident_bytes() - self.shared)

    def resident_bytes(self) -> int:
        """Return the RSS of its processes."""
        return sum(resident_bytes(pid) for pid in self.pids)

    def dying(self) -> bool:
        """Return whether one of them is killed but not gone: its RSS reads 0 while its pages are still on their way back."""
        emptied = [pidfd for pid, pidfd in self.pids.items() if not resident_bytes(pid)]
        return len(ended(emptied)) < len(emptied)

    def gone(self) -> bool:
        """Return whether none of them lives."""
        return len(ended(self.pids.values())) == len(self.pids)


class Guard:
    """Reads the page, and acts below the floor."""

    def __init__(self, page: mmap.mmap, kills: mmap.mmap) -> None:
        self.page, self.kills = page, kills
        self.words, self.instants = memoryview(page).cast("Q"), memoryview(page).cast("d")  # one word is read at once; what `struct` reads is not
        self.number = 0
        self.floor = self.pretended = 0
        self.said_at_s = self.ending_at_s = 0.0
        self.dying: dict[str, float] = {}  # since when, by name
        self.victims: list[Victim] = []
        self.groups: list[tuple[int, str, str, list[bytes]]] = []
        self.open: dict[tuple[int, int], int] = {}  # pidfds by pid and start ticks
        self.meminfo = os.open("/proc/meminfo", os.O_RDONLY)
        self.written = 0

    def read(self) -> None:
        """Take what is published, if it is whole and new."""
        number = self.words[0]
        if number % 2:
            return
        said_at_s = self.instants[1]
        _, ending_at_s, floor, pretended, length = HEAD.unpack_from(self.page, HEAD_AT)
        body = self.page[HEAD_AT + HEAD.size : HEAD_AT + HEAD.size + length]
        if self.words[0] != number:  # it was written meanwhile: the next look sees it
            return
        self.said_at_s, self.ending_at_s, self.floor, self.pretended = said_at_s, ending_at_s, floor, pretended
        if number != self.number:
            self.number = number
            self.take(body.decode())

    def take(self, text: str) -> None:
        """Open a pidfd of each process that is provably the one that is meant, and close those of whom nobody speaks any more."""
        victims, groups, still = [], [], {}
        for line in text.splitlines():
            kind, *words = line.split("\t")
            if kind == "group":
                limit, used, stat, names = words
                groups.append((int(limit), used, stat, [name.encode() for name in names.split(",")]))
                continue
            pids = {}
            for word in words[2:]:
                pid, _, ticks = word.partition(":")
                key = (int(pid), int(ticks))
                pidfd = self.open.get(key) or opened(*key)
                if pidfd:
                    still[key] = pids[key[0]] = pidfd
            if pids:
                victims.append(Victim(words[0], pids, int(words[1])))
        for key, pidfd in self.open.items():
            if key not in still:
                os.close(pidfd)
        self.open, self.victims, self.groups = still, victims, groups

    def available(self) -> int:
        """Return what the machine has available, as the supervisor counts it."""
        if self.pretended:
            return max(0, self.pretended - sum(victim.resident_bytes() for victim in self.victims))
        found = 1024 * number_in(os.pread(self.meminfo, 4096, 0), b"MemAvailable:")
        for limit, used, stat, names in self.groups:
            with suppress(OSError, ValueError):
                counts = b"\n" + slurp(stat)
                found = min(found, limit - int(slurp(used)) + sum(number_in(counts, b"\n" + name + b" ") for name in names))
        return found

    def freeing(self) -> bool:
        """Return whether somebody was killed a moment ago, by whomever, and is still there."""
        now_s = time.monotonic()
        self.dying = {victim.name: self.dying.get(victim.name, now_s) for victim in self.victims if victim.dying()}
        return any(0 <= now_s - since_s < FLOOR_PAUSE_S for since_s in (self.ending_at_s, *self.dying.values()))

    def act(self, available: int) -> None:
        """End one worker, wait until it is gone, and say so; nobody while another's end may help, or where all of ours together would not."""
        if self.freeing():
            return
        sizes = {victim: size for victim in self.victims if not victim.gone() and (size := victim.size_bytes()) >= WORTH_BYTES}
        if not sizes or sum(sizes.values()) * HELP_SHARE < self.floor + self.floor // BAND - available:
            return
        begun_s = time.monotonic()
        victim = max(sizes, key=sizes.__getitem__) if begun_s - self.said_at_s > STALE_S else next(iter(sizes))
        held = sizes[victim]
        self.dying[victim.name] = begun_s
        place = self.write(f"{victim.name}\t{available}\t{self.floor}\t{held}")
        for number in (signal.SIGSTOP, signal.SIGKILL):  # all stand still before the first dies: nobody bears another meanwhile
            self.send(victim, number)
        waited = list(victim.pids.values())
        while waited and time.monotonic() - begun_s < EXIT_MAX_S:
            over = ended(waited, EXIT_MAX_S / 10)
            waited = [pidfd for pidfd in waited if pidfd not in over]
        self.write(f"\t{time.monotonic() - begun_s}\n", place)

    def send(self, victim: Victim, number: signal.Signals) -> None:
        """Signal each of its processes, and the group of its leader: who was born in that since the page was written is none the guard knows."""
        leader = next(iter(victim.pids))
        if not ended([victim.pids[leader]]):  # its number is its own for as long as it lives
            with suppress(OSError):
                if os.getpgid(leader) == leader:
                    os.killpg(leader, number)
        for pidfd in victim.pids.values():
            with suppress(OSError):
                signal.pidfd_send_signal(pidfd, number)

    def write(self, text: str, place: int | None = None) -> int:
        """Append to what the supervisor reads, and return where the text ends."""
        place = self.written if place is None else place
        data = text.encode()
        if place + len(data) < len(self.kills):
            self.kills[place + 1 : place + len(data)] = data[1:]
            self.kills[place : place + 1] = data[:1]  # the last: the text ends before it until then, so no half of this is read
            self.written = place + len(data)
        return self.written


def opened(pid: int, ticks: int) -> int:
    """Return a pidfd of the process with this pid that was started then; 0 where there is none."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return 0
    with suppress(OSError, ValueError, IndexError):
        if int(slurp(f"/proc/{pid}/stat").rpartition(b")")[2].split()[19]) == ticks:
            return pidfd
    os.close(pidfd)
    return 0


def ended(pidfds: Iterable[int], wait_s: float = 0.0) -> set[int]:
    """Return those whose process is gone or a zombie, as soon as there is one, or when the wait is over."""
    poller = select.poll()
    for pidfd in pidfds:
        poller.register(pidfd, select.POLLIN)
    return {pidfd for pidfd, _ in poller.poll(1000 * wait_s)}


def resident_bytes(pid: int) -> int:
    """Return the RSS of a process, 0 for one that is gone."""
    try:
        return _PAGE_BYTES * int(slurp(f"/proc/{pid}/statm").split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def number_in(text: bytes, name: bytes) -> int:
    """Return the number that follows a name; 0 where it is not there."""
    words = text.partition(name)[2].split(maxsplit=1)
    return int(words[0]) if words else 0


def slurp(path: str) -> bytes:
    """Return what a file of the kernel's holds. Raises OSError."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 16384)
    finally:
        os.close(fd)


def main(arguments: Sequence[str]) -> None:
    """Guard until the parent ends."""
    parent, page, kills = map(int, arguments)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        return
    with suppress(OSError):
        os.nice(-10)
    locked = libc.mlockall(_LOCK) == 0
    guard = Guard(mmap.mmap(page, 0), mmap.mmap(kills, 0))
    guard.write("locked\n" if locked else f"not locked: {os.strerror(ctypes.get_errno())}\n")
    while True:
        guard.read()
        available = guard.available()
        if guard.floor and available < guard.floor:
            guard.act(available)
        time.sleep(min(PAUSE_MAX_S, max(PAUSE_MIN_S, (available - guard.floor) / (2 * FALL_MAX))))


if __name__ == "__main__":
    main(sys.argv[1:])
