"""What programs without the SDK show: their notices, their output, their files; who is believed, and what counts as progress."""

import array
import asyncio
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from supervisor.adapters.program_notices import Notice, read_notice
from supervisor.adapters.program_progress import Program, ProgramWatch
from supervisor.core.events import ProgramSeen
from supervisor.core.limits import Watchdog, WorkerSpec
from supervisor.core.model import WorkerName
from supervisor.runtime.process_ports import SpawnError

NAME = WorkerName("tool-0")
WITHIN_S = 20.0

SENDER = """
import os, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
    for text in sys.argv[1:]:
        line.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])
sys.stdin.read()  # stay: nobody can be looked up who is gone
"""

FLOOD = """
import contextlib, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line, contextlib.suppress(OSError):  # until nobody listens any more
    while True:
        line.sendto(b"WATCHDOG=1", sys.argv[1])
"""


def spec(progress: str, *, silent_after_s: float = 40.0, stall_after_s: float = 40.0) -> WorkerSpec:
    return WorkerSpec(command=("x",), progress=progress, watchdog=Watchdog(silent_after_s=silent_after_s, stall_after_s=stall_after_s))


class Seen:
    """A watch in a folder of its own, and what it posted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "tool.log"
        self.events: list[ProgramSeen] = []
        self.leader = os.getpid()
        self.watchdog = Watchdog()
        self.watch = ProgramWatch(folder, post=self.events.append, leader_of=lambda _worker: self.leader, watchdog_of=lambda _worker: self.watchdog)
        self.senders: list[subprocess.Popen[bytes]] = []

    def begin(self, progress: str, *, generation: int = 1, adopted: bool = False, **limits: float) -> dict[str, str]:
        self.watchdog = spec(progress, **limits).watchdog
        return dict(self.watch.begin(NAME, generation, spec(progress, **limits), log=self.log, adopted=adopted))

    def begin_file(self) -> Path:
        """Watch by a file, and return its path."""
        path = self.folder / "progress.json"
        given = spec("file:{state_dir}/progress.json", stall_after_s=0.001)
        self.watchdog = given.watchdog
        self.watch.begin(NAME, 1, given, log=self.log, file=path)
        return path

    def send(self, *texts: str, address: str, own_session: bool = False) -> int:
        """Let a process of its own send these, and return its pid; it lives until the end of the test."""
        return self.start("-c", SENDER, *texts, env={"NOTIFY_SOCKET": address}, start_new_session=own_session).pid

    def start(self, *arguments: str, **how: Any) -> "subprocess.Popen[bytes]":
        """Start a Python that lives until its input ends, with the test at the latest."""
        self.senders.append(subprocess.Popen([sys.executable, "-S", *arguments], stdin=subprocess.PIPE, **how))
        return self.senders[-1]

    async def until(self, condition: Callable[[], object]) -> None:
        """Return once the condition is true."""
        async with asyncio.timeout(WITHIN_S):
            while not condition():
                await asyncio.to_thread(os.sched_yield)

    def look(self) -> None:
        """Look now, whenever the next look at each was due."""
        for program in self.watch._programs.values():
            program.look_at_s = 0.0
        self.watch.look()

    async def looked(self) -> int:
        """Look, and return how many events came of it."""
        before = len(self.events)
        self.look()
        await self.until(lambda: all(program.held_since_s is None for program in self.watch._programs.values()))
        return len(self.events) - before

    def close(self) -> None:
        self.watch.close()
        for sender in self.senders:
            sender.communicate()


@pytest_asyncio.fixture
async def seen(tmp_path: Path) -> AsyncIterator[Seen]:
    one = Seen(tmp_path)
    yield one
    one.close()


# --- what a message says ---


@pytest.mark.parametrize(
    ("data", "notice"),
    [
        (b"READY=1", Notice(ready=True)),
        (b"READY=0", Notice()),
        (b"READY=1\nSTATUS=up\nMAINPID=17\nFDSTORE=1\n", Notice(ready=True, status="up")),
        (b"WATCHDOG=1", Notice(watchdog=True)),
        (b"WATCHDOG=trigger", Notice()),
        (b"STATUS=a=b", Notice(status="a=b")),
        (b"STATUS=", Notice(status="")),
        (b"STATUS=\xff\x1b[2J\tx", Notice(status="\N{REPLACEMENT CHARACTER} [2J x")),
        (b"STATUS=" + b"x" * 1000, Notice(status="x" * 200)),
        (b"EXTEND_TIMEOUT_USEC=1500000", Notice(extend_s=1.5)),
        (b"EXTEND_TIMEOUT_USEC=-1", Notice()),
        (b"EXTEND_TIMEOUT_USEC=soon", Notice()),
        ("EXTEND_TIMEOUT_USEC=٣".encode(), Notice()),
        (b"EXTEND_TIMEOUT_USEC=" + b"9" * 3000, Notice()),
        (b"STOPPING=1\nRELOADING=1", Notice(stopping=True, reloading=True)),
        (b"", Notice()),
        (bytes(range(256)), Notice()),
    ],
)
def test_a_message_is_read_as_a_service_manager_reads_it(data: bytes, notice: Notice) -> None:
    assert read_notice(data) == notice


# --- what it means ---


def told(*said: str, adopted: bool = False) -> list[ProgramSeen]:
    """Return what is posted when a program says these, two seconds apart."""
    program = Program(NAME, 1, spec("notify"), adopted=adopted)
    posted = []
    for number, text in enumerate(said):
        program.hear(read_notice(text.encode()), 100.0 + 2.0 * number)
        posted.append(program.due(100.0 + 2.0 * number))
    return [one or ProgramSeen(worker=NAME, generation=1) for one in posted]


def test_a_status_that_changes_while_the_program_is_up_is_progress() -> None:
    posted = told("STATUS=loading", "STATUS=still loading", "READY=1\nSTATUS=up", "STATUS=1 served", "STATUS=1 served", "STATUS=2 served")

    assert [one.moved for one in posted] == [False, False, False, True, False, True]
    assert [one.ready for one in posted] == [False, False, True, False, False, False]
    assert [one.status for one in posted] == ["loading", "still loading", "up", "1 served", "", "2 served"]


def test_what_is_said_once_at_the_start_and_around_a_reload_is_no_progress() -> None:
    posted = told("READY=1", "STATUS=serving", "RELOADING=1\nSTATUS=reloading", "STATUS=reading", "READY=1\nSTATUS=serving", "STOPPING=1")

    assert [one.moved for one in posted] == [False] * 6
    assert posted[-1].status == "stopping"


def test_a_status_from_before_is_told_with_ready() -> None:
    assert told("STATUS=mapping", "READY=1")[1].status == "mapping"


def test_a_beat_is_life_and_no_progress_and_a_status_is_no_beat() -> None:
    beat, status = told("WATCHDOG=1", "STATUS=x", adopted=True)

    assert (beat.alive, beat.moved) == (True, False)
    assert (status.alive, status.moved) == (False, False)


def test_a_program_that_was_taken_back_goes_on_where_it_was() -> None:
    assert [one.moved for one in told("STATUS=7 served", "STATUS=8 served", adopted=True)] == [False, True]


def test_much_that_is_said_at_once_becomes_one_event() -> None:
    program = Program(NAME, 1, spec("notify"), adopted=True)
    posted = []

    for step in range(100):
        now_s = 100.0 + step / 100
        program.hear(Notice(watchdog=True, status=str(step)), now_s)
        posted.append(program.due(now_s))
    last = program.due(101.0)

    assert [number for number, one in enumerate(posted) if one] == [0]
    assert last is not None
    assert (last.alive, last.moved, last.status) == (True, True, "99")
    assert program.due(105.0) is None, "nothing is said twice"


def test_with_a_short_limit_it_is_told_more_often() -> None:
    program = Program(NAME, 1, spec("notify", silent_after_s=1.0), adopted=True)

    program.hear(Notice(watchdog=True), 100.0)
    assert program.due(100.0)
    program.hear(Notice(watchdog=True), 100.1)
    assert not program.due(100.2)
    assert program.due(100.3)


def test_a_beat_counts_for_as_long_as_the_program_was_told_at_its_start() -> None:
    program = Program(NAME, 1, spec("notify", silent_after_s=60.0), adopted=False)
    program.hear(Notice(watchdog=True), 100.0)
    assert program.due(100.0)

    program.vouch(101.0)
    assert program.due(105.0) is None, "nothing was lowered"
    program.take(Watchdog(silent_after_s=10.0))
    for at_s, alive in ((106.0, True), (149.9, True), (150.1, False)):  # 150 and 10 are the 60 that it was told
        program.vouch(at_s)
        posted = program.due(at_s)
        assert (posted is not None and posted.alive) is alive, at_s
    program.take(Watchdog(silent_after_s=600.0))
    program.vouch(151.0)
    assert program.due(151.0) is None, "a raised limit needs nobody's word"


def test_an_extension_is_told_at_once_and_before_the_last_one_runs_out() -> None:
    program = Program(NAME, 1, spec("notify"), adopted=False)
    extended_to_s = 0.0

    for step in range(100):  # it asks for 0.9 s each half second
        now_s = 100.0 + step / 2
        program.hear(Notice(extend_s=0.9), now_s)
        one = program.due(now_s)
        if one is not None:
            extended_to_s = now_s + one.extend_s
        assert extended_to_s >= now_s + 0.5, step

    program.hear(Notice(extend_s=600.0), 151.0)
    longest = program.due(151.0)
    program.hear(Notice(extend_s=1.0), 152.0)
    shorter = program.due(155.0)

    assert longest is not None
    assert longest.extend_s == 600.0
    assert shorter is None, "it has more than that already"


# --- who is believed ---


@pytest.mark.asyncio
async def test_the_leader_and_its_children_are_heard(seen: Seen) -> None:
    environment = seen.begin("notify", silent_after_s=90.0)

    assert environment == {"NOTIFY_SOCKET": str(seen.folder / "n.tool-0.1"), "WATCHDOG_USEC": "90000000"}
    seen.send("READY=1\nSTATUS=hello", address=environment["NOTIFY_SOCKET"])
    await seen.until(lambda: seen.events)
    assert seen.events == [ProgramSeen(worker=NAME, generation=1, ready=True, status="hello")]


@pytest.mark.asyncio
async def test_a_stranger_is_not(seen: Seen, tmp_path: Path) -> None:
    seen.begin("notify")
    seen.leader = seen.send(address="/nowhere", own_session=True)
    (tmp_path / "x").mkdir()
    spelled_otherwise = str(tmp_path / "x" / ".." / "n.tool-0.1")  # who is born with the address itself is of the tree

    seen.send("READY=1", address=spelled_otherwise, own_session=True)

    await seen.until(lambda: seen.watch.dropped["notice of a stranger"])
    assert seen.events == []


@pytest.mark.asyncio
async def test_without_a_leader_nobody_is_believed(seen: Seen) -> None:
    address = seen.begin("notify")["NOTIFY_SOCKET"]
    seen.leader = 0

    seen.send("READY=1", address=address)

    await seen.until(lambda: seen.watch.dropped["notice of a stranger"] == 1)
    assert seen.events == []


@pytest.mark.asyncio
async def test_who_was_born_with_its_socket_is_of_the_tree_whatever_its_session(seen: Seen) -> None:
    address = seen.begin("notify")["NOTIFY_SOCKET"]
    seen.leader = seen.send(address="/nowhere", own_session=True)

    seen.send("READY=1", address=address, own_session=True)

    await seen.until(lambda: seen.events)
    assert seen.events[0].ready


@pytest.mark.asyncio
async def test_garbage_is_dropped_whole_and_what_follows_is_heard(seen: Seen) -> None:
    address = seen.begin("notify")["NOTIFY_SOCKET"]

    seen.send("READY=1\n" + "x" * 5000, "\x01=\x02", "WATCHDOG=1", address=address)

    await seen.until(lambda: seen.events)
    assert seen.events == [ProgramSeen(worker=NAME, generation=1, alive=True)]
    assert seen.watch.dropped == {"malformed notice": 1}


@pytest.mark.asyncio
async def test_descriptors_that_come_along_are_closed_which_answers_a_barrier(seen: Seen) -> None:
    address = seen.begin("notify")["NOTIFY_SOCKET"]
    read_end, write_end = os.pipe()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.connect(address)
        line.sendmsg([b"BARRIER=1"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [write_end]))])
        line.sendmsg([b"WATCHDOG=1"])
    os.close(write_end)

    await seen.until(lambda: seen.events)

    assert select.select([read_end], [], [], 0)[0], "nobody holds the other end any more"
    os.close(read_end)


@pytest.mark.asyncio
@pytest.mark.slow
async def test_a_flood_holds_up_its_sender_and_not_the_loop(seen: Seen) -> None:
    address = seen.begin("notify", silent_after_s=0.4)["NOTIFY_SOCKET"]
    loop = asyncio.get_running_loop()
    program = seen.watch._programs[NAME, 1]
    hear, turns = program.hear, [0]

    def counted(notice: Notice, now_s: float) -> None:
        if not turns[-1]:
            loop.call_soon(turns.append, 0)  # the next turn of the loop
        turns[-1] += 1
        hear(notice, now_s)

    program.hear = counted  # type: ignore[method-assign]  # it hears as before, and counts
    seen.start("-c", FLOOD, address)
    await seen.until(lambda: len(seen.events) >= 5)

    assert 0 < max(turns) <= 100, "so many messages, and others have their turn"
    assert seen.watch.dropped == {}


# --- its socket ---


@pytest.mark.asyncio
async def test_the_next_supervisor_serves_the_same_path(seen: Seen) -> None:
    address = seen.begin("notify")["NOTIFY_SOCKET"]
    abandoned = seen.watch
    seen.watch = ProgramWatch(seen.folder, post=seen.events.append, leader_of=lambda _worker: seen.leader, watchdog_of=lambda _worker: seen.watchdog)
    assert list(seen.folder.glob("n.*")) == [], "what a killed supervisor left is taken away"

    assert seen.begin("notify", adopted=True)["NOTIFY_SOCKET"] == address
    seen.send("WATCHDOG=1", address=address)

    await seen.until(lambda: seen.events)
    assert seen.events[0].alive
    seen.watch.close()
    assert list(seen.folder.glob("n.*")) == []
    abandoned.close()


@pytest.mark.asyncio
async def test_a_program_that_was_taken_back_is_held_to_what_its_own_supervisor_told_it(seen: Seen) -> None:
    seen.leader = seen.start("-c", "import sys; sys.stdin.read()", env={"WATCHDOG_USEC": "60000000"}).pid
    await seen.until(lambda: b"WATCHDOG_USEC" in Path(f"/proc/{seen.leader}/environ").read_bytes())
    address = seen.begin("notify", adopted=True, silent_after_s=2.0)["NOTIFY_SOCKET"]
    program = seen.watch._programs[NAME, 1]
    seen.leader = os.getpid()

    seen.send("WATCHDOG=1", address=address)
    await seen.until(lambda: seen.events)
    program._posted_at_s -= 10.0
    seen.look()

    assert [event.alive for event in seen.events] == [True, True]


@pytest.mark.asyncio
async def test_a_folder_with_room_for_no_more_than_our_own_sockets_is_enough(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * (107 - len(str(tmp_path)) - 2 - len("control.sock")))
    folder.mkdir()
    watch = ProgramWatch(folder, post=lambda _event: None, leader_of=lambda _worker: 0, watchdog_of=lambda _worker: Watchdog())

    one = watch.begin(WorkerName("a-program-with-a-long-name-0"), 1, spec("notify"), log=tmp_path / "log")["NOTIFY_SOCKET"]
    two = watch.begin(WorkerName("a-program-with-a-long-name-1"), 1, spec("notify"), log=tmp_path / "log")["NOTIFY_SOCKET"]

    assert one != two
    assert len(one) <= 107
    watch.close()
    assert list(folder.iterdir()) == []


@pytest.mark.asyncio
async def test_a_socket_that_cannot_be_made_is_a_spawn_that_failed(tmp_path: Path) -> None:
    watch = ProgramWatch(tmp_path / "gone", post=lambda _event: None, leader_of=lambda _worker: 0, watchdog_of=lambda _worker: Watchdog())

    with pytest.raises(SpawnError, match=r"n\.tool-0\.1: No such file or directory: its NOTIFY_SOCKET must be possible there"):
        watch.begin(NAME, 1, spec("notify"), log=tmp_path / "log")


@pytest.mark.asyncio
async def test_others_get_no_socket_and_are_not_looked_at(seen: Seen) -> None:
    assert [seen.begin("sdk"), seen.begin("none"), seen.begin("output"), seen.begin("file:/x")] == [{}, {}, {}, {}]
    seen.watch.end(NAME, 1)
    seen.watch.end(NAME, 1)
    assert await seen.looked() == 0


# --- output ---


def grow(log: Path, text: str = "line\n") -> None:
    with log.open("a") as file:
        file.write(text)


@pytest.mark.asyncio
async def test_output_that_grows_is_progress(seen: Seen) -> None:
    grow(seen.log, "of an earlier generation\n")
    seen.begin("output", stall_after_s=0.001)

    looks = [await seen.looked()]
    for text in ("one\n", "", "two", ""):
        grow(seen.log, text)
        looks.append(await seen.looked())

    assert looks == [0, 1, 0, 1, 0]
    assert seen.events == [ProgramSeen(worker=NAME, generation=1, moved=True)] * 2


@pytest.mark.asyncio
async def test_a_log_that_is_made_later_cut_or_emptied_is_followed(seen: Seen) -> None:
    seen.begin("output", stall_after_s=0.001)
    assert await seen.looked() == 0
    grow(seen.log, "x" * 10_000)
    assert await seen.looked() == 1
    os.truncate(seen.log, 0)
    assert await seen.looked() == 0
    grow(seen.log)
    assert await seen.looked() == 1
    seen.log.unlink()
    assert await seen.looked() == 0


@pytest.mark.asyncio
async def test_output_into_a_log_that_was_removed_is_seen_all_the_same(seen: Seen) -> None:
    with seen.log.open("ab") as out:
        script = "import sys\nfor line in sys.stdin: print(line, flush=True)"
        program = seen.start("-c", script, stdout=out)
    seen.leader = program.pid
    seen.begin("output", stall_after_s=0.001)
    seen.log.unlink()
    assert await seen.looked() == 0

    assert program.stdin is not None
    program.stdin.write(b"x\n")
    program.stdin.flush()
    await seen.until(lambda: os.stat(f"/proc/{program.pid}/fd/1").st_size)  # noqa: PTH116  # the file has no name any more

    assert await seen.looked() == 1


# --- files ---


@pytest.mark.asyncio
async def test_a_file_whose_bytes_differ_is_progress_whatever_its_clock_says(seen: Seen) -> None:
    file = seen.begin_file()
    file.write_text("left by an earlier generation")
    looks = [await seen.looked()]
    for text, at_s in (("1", 5e9), ("1", 6e9), ("2", 1.0), ("2", 0.0), ("3", 0.0)):
        file.write_text(text)
        os.utime(file, (at_s, at_s))
        looks.append(await seen.looked())

    assert looks == [0, 1, 0, 1, 0, 1]


@pytest.mark.asyncio
async def test_a_missing_file_is_no_progress_and_one_that_appears_is(seen: Seen) -> None:
    file = seen.begin_file()
    assert await seen.looked() == 0
    file.write_text("1")
    assert await seen.looked() == 1
    file.unlink()
    assert await seen.looked() == 0
    file.write_text("")
    assert await seen.looked() == 0
    file.write_text("1")
    assert await seen.looked() == 0, "the same as before"
    file.write_text("2")
    assert await seen.looked() == 1


@pytest.mark.asyncio
async def test_what_cannot_be_read_goes_by_its_time(seen: Seen) -> None:
    file = seen.begin_file()
    file.mkdir()
    assert await seen.looked() == 0
    assert await seen.looked() == 0
    (file / "checkpoint").write_text("x")
    os.utime(file, (7.0, 7.0))
    assert await seen.looked() == 1


@pytest.mark.asyncio
async def test_a_large_file_goes_by_its_size_and_time(seen: Seen) -> None:
    file = seen.begin_file()
    file.write_bytes(bytes(300_000))
    assert await seen.looked() == 0
    assert await seen.looked() == 0
    file.write_bytes(bytes(300_001))
    assert await seen.looked() == 1


@pytest.mark.asyncio
async def test_a_pipe_in_the_place_of_the_file_holds_nobody_up(seen: Seen) -> None:
    file = seen.begin_file()
    os.mkfifo(file)

    assert [await seen.looked(), await seen.looked()] == [0, 0]


# --- a disk that does not answer ---


class Frozen:
    """A look at a disk that does not answer until it thaws."""

    def __init__(self) -> None:
        self.thaws = threading.Event()

    def moved(self, leader: int) -> bool:
        del leader
        self.thaws.wait(WITHIN_S)
        return False


@pytest.mark.asyncio
async def test_a_frozen_disk_holds_up_its_own_program_alone_and_nobody_is_blamed(seen: Seen) -> None:
    grow(seen.log)
    seen.begin("output", stall_after_s=0.001)
    stuck = WorkerName("stuck-0")
    seen.watch.begin(stuck, 1, spec("output"), log=seen.log)
    program, frozen = seen.watch._programs[stuck, 1], Frozen()
    program.look = frozen

    for _ in range(2):  # the stuck one is behind, then before the other
        seen.look()
        await seen.until(lambda: seen.watch._programs[NAME, 1].held_since_s is None)
        program.held_since_s = time.monotonic()  # it has only just begun, however slow this machine is
    grow(seen.log)
    seen.look()
    await seen.until(lambda: seen.events)
    assert seen.events == [ProgramSeen(worker=NAME, generation=1, moved=True)]

    assert program.held_since_s is not None
    program.held_since_s -= 3.0
    seen.look()
    assert seen.events[-1].worker == stuck
    assert seen.events[-1].extend_s == pytest.approx(2.0, abs=0.1)
    assert not seen.events[-1].moved

    frozen.thaws.set()
    await seen.until(lambda: program.held_since_s is None)


@pytest.mark.asyncio
async def test_a_look_that_ends_after_its_program_is_for_nobody(seen: Seen) -> None:
    grow(seen.log)
    seen.begin("output", stall_after_s=0.001)
    await seen.looked()
    grow(seen.log)
    program = seen.watch._programs[NAME, 1]

    seen.look()
    seen.watch.end(NAME, 1)
    await seen.until(lambda: program.held_since_s is None)

    assert seen.events == []


@pytest.mark.asyncio
async def test_a_program_with_a_long_limit_is_looked_at_less_often(seen: Seen) -> None:
    seen.begin("output", stall_after_s=600.0)
    program = seen.watch._programs[NAME, 1]
    began_s = time.monotonic()
    await seen.looked()
    next_after_s = program.look_at_s - began_s
    program.look_at_s += 3600.0  # it is not due yet, however slow this machine is

    seen.watch.look()

    assert program.held_since_s is None
    assert program.look_every_s == 1.0
    assert next_after_s >= 0.75


@pytest.mark.asyncio
@pytest.mark.slow
async def test_it_looks_by_itself(seen: Seen) -> None:
    grow(seen.log)
    seen.begin("output", stall_after_s=0.001)
    looking = asyncio.get_running_loop().create_task(seen.watch.run())
    program = seen.watch._programs[NAME, 1]
    await seen.until(lambda: program.look_at_s > 0.0 and program.held_since_s is None)  # the first look is over

    grow(seen.log)

    await seen.until(lambda: seen.events)
    looking.cancel()
