"""Commands find the supervisor that runs: also while the file is broken, after state_dir was edited in it, and from a user who may not."""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from supervisor.config.folders import folders
from supervisor.control import holder_of
from tests.support.live import WITHIN_S, Live, MakeLive, lives

pytestmark = [pytest.mark.faults, pytest.mark.slow]

AS_NOBODY = """
import os, encodings.utf_8_sig
import supervisor.cli.watch
from supervisor.cli import main
os.seteuid(65534)
main()
"""
"""The command line as somebody else, who need not be allowed to read this project."""


def spoiled(warden: Live, text: str) -> None:
    """Spoil the file, and wait until the supervisor has seen it."""
    mark = warden.mark()
    (warden.folder / "supervisor.toml").write_text(text)
    warden.wait_for_event("config_refused", after=mark)


SPOILS = {
    "a wrong value": lambda good: good.replace("[memory]", "[watchdog]\nstall_after = 600\n[memory]"),
    "no TOML": lambda good: good + "[workers.sam\n",
    "no TOML, and its own place is lost": lambda good: good.replace("state_dir =", "state_dir"),
}


@pytest.mark.timeout(240)  # many commands, each a process that begins anew
@pytest.mark.parametrize("how", SPOILS)
def test_a_file_that_is_broken_now_keeps_nobody_from_the_supervisor_that_runs(live: MakeLive, how: str) -> None:
    warden = live()
    warden.wait_for_event("worker_ready", worker="sam-0")
    spoiled(warden, SPOILS[how]((warden.folder / "supervisor.toml").read_text()))

    status, health, gpu, log, jobs, submit = (
        warden.cli(*args.split()) for args in ("status", "health --json", "gpu status", "logs sam", "jobs list --json", "jobs submit demo.count steps=1 --wait")
    )

    assert [done.returncode for done in (status, health, gpu, log, jobs, submit)] == [3, 3, 0, 0, 0, 0]
    assert "! supervisor.toml is refused, and what was in force before stands: supervisor.toml:" in status.stdout
    assert "supervisor.toml is refused" in json.loads(health.stdout)["unwell"][0]
    assert re.fullmatch(
        r"supervisor\.toml:\d+: .+\nThe supervisor that runs goes on with what was in force before; mend the file, and see: warden check\n", status.stderr
    )
    assert [warden.cli(*args.split()).returncode for args in ("check", "config show", "config diff", "reload", "run")] == [78] * 5
    assert warden.cli("stop").returncode == 0
    assert warden.wait_end() == 0
    assert warden.cli("status").returncode == 78, "nobody runs: the file comes first"


def test_an_edited_state_dir_leads_to_the_supervisor_that_runs_and_never_to_a_second_one(live: MakeLive) -> None:
    warden = live()
    warden.wait_for_event("worker_ready", worker="sam-0")
    config = warden.folder / "supervisor.toml"
    config.write_text(config.read_text().replace("/var", "/var2"))

    status, second = warden.cli("status"), warden.cli("run")
    stop = warden.cli("stop")

    var2 = f"{warden.state_dir}2"
    assert status.returncode == 0, status.stderr
    assert status.stderr == (
        f"supervisor.toml says state_dir = {var2}; the supervisor that runs (pid {warden.pid}) is still on {warden.state_dir}: only a restart moves it\n"
    )
    assert second.returncode == 75
    assert second.stderr == (
        f"another supervisor (pid {warden.pid}, on {warden.state_dir}, by {config}) writes the logs in {warden.log_dir}: "
        f"stop it with: warden --config {config} stop; or give this one another log_dir\n"
    )
    assert stop.returncode == 0, stop.stderr
    assert warden.wait_end() == 0
    assert warden.cli("status").stderr == f"no supervisor runs on {var2} (there is no socket): start it with: warden run\n"


def test_another_file_with_the_same_log_dir_is_told_who_runs_and_touches_nobody(live: MakeLive) -> None:
    warden = live()
    other = warden.folder / "other.toml"
    other.write_text((warden.folder / "supervisor.toml").read_text().replace("/var", "/var2"))

    stop, run = warden.cli("--config", "other.toml", "stop"), warden.cli("--config", "other.toml", "run")

    assert (stop.returncode, run.returncode) == (4, 75)
    assert f"the supervisor with pid {warden.pid} writes the same logs, and runs on {warden.state_dir}" in stop.stderr
    assert warden.status().supervisor.pid == warden.pid


def test_a_supervisor_that_is_gone_holds_no_log_dir(live: MakeLive) -> None:
    warden = live()

    warden.kill()
    left = holder_of(warden.log_dir)
    warden.start()
    again = holder_of(warden.log_dir)
    warden.stop()

    assert left is not None
    assert again is not None
    assert left.pid != again.pid
    assert holder_of(warden.log_dir) is None


def test_a_user_without_rights_gets_one_sentence() -> None:
    if os.geteuid():
        pytest.skip("needs root, to be somebody else")
    with tempfile.TemporaryDirectory() as folder, lives(Path(folder)) as make:  # pytest's own folders let nobody in
        Path(folder).chmod(0o755)
        warden = make()

        done = [
            subprocess.run([sys.executable, "-c", AS_NOBODY, *args], cwd=warden.folder, capture_output=True, text=True, timeout=WITHIN_S, check=False)
            for args in (("status",), ("jobs", "submit", "demo.count"), ("jobs", "watch", "j-1"))
        ]

    assert [one.returncode for one in done] == [4] * 3, done
    assert [one.stderr for one in done] == [f"{warden.state_dir} is closed to this user: run it as root, whose folder it is\n"] * 3


@pytest.mark.parametrize(
    ("text", "environ", "found"),
    [
        ('[supervisor]\nstate_dir = "/s"\nlog_dir = "/l"\n', {}, ("/s", "/l")),
        ('state_dir = 3\n[supervisor]\nstate_dir = "/s" # mine\n[broken\n', {}, ("/s", "logs")),
        ('[supervisor]\nstate_dir = "/s\n', {}, ("var", "logs")),
        ('supervisor = 3\nsupervisor.log_dir = "l"\n', {}, ("var", "l")),
        ("[supervisor]\nstate_dir = 3\n", {}, ("var", "logs")),
        ('[supervisor]\nstate_dir = "/s"\n[', {"WARDEN_SUPERVISOR__STATE_DIR": "/e", "WARDEN_SUPERVISOR__LOG_DIR": "/f"}, ("/e", "/f")),
        ("\udcff", {}, ("var", "logs")),
    ],
)
def test_of_a_broken_file_the_folders_are_read_all_the_same(tmp_path: Path, text: str, environ: dict[str, str], found: tuple[str, str]) -> None:
    path = tmp_path / "supervisor.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))

    read = folders(path, environ)

    assert (read.loaded is None) == (read.error is not None)
    assert (read.state_dir, read.log_dir) == (tmp_path / found[0], tmp_path / found[1])
