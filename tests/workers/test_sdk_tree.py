"""What a worker has with its children counts as the supervisor counts it: shared pages once, and those who lost their parent too."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

MIB = 2**20
SCRIPT = """
import os, subprocess, sys, time
from workers.tree import tree_bytes

def say(word):
    print(word, flush=True)
    sys.stdin.readline()

HOLDS = "held = bytearray(b'x' * (100 * 2**20)); print('held', flush=True); import sys; sys.stdin.read()"
say(tree_bytes())
"""
CHILD = """
child = subprocess.Popen([sys.executable, "-S", "-c", HOLDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
child.stdout.readline()
say(tree_bytes())
child.communicate()
say(tree_bytes())
"""
ORPHAN = """
orphan, parent = os.pipe(), os.pipe()
if os.fork() == 0:
    if os.fork():
        os._exit(0)
    held = bytearray(b"x" * (100 * 2**20))
    os.write(parent[1], b"held")
    os.close(orphan[1])
    os.read(orphan[0], 1)
    os._exit(0)
os.wait()
os.read(parent[0], 4)
say(tree_bytes())
os.close(orphan[1])
"""
SHARERS = """
held = bytearray(b"x" * (100 * 2**20))
end, ready = os.pipe(), os.pipe()
for _ in range(4):
    if os.fork() == 0:
        os.close(end[1])
        sum(held[::4096])
        os.write(ready[1], b".")
        os.read(end[0], 1)
        os._exit(0)
for _ in range(4):
    os.read(ready[0], 1)
say(tree_bytes())
os.close(end[1])
"""


@pytest.fixture
def told() -> Iterator[Callable[..., list[int]]]:
    """What runs a script in a session of its own, as a worker is, and returns so many of its words in MiB. It ends by itself, and its children with it."""
    with ExitStack() as stack:

        def run(script: str, count: int) -> list[int]:
            how: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "start_new_session": True}
            process = stack.enter_context(subprocess.Popen([sys.executable, "-P", "-c", SCRIPT + script], **how))
            assert process.stdin is not None
            assert process.stdout is not None
            words = []
            for _ in range(count):
                words.append(int(process.stdout.readline()) // MIB)
                process.stdin.write("\n")
                process.stdin.flush()
            return words

        yield run


def test_a_child_counts_while_it_is_there(told: Callable[..., list[int]]) -> None:
    alone, together, after = told(CHILD, 3)

    assert 0 < alone < 60
    assert 100 <= together - alone < 130
    assert abs(after - alone) < 20


def test_one_whose_parent_has_ended_counts(told: Callable[..., list[int]]) -> None:
    alone, together = told(ORPHAN, 2)

    assert 90 <= together - alone < 130


def test_pages_that_are_shared_with_children_count_once(told: Callable[..., list[int]]) -> None:
    alone, together = told(SHARERS, 2)

    assert 90 <= together - alone < 150
