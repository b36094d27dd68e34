"""Whom the guard is told of: the processes that a look found, as they were found, for a pid may be somebody else's by the time it is written down."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from supervisor.adapters import proc
from supervisor.adapters.tree_meter import TreeMeter
from supervisor.adapters.trees import Record
from supervisor.core.model import WorkerName

NAME = WorkerName("sam-0")
WITHIN_S = 40
PARENT = """
import subprocess, sys
child = subprocess.Popen(["sleep", "3600"])
print(child.pid, flush=True)
sys.stdin.readline()
child.kill()
child.wait()
print("gone", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def parent() -> Iterator["subprocess.Popen[str]"]:
    """A process in a session of its own, with one child until it is told to end it."""
    with subprocess.Popen([sys.executable, "-S", "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        yield process
        family = psutil.Process(process.pid).children()
        for one in family:
            one.kill()
        process.kill()


def ticks_of(pid: int) -> int:
    seen = proc.look(pid)
    assert seen is not None
    return seen.start_ticks


@pytest.mark.asyncio
async def test_a_member_is_told_as_the_look_found_it_whoever_has_its_pid_now(parent: "subprocess.Popen[str]") -> None:
    assert parent.stdin is not None
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    leader_ticks, child_ticks = ticks_of(parent.pid), ticks_of(child)
    record = Record(worker=NAME, generation=1, token="", tag="", log="", boot_id="", pid=parent.pid, start_ticks=leader_ticks)
    meter = TreeMeter(lambda: [record])
    try:
        before = meter.processes()
        async with asyncio.timeout(WITHIN_S):
            await meter.all()
        parent.stdin.write("\n")
        parent.stdin.flush()
        assert parent.stdout.readline() == "gone\n"
        after = meter.processes()
    finally:
        meter.thread.shutdown()

    assert before == {NAME: (1, [(parent.pid, leader_ticks)])}
    assert after == {NAME: (1, [(parent.pid, leader_ticks), (child, child_ticks)])}
