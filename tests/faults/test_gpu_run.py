"""`warden gpu run` around real programs: what they leave on the card, their signals, codes and terminal, and that the command is in nobody's way."""

import io
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from supervisor.shapes import DeviceView
from tests.support.fake_card import GIB, FakeCards
from tests.support.live import FAKE, WARDEN, WITHIN_S, Live, MakeLive, alive

pytestmark = [pytest.mark.faults, pytest.mark.slow]

NOBODY: Final = f"""
[gpu]
backend = "host"
[workers.sam]
{FAKE}
serves = ["demo.count"]
gpu = "14GiB"
autostart = false
"""
BESIDE_SAM: Final = f"""
[gpu]
backend = "nvml"
vacate_timeout = "2s"
poll_max = "250ms"
[workers.sam]
{FAKE}
serves = ["demo.count"]
gpu = "14GiB"
options = {{ card_mb = 14336, card_release_s = 0.3 }}
"""
TRAINS: Final = """
import subprocess, sys
from pathlib import Path
from workers.fake_card import claim

claim(8192, release_s=0.5)
child = "import sys; from workers.fake_card import claim; claim(4096); print('held', flush=True); sys.stdin.read()"
if "child" in sys.argv:
    loader = subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session="stays" in sys.argv)
    loader.stdout.readline()
    Path("loader").write_text(str(loader.pid))
print("begun", flush=True)
for line in sys.stdin:
    pass
Path("weights.pt").write_text("trained")
if "stays" in sys.argv:
    import os
    os._exit(0)
"""
TALKS: Final = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, {2})
print("tty", os.isatty(0), os.tcgetpgrp(0) == os.getpgrp(), flush=True)
print("read", input(), flush=True)
signal.sigwait({2})
print("heard", flush=True)
print("then", input(), 1 + (2 in signal.sigpending()), flush=True)
"""
"""Talks with its terminal. Its signal is kept until it is waited for: one that came just before a read would be handled only after that."""

CTTY: Final = "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
"""Becomes a program whose terminal is its stdin."""


@pytest.fixture
def t4(cards: FakeCards, live: MakeLive) -> Iterator[Live]:
    """A supervisor with SAM on a fake T4, and a train.py in its folder."""
    cards.add()
    warden: Live = live(BESIDE_SAM, start=False)
    warden.start(env=cards.env)
    (warden.folder / "train.py").write_text(TRAINS)
    warden.wait_for_event("worker_ready", worker="sam-0")
    yield warden
    assert not cards.was_over(), "more of the card was held than it has"


def run_training(warden: Live, cards: FakeCards, *words: str) -> "subprocess.Popen[str]":
    """Run train.py beside SAM, and return once it is at work."""
    process = subprocess.Popen(
        [WARDEN, "gpu", "run", "--need", "8GiB", "--", sys.executable, "train.py", *words],
        cwd=warden.folder, env={**os.environ, **cards.env}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def card(warden: Live) -> DeviceView:
    return warden.status().devices[0]


def sam_is_back(warden: Live, cards: FakeCards, *, after: int) -> None:
    warden.wait_for_event("worker_ready", worker="sam-0", after=after)
    assert (cards.ledger()[-1].bytes, cards.ledger()[-1].beside) == (14 * GIB, ()), "SAM came back alone"


def test_a_training_runs_beside_sam_which_leaves_for_it_and_returns(t4: Live, cards: FakeCards) -> None:
    mark = t4.mark()

    with run_training(t4, cards, "child") as process:
        shown = [(one.kind, one.used_bytes) for one in card(t4).holders] if t4.holds(lambda: card(t4).used_bytes == 12 * GIB) else []
        strangers = card(t4).strangers
        sam = t4.worker("sam-0")
        process.communicate(timeout=WITHIN_S)

    sam_is_back(t4, cards, after=mark)
    assert process.returncode == 0
    assert (t4.folder / "weights.pt").read_text() == "trained"
    assert (shown, strangers) == ([("outside", 12 * GIB)], []), "what its loader has is its own"
    assert (sam.state, sam.wanted) == ("down", "up")
    told = [one["event"] for one in t4.events[mark:] if one["event"] in {"worker_stopped", "lease_released", "lease_granted", "worker_spawned"}]
    assert told == ["worker_stopped", "lease_released", "lease_granted", "lease_released", "lease_granted", "worker_spawned"]


@pytest.mark.parametrize("victim", ["program", "command"])
def test_a_program_that_is_killed_or_whose_command_is_leaves_no_lease_behind(t4: Live, cards: FakeCards, victim: str) -> None:
    mark = t4.mark()

    with run_training(t4, cards) as process:
        pid = card(t4).holders[0].pid
        assert pid is not None
        os.kill(pid if victim == "program" else process.pid, signal.SIGKILL)
        code = process.wait(WITHIN_S)

    t4.wait_for_event("lease_released", after=mark, reason="its process is gone")
    sam_is_back(t4, cards, after=mark)
    assert code == (128 + signal.SIGKILL if victim == "program" else -signal.SIGKILL)
    assert t4.holds(lambda: not alive(pid)), "the program outlived its command"


def test_what_a_program_leaves_on_the_card_is_named_with_pid_and_bytes_and_not_harmed(t4: Live, cards: FakeCards) -> None:
    mark = t4.mark()

    with run_training(t4, cards, "child", "stays") as process:
        loader = int((t4.folder / "loader").read_text())
        os.kill(loader, signal.SIGSTOP)  # it does not see that its input ends
        process.communicate(timeout=WITHIN_S)
    refused = t4.wait_for_event("gpu_refused", worker="sam-0", after=mark)
    shown = t4.cli("gpu", "status").stdout
    spared = alive(loader)
    os.kill(loader, signal.SIGKILL)

    sam_is_back(t4, cards, after=mark)
    assert process.returncode == 0
    assert spared
    assert f"pid {loader} ({Path(sys.executable).name})" in refused["reason"], refused
    assert "not ours, uses 4GiB" in refused["reason"]
    assert f"pid {loader}" in shown


CODES: Final = {
    "raise SystemExit(0)": 0,
    "raise SystemExit(3)": 3,
    "os.kill(os.getpid(), 9)": 128 + 9,
    "os.kill(os.getpid(), 15)": 128 + 15,
    "os.kill(os.getppid(), 1); signal.pause()": 128 + 1,
    "os.kill(os.getppid(), 2); signal.pause()": 128 + 2,
    "signal.signal(10, lambda *_: os._exit(7)); os.kill(os.getppid(), 10); signal.pause()": 7,
}
"""How a program ends, its parent being the command; and the code of the command."""


def test_the_code_of_the_command_is_that_of_the_program(live: MakeLive) -> None:
    warden = live(NOBODY)
    first = "import os, signal; signal.signal(2, signal.SIG_DFL)"

    codes = {code: warden.cli("gpu", "run", "--", sys.executable, "-c", f"{first}; {code}").returncode for code in CODES}

    assert codes == CODES


def test_a_program_has_the_terminal_and_hears_ctrl_c_once(live: MakeLive) -> None:
    warden = live(NOBODY)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", CTTY, str(WARDEN), "gpu", "run", "--", sys.executable, "-c", TALKS],
        cwd=warden.folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)

    with process, io.FileIO(ours, "r+") as terminal:
        said = [said_until(terminal, b"tty True True")]
        terminal.write(b"hello\n")
        said.append(said_until(terminal, b"read hello"))
        terminal.write(b"\x03")
        said.append(said_until(terminal, b"heard"))
        terminal.write(b"again\n")
        said.append(said_until(terminal, b"then again 1"))
        ended = process.wait(WITHIN_S)

    assert ended == 0, said


def said_until(terminal: io.FileIO, words: bytes) -> bytes:
    """Return what a terminal showed up to these words."""
    said = b""
    while words not in said:
        assert select.select([terminal], [], [], WITHIN_S)[0], said
        said += terminal.read(1024) or b""
    return said
