"""The guard as a program of its own: it ends whom the page names, the first first, proves who that is, and writes down what it did."""

import fcntl
import mmap
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.adapters import guard_client, proc
from supervisor.core import brake, memory
from supervisor.core.model import Cause, Fleet, Process, Stop, Worker, WorkerName
from supervisor.helpers import guard
from supervisor.memory_service import last_kill_s

MIB = 2**20
ROOT = Path(guard.__file__).parents[2]
WRITES = """
import mmap, os
from supervisor.adapters.guard_client import Page
page = Page(mmap.mmap(int(os.environ["FD"]), 2**16))
for number in range(1, 20001):
    page.publish(f"{number}\\n" * (1 + number % 50), floor_bytes=number, pretended_bytes=number, ending_at_s=number, now_s=number)
"""
HOLDS = "import sys; held = bytearray({mb} << 20); held[::4096] = b'x' * len(held[::4096]); print('held', flush=True); sys.stdin.read()"


def shared() -> mmap.mmap:
    """Return a page of shared memory."""
    return mmap.mmap(-1, 2**16)


@pytest.fixture
def holders() -> Iterator[list["subprocess.Popen[str]"]]:
    """Two processes in sessions of their own, with 90 and 180 MiB."""
    made = [
        subprocess.Popen([sys.executable, "-S", "-c", HOLDS.format(mb=mb)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
        for mb in (90, 180)
    ]
    for one in made:
        assert one.stdout is not None
        assert one.stdout.readline() == "held\n"
    yield made
    for one in made:
        one.kill()
        one.communicate()


def publish(
    page: mmap.mmap, holders: list["subprocess.Popen[str]"], *, said_at_s: float, ticks: int = 0, sizes: tuple[int, ...] = (), ending_at_s: float = 0.0
) -> None:
    """Publish these holders as victims, in this order. ticks: added to what each really has; sizes: what each is said to have, its RSS if not given."""
    sizes = sizes or tuple(proc.rss_bytes(one.pid) for one in holders)
    rows = [f"worker\tw-{place}#1\t{sizes[place]}\t{one.pid}:{start_ticks(one.pid) + ticks}" for place, one in enumerate(holders)]
    guard_client.Page(page).publish("\n".join(rows), floor_bytes=100 * MIB, pretended_bytes=300 * MIB, ending_at_s=ending_at_s, now_s=said_at_s)


class Clock:
    """The time, standing still at a moment."""

    def __init__(self, now_s: float) -> None:
        self._now_s = now_s

    def monotonic(self) -> float:
        """Return that moment."""
        return self._now_s


def start_ticks(pid: int) -> int:
    """Return what tells a process from a later one with its pid."""
    seen = proc.look(pid)
    assert seen is not None
    return seen.start_ticks


def act(page: mmap.mmap, kills: mmap.mmap) -> str:
    """Let the guard look once and act once, and return what it wrote."""
    one = guard.Guard(page, kills)
    one.read()
    assert one.available() < one.floor
    one.act(one.available())
    return kills[:].partition(b"\0")[0].decode()


def test_the_page_is_read_as_it_is_written() -> None:
    assert (guard.HEAD_AT, guard.HEAD.format) == (guard_client.HEAD_AT, guard_client.HEAD.format)


def test_what_helps_is_the_same_for_the_guard_and_the_brake() -> None:
    ours = (guard.WORTH_BYTES, guard.HELP_SHARE, guard.BAND, guard.FLOOR_PAUSE_S)
    assert ours == (brake.WORTH_BYTES, brake.HELP_SHARE, memory.BAND, brake._FLOOR_PAUSE_S)


def test_the_first_of_a_fresh_page_ends_and_it_is_written_down(holders: list["subprocess.Popen[str]"]) -> None:
    page, kills = shared(), shared()
    publish(page, holders, said_at_s=time.monotonic())

    wrote = act(page, kills)

    assert holders[0].wait(30) == -9
    assert holders[1].poll() is None
    name, available, floor, held, took = wrote.removesuffix("\n").split("\t")
    assert (name, int(floor)) == ("w-0#1", 100 * MIB)
    assert int(available) < 100 * MIB
    assert int(held) > 90 * MIB
    assert 0 < float(took) <= guard.EXIT_MAX_S + 30


def test_of_a_page_that_is_old_the_largest_ends(holders: list["subprocess.Popen[str]"]) -> None:
    page, kills = shared(), shared()
    publish(page, holders, said_at_s=time.monotonic() - guard.STALE_S - 1)

    wrote = act(page, kills)

    assert holders[1].wait(30) == -9
    assert holders[0].poll() is None
    assert wrote.startswith("w-1#1\t")


@pytest.mark.parametrize("said_ago_s", [0.0, guard.STALE_S + 1])
def test_while_one_whom_the_supervisor_killed_is_still_there_nobody_ends(
    holders: list["subprocess.Popen[str]"], monkeypatch: pytest.MonkeyPatch, said_ago_s: float
) -> None:
    page, kills, now_s = shared(), shared(), time.monotonic()
    publish(page, holders, said_at_s=now_s - said_ago_s, ending_at_s=now_s - 0.1)
    one = guard.Guard(page, kills)
    one.read()

    monkeypatch.setattr(guard, "time", Clock(now_s + guard.FLOOR_PAUSE_S - 0.11))
    one.act(0)
    waits = kills[:].strip(b"\0")
    monkeypatch.setattr(guard, "time", Clock(now_s + guard.FLOOR_PAUSE_S - 0.09))
    one.act(0)

    assert waits == b""
    assert kills[:].startswith(b"w-1#1\t" if said_ago_s else b"w-0#1\t")


def test_one_whose_pages_are_still_on_their_way_back_is_waited_for_whoever_killed_it(
    holders: list["subprocess.Popen[str]"], monkeypatch: pytest.MonkeyPatch
) -> None:
    page, kills, now_s, real = shared(), shared(), time.monotonic(), guard.resident_bytes
    publish(page, holders, said_at_s=now_s)
    one = guard.Guard(page, kills)
    one.read()
    monkeypatch.setattr(guard, "resident_bytes", lambda pid: 0 if pid == holders[0].pid else real(pid))  # as that of one with a pidfd that says it lives

    for passed_s in (0.0, guard.FLOOR_PAUSE_S - 0.01):
        monkeypatch.setattr(guard, "time", Clock(now_s + passed_s))
        one.act(0)
    waits = kills[:].strip(b"\0")
    monkeypatch.setattr(guard, "time", Clock(now_s + guard.FLOOR_PAUSE_S + 0.01))
    one.act(0)

    assert waits == b""
    assert kills[:].startswith(b"w-1#1\t")


def test_of_those_whom_the_supervisor_killed_the_last_that_is_still_there_counts() -> None:
    def killed(name: str, at_s: float | None, process: Process | None) -> Worker:
        stop = Stop(cause=Cause.MEMORY, reason="", ordered_at_s=1.0, killed_at_s=at_s)
        return Worker(name=WorkerName(name), model=name, stop=stop, process=process)

    there = Process(spawned_at_s=0.0, pid=5)
    workers = [killed("a", 7.0, there), killed("b", 8.0, there), killed("c", None, there), killed("d", 9.0, None)]

    assert last_kill_s(Fleet(workers={one.name: one for one in workers})) == 8.0
    assert last_kill_s(Fleet()) == 0.0


def test_one_that_has_too_little_to_help_is_passed_over(holders: list["subprocess.Popen[str]"]) -> None:
    page, kills = shared(), shared()
    publish(page, holders, said_at_s=time.monotonic(), sizes=(guard.WORTH_BYTES // 2, 180 * MIB))

    wrote = act(page, kills)

    assert holders[1].wait(30) == -9
    assert holders[0].poll() is None
    assert wrote.startswith("w-1#1\t")


def test_where_all_of_ours_together_would_not_help_nobody_ends(holders: list["subprocess.Popen[str]"]) -> None:
    page, kills = shared(), shared()
    publish(page, holders, said_at_s=time.monotonic(), sizes=(0, 70 * MIB))  # what they have is shared with somebody who lives on
    one = guard.Guard(page, kills)
    one.read()

    one.floor = 1000 * MIB
    one.act(400 * MIB)
    nobody = kills[:].strip(b"\0")
    one.act(500 * MIB)

    assert nobody == b""
    assert holders[1].wait(30) == -9
    assert holders[0].poll() is None


def test_a_pid_that_is_somebody_elses_by_now_is_left_alone(holders: list["subprocess.Popen[str]"]) -> None:
    page, kills = shared(), shared()
    publish(page, holders, said_at_s=time.monotonic(), ticks=1)

    one = guard.Guard(page, kills)
    one.read()
    one.act(0)

    assert one.victims == []
    assert [holder.poll() for holder in holders] == [None, None]


def test_a_page_that_is_being_written_changes_nothing(holders: list["subprocess.Popen[str]"]) -> None:
    page, kills = shared(), shared()
    publish(page, holders, said_at_s=time.monotonic())
    one = guard.Guard(page, kills)
    one.read()

    page[0:1] = b"\3"  # odd
    guard.HEAD.pack_into(page, guard.HEAD_AT, 0.0, 0.0, 0, 0, 0)
    one.read()

    assert one.floor == 100 * MIB
    assert len(one.victims) == 2


def test_no_page_is_taken_by_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process publishes as fast as it can; of each page, the floor, what is pretended, and the body say the same number."""
    writer = subprocess.Popen([sys.executable, "-c", WRITES], stdout=subprocess.PIPE, pass_fds=(fd := os.memfd_create("page"),), env={"FD": str(fd)}, cwd=ROOT)
    os.ftruncate(fd, 2**16)
    page = mmap.mmap(fd, 2**16)
    os.close(fd)
    one, took = guard.Guard(page, shared()), list[str]()
    monkeypatch.setattr(one, "take", took.append)
    over = False
    try:
        while not over:
            over = writer.poll() is not None  # its last page is read after that
            one.read()
            if took:
                words = took.pop().split()
                assert (set(words), len(words), one.pretended, one.ending_at_s) == ({str(one.floor)}, 1 + one.floor % 50, one.floor, one.floor)
    finally:
        writer.kill()
        writer.communicate()

    assert (writer.returncode, one.floor) == (0, 20000)


def test_it_counts_the_cgroups_that_it_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "used").write_text(f"{900 * MIB}\n")
    (tmp_path / "stat").write_text(f"anon 5\ninactive_file {100 * MIB}\nactive_file {50 * MIB}\n")
    one = guard.Guard(shared(), shared())

    one.take(f"group\t{1000 * MIB}\t{tmp_path}/used\t{tmp_path}/stat\tinactive_file,active_file")

    assert one.available() == 250 * MIB


def test_a_process_with_a_high_descriptor_is_waited_for_as_well(holders: list["subprocess.Popen[str]"]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    low = os.pidfd_open(holders[0].pid)
    high = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 2000)
    try:
        before = guard.ended([high])
        holders[0].kill()
        after = guard.ended([high], 30)
    finally:
        os.close(low)
        os.close(high)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert (before, after) == (set(), {high})


def test_it_ends_when_it_is_not_its_parents_any_more() -> None:
    page, kills = os.memfd_create("page"), os.memfd_create("kills")

    ended = subprocess.run([sys.executable, "-I", "-S", guard.__file__, "1", str(page), str(kills)], pass_fds=(page, kills), timeout=60, check=False)

    os.close(page)
    os.close(kills)
    assert ended.returncode == 0
