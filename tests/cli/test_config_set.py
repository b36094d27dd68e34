"""`warden config set`: one key is changed, comments and layout stay, and what would not hold is refused before the file is touched."""

from pathlib import Path

import pytest

from supervisor.config.edit import set_key
from supervisor.errors import ConfigError

pytestmark = pytest.mark.slow

FILE = """# the file of a machine
schema_version = 1

[watchdog]  # the clocks
stall_after = "10m"   # two epochs
silent_after = "60s"

[jobs]
retries = { crash = 2, memory = 1 }  # per cause

[workers.sam]
command = ["sleep", "1"]
progress = "none"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A file with comments."""
    path = tmp_path / "supervisor.toml"
    path.write_text(FILE)
    return path


@pytest.mark.parametrize(
    ("key", "text", "was", "becomes"),
    [
        ("watchdog.stall_after", "20m", '"10m"   # two', '"20m"   # two'),
        ("watchdog.stall_after", '"20m"', '"10m"', '"20m"'),
        ("jobs.retries.crash", "3", "crash = 2", "crash = 3"),
        ("workers.sam.command", '["sleep", "2"]', '["sleep", "1"]', '["sleep", "2"]'),
        ("workers.sam.stop_signal", "INT", 'progress = "none"\n', 'progress = "none"\nstop_signal = "INT"\n'),
        ("workers.sam.umask", "0022", 'progress = "none"\n', 'progress = "none"\numask = "0022"\n'),
        ("workers.sam.autostart", "false", 'progress = "none"\n', 'progress = "none"\nautostart = false\n'),
    ],
)
def test_one_key_changes_and_nothing_else(config: Path, key: str, text: str, was: str, becomes: str) -> None:
    edited = set_key(config, key, text, {})

    assert config.read_text() == FILE.replace(was, becomes)
    assert len(edited.changed) == 1
    assert edited.changed[0].startswith(key.removesuffix(".crash"))


def test_a_table_that_is_not_there_is_added(config: Path) -> None:
    set_key(config, "memory.look_every", "5s", {})

    assert config.read_text() == FILE + '\n[memory]\nlook_every = "5s"\n' or config.read_text() == FILE + '[memory]\nlook_every = "5s"\n'


def test_a_schedule_is_set_key_by_key_and_only_the_whole_of_it_is_written(config: Path) -> None:
    config.write_text(
        FILE.replace('progress = "none"', 'serves = ["sam.segment"]')
        + '\n[schedules.nightly]\ncron = "0 3 * * *"  # at three\njob = { kind = "sam.segment" }\n'
    )

    later = set_key(config, "schedules.nightly.cron", "30 4 * * 1-5", {})
    urgent = set_key(config, "schedules.nightly.job.priority", "3", {})
    api = set_key(config, "api.bind", "off", {})

    assert later.changed == ['schedules.nightly.cron: "0 3 * * *" -> "30 4 * * 1-5" (at once)']
    assert urgent.changed == ["schedules.nightly.job.priority: not set -> 3 (at once)"]
    assert api.changed == ['api.bind: "127.0.0.1:8650" -> "off" (after a restart of Warden)']
    assert 'cron = "30 4 * * 1-5"  # at three' in config.read_text()
    with pytest.raises(ConfigError, match=r"schedules.nightly.cron = \"61 \* \* \* \*\" must be a cron line"):
        set_key(config, "schedules.nightly.cron", "61 * * * *", {})


@pytest.mark.parametrize(
    ("key", "text", "says"),
    [
        ("watchdog.stall_after", "soon", "watchdog.stall_after"),
        ("watchdog.stall_aftr", "5m", "stall_after"),
        ("watchdog", "5m", "watchdog"),
        ("watchdog.stall_after.deep", "5m", "watchdog.stall_after is no table"),
        ("jobs.max_running", "0", "must be at least 1"),
        ("schema_version", "2", "schema_version"),
    ],
)
def test_what_would_not_hold_is_refused_and_the_file_stays(config: Path, key: str, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        set_key(config, key, text, {})

    assert says in str(refused.value)
    assert "supervisor.toml" in str(refused.value)
    assert ".check" not in str(refused.value)
    assert config.read_text() == FILE
    assert [path.name for path in config.parent.iterdir()] == ["supervisor.toml"]


def test_a_link_stays_a_link(config: Path, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    real = tmp_path / "etc" / "real.toml"
    config.rename(real)
    config.symlink_to(real)

    set_key(config, "watchdog.stall_after", "20m", {})

    assert config.is_symlink()
    assert '"20m"' in real.read_text()


def test_an_edit_can_mend_a_file(config: Path) -> None:
    config.write_text(FILE.replace('"10m"', '"ten"'))

    edited = set_key(config, "watchdog.stall_after", "10m", {})

    assert config.read_text() == FILE
    assert "the file holds again" in edited.changed[0]


def test_who_wins_over_the_file_is_said(config: Path) -> None:
    edited = set_key(config, "watchdog.stall_after", "20m", {"WARDEN_WATCHDOG__STALL_AFTER": "30m"})

    assert edited.overruled == "environment WARDEN_WATCHDOG__STALL_AFTER"
