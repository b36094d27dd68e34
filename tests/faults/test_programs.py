"""Programs that are not ours: what they show by sd_notify, by their output or by a file is believed, and only who truly stands still is ended."""

import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from tests.support.live import Live, MakeLive, alive

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(120)]

PROGRAMS: Final = Path(__file__).parent.parent / "support" / "programs"
LIMIT_S: Final = 5
"""Five times what the slowest of them takes between two signs of life: a busy machine must not make it a hung one."""
SHORT: Final = f'[watchdog]\nstall_after = "{LIMIT_S}s"\nsilent_after = "{LIMIT_S}s"\nstop_grace = "1s"\nbackoff_first = "100ms"\nbackoff_max = "200ms"\n'
ENDED: Final = ("worker_stalled", "worker_silent", "worker_start_timeout", "worker_killed", "worker_exited")


def program(name: str, progress: str, command: list[str], *lines: str) -> str:
    """Return the table of a program."""
    return "\n".join([f"[workers.{name}]", f"command = {json.dumps(command)}", f"progress = {json.dumps(progress)}", *lines, ""])


def notifier(name: str, mode: str, *lines: str) -> str:
    return program(name, "notify", [sys.executable, str(PROGRAMS / "notifier.py"), mode], *lines)


def printer(name: str, every_s: float, count: int = 0, *lines: str) -> str:
    return program(name, "output", [sys.executable, str(PROGRAMS / "printer.py"), str(every_s), str(count)], *lines)


def writer(name: str, every_s: float, count: int = 0) -> str:
    path = "{state_dir}/{name}.progress.json"
    return program(name, f"file:{path}", [sys.executable, str(PROGRAMS / "writer.py"), path, str(every_s), str(count)])


WELL: Final = {
    "well": notifier("well", "well"),
    "well2": notifier("well2", "well"),
    "once": notifier("once", "once"),
    "prints": printer("prints", 0.3),
    "prints2": printer("prints2", 1.0),
    "writes": writer("writes", 0.3),
    "writes2": writer("writes2", 1.0),
}
HUNG: Final = {
    "silent": (notifier("silent", "silent"), "worker_silent", "no heartbeat for"),
    "stands": (notifier("stands", "stands"), "worker_stalled", "no progress for"),
    "hangs": (printer("hangs", 0.2, 5), "worker_stalled", "no progress for"),
    "hangs2": (printer("hangs2", 0.2, 5), "worker_stalled", "no progress for"),
    "same": (writer("same", 0.2, 5), "worker_stalled", "no progress for"),
}


def well_pids(warden: Live) -> Mapping[str, int | None]:
    """Return the pids of the programs that do well, once all of them are ready."""
    assert warden.holds(lambda: all(warden.worker(f"{name}-0").state == "ready" for name in WELL)), warden.said()
    return {name: warden.worker(f"{name}-0").pid for name in WELL}


def assert_untouched(warden: Live, pids: Mapping[str, int | None]) -> None:
    """No program that does well was ended, or started again."""
    touched = [event for event in warden.events if event["event"] in ENDED and str(event.get("worker")).removesuffix("-0") in WELL]
    assert touched == []
    assert {name: warden.worker(f"{name}-0").pid for name in WELL} == pids
    assert all(warden.worker(f"{name}-0").restarts == {} for name in WELL)


def grows(warden: Live, *, by: int = 5) -> None:
    """Return once the notifiers and printers that do well went on by so much."""
    before = {name: served(warden, name) for name in ("well", "well2")}
    assert warden.holds(lambda: all(served(warden, name) >= step + by for name, step in before.items())), warden.said()


def served(warden: Live, name: str) -> int:
    return int(warden.worker(f"{name}-0").note.removeprefix("served ").replace("serving", "0") or 0)


def test_of_many_programs_exactly_those_that_hang_are_ended(live: MakeLive) -> None:
    warden = live(SHORT + "".join(WELL.values()) + "".join(toml for toml, _, _ in HUNG.values()))
    pids = well_pids(warden)

    for name, (_, event, words) in HUNG.items():
        first = warden.wait_for_event(event, worker=f"{name}-0")
        assert first["reason"].startswith(words)
        again = warden.wait_for_event(event, worker=f"{name}-0", after=warden.events.index(first) + 1)
        assert f"is {LIMIT_S} s" in again["reason"]

    grows(warden)
    assert_untouched(warden, pids)


def test_a_frozen_supervisor_blames_no_program_and_finds_the_hung_one_after(live: MakeLive) -> None:
    warden = live(SHORT + "".join(WELL.values()))
    pids = well_pids(warden)
    grows(warden)

    warden.signal(signal.SIGSTOP)
    assert not warden.holds(lambda: False, LIMIT_S + 3.0)  # longer than every limit
    warden.signal(signal.SIGCONT)

    warden.wait_for_event("supervisor_frozen")
    grows(warden, by=20)
    assert_untouched(warden, pids)
    hung = pids["prints"]
    assert hung is not None
    os.kill(hung, signal.SIGSTOP)
    warden.wait_for_event("worker_stalled", worker="prints-0")
    assert {event["worker"] for event in warden.events if event["event"] in {"worker_stalled", "worker_silent"}} == {"prints-0"}


def test_a_program_that_stops_printing_is_ended_with_its_tree_and_started_again(live: MakeLive) -> None:
    warden = live(SHORT + printer("tool", 0.2, 5))
    pid = warden.wait_for_event("worker_spawned", worker="tool-0")["pid"]
    assert warden.holds(lambda: len(warden.ours()) == 2)
    child = next(one for one in warden.ours() if one != pid)

    stalled = warden.wait_for_event("worker_stalled", worker="tool-0")
    second = warden.wait_for_event("worker_spawned", worker="tool-0", generation=2)

    assert stalled["reason"].startswith("no progress for")
    assert stalled["reason"].endswith(f"stall_after is {LIMIT_S} s")
    assert not alive(pid)
    assert not alive(child)
    assert second["pid"] != pid
    assert warden.worker("tool-0").restarts == {"stall": 1}


def test_what_was_seen_of_a_program_before_its_end_is_in_the_log(live: MakeLive) -> None:
    script = 'trap "" TERM; echo up; sleep 3600 & while :; do wait; done'
    warden = live(SHORT + program("tool", "output", ["sh", "-c", script]))
    pid = warden.wait_for_event("worker_spawned", worker="tool-0")["pid"]
    log = str(warden.log_dir / "workers" / "tool-0.log")

    stalled = warden.wait_for_event("worker_stalled", worker="tool-0")
    seen = warden.wait_for_event("worker_evidence", worker="tool-0")
    killed = warden.wait_for_event("worker_killed", worker="tool-0")

    assert stalled["stack"] == log
    assert seen["reason"] == stalled["reason"]
    assert seen["process"].startswith(f"pid {pid} is sleeping, waits in ")
    assert " sleep" in seen["process"].partition("children: ")[2]
    assert seen["stack"] == "none"
    assert seen["process"].endswith("; no stack: it does not take SIGUSR1")
    assert killed["process"] == seen["process"]


def test_a_program_that_never_shows_anything_comes_back_with_growing_pauses(live: MakeLive) -> None:
    short = '[watchdog]\nstall_after = "1s"\nstop_grace = "1s"\nbackoff_first = "1s"\nbackoff_max = "5m"\n'
    warden = live(short + program("tool", "output", ["sleep", "3600"]))

    for generation in (1, 2, 3):
        warden.wait_for_event("worker_spawned", worker="tool-0", generation=generation)
    warden.wait_for_event("worker_stalled", worker="tool-0", after=warden.events.index(warden.seen("worker_spawned", generation=3)[0]))

    assert warden.holds(lambda: warden.worker("tool-0").state == "backoff")
    assert "no progress for" in warden.worker("tool-0").last_reason


def test_a_removed_log_does_not_make_a_program_that_prints_look_stalled(live: MakeLive) -> None:
    warden = live(SHORT + printer("tool", 0.3) + notifier("well", "well"))
    warden.wait_for_event("worker_ready", worker="tool-0")
    pid = warden.worker("tool-0").pid

    (warden.log_dir / "workers" / "tool-0.log").unlink()
    before = served(warden, "well")
    assert warden.holds(lambda: served(warden, "well") >= before + 10 * LIMIT_S)  # five each second: twice stall_after

    assert warden.worker("tool-0").pid == pid
    assert warden.seen("worker_stalled") == []


def test_a_program_that_never_says_ready_is_stopped_at_start_timeout(live: MakeLive) -> None:
    warden = live('[watchdog]\nstart_timeout = "1s"\nstop_grace = "1s"\n' + notifier("mute", "mute"))

    seen = warden.wait_for_event("worker_start_timeout", worker="mute-0")

    assert "start_timeout is 1 s" in seen["reason"]
    assert warden.seen("worker_ready") == []
    assert warden.holds(lambda: warden.worker("mute-0").restarts.get("start_timeout", 0) >= 1)


def test_a_program_that_asks_for_time_gets_it_but_not_more(live: MakeLive) -> None:
    # More than a start takes, for who does not speak before that cannot ask; and less than one of them needs.
    warden = live('[watchdog]\nstart_timeout = "4s"\nstop_grace = "1s"\n' + notifier("slow", "slow") + notifier("asks", "asks"))

    ready = warden.wait_for_event("worker_ready", worker="slow-0")
    late = warden.wait_for_event("worker_start_timeout", worker="asks-0")

    assert ready["took_s"] >= 6.0
    assert ready["note"] == "serving"
    waited_s = float(late["reason"].removeprefix("not ready ").partition(" ")[0])
    assert 5.0 <= waited_s < 40.0, "it would wait an hour"
    assert warden.seen("worker_start_timeout", worker="slow-0") == []


def test_a_stranger_cannot_speak_for_a_program(live: MakeLive) -> None:
    warden = live('[watchdog]\nstart_timeout = "6s"\nstop_grace = "1s"\n' + notifier("mute", "mute"))
    warden.wait_for_event("worker_spawned", worker="mute-0")

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.sendto(b"READY=1\nSTATUS=all is well", str(warden.state_dir / "n.mute-0.1"))

    warden.wait_for_event("worker_start_timeout", worker="mute-0")
    assert warden.seen("worker_ready") == []


@pytest.mark.skipif(shutil.which("systemd-notify") is None, reason="there is no systemd-notify here")
def test_a_shell_script_speaks_by_systemd_notify(live: MakeLive) -> None:
    script = "systemd-notify --ready --status='up since now'; while :; do systemd-notify WATCHDOG=1; sleep 0.3; done"
    warden = live(SHORT + program("tool", "notify", ["sh", "-c", script]))

    ready = warden.wait_for_event("worker_ready", worker="tool-0")

    assert ready["note"] == "up since now"
    assert warden.holds(lambda: any(clock.clock == "silent" for clock in warden.worker("tool-0").clocks))


def test_programs_that_outlive_their_supervisor_are_watched_by_the_next_one(live: MakeLive) -> None:
    warden = live(SHORT + "".join(WELL.values()))
    pids = well_pids(warden)
    grows(warden)

    warden.kill()
    assert not warden.holds(lambda: False, LIMIT_S + 2.0)  # longer than every limit
    warden.start()

    for name, pid in pids.items():
        assert warden.wait_for_event("worker_adopted", worker=f"{name}-0")["pid"] == pid
    grows(warden, by=20)
    assert_untouched(warden, pids)
    mark = warden.mark()
    for name in ("well", "prints", "writes"):
        pid = pids[name]
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
    for name in ("well", "prints", "writes"):
        warden.wait_for_event("worker_spawned", worker=f"{name}-0", generation=2, after=mark)
    ended = {event["worker"] for event in warden.events if event["event"] in {"worker_stalled", "worker_silent"}}
    assert ended == {"well-0", "prints-0", "writes-0"}


def test_a_lowered_limit_ends_no_program_that_keeps_to_what_it_was_told(live: MakeLive) -> None:
    warden = live('[watchdog]\nsilent_after = "20s"\n' + notifier("calm", "calm") + notifier("well", "well"))
    warden.wait_for_event("worker_ready", worker="calm-0")
    assert warden.holds(lambda: any(clock.clock == "silent" for clock in warden.worker("calm-0").clocks))
    pid = warden.worker("calm-0").pid

    path = warden.folder / "supervisor.toml"
    path.write_text(path.read_text().replace('silent_after = "20s"', 'silent_after = "2s"'))
    warden.wait_for_event("config_reloaded")
    before = served(warden, "well")
    assert warden.holds(lambda: served(warden, "well") >= before + 30)  # six seconds, and the other one beats every five

    assert warden.seen("worker_silent") == []
    assert warden.worker("calm-0").pid == pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    assert "silent_after is 2 s" in warden.wait_for_event("worker_silent", worker="calm-0")["reason"]


def test_a_phase_has_a_limit_of_its_own(live: MakeLive) -> None:
    command = f"command = {json.dumps([sys.executable, str(PROGRAMS / 'asker.py')])}"
    worker = f'[workers.NAME]\n{command}\noptions = {{}}\nserves = ["demo.NAME"]\n'
    long = worker.replace("NAME", "long") + 'phases = { compile = "10m" }\n'
    short = worker.replace("NAME", "short") + 'stall_after = "10m"\nphases = { compile = "4s" }\n'
    warden = live('[watchdog]\nstall_after = "4s"\nstop_grace = "1s"\n' + long + short)

    patient = warden.submit("demo.long", ask_s=0, step_s=8)
    stuck = warden.submit("demo.short", ask_s=0, step_s=60)

    failed = warden.wait_for_job(stuck)
    assert (failed.status, failed.reason) == ("failed", "stalled")
    assert failed.message == "Job timed out - no progress updates for 4 seconds"
    assert failed.error is not None
    assert 'phases."compile" is 4 s' in failed.error.evidence
    assert warden.wait_for_job(patient).status == "completed"


def test_the_sockets_of_programs_go_with_them(live: MakeLive) -> None:
    warden = live(SHORT + notifier("well", "well"))
    warden.wait_for_event("worker_ready", worker="well-0")
    assert [path.name for path in warden.state_dir.glob("n.*")] == ["n.well-0.1"]

    warden.ask("workers.restart", name="well-0")
    warden.wait_for_event("worker_spawned", worker="well-0", generation=2)
    assert warden.holds(lambda: [path.name for path in warden.state_dir.glob("n.*")] == ["n.well-0.2"])

    assert warden.stop() == 0
    assert list(warden.state_dir.glob("n.*")) == []


def test_a_job_that_asks_for_time_gets_it_but_not_more(live: MakeLive) -> None:
    command = f"command = {json.dumps([sys.executable, str(PROGRAMS / 'asker.py')])}"
    warden = live(f'[watchdog]\nstall_after = "4s"\nstop_grace = "1s"\n[workers.asker]\n{command}\nserves = ["demo.ask"]\nreplicas = 2\n')

    asked = warden.submit("demo.ask", ask_s=20, step_s=8)
    too_long = warden.submit("demo.ask", ask_s=6, step_s=60)

    assert warden.wait_for_job(asked).status == "completed"
    failed = warden.wait_for_job(too_long)
    assert (failed.status, failed.reason) == ("failed", "stalled")
    assert failed.error is not None
    assert "that it asked for" in failed.error.evidence
    unasked = warden.wait_for_job(warden.submit("demo.ask", ask_s=0, step_s=60))
    assert (unasked.status, unasked.reason) == ("failed", "stalled")
