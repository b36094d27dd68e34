"""How a program is started: as the user, with the umask and in the folder that were named, and stopped by the signal that was named."""

import os
import pwd
from pathlib import Path

import pytest

from tests.support.live import MakeLive

pytestmark = [pytest.mark.faults, pytest.mark.slow]

PROGRAM = "trap 'echo got INT; exit 0' INT; id -un; pwd; umask; while :; do sleep 0.05; done"
"""Whoever sees its three lines knows that it listens."""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_a_program_runs_as_its_user_in_its_folder_and_hears_its_own_stop_signal(live: MakeLive) -> None:
    tool = f'[workers.tool]\ncommand = ["sh", "-c", """{PROGRAM}"""]\nprogress = "none"\nuser = "nobody"\numask = "0027"\ncwd = "/"\nstop_signal = "INT"\n'
    warden = live(tool + '[workers.bad]\ncommand = ["true"]\nprogress = "none"\nuser = "no-such-user"\n')

    failed = warden.wait_for_event("worker_spawn_failed", worker="bad-0")
    pid = warden.wait_for_event("worker_spawned", worker="tool-0")["pid"]
    log = warden.log_dir / "workers" / "tool-0.log"
    assert warden.holds(lambda: log.read_text().count("\n") == 3)
    owner = Path(f"/proc/{pid}").stat().st_uid
    ended = warden.stop()

    assert failed["reason"] == 'there is no user "no-such-user" on this machine: add it, or correct user'
    assert owner == pwd.getpwnam("nobody").pw_uid
    assert ended == 0
    assert log.read_text().splitlines() == ["nobody", "/", "0027", "got INT"]
