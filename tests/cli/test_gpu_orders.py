"""`warden gpu reset|force-release|vacate|monitor`: what is asked and of whom, exit codes, and a screen that outlives the supervisor."""

import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest
from msgspec.structs import replace

from supervisor.shapes import DeviceView, HolderView, ReleaseView, StrangerView, VacateView
from tests.support.live import WARDEN, WITHIN_S
from tests.support.scripted import Scripted, a_status, always, written

pytestmark = pytest.mark.slow

GIB: Final = 2**30
SAM: Final = HolderView(
    lease="l-1",
    owner="sam-0",
    kind="worker",
    pid=7,
    priority=10,
    need_bytes=GIB,
    used_bytes=GIB,
    state="contaminated",
    since_s=61.0,
    fence=3,
    expires_in_s=None,
)
LATE: Final = HolderView(
    lease="l-2", owner="late", kind="outside", pid=9, priority=15, need_bytes=GIB, used_bytes=None, state="stale", since_s=5.0, fence=4,
    expires_in_s=-30.0, idle_s=720.0,
)  # fmt: skip
CARD: Final = DeviceView(
    id="GPU-1", name="T4", backend="nvml", state="ok", proof="by pid", trouble="", total_bytes=15 * GIB, used_bytes=GIB, free_bytes=14 * GIB,
    holders=[SAM, LATE], waiters=[], handover=None, last_handover=None,
    strangers=[StrangerView(pid=4242, name="python3", used_bytes=GIB, intruder=True), StrangerView(pid=5, name="Xorg", used_bytes=None)],
    unwell=["GPU-1 is contaminated: pid 4242 (python3) uses 1GiB without a lease; it is waited for, not ended"],
)  # fmt: skip
STATUS: Final = {"status": always(a_status(devices=[CARD]))}


def taken(_args: Any) -> ReleaseView:
    return ReleaseView(released=[], message="sam-0 has GPU-1 no more")


@contextmanager
def on_a_terminal(folder: Path, *args: str) -> Iterator[tuple["subprocess.Popen[bytes]", Callable[[str], str], Callable[[str], None]]]:
    """Run a command on a terminal; yields its process, what reads until a text is there, and what types."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen([WARDEN, *args], cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "COLUMNS": "120", "LINES": "40"})
    os.close(theirs)
    said = b""

    def until(text: str) -> str:
        nonlocal said
        with suppress(OSError):  # the other end was closed: it has ended
            while text not in _plain(said):
                said += os.read(ours, 4096)
        assert text in _plain(said), _plain(said)
        return _plain(said)

    try:
        yield process, until, lambda text: (os.write(ours, text.encode()), None)[1]
    finally:
        process.kill()
        process.wait(WITHIN_S)
        os.close(ours)


def _plain(said: bytes) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said.decode(errors="replace"))


def test_who_asks_for_a_reset_and_why_is_sent_along(tmp_path: Path) -> None:
    with Scripted(tmp_path, {"gpu.reset": taken}).answering() as warden:
        done = warden.cli("gpu", "reset", "--reason", "it hangs")

    ((_, args),) = warden.asked
    assert (done.returncode, done.stdout) == (0, "sam-0 has GPU-1 no more\n")
    assert args["reason"] == "it hangs"
    assert re.fullmatch(rf".+ \(uid {os.getuid()}\), pid \d+, on the command line", args["by"])


@pytest.mark.parametrize(("answer", "code", "orders"), [("n\r", 1, 0), ("y\r", 0, 1)])
def test_before_everything_is_taken_back_it_is_said_who_loses_what_and_asked(tmp_path: Path, answer: str, code: int, orders: int) -> None:
    with (
        Scripted(tmp_path, {**STATUS, "gpu.force_release": taken}).answering() as warden,
        on_a_terminal(tmp_path, "gpu", "force-release") as (asks, until, say),
    ):
        text = until("take back every lease?")
        say(answer)
        until("sam-0 has GPU-1 no more" if orders else "nothing was taken back")
        ended = asks.wait(WITHIN_S)

    assert "sam-0 (pid 7), on GPU-1 for 1 min: is ended, and comes back" in text
    assert "late (pid 9), on GPU-1 for 5.0 s: is left alone, and has no right to it any more" in text
    assert ended == code
    assert [op for op, _ in warden.asked].count("gpu.force_release") == orders


def test_without_a_terminal_nothing_is_taken_back_unless_yes_is_said(tmp_path: Path) -> None:
    with Scripted(tmp_path, {**STATUS, "gpu.force_release": taken}).answering() as warden:
        refused = subprocess.run(
            [WARDEN, "gpu", "force-release"], cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=WITHIN_S, check=False
        )
        done = warden.cli("gpu", "force-release", "--yes", "--json")

    assert (refused.returncode, refused.stdout) == (2, "")
    assert "there is no terminal to ask on: say --yes" in refused.stderr
    assert [op for op, _ in warden.asked].count("gpu.force_release") == 1
    assert written(done) == {"released": [], "message": "sam-0 has GPU-1 no more"}


@pytest.mark.parametrize("success", [True, False])
def test_a_card_that_is_not_empty_is_exit_75_with_who_is_in_the_way(tmp_path: Path, success: bool) -> None:
    view = VacateView(success=success, message="as it is", freed_bytes=GIB, holders=[SAM], device="GPU-1")
    with Scripted(tmp_path, {"gpu.vacate": always(view)}).answering() as warden:
        person = warden.cli("gpu", "vacate", "--need", "8GiB", "--timeout", "3s", "--keep-free", "1m")
        program = warden.cli("gpu", "vacate", "--json")

    asked = warden.asked[0][1]
    assert (asked["need"], asked["timeout_s"], asked["keep_free_s"]) == ("8GiB", 3.0, 60.0)
    assert (warden.asked[1][1]["timeout_s"], warden.asked[1][1]["keep_free_s"]) == (120.0, 300.0)
    assert person.returncode == program.returncode == (0 if success else 75)
    assert (person.stdout, person.stderr) == (("as it is\nfreed 1GiB\n", "") if success else ("", "as it is\n"))
    assert written(program)["success"] is success


def test_the_screen_of_the_card_names_states_strangers_and_idle_leases(tmp_path: Path) -> None:
    with Scripted(tmp_path, STATUS).answering() as warden:
        shown = warden.cli("gpu", "status")

    head, *lines = shown.stdout.splitlines()
    assert shown.returncode == 3
    assert head == "GPU-1  T4  1GiB of 15GiB used  ok  contaminated"
    assert lines[0] == "PROOF         by pid"
    assert any(line.startswith("sam-0") and line.endswith("contaminated") for line in lines)
    assert any(line.startswith("late (pid 9") and line.endswith("stale, not renewed, 30 s over its time, nothing used for 12 min") for line in lines)
    assert "NOT OURS      pid 4242  python3  1GiB  without a lease: waited for, not ended" in lines
    assert "NOT OURS      pid 5  Xorg  an unknown size" in lines


@pytest.mark.parametrize(
    ("card", "code"),
    [
        (replace(CARD, unwell=[]), 0),
        (replace(CARD, unwell=["late (pid 9) holds GPU-1, and does not renew its lease, 30 s over its time"]), 3),
    ],
    ids=["all is well", "a stale lease"],
)
def test_the_status_of_the_card_is_exit_3_and_says_why_where_something_is_not_as_it_should_be(tmp_path: Path, card: DeviceView, code: int) -> None:
    with Scripted(tmp_path, {"status": always(a_status(devices=[card]))}).answering() as warden:
        person, program = warden.cli("gpu", "status"), warden.cli("gpu", "status", "--json")

    assert (person.returncode, program.returncode) == (code, code)
    assert [line for line in person.stdout.splitlines() if line.startswith("! ")] == [f"! {sentence}" for sentence in card.unwell]


def test_the_monitor_draws_again_and_again_and_ctrl_c_ends_it_well(tmp_path: Path) -> None:
    with (
        Scripted(tmp_path, STATUS).answering() as warden,
        on_a_terminal(tmp_path, "gpu", "monitor", "--interval", "100ms") as (monitor, until, _),
    ):
        text = until("python3")
        while len(warden.asked) < 3:
            until("GPU-1")
        monitor.send_signal(signal.SIGINT)
        code = monitor.wait(WITHIN_S)

    assert "GPU-1  T4  1GiB of 15GiB used  ok  contaminated" in text
    assert code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_monitor_says_when_the_supervisor_is_away_and_when_it_is_back(tmp_path: Path, number: int) -> None:
    warden = Scripted(tmp_path, STATUS)
    with warden.answering():
        monitor = subprocess.Popen(
            [WARDEN, "gpu", "monitor", "--json", "--interval", "0.1"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert monitor.stdout is not None
        first = json.loads(monitor.stdout.readline())
    away = next(line for line in map(json.loads, monitor.stdout) if "away" in line)
    with warden.answering():
        back = next(line for line in map(json.loads, monitor.stdout) if "devices" in line)
        monitor.send_signal(number)
        _, errors = monitor.communicate(timeout=WITHIN_S)

    assert first["devices"][0]["id"] == back["devices"][0]["id"] == "GPU-1"
    assert away["away"] == "the supervisor does not answer"
    assert away["away_s"] >= 0
    assert (monitor.returncode, errors) == (0, "")


def test_where_no_supervisor_is_there_at_first_the_monitor_is_exit_4(tmp_path: Path) -> None:
    warden = Scripted(tmp_path, {})

    done = warden.cli("gpu", "monitor")

    assert done.returncode == 4
    assert "start it with: warden run" in done.stderr


@pytest.mark.parametrize("interval", ["0", "0s", "10ms", "abc", "-1", "1.2.3"])
def test_an_interval_that_makes_no_sense_is_refused(tmp_path: Path, interval: str) -> None:
    done = Scripted(tmp_path, {}).cli("gpu", "monitor", f"--interval={interval}")

    assert done.returncode == 2
    assert "interval" in done.stderr
