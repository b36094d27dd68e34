"""Keeps logs/workers/*.log in size while the workers themselves hold them open: the head is copied to NAME.log.1 and then cut off in place."""

import errno
import os
import stat
import threading
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Final

from msgspec import Struct

from supervisor.adapters import log_archive as archive
from supervisor.units import format_size

LOOK_EVERY_S: Final = 2.0
_NEW_GENERATION_WAITS_S: Final = 1.0
_CALM_SHARE: Final = 8
"""A file is calm when it grew by less than an eighth of log_max since the last look."""
_LEFT_BYTES: Final = 64 * 2**10
_LEFT_SHARE: Final = 4
_FORCED: Final = 2
_PIECES_MAX: Final = 9


class _Known(Struct):
    """What is remembered of one file between two looks."""

    size: int = -1
    seen: bool = False
    failures: int = 0
    said: str = ""


class WorkerLogs:
    """The workers' log files. Read in order (NAME.log.2, NAME.log.1, NAME.log) they are exactly the bytes that the worker wrote.

    A file above max_bytes is cut at the first look that finds it calm, above twice that at any look. What came since the look before stays in it (64 KiB at
    least, log_max at most), because `tail -f` takes a cut for a new file and reads it from its beginning: it prints some lines again, and misses none unless
    it was further behind than that. `rotates_in_place` is True where the file system can cut (ext4, xfs). Elsewhere a file that is too large is renamed at
    the next generation, and only `tail -F` goes on in the new one.
    """

    def __init__(self, folder: Path, *, max_bytes: int, keep: int, say: Callable[[str, Mapping[str, object]], None]) -> None:
        """Try what the file system can do. say(event, fields) must be callable from a thread. Raises nothing: what does not work is said."""
        self.rotates_in_place = True
        self._folder = folder
        self._max_bytes = max_bytes
        self._keep = keep
        self._say = say
        self._known: dict[str, _Known] = {}
        self._turn = threading.Lock()  # one pass at a time, whoever asks for it
        self._began_s: float | None = None
        self._leave = threading.Event()
        self._thread: threading.Thread | None = None
        refusal = archive.collapses(folder)
        if refusal:
            self._cannot(refusal)

    # --- its own thread ---

    def start(self, every_s: float = LOOK_EVERY_S) -> None:
        """Look every so often in a thread of our own, which a frozen disk may hold up for as long as it likes; `stuck_for_s` tells."""
        self._thread = threading.Thread(target=self._run, args=(every_s,), name="worker-logs", daemon=True)
        self._thread.start()

    def close(self, within_s: float = 1.0) -> None:
        """End the thread, unless the disk holds it."""
        self._leave.set()
        if self._thread is not None:
            self._thread.join(within_s)

    def stuck_for_s(self) -> float:
        """Return how long the pass under way has taken, 0.0 between two. Never waits. More than ten seconds means a disk that does not answer."""
        began_s = self._began_s
        return 0.0 if began_s is None else time.monotonic() - began_s

    def set_limits(self, *, max_bytes: int, keep: int) -> None:
        """Take new limits; they count from the next look."""
        self._max_bytes, self._keep = max_bytes, keep

    def _run(self, every_s: float) -> None:
        while not self._leave.wait(every_s):
            self.look()

    # --- what it does ---

    def look(self) -> None:
        """One pass over all files. Blocks as the disk does: for a thread. Raises nothing."""
        with self._turn:
            self._began_s = time.monotonic()
            try:
                self._look()
            finally:
                self._began_s = None

    def new_generation(self, worker: str) -> None:
        """Before a spawn: where the file cannot be cut in place and is over the limit, move it away, so that the new process begins a new one.

        Waits a second at most for a pass under way (the disk may be frozen); then the worker goes on in the old file. For a thread.
        """
        if self.rotates_in_place or not self._turn.acquire(timeout=_NEW_GENERATION_WAITS_S):
            return
        try:
            log = self._folder / f"{worker}.log"
            try:
                size = log.lstat().st_size
                if size > self._max_bytes:
                    if self._keep:
                        archive.shift_in(log, [log], self._keep)
                    else:
                        log.unlink()
                    self._known.pop(worker, None)
                    self._say("log_rotated", {"worker": worker, "size_bytes": size, "to": f"{log.name}.1" if self._keep else "nowhere (log_keep = 0)"})
            except FileNotFoundError:
                pass  # the first generation, or somebody removed it: the new process makes it
            except OSError as error:
                self._failed(worker, self._known.setdefault(worker, _Known()), error)
        finally:
            self._turn.release()

    def _look(self) -> None:
        try:
            names = set(os.listdir(self._folder))  # noqa: PTH208  # a hundred logs each two seconds, for as long as we live
        except OSError as error:
            self._failed("", self._known.setdefault("", _Known()), error)
            return
        self._known.pop("", None)
        left = {name.rpartition(".log.")[0] for name in names if name.endswith(archive.COPIED)}
        for worker in sorted({name.removesuffix(".log") for name in names if name.endswith(".log")} | self._known.keys() - {""}):
            known = self._known.setdefault(worker, _Known())
            try:
                self._one(worker, known, left=worker in left)
            except FileNotFoundError:
                self._missing(worker, known)
            except OSError as error:
                self._failed(worker, known, error)

    def _one(self, worker: str, known: _Known, *, left: bool) -> None:
        found = os.lstat(f"{self._folder}/{worker}.log")
        if not stat.S_ISREG(found.st_mode):
            return  # a link or a pipe that somebody put there on purpose
        before, known.size, known.seen = known.size, found.st_size, True
        log = self._folder / f"{worker}.log"
        if left:
            archive.shift_in(log, archive.left_copies(log), self._keep)
        if found.st_size <= self._max_bytes:
            return
        if not self.rotates_in_place:
            if known.said != "grows":
                known.said = "grows"
                over = f"{format_size(found.st_size)}, over log_max = {format_size(self._max_bytes)}; it gets a new file when the worker is started again"
                self._say("log_not_rotated", {"worker": worker, "reason": over})
            return
        grown = found.st_size - before if before >= 0 else found.st_size
        if grown < max(1, self._max_bytes // _CALM_SHARE) or found.st_size >= _FORCED * self._max_bytes:
            least = min(_LEFT_BYTES, self._max_bytes // _LEFT_SHARE)
            self._cut(worker, log, known, leave=min(max(grown, least), self._max_bytes))

    def _cut(self, worker: str, log: Path, known: _Known, *, leave: int) -> None:
        began_s = time.monotonic()
        fd = os.open(log, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            size = os.fstat(fd).st_size
            end = archive.cut_point(fd, size - leave, self._max_bytes // 4)
            if not end:
                return  # log_max is smaller than a block
            copies = self._copy(fd, log, end)
            try:
                archive.collapse(fd, end)
            except OSError as error:
                for path in copies:
                    path.unlink(missing_ok=True)
                if os.fstat(fd).st_size <= end:
                    return  # somebody emptied it meanwhile
                if error.errno in _CANNOT:
                    self._cannot(error.strerror or str(error))
                    return
                raise
            archive.shift_in(log, copies, self._keep)
            known.size = os.fstat(fd).st_size
        finally:
            os.close(fd)
        fields: dict[str, object] = {"worker": worker, "cut_bytes": end, "left_bytes": known.size, "took_s": round(time.monotonic() - began_s, 3)}
        if known.failures:
            fields["reason"] = f"{known.failures} earlier tries had failed; no line was lost"
        known.failures, known.said = 0, ""
        self._say("log_rotated", fields)

    def _copy(self, fd: int, log: Path, end: int) -> list[Path]:
        """Copy the head in pieces of at most twice log_max, newest first; what log_keep would drop at once is not copied. All of them or none."""
        count = -(-end // (_FORCED * self._max_bytes))
        bounds = [min(archive.line_start(fd, end * i // count), end * (i + 1) // count) for i in range(count)] + [end]
        pieces = list(pairwise(bounds))[::-1][: min(self._keep, _PIECES_MAX)]
        copies: list[Path] = []
        try:
            for number, (start, stop) in enumerate(pieces, 1):
                path = archive.copy_path(log, number)
                archive.copy(fd, start, stop, path)
                copies.append(path)
        except OSError:
            for path in copies:
                path.unlink(missing_ok=True)
            raise
        return copies

    # --- what it says, once ---

    def _missing(self, worker: str, known: _Known) -> None:
        if known.seen:
            self._say(
                "log_removed",
                {"worker": worker, "reason": "somebody removed or renamed the file; what the worker prints goes to the old one until it is started again"},
            )
        del self._known[worker]  # it is a new file to us when it comes back

    def _failed(self, worker: str, known: _Known, error: OSError) -> None:
        """Nothing was cut off and nothing lost; it is tried again at each look, and said when the reason is another one."""
        known.failures += 1
        reason = error.strerror or str(error)
        if known.said != reason:
            known.said = reason
            self._say("log_not_rotated", {"worker": worker, "reason": f"{reason}: {error.filename or self._folder}; nothing is lost, it is tried again"})

    def _cannot(self, refusal: str) -> None:
        self.rotates_in_place = False
        reason = f"the file system of {self._folder} cannot shorten a file in place ({refusal}): a log gets a new file only when its worker is started again"
        self._say("log_not_rotated", {"reason": reason})


_CANNOT: Final = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.ETXTBSY})
"""Answers to a cut that will be the same the next time. EPERM: the file has the append-only attribute."""
