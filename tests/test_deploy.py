"""The service: systemd accepts the unit and finds it well shut in, and unit, guide and program speak of the same files and flags."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
import tomli

from supervisor.cli import cli
from supervisor.cli.context import Exit
from supervisor.core.announcements import LEVELS
from supervisor.units import parse_duration

ROOT = Path(__file__).parent.parent
UNIT = ROOT / "deploy" / "warden.service"
RUNBOOK = ROOT / "deploy" / "runbook.md"
GUIDE = ROOT / "deploy" / "README.md"
EXPOSURE_MAX = 3.0


def settings() -> dict[str, list[str]]:
    """Return the unit's settings; a name may stand several times."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        name, sign, value = line.partition("=")
        if sign and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def one(name: str) -> str:
    values = settings()[name]
    assert len(values) == 1
    return values[0]


@pytest.fixture
def analyze(tmp_path: Path) -> tuple[str, Path]:
    """Return systemd-analyze, and a copy of the unit whose program exists here."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed: apt-get install systemd, or your distribution's package")
    unit = tmp_path / "warden.service"
    unit.write_text(UNIT.read_text().replace("/opt/warden/bin/warden", sys.executable))
    return program, unit


@pytest.mark.slow
def test_systemd_has_nothing_to_say_about_the_unit(analyze: tuple[str, Path]) -> None:
    program, unit = analyze

    said = subprocess.run([program, "verify", "--man=no", unit], capture_output=True, text=True, check=False)

    assert (said.returncode, [line for line in said.stderr.splitlines() if unit.name in line]) == (0, [])


@pytest.mark.slow
def test_systemd_finds_the_unit_well_shut_in(analyze: tuple[str, Path]) -> None:
    program, unit = analyze

    said = subprocess.run([program, "security", "--offline=true", "--no-pager", unit], capture_output=True, text=True, check=False)

    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", said.stdout)
    assert exposure, said.stdout + said.stderr
    assert float(exposure[1]) <= EXPOSURE_MAX


def test_the_command_of_the_unit_exists_with_its_flags() -> None:
    program, *words = one("ExecStart").split()
    options = [word for word in words if word.startswith("-")]
    known = {name for parameter in cli.params if isinstance(parameter, click.Option) for name in parameter.opts}
    project = tomli.loads((ROOT / "pyproject.toml").read_text())

    assert Path(program).name in project["project"]["scripts"]
    assert set(options) <= known
    assert words[-1] in cli.commands
    assert words[words.index("--config") + 1] == "/etc/warden/supervisor.toml"


def test_systemd_does_not_start_again_what_a_person_must_mend() -> None:
    assert one("RestartPreventExitStatus").split() == [str(int(Exit.BUSY)), str(int(Exit.CONFIG))]
    assert one("Restart") == "on-failure"


def test_what_keeps_workers_alive_when_the_supervisor_dies() -> None:
    wanted = {
        "Type": "notify",
        "NotifyAccess": "main",
        "KillMode": "process",
        "RuntimeDirectoryPreserve": "yes",
        "OOMPolicy": "continue",
        "Delegate": "yes",
        "ExecReload": "/bin/kill -HUP $MAINPID",
        "StartLimitIntervalSec": "0",
    }

    assert {name: one(name) for name in wanted} == wanted
    assert "PrivateTmp" not in settings(), "systemd empties it under the feet of workers that live on"
    assert "PrivateDevices" not in settings(), "it hides the GPU"
    assert "MemoryDenyWriteExecute" not in settings(), "torch compiles at run time"


def test_systemd_waits_longer_than_the_supervisor_s_own_grace() -> None:
    shipped = tomli.loads((ROOT / "supervisor.toml").read_text())

    assert float(one("TimeoutStopSec")) > parse_duration(shipped["supervisor"]["shutdown_grace"])


def test_both_names_of_the_driver_s_device_group_are_allowed() -> None:
    allowed = {value.split()[0] for value in settings()["DeviceAllow"]}

    assert {"char-nvidia", "char-nvidia-frontend", "char-nvidiactl", "char-nvidia-uvm"} <= allowed


def test_the_guide_s_configuration_lies_in_the_unit_s_folders(tmp_path: Path) -> None:
    rules = re.findall(r"-e '(s\|[^']*)'", GUIDE.read_text())
    file = tmp_path / "supervisor.toml"
    sed = [word for rule in rules for word in ("-e", rule)]
    file.write_text(subprocess.run(["sed", *sed, ROOT / "supervisor.toml"], capture_output=True, text=True, check=True).stdout)

    written = tomli.loads(file.read_text())["supervisor"]
    checked = subprocess.run([Path(sys.executable).parent / "warden", "check", file], capture_output=True, text=True, check=False)

    assert written["state_dir"] == f"/var/lib/{one('StateDirectory').split()[0]}"
    assert written["log_dir"] == f"/var/log/{one('LogsDirectory')}"
    assert "/var/lib/warden/weights" in file.read_text()
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("page", [RUNBOOK, GUIDE], ids=lambda page: page.name)
def test_every_command_that_a_page_names_exists(page: Path) -> None:
    for words in re.findall(r"`(?:\S+/)?warden(?: --config \S+)?((?: [a-z]+)+)", page.read_text()):
        command: click.Command = cli
        for word in words.split():
            if not isinstance(command, click.Group):
                break
            assert word in command.commands, f"{page.name}: warden{words}"
            command = command.commands[word]


def test_the_runbook_explains_every_event_that_needs_a_person() -> None:
    text = RUNBOOK.read_text()

    assert [event for event, level in LEVELS.items() if level == "error" and f"`{event}`" not in text] == []
