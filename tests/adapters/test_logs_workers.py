"""The workers' logs, kept in size while others write them: every byte stays, in order, and `tail -f` misses no line."""

import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from supervisor.adapters import log_archive
from supervisor.adapters.worker_logs import WorkerLogs
from tests.support.disk import small_disk

LINES = 200_000
WIDTH = 100
WITHIN_S = 45.0
KIB = 2**10

# Writes numbered lines in append mode, as a worker's stdout does. After each line that it reads from stdin it writes so many more.
WRITER = """
import os, sys
fd, width, next = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640), int(sys.argv[2]), 0
for more in sys.stdin:
    for start in range(next, next + int(more), 50):
        os.write(fd, b"".join(b"%09d " % i + b"x" * (width - 11) + b"\\n" for i in range(start, min(start + 50, next + int(more)))))
    next += int(more)
    print(next, flush=True)
"""


class Heard:
    """What was said."""

    def __init__(self) -> None:
        self.said: list[tuple[str, Mapping[str, object]]] = []
        self._more = threading.Condition()

    def __call__(self, event: str, fields: Mapping[str, object]) -> None:
        with self._more:
            self.said.append((event, fields))
            self._more.notify_all()

    def names(self) -> list[str]:
        return [event for event, _ in self.said]

    def rotations(self) -> int:
        return self.names().count("log_rotated")

    def wait_for_rotations(self, count: int) -> None:
        """Return once a log was rotated so often."""
        with self._more:
            assert self._more.wait_for(lambda: self.rotations() >= count, WITHIN_S), self.said


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def cutting(tmp_path: Path) -> None:
    """Skip by name where the temporary folder's file system cannot cut."""
    if refusal := log_archive.collapses(tmp_path):
        pytest.skip(f"{tmp_path} cannot shorten a file in place ({refusal}): set TMPDIR to a folder on ext4 or xfs")


@pytest.fixture
def uncut() -> Iterator[Path]:
    """A folder on a file system that cannot cut."""
    place = Path("/dev/shm")
    if not place.is_dir() or not log_archive.collapses(place):
        pytest.skip("/dev/shm is no file system that refuses to shorten a file in place")
    folder = Path(tempfile.mkdtemp(prefix="warden-test-", dir=place))  # a number of a process may be in use there by a run that was killed
    yield folder
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


@contextmanager
def written(log: Path) -> Iterator[Callable[[int], None]]:
    """Yield a function that lets a real process write so many more lines, and returns at once; wait for all at the end."""
    with subprocess.Popen([sys.executable, "-c", WRITER, log, str(WIDTH)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as writer:
        assert writer.stdin is not None

        def more(count: int) -> None:
            assert writer.stdin is not None
            writer.stdin.write(f"{count}\n")
            writer.stdin.flush()

        yield more
        writer.stdin.close()
        assert writer.wait(WITHIN_S) == 0


def whole(log: Path) -> bytes:
    """Return all that is on disk, oldest first."""
    old = sorted(log.parent.glob(f"{log.name}.*"), key=lambda path: -int(path.suffix[1:]))
    return b"".join(path.read_bytes() for path in (*old, log))


def lines(count: int) -> bytes:
    return b"".join(b"%09d " % i + b"x" * (WIDTH - 11) + b"\n" for i in range(count))


def looked(logs: WorkerLogs) -> None:
    """Two looks: the first sees the size, the second finds it calm."""
    logs.look()
    logs.look()


# --- no line is lost ---


@pytest.mark.slow
@pytest.mark.usefixtures("cutting")
def test_200_000_lines_through_several_rotations_none_lost(tmp_path: Path, heard: Heard) -> None:
    log = tmp_path / "sam-0.log"
    logs = WorkerLogs(tmp_path, max_bytes=1024 * KIB, keep=100, say=heard)

    with written(log) as more:
        logs.start(every_s=0.02)
        for part in range(1, 5):
            more(LINES // 4)  # 5 MB as fast as it can; more than nine pieces of 2 MB between two looks would be too much to keep
            heard.wait_for_rotations(part)
    logs.close(within_s=WITHIN_S)
    looked(logs)

    assert whole(log) == lines(LINES)
    assert heard.rotations() >= 4
    assert set(heard.names()) == {"log_rotated"}
    assert log.stat().st_size < 1024 * KIB
    assert log.stat().st_mode & 0o777 == (tmp_path / "sam-0.log.1").stat().st_mode & 0o777


@pytest.mark.slow
@pytest.mark.usefixtures("cutting")
def test_tail_f_misses_none_of_200_000_lines(tmp_path: Path, heard: Heard) -> None:
    log = tmp_path / "sam-0.log"
    log.touch()
    logs = WorkerLogs(tmp_path, max_bytes=1024 * KIB, keep=100, say=heard)
    step, ahead = 200, 400  # the reader is 60 kB behind at most: less than a cut ever leaves
    seen: set[int] = set()

    with subprocess.Popen(["tail", "-n", "+1", "-f", log], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as tail, written(log) as more:
        assert tail.stdout is not None
        logs.start(every_s=0.02)
        asked = 0
        while len(seen) < LINES:
            heard.wait_for_rotations(len(seen) // (LINES // 5))  # 4 MB without one is too much: a slow disk gets its time
            while asked < min(LINES, len(seen) + ahead):
                more(step)
                asked += step
            if found := re.search(rb"(\d{9}) x{89}\n", tail.stdout.readline()):  # at its end: tail may go back in the middle of a line
                seen.add(int(found[1]))
        tail.terminate()
    heard.wait_for_rotations(5)
    logs.close(within_s=WITHIN_S)

    assert seen == set(range(LINES))


@pytest.mark.usefixtures("cutting")
def test_only_log_keep_old_files_stay(tmp_path: Path, heard: Heard) -> None:
    log = tmp_path / "sam-0.log"
    logs = WorkerLogs(tmp_path, max_bytes=16 * KIB, keep=2, say=heard)

    for _ in range(5):
        with log.open("ab") as file:
            file.write(lines(300))
        looked(logs)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["sam-0.log", "sam-0.log.1", "sam-0.log.2"]
    assert log.stat().st_size <= 16 * KIB


@pytest.mark.usefixtures("cutting")
def test_keep_none_cuts_and_copies_nothing(tmp_path: Path, heard: Heard) -> None:
    log = tmp_path / "sam-0.log"
    log.write_bytes(lines(300))

    looked(WorkerLogs(tmp_path, max_bytes=16 * KIB, keep=0, say=heard))

    assert [path.name for path in tmp_path.iterdir()] == ["sam-0.log"]
    assert lines(300).endswith(log.read_bytes())


@pytest.mark.usefixtures("cutting")
def test_after_a_flood_between_two_looks_no_old_file_passes_twice_log_max(tmp_path: Path, heard: Heard) -> None:
    log = tmp_path / "sam-0.log"
    log.write_bytes(lines(10_000))

    WorkerLogs(tmp_path, max_bytes=64 * KIB, keep=4, say=heard).look()

    sizes = [(tmp_path / f"sam-0.log.{number}").stat().st_size for number in (1, 2, 3, 4)]
    assert max(sizes) <= 2 * 64 * KIB + WIDTH
    assert lines(10_000).endswith(whole(log))
    assert all((tmp_path / f"sam-0.log.{number}").read_bytes()[9:10] == b" " for number in (1, 2, 3, 4)), "each begins with a whole line"


@pytest.mark.usefixtures("cutting")
def test_a_file_that_grows_fast_is_left_until_twice_the_limit(tmp_path: Path, heard: Heard) -> None:
    log = tmp_path / "sam-0.log"
    logs = WorkerLogs(tmp_path, max_bytes=100 * KIB, keep=4, say=heard)
    cuts = []

    with log.open("ab") as file:
        for _ in range(5):
            file.write(b"x" * 99 + b"\n" + lines(500))
            file.flush()
            logs.look()
            cuts.append(len(heard.said))

    assert cuts == [0, 0, 0, 0, 1], "a reader that is behind would miss what is cut off"


# --- what workers print ---


@pytest.mark.parametrize(
    "data",
    [bytes(range(256)) * 200, b"\xff\xfe\xc3(" * 10_000, b"no end " * 10_000, b"\0" * 50_000, b"\n" * 50_000],
    ids=["bytes", "invalid UTF-8", "one line without an end", "zeros", "empty lines"],
)
@pytest.mark.usefixtures("cutting")
def test_any_bytes_stay_as_they_are(tmp_path: Path, heard: Heard, data: bytes) -> None:
    log = tmp_path / "sam-0.log"
    log.write_bytes(data)

    looked(WorkerLogs(tmp_path, max_bytes=16 * KIB, keep=9, say=heard))

    assert whole(log) == data
    assert log.stat().st_size < len(data)


@pytest.mark.usefixtures("cutting")
def test_what_is_no_regular_file_is_left_alone(tmp_path: Path, heard: Heard) -> None:
    os.mkfifo(tmp_path / "pipe-0.log")
    (tmp_path / "link-0.log").symlink_to("/dev/zero")
    (tmp_path / "folder-0.log").mkdir()

    looked(WorkerLogs(tmp_path, max_bytes=16 * KIB, keep=2, say=heard))

    assert heard.said == []
    assert len(list(tmp_path.iterdir())) == 3


# --- trouble ---


@pytest.mark.usefixtures("cutting")
def test_a_file_that_a_person_removed_is_said_once_and_comes_back(tmp_path: Path, heard: Heard) -> None:
    log = tmp_path / "sam-0.log"
    log.write_bytes(b"one\n")
    logs = WorkerLogs(tmp_path, max_bytes=16 * KIB, keep=2, say=heard)
    logs.look()

    log.unlink()
    for _ in range(3):
        logs.look()
    logs.new_generation("sam-0")
    log.write_bytes(lines(300))  # as the next generation does
    looked(logs)

    assert heard.names() == ["log_removed", "log_rotated"]
    assert heard.said[0][1]["worker"] == "sam-0"


@pytest.mark.usefixtures("cutting")
def test_a_file_that_a_person_emptied_goes_on(tmp_path: Path, heard: Heard) -> None:
    log = tmp_path / "sam-0.log"
    log.write_bytes(lines(300))
    logs = WorkerLogs(tmp_path, max_bytes=16 * KIB, keep=2, say=heard)
    logs.look()

    os.truncate(log, 0)
    looked(logs)

    assert heard.said == []
    assert logs.rotates_in_place


@pytest.mark.usefixtures("cutting")
def test_while_a_copy_cannot_be_written_nothing_is_cut_and_it_is_said_once(tmp_path: Path, heard: Heard) -> None:
    log = tmp_path / "sam-0.log"
    log.write_bytes(lines(2100))  # above the limit, below twice of it
    (tmp_path / "sam-0.log.1").write_bytes(b"old\n")
    logs = WorkerLogs(tmp_path, max_bytes=200 * KIB, keep=2, say=heard)
    logs.look()  # not calm yet
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (120 * KIB, hard))  # the kernel refuses in the middle of the copy, as on a full disk
    try:
        for _ in range(3):
            logs.look()
        names = heard.names()
        refused = whole(log)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    logs.look()

    assert names == ["log_not_rotated"]
    assert refused == b"old\n" + lines(2100)
    assert heard.said[-1][0] == "log_rotated"
    assert heard.said[-1][1]["reason"] == "3 earlier tries had failed; no line was lost"
    assert whole(log) == b"old\n" + lines(2100)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sam-0.log", "sam-0.log.1", "sam-0.log.2"]


@pytest.mark.usefixtures("cutting")
def test_a_copy_that_a_crash_left_is_filed_away_and_repeats_rather_than_loses(tmp_path: Path, heard: Heard) -> None:
    (tmp_path / "sam-0.log").write_bytes(b"c\n")
    (tmp_path / "sam-0.log.1.copied").write_bytes(b"b\n")
    (tmp_path / "sam-0.log.1").write_bytes(b"a\n")

    WorkerLogs(tmp_path, max_bytes=16 * KIB, keep=2, say=heard).look()

    assert whole(tmp_path / "sam-0.log") == b"a\nb\nc\n"


def test_where_a_file_cannot_be_cut_it_is_moved_away_at_the_next_generation(uncut: Path, heard: Heard) -> None:
    log = uncut / "sam-0.log"
    logs = WorkerLogs(uncut, max_bytes=16 * KIB, keep=2, say=heard)
    logs.new_generation("sam-0")  # the first one: there is no file yet
    generations = [lines(300), lines(400), b"short\n"]

    for data in generations:
        logs.new_generation("sam-0")
        with log.open("ab") as file:
            file.write(data)
        looked(logs)
    logs.new_generation("sam-0")  # a file under the limit stays

    assert not logs.rotates_in_place
    assert whole(log) == b"".join(generations)
    assert heard.names() == ["log_not_rotated", "log_not_rotated", "log_rotated", "log_not_rotated", "log_rotated"]
    assert "cannot shorten a file in place" in str(heard.said[0][1]["reason"])


def test_a_folder_that_is_gone_is_said_once(tmp_path: Path, heard: Heard) -> None:
    logs = WorkerLogs(tmp_path / "gone", max_bytes=16 * KIB, keep=2, say=heard)

    looked(logs)

    assert heard.names() == ["log_not_rotated", "log_not_rotated"], "that it cannot cut there, and that it cannot look there"


@pytest.mark.usefixtures("cutting")
def test_a_pass_that_hangs_is_seen_from_outside_and_holds_nobody_up(tmp_path: Path) -> None:
    reached, opened = threading.Event(), threading.Event()

    def say(_event: str, _fields: Mapping[str, Any]) -> None:
        reached.set()
        assert opened.wait(WITHIN_S)

    (tmp_path / "sam-0.log").write_bytes(lines(300))
    logs = WorkerLogs(tmp_path, max_bytes=4 * KIB, keep=2, say=say)
    before_s = logs.stuck_for_s()
    logs.start(every_s=0.001)
    assert reached.wait(WITHIN_S)

    stuck_s = logs.stuck_for_s()
    logs.new_generation("sam-0")
    logs.close(within_s=0.01)
    later_s = logs.stuck_for_s()
    opened.set()
    logs.close(within_s=WITHIN_S)

    assert before_s == 0.0
    assert 0.0 < stuck_s < later_s, "it hangs still: nobody waited for its end"


@pytest.mark.slow
@pytest.mark.faults
def test_a_real_full_disk_and_a_real_frozen_one(tmp_path: Path, heard: Heard) -> None:
    with small_disk(tmp_path) as disk:
        log = disk.folder / "sam-0.log"
        logs = WorkerLogs(disk.folder, max_bytes=256 * KIB, keep=20, say=heard)
        with log.open("ab") as file:
            file.write(lines(20_000))
        disk.fill()
        looked(logs)
        full, full_names = whole(log), heard.names()
        disk.free()
        with disk.frozen():
            logs.start(every_s=0.001)
            end_s = time.monotonic() + WITHIN_S
            while logs.stuck_for_s() < 0.2:
                assert time.monotonic() < end_s, "a pass over a frozen disk was expected to hang"
        logs.close(within_s=WITHIN_S)
        looked(logs)

        assert full == lines(20_000)
        assert full_names == ["log_not_rotated"]
        assert "No space left on device" in str(heard.said[0][1]["reason"])
        assert whole(log) == lines(20_000)
        assert "log_rotated" in heard.names()
        assert logs.stuck_for_s() == 0.0
