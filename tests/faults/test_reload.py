"""supervisor.toml is edited while everything runs, in every way that people edit: only what changed is touched, and a broken file changes nothing."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.live import FAKE, ONE_WORKER, Live, MakeLive, alive

pytestmark = [pytest.mark.faults, pytest.mark.slow]

TWO = '[watchdog]\nstall_after = "10m"  # how long\n' + ONE_WORKER + f'[workers.other]\n{FAKE}\nserves = ["demo.other"]\n'


def by_rename(path: Path, text: str) -> None:
    """Edit as most programs do: a new file in the old one's place."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


def in_place(path: Path, text: str) -> None:
    """Truncate and write, as a shell's redirection does."""
    path.write_text(text)


def like_sed(path: Path, text: str) -> None:
    """Let sed -i do it."""
    old, new = next((a, b) for a, b in zip(path.read_text().splitlines(), text.splitlines(), strict=True) if a != b)
    subprocess.run(["sed", "-i", f"s|^{old}$|{new}|", str(path)], check=True)


def like_vim(path: Path, text: str) -> None:
    """Move the old file to a backup, write a new one under the name, remove the backup."""
    backup = path.with_name(f"{path.name}~")
    path.rename(backup)
    path.write_text(text)
    backup.unlink()


def settled(warden: Live) -> list[int]:
    """Return the pids of both workers once they are ready."""
    for name in ("sam-0", "other-0"):
        assert warden.holds(lambda name=name: warden.worker(name).state == "ready")  # type: ignore[misc]  # the name of this turn
    pids = [warden.worker(name).pid for name in ("sam-0", "other-0")]
    assert all(pids)
    return [pid for pid in pids if pid is not None]


def config_of(warden: Live) -> Path:
    """Return the file."""
    return warden.folder / "supervisor.toml"


@pytest.mark.parametrize("edit", [by_rename, in_place, like_sed, like_vim])
def test_an_edited_limit_is_taken_and_no_worker_is_touched(live: MakeLive, edit: Callable[[Path, str], None]) -> None:
    warden = live(TWO)
    pids = settled(warden)
    config = config_of(warden)

    edit(config, config.read_text().replace('"10m"', '"1s"'))

    reloaded = warden.wait_for_event("config_reloaded")
    assert reloaded["reason"] == 'watchdog.stall_after: "10m" -> "1s" (at once)'
    assert settled(warden) == pids
    assert warden.wait_for_job(warden.submit(fault="stall")).reason == "stalled", "it counts from now on"


def test_a_half_written_and_a_broken_file_change_nothing_until_it_is_good_again(live: MakeLive) -> None:
    warden = live(TWO)
    pids = settled(warden)
    config = config_of(warden)
    good = config.read_text()

    by_rename(config, good[: good.index("[workers.other]") - 20])  # each as one edit: what is seen between a truncating and a writing is a third file
    warden.wait_for_event("config_refused")
    mark = warden.mark()
    by_rename(config, good.replace('"10m"', '"ten minutes"'))
    refused = warden.wait_for_event("config_refused", after=mark)
    assert "supervisor.toml:" in refused["reason"]
    assert "watchdog.stall_after" in refused["reason"]
    assert settled(warden) == pids
    assert "watchdog.stall_after" in warden.status().supervisor.config_error

    by_rename(config, good.replace('"10m"', '"9m"'))
    warden.wait_for_event("config_reloaded", after=mark)
    assert warden.status().supervisor.config_error == ""
    assert settled(warden) == pids


@pytest.mark.parametrize("folder", [False, True])
def test_a_file_that_is_gone_is_said_and_so_is_its_return(live: MakeLive, folder: bool) -> None:
    warden = live(TWO)
    pids = settled(warden)
    config = config_of(warden)
    good = config.read_text()

    says = "is a folder, expected a file" if folder else "there is no such file"

    config.unlink()
    if folder:
        config.mkdir()
    assert warden.holds(lambda: says in warden.status().supervisor.config_error)  # between the two it may be seen to be gone
    error = warden.status().supervisor.config_error
    refused = warden.wait_for_event("config_refused", reason=error)
    if folder:
        config.rmdir()
    by_rename(config, good)
    again = warden.wait_for_event("config_reloaded")

    assert refused["level"] == "error"
    assert again["reason"] == "the file holds again, and is as it was before"
    assert warden.status().supervisor.config_error == ""
    assert settled(warden) == pids


def test_a_worker_that_is_added_changed_or_removed_is_the_only_one_touched(live: MakeLive) -> None:
    warden = live(TWO)
    sam, other = settled(warden)
    config = config_of(warden)
    first = config.read_text()

    by_rename(config, first + '[workers.tool]\ncommand = ["sleep", "3600"]\nprogress = "none"\n')
    warden.wait_for_event("worker_ready", worker="tool-0")
    assert settled(warden) == [sam, other]

    by_rename(config, config.read_text().replace("[workers.tool]", 'env = { NEW = "1" }\n[workers.tool]'))
    warden.wait_for_event("worker_ready", worker="other-0", after=warden.events.index(warden.wait_for_event("worker_spawned", worker="other-0", generation=2)))
    assert settled(warden)[0] == sam
    assert not alive(other)

    by_rename(config, first)
    assert warden.holds(lambda: {worker.name for worker in warden.status().workers} == {"sam-0", "other-0"})
    assert settled(warden)[0] == sam
    assert warden.holds(lambda: len(warden.ours()) == 2)


def test_a_removed_worker_finishes_its_job(live: MakeLive) -> None:
    warden = live(TWO)
    settled(warden)
    name = warden.submit("demo.other", steps=80, step_s=0.05)
    assert warden.holds(lambda: warden.job(name).done >= 3)
    config = config_of(warden)

    by_rename(config, config.read_text().partition("[workers.other]")[0])
    warden.wait_for_event("config_reloaded")
    job = warden.wait_for_job(name)

    assert (job.status, job.attempt) == ("completed", 1)
    assert warden.holds(lambda: [worker.name for worker in warden.status().workers] == ["sam-0"])


def test_sighup_and_the_command_take_the_file_at_once(live: MakeLive) -> None:
    warden = live(TWO)
    config = config_of(warden)
    settled(warden)

    def edit(old: int, new: int) -> str:
        by_rename(config, config.read_text().replace(f'"{old}m"', f'"{new}m"'))
        return f'watchdog.stall_after: "{old}m" -> "{new}m" (at once)'

    told: dict[str, str] = {}
    minutes = 10
    for op in ("config.diff", "reload"):
        while op not in told and minutes > 3:  # the look of each second may come first: then there is nothing left to tell
            line = edit(minutes, minutes - 1)
            minutes -= 1
            if warden.ask(op) == [line]:
                told[op] = line
        assert op in told, minutes
    assert warden.holds(lambda: warden.cli("reload").stdout == "nothing changed\n")
    mark = warden.mark()
    edit(minutes, 2)
    warden.signal(signal.SIGHUP)
    assert f'"{minutes}m" -> "2m"' in warden.wait_for_event("config_reloaded", after=mark)["reason"]

    config.write_text("no toml")
    for command in (("reload",), ("config", "diff")):
        refused = warden.cli("--config", str(config), *command, env={"WARDEN_CONFIG": str(config)})
        assert refused.returncode == 78


def test_config_set_edits_the_file_in_place_and_the_supervisor_takes_it(live: MakeLive) -> None:
    warden = live(TWO)
    pids = settled(warden)
    config = config_of(warden)
    config.chmod(0o640)
    before = config.read_text()

    done = warden.cli("config", "set", "watchdog.stall_after", "7m")

    assert (done.returncode, done.stdout) == (0, 'watchdog.stall_after: "10m" -> "7m" (at once)\n'), done.stderr
    assert config.read_text() == before.replace('"10m"', '"7m"')
    assert os.stat(config).st_mode & 0o777 == 0o640  # noqa: PTH116  # as stat tells it
    warden.wait_for_event("config_reloaded")
    assert settled(warden) == pids
    assert [path.name for path in warden.folder.iterdir() if "draft" in path.name or "check" in path.name] == []
