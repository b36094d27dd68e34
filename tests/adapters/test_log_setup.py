"""The two log files: what people read, what machines read, and a rotation that loses no line."""

import json
from pathlib import Path

import pytest

from supervisor.adapters.log_setup import Logs, line, spell
from supervisor.errors import StateError

WITHIN_S = 20.0


def logs(folder: Path, *, max_bytes: int = 10**6, keep: int = 3, level: str = "info") -> Logs:
    """Return the logs of a folder."""
    return Logs(folder, level=level, max_bytes=max_bytes, keep=keep, echo=False)


def closed(one: Logs) -> None:
    """Close it, and wait also for a disk that takes longer than `close` waits."""
    one.close()
    for writer in one._writers:
        writer._thread.join(WITHIN_S)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("silent_s", 0.412, ("silent", "0.41s")),
        ("took_s", 3.14159, ("took", "3.1s")),
        ("age_s", 3599.6, ("age", "3600s")),
        ("free_bytes", 2 * 2**30, ("free", "2GiB")),
        ("loss", 0.123456, ("loss", "0.1235")),
        ("leaving", ["sam-0", "sam-1"], ("leaving", "sam-0,sam-1")),
        ("leaving", [], ("leaving", "-")),
        ("reason", "two words", ("reason", '"two words"')),
        ("reason", 'a"b', ("reason", '"a\\"b"')),
        ("reason", "two\nlines", ("reason", '"two\\nlines"')),
        ("reason", "", ("reason", '""')),
        ("pid", 17, ("pid", "17")),
    ],
)
def test_values_are_spelled_for_people(key: str, value: object, words: tuple[str, str]) -> None:
    assert spell(key, value) == words


def test_a_line_for_people_has_time_level_event_and_pairs() -> None:
    said = line({"timestamp": 0.5, "level": "warning", "event": "worker_killed", "worker": "sam-0", "took_s": 1.5})

    assert said == "1970-01-01T00:00:00.500+00:00 warning worker_killed    worker=sam-0 took=1.5s"


def test_a_number_stands_before_its_limit_and_nothing_else_does() -> None:
    numbers = {"age_s": 74.0, "age_limit_s": 3600.0, "mem_bytes": 2 * 2**30, "mem_limit_bytes": 8 * 2**30}
    healthy = line({"timestamp": 0, "level": "info", "event": "worker_healthy", "worker": "sam-0", **numbers, "beat_s": 0.4})
    over = line({"timestamp": 0, "level": "warning", "event": "memory_limit", "worker": "sam-0", "mem_bytes": 9 * 2**30, "worker_limit_bytes": 8 * 2**30})

    assert healthy.endswith(" worker=sam-0 age=74s/3600s mem=2GiB/8GiB beat=0.4s")
    assert over.endswith(" worker=sam-0 mem=9GiB worker_limit=8GiB")


def test_both_files_tell_the_same_story(tmp_path: Path) -> None:
    one = logs(tmp_path)
    one.write("info", "worker_ready", {"worker": "sam-0", "took_s": 0.25})
    one.write("warning", "worker_exited", {"worker": "sam-0", "reason": "exit code 3 ☃ ü"})
    closed(one)

    people = (tmp_path / "watchdog.log").read_text().splitlines()
    machines = [json.loads(text) for text in (tmp_path / "watchdog.jsonl").read_text().splitlines()]

    assert [text.split()[2] for text in people] == ["worker_ready", "worker_exited"]
    assert machines[0]["took_s"] == 0.25
    assert machines[1]["reason"] == "exit code 3 ☃ ü"
    assert set(machines[0]) == {"timestamp", "level", "event", "worker", "took_s"}


def test_a_level_below_the_configured_one_is_not_written(tmp_path: Path) -> None:
    one = logs(tmp_path, level="warning")
    one.write("info", "worker_ready", {})
    one.write("error", "store_failed", {})
    closed(one)

    assert [json.loads(text)["event"] for text in (tmp_path / "watchdog.jsonl").read_text().splitlines()] == ["store_failed"]


def test_a_rotation_keeps_the_file_and_loses_no_line(tmp_path: Path) -> None:
    inode = None
    one = logs(tmp_path, max_bytes=4000, keep=50)
    for number in range(500):
        one.write("info", "job_progress", {"done": number})
        inode = inode or ((tmp_path / "watchdog.jsonl").stat().st_ino if (tmp_path / "watchdog.jsonl").exists() else None)
    closed(one)

    numbers = [json.loads(text)["done"] for path in tmp_path.glob("watchdog.jsonl*") for text in path.read_text().splitlines()]

    assert sorted(set(numbers)) == list(range(500))
    assert (tmp_path / "watchdog.jsonl").stat().st_ino == inode, "tail -f goes on"
    assert len(list(tmp_path.glob("watchdog.jsonl*"))) > 2


def test_a_log_that_cannot_be_opened_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "watchdog.log").mkdir()

    with pytest.raises(StateError, match="Warden must be able to write its log there"):
        logs(tmp_path)
