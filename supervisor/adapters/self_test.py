"""Proves at start, on a throw-away process and throw-away files, what Warden relies on; says in sentences what could not be proved."""

import os
import secrets
import select
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from supervisor.adapters import log_archive, proc

ANSWER_WITHIN_S: Final = 3.0
"""What takes 0.01 s on an idle machine (measured) and one sync of a busy disk; one that does not answer by then is said, not waited for."""
_CHILD_WITHIN_S: Final = 1.0
_LOOK_S: Final = 0.005

# A leader with a child in its group: what a worker with a data loader looks like. The line says that both are there.
_THROW_AWAY: Final = "sleep 60 & echo $!; wait"


def self_test(state_dir: Path, log_dir: Path, *, within_s: float = ANSWER_WITHIN_S) -> list[str]:
    """Return one sentence for each thing that could not be proved; an empty list is the best answer.

    Blocks for within_s at most, for 0.01 s as a rule: for a thread, or before the loop begins. Leaves nothing behind.
    """
    parts: tuple[tuple[str, Callable[[], list[str]]], ...] = (
        ("starting and ending a process", _process),
        (f"the store in {state_dir}", lambda: _store(state_dir)),
        (f"cutting a log in {log_dir}", lambda: _cut(log_dir)),
        ("a cgroup", _cgroup),
        ("the memory meter", _meter),
    )
    found: dict[str, list[str]] = {}

    def run(name: str, part: Callable[[], list[str]]) -> None:
        try:
            found[name] = part()
        except (OSError, ValueError, sqlite3.Error) as error:
            found[name] = [f"{name} could not be tried: {error}."]

    threads = [threading.Thread(target=run, args=pair, name="self-test", daemon=True) for pair in parts]
    for thread in threads:
        thread.start()
    end_s = time.monotonic() + within_s
    for thread in threads:
        thread.join(max(0.0, end_s - time.monotonic()))
    return [sentence for name, _ in parts for sentence in found.get(name, [f"{name} did not answer within {within_s:g} s: does a disk hang?"])]


# --- a process ---


def _process() -> list[str]:
    tag = secrets.token_hex(8)
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.posix_spawn(
            "/bin/sh",
            ("/bin/sh", "-c", _THROW_AWAY),
            {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "WARDEN_TAG": tag},
            file_actions=[(os.POSIX_SPAWN_DUP2, write_end, 1)],
            setsid=True,
        )
    except OSError as error:
        return [f"No process can be started ({error}): no worker will run."]
    finally:
        os.close(write_end)
    child = 0
    try:
        line = os.read(read_end, 32) if select.select([read_end], [], [], _CHILD_WITHIN_S)[0] else b""
        child = int(line) if line.strip().isdigit() else 0
        problems = _seen(pid, child, tag)
    finally:
        os.close(read_end)
        of_end = _ended(pid, child)
    return problems + of_end


def _seen(pid: int, child: int, tag: str) -> list[str]:
    """Return what cannot be seen of the two while they live."""
    problems = []
    if not child:
        problems.append("A process that was started did not answer: the machine is very slow, or /bin/sh does not work.")
    if proc.look(pid) is None:
        problems.append("/proc does not show a process that was just started: a worker of an earlier supervisor cannot be told from a stranger.")
    elif child and (seen := proc.look(child)) is not None and seen.session != pid:
        problems.append("A process does not stay in the session it was started in: leftovers of a worker are found by their tag alone.")
    if not proc.has_tag(pid, tag):
        problems.append("The environment of our own processes cannot be read in /proc: leftovers of a worker that left its session are not found.")
    try:
        if "\nPss:" not in Path(f"/proc/{pid}/smaps_rollup").read_text():
            raise ValueError("it has no line Pss")
    except (OSError, ValueError) as error:
        problems.append(f"PSS cannot be read ({error}): memory is measured as RSS, which counts shared pages once for each process.")
    return problems


def _ended(pid: int, child: int) -> list[str]:
    """End both by a signal to their group; return what of that could not be seen."""
    problems = []
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        os.killpg(pid, signal.SIGKILL)  # our own child, not reaped: the group is its own
        os.waitpid(pid, 0)
        return [f"pidfd_open does not work ({error}): Warden needs Linux 5.4 or newer, and a sandbox that allows the call."]
    try:
        os.killpg(pid, signal.SIGKILL)
        if not select.select([pidfd], [], [], _CHILD_WITHIN_S)[0]:
            return [f"A process (pid {pid}) was still there {_CHILD_WITHIN_S:g} s after SIGKILL."]
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        if child and not _gone(child):
            problems.append(f"SIGKILL to a group did not reach every process in it (pid {child} is left).")
    finally:
        os.close(pidfd)
    return problems


def _gone(pid: int) -> bool:
    end_s = time.monotonic() + _CHILD_WITHIN_S
    while (seen := proc.look(pid)) is not None and seen.state not in "ZX":
        if time.monotonic() >= end_s:
            return False
        time.sleep(_LOOK_S)  # another process's child: no event for us
    return True


# --- files ---


def _store(state_dir: Path) -> list[str]:
    path = state_dir / f".self-test-{os.getpid()}.sqlite"
    problems = []
    try:
        with closing(sqlite3.connect(path)) as db:
            mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            db.execute("PRAGMA synchronous = FULL")
            with db:
                db.execute("CREATE TABLE proof (number INTEGER)")
                db.execute("INSERT INTO proof VALUES (42)")
        with closing(sqlite3.connect(path)) as db:
            if db.execute("SELECT number FROM proof").fetchone() != (42,):
                problems.append(f"{state_dir}: SQLite does not read back what it wrote: put state_dir on a local disk.")
        if mode != "wal":
            problems.append(f"{state_dir}: SQLite cannot use WAL here (it chose {mode}): put state_dir on a local disk.")
    except sqlite3.Error as error:
        problems.append(f"{state_dir}: SQLite cannot write and sync a file ({error}): jobs cannot be accepted.")
    finally:
        for suffix in ("", "-wal", "-shm"):
            with suppress(OSError):  # the disk that refused the file may refuse this as well, and that is said already
                path.with_name(path.name + suffix).unlink(missing_ok=True)
    return problems


def _cut(log_dir: Path) -> list[str]:
    refusal = log_archive.collapses(log_dir)
    return [f"{log_dir}: a log cannot be cut in place here ({refusal}): a worker's log passes log_max until the worker is started again."] if refusal else []


# --- the machine ---


def _cgroup() -> list[str]:
    lost = "processes that leave their worker's session are found by their tag alone"
    place = own_cgroup()
    if place is None:
        return [f"There is no cgroup v2 here: {lost}."]
    leaf = place / f"warden-self-test-{os.getpid()}"
    try:
        leaf.mkdir()
    except OSError as error:
        return [f"{place}: no cgroup can be made ({error.strerror}; the systemd unit has Delegate=yes for it): {lost}."]
    try:
        return [] if (leaf / "cgroup.kill").exists() else [f"{place}: cgroups have no cgroup.kill (Linux 5.14 has): {lost}."]
    finally:
        leaf.rmdir()


def own_cgroup() -> Path | None:
    """Return the folder of our own cgroup v2, None where there is none."""
    with suppress(OSError, StopIteration):
        mount = next(Path(line.split()[4]) for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup2 " in line)
        name = next(line.removeprefix("0::") for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
        place = mount / name.lstrip("/")
        return place if place.is_dir() else None
    return None


def _meter() -> list[str]:
    text = Path("/proc/meminfo").read_text()
    if "MemAvailable:" not in text:
        return ["/proc/meminfo has no MemAvailable: the memory brake cannot work."]
    return []
