"""What people get wrong at the command line: one sentence each, the right exit code, never a traceback."""

import json
import math
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from supervisor.adapters.proc import look
from supervisor.control import Refused
from supervisor.front.shapes_in import JobBody
from supervisor.runtime.lock_operations import within
from supervisor.runtime.requests import PRIORITY_MAX, Rejected
from tests.support.live import ONE_WORKER, Live, MakeLive, lives

pytestmark = [pytest.mark.faults, pytest.mark.slow]


@pytest.fixture(scope="module")
def warden(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One supervisor for all of this file: nothing here may harm it."""
    with lives(tmp_path_factory.mktemp("cli")) as make:
        one = make(ONE_WORKER)
        one.wait_for_event("worker_ready", worker="sam-0")
        yield one


def sentences(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return what it said to people, and prove that it was no traceback."""
    assert "Traceback" not in done.stderr + done.stdout
    return [line for line in done.stderr.splitlines() if line]


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("jobs", "submit", "demo.cuont"), 2, "no worker serves 'demo.cuont'; did you mean demo.count?"),
        (("jobs", "submit", "x"), 2, "no worker serves 'x'; known are demo.count"),
        (("jobs", "submit"), 2, "Missing argument 'KIND'"),
        (("jobs", "submit", "demo.count", "steps"), 2, "'steps': expected KEY=VALUE, such as epochs=3"),
        (("jobs", "submit", "demo.count", "=3"), 2, "'=3': expected KEY=VALUE, such as epochs=3"),
        (("jobs", "submit", "demo.count", "--params", "nowhere.json"), 2, "nowhere.json: No such file or directory"),
        (("jobs", "submit", "demo.count", "--params", "/"), 2, "Is a directory"),
        (("jobs", "submit", "demo.count", "--params", "broken.json"), 2, "broken.json:2: not JSON"),
        (("jobs", "submit", "demo.count", "--params", "list.json"), 2, 'list.json: expected a JSON object such as {"epochs": 3}, found list'),
        (("jobs", "submit", "demo.count", "--params", "bytes.json"), 2, "bytes.json: not UTF-8 text"),
        (("jobs", "submit", "demo.count", "--params", "huge.json"), 2, "the request has 20MiB, at most 16MiB are taken: put what is large into a file"),
        (("jobs", "submit", "demo.count", "--params", "half.json"), 2, r"'\ud800' is no character, only a part of one, and cannot be sent"),
        (("jobs", "submit", "demo.count", r'x="\ud800"'), 2, r"'\ud800' is no character, only a part of one, and cannot be sent"),
        (("jobs", "submit", "demo.count", b"x=\xff"), 2, r"'\udcff' is no character, only a part of one, and cannot be sent"),
        (("jobs", "submit", "demo.count", "--params", "nan.json"), 2, "params.lr.1 (nan) of jobs.submit is no finite number"),
        (("jobs", "show", b"\xff"), 2, r"'\udcff' is no character"),
        (("jobs", "submit", "demo.count", "steps=1", "fault=exit", "steps=2"), 2, "steps is given twice, as 1 and as 2: give it once"),
        (("jobs", "submit", "demo.count", "--memory", "much"), 2, "Invalid value for '--memory': expected"),
        (("jobs", "submit", "demo.count", "--priority", "-1"), 2, "priority -1 found; expected 0 (the most urgent) to 1000000"),
        (("jobs", "submit", "demo.count", "--priority", "1000001"), 2, "priority 1000001 found; expected 0 (the most urgent) to 1000000"),
        (("jobs", "submit", "demo.count", "--priority", f"{10**23 - 1}"), 2, "expected 0 (the most urgent) to 1000000"),
        (("gpu", "lock", "--priority", f"{10**23 - 1}"), 2, f"{10**23 - 1} is not in the range 0<=x<=1000000"),
        (("gpu", "run", "--priority", "1000001", "--", "true"), 2, "1000001 is not in the range 0<=x<=1000000"),
        (("gpu", "lock", "--timeout", "9" * 400 + "d"), 2, "Invalid value for '--timeout': expected a duration"),
        (("gpu", "lock", "--ttl", "-1s"), 2, "Invalid value for '--ttl'"),
        (("gpu", "lock", "--owner", ""), 2, "Invalid value for '--owner': it is empty"),
        (("gpu", "lock", "--device", ""), 2, "Invalid value for '--device': it is empty"),
        (("gpu", "run", "--device", "", "--", "true"), 2, "Invalid value for '--device': it is empty"),
        (("gpu", "vacate", "--device", ""), 2, "Invalid value for '--device': it is empty"),
        (("jobs", "submit", "demo.count", "--device", ""), 2, "Invalid value for '--device': it is empty"),
        (("jobs", "submit", "demo.count", "--priority", "high"), 2, "'high' is not a valid integer"),
        (("jobs", "submit", "demo.count", "x=" + "[" * 150 + "]" * 150), 2, "params cannot be taken: it is nested deeper than 100 levels"),
        (("jobs", "submit", "demo.count", "--wiat"), 2, "No such option"),
        (("jobs", "show", "j-nothing"), 1, "no job 'j-nothing' is known; a beginning must be that of one job alone. See: warden jobs list"),
        (("jobs", "watch", "j-nothing"), 1, "no job 'j-nothing' is known"),
        (("jobs", "cancel", "j-nothing"), 1, "no job 'j-nothing' is known"),
        (("jobs", "list", "--status", "done"), 2, "status 'done' is unknown; known are queued"),
        (("jobs", "list", "--limit", "many"), 2, "'many' is not a valid integer"),
        (("jobs", "show", ""), 1, "no job '' is known"),
        (("workers", "stop", "sma"), 1, "no worker 'sma'; there are sam-0"),
        (("logs", "sma"), 1, "no such log yet; there are sam-0"),
        (("logs", "../../etc/passwd"), 1, "no such log yet"),
        (("sttaus",), 2, "No such command 'sttaus'"),
        (("--config", "nowhere.toml", "status"), 78, "nowhere.toml: there is no such file"),
    ],
)
def test_a_mistake_gets_a_sentence_and_its_exit_code(warden: Live, args: tuple[str | bytes, ...], code: int, says: str) -> None:
    (warden.folder / "broken.json").write_text('{"a": 1,\n"b": }')
    (warden.folder / "list.json").write_text("[1]")
    (warden.folder / "bytes.json").write_bytes(b"\xff\xfe{}")
    (warden.folder / "huge.json").write_text(json.dumps({"note": 20 * 2**20 * "x"}))
    (warden.folder / "half.json").write_text(r'{"note": "\ud800"}')
    (warden.folder / "nan.json").write_text('{"lr": [0.1, NaN]}')

    done = warden.cli(*args)

    assert done.returncode == code, done.stderr
    assert says in "\n".join(sentences(done))


@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        (("steps=many",), 'demo.count: params.steps: found "many", expected a whole number'),
        (("stpes=3",), "demo.count: params: stpes is unknown (did you mean steps?)"),
        (("fault=dance",), 'demo.count: params.fault: found "dance", expected one of'),
        (("steps=[[1]]",), "demo.count: params.steps: found [[1]], expected a whole number"),
    ],
)
def test_parameters_that_can_never_work_are_refused_at_the_door(warden: Live, pairs: tuple[str, ...], says: str) -> None:
    before = warden.cli("jobs", "list", "--json").stdout

    done = warden.cli("jobs", "submit", "demo.count", *pairs, "--wait")

    assert (done.returncode, done.stdout) == (2, "")
    assert says in "\n".join(sentences(done))
    assert warden.cli("jobs", "list", "--json").stdout == before


@pytest.mark.parametrize("command", [("status",), ("health",), ("gpu", "status"), ("jobs", "list"), ("jobs", "submit", "demo.count"), ("stop",)])
def test_no_supervisor_is_exit_4_with_what_to_do(live: MakeLive, command: tuple[str, ...]) -> None:
    off = live(start=False)

    done = off.cli(*command)

    assert done.returncode == 4
    assert sentences(done) == [f"no supervisor runs on {off.state_dir} (there is no socket): start it with: warden run"]


def test_a_socket_that_a_killed_supervisor_left_is_exit_4_and_not_a_wait_for_ever(live: MakeLive) -> None:
    gone = live("")
    gone.kill()

    done = gone.cli("status")

    assert done.returncode == 4
    assert sentences(done) == [f"no supervisor runs on {gone.state_dir} (nobody listens at the socket that one left): start it with: warden run"]
    gone.start()


def test_a_socket_that_was_removed_is_made_again_and_meanwhile_that_is_said(live: MakeLive) -> None:
    warden = live("")
    warden.signal(signal.SIGSTOP)
    assert warden.holds(lambda: (seen := look(warden.pid)) is not None and seen.state == "T")
    (warden.state_dir / "control.sock").unlink()
    done = warden.cli("status")
    warden.signal(signal.SIGCONT)

    warden.wait_for_event("socket_restored")

    assert done.returncode == 4
    said = f"a supervisor (pid {warden.pid}) runs on {warden.state_dir}, but there is no socket: it is made within seconds, so ask again"
    assert sentences(done) == [said]
    assert warden.cli("status").returncode == 0


BROKEN = {
    "not TOML": ("schema_version = 1\n[workers.sam\n", ["supervisor.toml:2:"]),
    "a bare number": ("schema_version = 1\n[watchdog]\nstall_after = 600\n", ["supervisor.toml:3: watchdog.stall_after", 'write "600s"']),
    "an unknown key": ("schema_version = 1\n[watchdog]\nstall_aftr = '5s'\n", ["supervisor.toml:3:", "stall_after"]),
    "two mistakes": ("schema_version = 1\n[watchdog]\nstall_aftr = '5s'\nsilent_after = 3\n", ["supervisor.toml:3:", "supervisor.toml:4:"]),
    "an unknown placeholder": ("schema_version = 1\n[workers.sam]\ncommand = ['{pyhton}']\n", ["supervisor.toml:3:", "python"]),
}


@pytest.mark.parametrize("command", ["check", "run", "status", "logs", "jobs list"])
@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_exit_78_with_every_mistake_and_its_line(tmp_path: Path, command: str, case: str, live: MakeLive) -> None:
    toml, says = BROKEN[case]
    off = live(start=False)
    (off.folder / "supervisor.toml").write_text(toml)

    done = off.cli(*command.split())

    assert done.returncode == 78
    assert "Traceback" not in done.stderr + done.stdout
    for words in says:
        assert words in done.stdout + done.stderr


@pytest.mark.parametrize("command", ["check", "run", "status"])
def test_no_file_at_all_is_exit_78_and_names_every_place_looked_at(live: MakeLive, command: str) -> None:
    off = live(start=False)
    (off.folder / "supervisor.toml").unlink()

    done = off.cli(command, env={"HOME": str(off.folder), "XDG_CONFIG_HOME": ""})

    assert done.returncode == 78
    assert len(sentences(done)) == 1
    assert str(off.folder / "supervisor.toml") in done.stderr
    assert "/etc/warden/supervisor.toml" in done.stderr


def test_a_missing_program_is_told_by_check_and_does_not_hold_up_run(live: MakeLive) -> None:
    off = live('[workers.bad]\ncommand = ["/nowhere/program"]\nprogress = "none"\n', start=False)

    checked = off.cli("check")
    off.start()

    assert checked.returncode == 78
    assert 'workers.bad.command names the program "/nowhere/program", which does not exist' in checked.stdout
    off.wait_for_event("worker_spawn_failed", worker="bad-0")


def test_the_supervisor_of_this_file_was_not_harmed(warden: Live) -> None:
    assert warden.worker("sam-0").generation == 1
    assert warden.wait_for_job(warden.submit(steps=1)).status == "completed"


@pytest.mark.parametrize(("op", "args"), [("gpu.lock", {"owner": "far", "ttl_s": 60.0}), ("jobs.submit", {"kind": "demo.count"})])
@pytest.mark.parametrize("priority", [-1, PRIORITY_MAX + 1, 10**23 - 1])
def test_a_priority_that_http_refuses_is_refused_by_the_socket(warden: Live, op: str, args: dict[str, Any], priority: int) -> None:
    with pytest.raises(Refused, match=rf"priority {priority} found; expected 0 \(the most urgent\) to 1000000") as refused:
        warden.ask(op, **args, priority=priority)

    assert refused.value.code == "invalid"
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"kind": "demo.count", "priority": priority}, JobBody)
    msgspec.convert({"kind": "demo.count", "priority": PRIORITY_MAX}, JobBody)


@pytest.mark.parametrize(
    ("op", "args", "name"),
    [
        ("gpu.lock", {"owner": "far"}, "timeout_s"),
        ("gpu.lock", {"owner": "far"}, "ttl_s"),
        ("gpu.renew", {"lease": "l-1", "fence": 1}, "ttl_s"),
        ("gpu.vacate", {"by": "me"}, "timeout_s"),
        ("gpu.vacate", {"by": "me"}, "keep_free_s"),
    ],
)
@pytest.mark.parametrize("seconds", [-1.0, 1e300])
def test_a_time_that_nobody_can_wait_is_refused_by_the_socket(warden: Live, op: str, args: dict[str, Any], name: str, seconds: float) -> None:
    with pytest.raises(Refused, match=f"{name} must be from 0 to 86400 seconds, .* was found") as refused:
        warden.ask(op, **args, **{name: seconds})

    assert refused.value.code == "invalid"


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf, -0.001])
def test_what_is_no_time_is_refused(seconds: float) -> None:
    with pytest.raises(Rejected, match="timeout_s must be from 0 to 86400 seconds"):
        within("timeout_s", seconds)
