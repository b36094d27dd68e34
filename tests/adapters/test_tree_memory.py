"""The memory of a tree is read again when it moved, when it is old, and always for who needs it exactly."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from supervisor.adapters import proc
from supervisor.adapters.tree_memory import Readings

MIB = 2**20
SHARED = 12 * MIB
"""More than all that the process shares with other Pythons of the machine: its part of that moves as they come and go."""
GROWS = """
import sys
held = []
for line in sys.stdin:
    held.append(b"x" * (int(line) << 20))
    print("held", flush=True)
"""


def test_a_tree_that_grew_is_read_again_at_once_and_one_that_did_not_is_not() -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", GROWS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def grow(size_mib: int) -> None:
            process.stdin.write(f"{size_mib}\n")  # type: ignore[union-attr]  # asserted above
            process.stdin.flush()  # type: ignore[union-attr]
            process.stdout.readline()  # type: ignore[union-attr]

        grow(1)
        readings, now_s = Readings(), time.monotonic()
        first = readings.pss_bytes([process.pid], now_s)
        readings._last[process.pid] = type(readings._last[process.pid])(proc.rss_bytes(process.pid), 7, now_s)  # what a reading would not say

        unmoved = readings.pss_bytes([process.pid], now_s + 59)
        stale = readings.pss_bytes([process.pid], now_s + 60)
        grow(100)
        grown = readings.pss_bytes([process.pid], now_s + 61)
        process.stdin.close()

    assert unmoved == 7
    assert stale > MIB
    assert abs(stale - first) < SHARED
    assert abs(grown - first - 100 * MIB) < SHARED
    assert readings.pss_bytes([process.pid], now_s + 62) == 0, "it is gone"


MAPS = """
import mmap, sys
with open(sys.argv[1], "rb") as file:
    seen = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
sum(seen[::4096])
print("read", flush=True)
sys.stdin.read()
"""


def test_pages_of_a_file_that_it_maps_do_not_count_for_the_kernel_can_take_them_back(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.write_bytes(b"x" * 100 * MIB)
    with subprocess.Popen([sys.executable, "-S", "-c", MAPS, str(weights)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()

        whole, kept = proc.pss_bytes(process.pid), Readings().pss_bytes([process.pid], time.monotonic())
        process.stdin.close()

    assert whole > 100 * MIB
    assert 0 < kept < 50 * MIB


@pytest.mark.parametrize("read", [proc.pss_bytes, proc.kept_bytes, proc.rss_bytes])
def test_a_process_that_is_gone_uses_nothing(read: object) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()

    assert callable(read)
    assert read(process.pid) == 0


def test_pss_is_no_more_than_rss() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        while not 0 < proc.pss_bytes(process.pid) <= proc.rss_bytes(process.pid):  # until it runs its own program
            assert process.poll() is None
        process.kill()
