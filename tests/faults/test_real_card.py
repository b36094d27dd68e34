"""The script that shows things on a real card: refused where there is none, and whole on a fake one."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.fake_card import FakeCards
from tests.support.live import WITHIN_S, processes_with

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(300)]

ROOT: Final = Path(__file__).parent.parent.parent
SCRIPT: Final = ROOT / "deploy" / "real_card.py"
HOLDS: Final = """
import os, time
from workers.fake_card import claim
parent = os.getppid()
claim(2048, release_s=0.2, listed=True)
print("held", flush=True)
while os.getppid() == parent:
    time.sleep(0.1)
"""


def shown(cards: FakeCards, *options: str) -> "subprocess.CompletedProcess[str]":
    """Return how the script ended."""
    env = {**os.environ, **cards.env, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, SCRIPT, *options], env=env, capture_output=True, text=True, timeout=5 * WITHIN_S, check=False)


def test_it_says_that_there_is_no_card_and_what_to_do(cards: FakeCards, tmp_path: Path) -> None:
    nowhere = tmp_path / "empty"
    nowhere.mkdir()

    no_driver = shown(FakeCards(tmp_path / "none", nowhere))
    no_card = shown(cards)

    assert (no_driver.returncode, no_card.returncode) == (69, 69)
    assert "no card to show anything on" in no_driver.stderr
    assert "install the NVIDIA driver" in no_driver.stderr
    assert "nvidia-smi -L" in no_card.stderr


def test_where_nothing_can_hold_memory_it_says_so(cards: FakeCards, tmp_path: Path) -> None:
    assert cards.library is not None
    drivers = tmp_path / "drivers"
    drivers.mkdir()
    (drivers / "libnvidia-ml.so.1").symlink_to(cards.library / "libnvidia-ml.so.1")
    (drivers / "libcuda.so.1").write_text("none")
    without_cuda = FakeCards(tmp_path / "without", drivers)
    without_cuda.add()

    for options in ((), ("--hold", "1")):
        done = shown(without_cuda, *options)

        assert done.returncode == 69
        assert "libcuda.so.1 cannot be loaded" in done.stderr
        assert "Traceback" not in done.stdout + done.stderr


def test_on_a_card_it_shows_each_thing_and_leaves_nothing_behind(cards: FakeCards) -> None:
    cards.add()

    done = shown(cards, "--rounds", "2", "--holder", sys.executable, "-c", HOLDS)

    assert done.returncode == 0, done.stdout + done.stderr
    for what in (
        "each reading after",
        "our own program is found by its pid                                         yes, with 2GiB",
        "memory is back, after the exit of a killed program",
        "a hand-over from a worker: proved and granted",
        "kill -9 of a program under a lease: the worker has its memory again",
        "a status by the control socket",
    ):
        assert what in done.stdout
    assert processes_with(f"FAKE_NVML={cards.folder}") == []
    assert not cards.was_over()
