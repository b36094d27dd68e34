"""Worker processes: spawned, watched, signalled, ended as whole trees, and found again after the supervisor's own death."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from supervisor.adapters import proc
from supervisor.adapters.processes import LocalProcesses
from supervisor.adapters.trees import Record
from supervisor.core.events import TreeGone
from supervisor.core.model import Exit, WorkerName
from supervisor.runtime.process_ports import SpawnError
from tests.support.kept import NAME, WITHIN_S, Kept
from tests.support.live import alive

pytestmark = [pytest.mark.asyncio, pytest.mark.slow]


async def test_a_process_leads_a_session_and_writes_into_its_own_log(kept: Kept) -> None:
    pid = await kept.spawn("sh", "-c", "echo out; echo err >&2; pwd; umask; exec sleep 60")

    assert os.getsid(pid) == pid != os.getsid(0)
    log = kept.folder / "tool.log"
    async with asyncio.timeout(WITHIN_S):
        while len(log.read_text().splitlines()) < 4:
            await asyncio.to_thread(os.sched_yield)
    assert log.read_text().splitlines() == ["out", "err", str(kept.folder), "0077"]


async def test_a_program_gets_the_descriptors_that_are_meant_for_it_and_no_others(kept: Kept) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0)) as two:
        meant = [two.getsockname()[1], one.getsockname()[1]]
        script = """
import os, socket
got = {}
for fd in range(3, 256):
    try:
        got[fd] = socket.socket(fileno=fd).getsockname()[1]
    except OSError:
        pass
print(got, flush=True)
os._exit(0)
"""
        launch = msgspec.structs.replace(kept.launch(sys.executable, "-c", script), descriptors=(two.fileno(), one.fileno()))

        kept.pids.append(await kept.processes.spawn(launch))
        await kept.exit()

    assert (kept.folder / "tool.log").read_text().strip() == str(dict(enumerate(meant, 3)))


@pytest.mark.parametrize(
    ("script", "ended", "words"),
    [
        ("exit 0", Exit("code", 0), "exit code 0"),
        ("exit 7", Exit("code", 7), "exit code 7"),
        ("kill -KILL $$", Exit("signal", 9, "SIGKILL"), "killed by signal 9 (SIGKILL)"),
    ],
)
async def test_an_exit_is_told_as_it_was(kept: Kept, script: str, ended: Exit, words: str) -> None:
    await kept.spawn("sh", "-c", script)

    found = await kept.exit()

    assert (found, str(found)) == (ended, words)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"argv": ("/nowhere/program",)}, "command not found or not executable: /nowhere/program"),
        ({"argv": ("no-such-program",)}, "command not found or not executable: no-such-program"),
        ({"argv": ("/etc",)}, "command not found or not executable: /etc"),
        ({"argv": ("/etc/passwd",)}, "command not found or not executable: /etc/passwd"),
        ({"cwd": Path("/nowhere")}, "/nowhere"),
        ({"log": Path("/nowhere/tool.log")}, "/nowhere/tool.log"),
        ({"umask": "soon"}, "umask"),
        ({"argv": ("true", "nul\0byte")}, "embedded null byte"),
        ({"env": {"X": "y" * 3_000_000}}, "Argument list too long"),
    ],
)
async def test_a_spawn_that_fails_says_why_and_leaves_nothing(kept: Kept, change: dict[str, object], says: str) -> None:
    def opened() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # a number of them

    before = opened()
    launch = msgspec.structs.replace(kept.launch("sleep", "60"), **change)

    with pytest.raises(SpawnError) as refused:
        await kept.processes.spawn(launch)

    assert says in str(refused.value)
    await kept.until(lambda: opened() <= before)  # a thread of an earlier test may open or close one meanwhile
    assert kept.exits.empty()


async def test_a_program_with_a_space_and_a_quote_in_its_arguments_gets_them_as_they_are(kept: Kept) -> None:
    await kept.spawn("printf", "[%s]", "a b", "it's", '"', "$HOME", "*", "")
    await kept.exit()

    assert (kept.folder / "tool.log").read_text() == "[a b][it's][\"][$HOME][*][]"


async def test_terminate_wakes_a_stopped_process_and_asks_its_group(kept: Kept) -> None:
    pid = await kept.spawn("sleep", "60")
    os.kill(pid, signal.SIGSTOP)

    await kept.processes.terminate(NAME, 1)

    assert await kept.exit() == Exit("signal", 15, "SIGTERM")


async def test_a_signal_that_is_ordered_during_the_spawn_is_not_lost(kept: Kept) -> None:
    spawning = asyncio.ensure_future(kept.spawn("sleep", "60"))
    await asyncio.to_thread(os.sched_yield)
    await kept.processes.terminate(NAME, 1)

    await spawning

    assert (await kept.exit()).kind == "signal"


async def test_a_tree_is_gone_with_those_that_made_sessions_of_their_own(kept: Kept) -> None:
    log = kept.folder / "tool.log"
    pid = await kept.spawn("sh", "-c", "sleep 60 & setsid sleep 60 & setsid sh -c 'sleep 60 & wait' & echo up; wait")
    async with asyncio.timeout(WITHIN_S):
        while len(members := await asyncio.to_thread(kept.processes._records[NAME, 1].members)) < 5 or "up" not in log.read_text():
            pass
    os.kill(pid, signal.SIGKILL)
    await kept.exit()

    gone = await kept.processes.prove_gone(NAME, 1, WITHIN_S)

    assert isinstance(gone, TreeGone)
    assert gone.swept >= 3
    assert gone.log_tail == ("up",)
    assert not [member.pid for member in members if alive(member.pid)]
    assert not (kept.folder / "run" / "tool-0.json").exists()


async def test_signals_to_what_is_gone_or_never_was_go_nowhere(kept: Kept) -> None:
    await kept.spawn("true")
    await kept.exit()

    await kept.processes.terminate(NAME, 1)
    await kept.processes.terminate(WorkerName("nobody-0"), 5)
    await kept.processes.kill(WorkerName("nobody-0"), 5)

    assert await kept.processes.prove_gone(WorkerName("nobody-0"), 5, 1.0) == TreeGone(worker=WorkerName("nobody-0"), generation=5)


async def test_memory_is_that_of_the_whole_tree(kept: Kept) -> None:
    child = "import time; x = bytearray(b'x' * 50_000_000); print('up', flush=True); time.sleep(60)"
    await kept.spawn("sh", "-c", f'{sys.executable} -c "{child}" & setsid {sys.executable} -c "{child}" & wait')
    log = kept.folder / "tool.log"
    async with asyncio.timeout(WITHIN_S):
        while log.read_text().count("up") < 2:
            await asyncio.to_thread(os.sched_yield)

    used = await kept.processes.memory()

    assert 100_000_000 < used[NAME] < 300_000_000
    assert abs(await kept.processes.memory_of(NAME) - used[NAME]) < 20_000_000
    assert await kept.processes.memory_of(WorkerName("nobody-0")) == 0


async def test_evidence_of_a_python_process_has_its_stacks(kept: Kept) -> None:
    code = """
import faulthandler, signal, time
faulthandler.register(signal.SIGUSR1)
def stuck():
    print("up", flush=True)
    time.sleep(60)
stuck()
"""
    pid = await kept.spawn(sys.executable, "-c", code)
    await kept.until(lambda: "up" in (kept.folder / "tool.log").read_text())
    await kept.until(lambda: (seen := proc.look(pid)) is not None and seen.state == "S")

    seen = await kept.processes.evidence(NAME, 1)

    assert "stuck" in seen.stack
    assert seen.log_tail == ("up",)
    assert "is sleeping" in seen.process


async def test_a_dump_that_is_held_up_in_the_middle_is_waited_for(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("BUDGET_S", "_BUSY_QUIET_S"):  # a slow machine may hold it up for longer than this test means to
        monkeypatch.setattr(f"supervisor.adapters.evidence.{limit}", WITHIN_S)
    code = """
import signal, time
def dump(*_):
    print("an ordinary line", flush=True)
    time.sleep(0.3)
    print("Thread 0x1 (most recent call first):", flush=True)
    end_s = time.monotonic() + 0.3
    while time.monotonic() < end_s: pass
    print('  File "late.py", line 1 in late', flush=True)
signal.signal(signal.SIGUSR1, dump)
print("up", flush=True)
while True: signal.pause()
"""
    await kept.spawn(sys.executable, "-S", "-c", code)
    await kept.until(lambda: "up" in (kept.folder / "tool.log").read_text())

    seen = await kept.processes.evidence(NAME, 1)

    assert seen.stack.splitlines() == ["an ordinary line", "Thread 0x1 (most recent call first):", '  File "late.py", line 1 in late']


async def test_evidence_of_a_process_that_would_die_of_the_signal_asks_for_none(kept: Kept) -> None:
    pid = await kept.spawn("sleep", "60")

    seen = await kept.processes.evidence(NAME, 1)

    assert seen.stack == ""
    assert seen.process.endswith("; no stack: it does not take SIGUSR1")
    assert alive(pid)


async def test_a_process_that_is_stopped_is_said_to_give_no_stack_and_has_no_line_of_an_earlier_one(kept: Kept) -> None:
    await kept.spawn("sh", "-c", "echo earlier; exit 3")
    await kept.exit()
    earlier = await kept.processes.prove_gone(NAME, 1, WITHIN_S)
    code = "import faulthandler, os, signal\nfaulthandler.register(signal.SIGUSR1)\nos.kill(os.getpid(), signal.SIGSTOP)"
    pid = await kept.spawn(sys.executable, "-c", code, generation=2)
    await kept.until(lambda: (seen := proc.look(pid)) is not None and seen.state == "T")

    seen = await kept.processes.evidence(NAME, 2)

    assert isinstance(earlier, TreeGone)
    assert earlier.log_tail == ("earlier",)
    assert (seen.stack, seen.log_tail) == ("", ())
    assert seen.process.endswith("; no stack: it is stopped by a signal")


async def test_what_an_earlier_supervisor_left_is_ended_and_its_generation_is_remembered(kept: Kept) -> None:
    pid = await kept.spawn("sh", "-c", "setsid sleep 60 & sleep 60", generation=4)
    later = kept.later()

    assert later.last_generations() == {"tool-0": 4}
    assert (await later.end_survivors())[NAME] >= 1

    assert not alive(pid)


async def test_a_record_of_another_boot_or_of_a_pid_given_out_anew_ends_nobody(kept: Kept) -> None:
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)  # noqa: ASYNC220  # it stands for somebody else's
    record = Record(worker=NAME, generation=1, token="t", tag="old", log="", boot_id="another boot", pid=stranger.pid, start_ticks=1)
    path = kept.folder / "run" / "tool-0.json"

    for one in (record, msgspec.structs.replace(record, boot_id=proc.boot_id())):
        path.write_bytes(msgspec.json.encode(one))
        assert await LocalProcesses(run_dir=kept.folder / "run", post=lambda _event: None).end_survivors() == {}

    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


@pytest.mark.parametrize("tag", ["", "a tag that nobody has"])
async def test_a_record_without_a_pid_never_means_the_kernel_or_everybody_who_has_no_tag(tag: str) -> None:
    assert proc.members(0, 0, tag) == []
