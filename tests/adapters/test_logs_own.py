"""The supervisor's own log in trouble: a full disk, a frozen one, a file that was removed, readers that tail it, a journal behind stderr."""

import json
import os
import re
import select
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from supervisor.adapters.log_setup import Logs, journal_line, line, to_journal
from supervisor.adapters.log_writer import Event, LogFile, Stream, Writer
from tests.support.disk import small_disk

WITHIN_S = 20.0
ROOT = Path(__file__).parent.parent.parent


def event(number: int, **more: object) -> dict[str, Any]:
    return {"timestamp": 0.0, "level": "info", "event": "job_progress", "done": number, **more}


def log_file(path: Path, **more: int) -> LogFile:
    return LogFile(path, lambda event: json.dumps(dict(event)), **{"max_bytes": 10**6, "keep": 5, **more})


def numbers(*paths: Path) -> list[int]:
    return [said["done"] for path in paths for said in map(json.loads, path.read_text().splitlines()) if "done" in said]


def events(path: Path, name: str) -> list[dict[str, Any]]:
    return [said for said in map(json.loads, path.read_text().splitlines()) if said["event"] == name]


def closed(logs: Logs) -> None:
    """Close it, and wait also for a disk that takes longer than `close` waits."""
    logs.close()
    for writer in logs._writers:
        writer._thread.join(WITHIN_S)


class Gate:
    """A sink that holds its thread until it is opened, as a frozen disk does."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        self.events: list[Event] = []
        self.lost = 0

    def write(self, events: Sequence[Event], lost: int) -> None:
        self.reached.set()
        assert self.opened.wait(WITHIN_S)
        self.events += events
        self.lost += lost

    def idle(self) -> bool:
        return False

    def close(self) -> None:
        pass


def test_a_file_that_somebody_removed_is_opened_anew(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "watchdog.jsonl"
    file = log_file(path)
    file.write([event(0)], 0)
    path.unlink()
    path.parent.rmdir()

    file.write([event(1)], 0)
    moved = path.rename(tmp_path / "moved")  # as logrotate does
    file.write([event(2)], 0)
    file.close()

    assert numbers(moved) == [1]
    assert numbers(path) == [2]


def test_a_line_that_a_crash_cut_short_does_not_swallow_the_next(tmp_path: Path) -> None:
    path = tmp_path / "watchdog.log"
    path.write_text("half a li")

    file = log_file(path)
    file.write([event(1)], 0)
    file.close()

    assert path.read_text().splitlines()[0] == "half a li"
    assert json.loads(path.read_text().splitlines()[1])["done"] == 1


def test_on_a_full_disk_lines_wait_up_to_a_bound_and_the_rest_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "watchdog.jsonl"
    path.symlink_to("/dev/full")  # opens, and refuses every byte as a full disk does
    file = log_file(path, pending_max=1000)

    for number in range(100):
        file.write([event(number)], 0)
    trouble = file.trouble()
    path.unlink()
    file.write([event(100)], 0)
    file.write([event(101)], 0)
    file.close()

    kept = numbers(path)
    lost = events(path, "log_lines_lost")
    assert kept[:-1] == list(range(len(kept) - 1)), "the first ones, in order"
    assert kept[-1] == 101
    assert len(lost) == 1
    assert lost[0]["count"] == 102 - len(kept)
    assert re.fullmatch(rf"{re.escape(str(path))} cannot be written: No space left on device, for \d+ s; .* lines are lost", trouble)
    assert file.trouble() == ""


def test_it_is_emptied_after_copying_in_a_lull_and_tail_f_misses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "watchdog.jsonl"
    file = log_file(path, max_bytes=1000)
    with subprocess.Popen(["tail", "-n", "+1", "-f", path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as tail:
        assert tail.stdout is not None
        seen: list[int] = []
        for number in range(60):
            file.write([event(number)], 0)
            while number not in seen:  # it has read everything: that is what a lull is for
                seen.append(json.loads(tail.stdout.readline())["done"])
            if number % 20 == 19:
                assert not file.idle()
                assert path.stat().st_size == 0
        tail.terminate()
    file.close()

    assert sorted(set(seen)) == list(range(60))
    assert numbers(*(tmp_path / f"watchdog.jsonl.{number}" for number in (3, 2, 1))) == list(range(60))


def test_forced_without_a_lull_it_keeps_the_last_lines_for_whoever_tails_it(tmp_path: Path) -> None:
    path = tmp_path / "watchdog.jsonl"
    file = log_file(path, max_bytes=1000)

    file.write([event(number) for number in range(64)], 0)
    file.close()

    assert numbers(tmp_path / "watchdog.jsonl.1") == list(range(64))
    left = numbers(path)
    assert 0 < len(left) < 10
    assert left == list(range(64 - len(left), 64))


def test_a_copy_that_a_crash_left_is_filed_away(tmp_path: Path) -> None:
    path = tmp_path / "watchdog.jsonl"
    (tmp_path / "watchdog.jsonl.1.copied").write_text("copied\n")
    (tmp_path / "watchdog.jsonl.1").write_text("older\n")

    log_file(path).close()

    assert (tmp_path / "watchdog.jsonl.1").read_text() == "copied\n"
    assert (tmp_path / "watchdog.jsonl.2").read_text() == "older\n"


def test_a_writer_that_is_held_up_takes_no_more_than_its_bound_and_counts_the_rest() -> None:
    gate = Gate()
    writer = Writer("held-up", [gate], waiting_max=10)
    writer.put(event(0))
    assert gate.reached.wait(WITHIN_S)

    for number in range(1, 101):
        writer.put(event(number))
    written = list(gate.events)
    stuck_s = writer.stuck_for_s()
    gate.opened.set()
    writer.close(WITHIN_S)

    assert written == [], "whoever writes does not wait until anything is written"
    assert stuck_s > 0
    assert writer.stuck_for_s() == 0.0
    assert [said["done"] for said in gate.events] == list(range(11))
    assert gate.lost == 90


def test_close_gives_up_on_a_disk_that_never_answers() -> None:
    gate = Gate()
    writer = Writer("held-up", [gate])
    writer.put(event(0))
    assert gate.reached.wait(WITHIN_S)

    writer.close(within_s=0.05)

    assert gate.events == []
    gate.opened.set()


def test_a_reader_of_stderr_that_stopped_does_not_hold_up_the_files(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from supervisor.adapters.log_setup import Logs\n"
        "logs = Logs(Path(sys.argv[1]), level='info', max_bytes=10**8, keep=1, echo=True)\n"
        "for number in range(5000): logs.write('info', 'job_progress', {'done': number, 'padding': 'x' * 100})\n"
        "print('written', flush=True); input()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as writing:
        assert writing.stdout is not None
        assert select.select([writing.stdout], [], [], WITHIN_S)[0], "a full stderr pipe stopped whoever writes"
        with subprocess.Popen(["tail", "-n", "+1", "-f", tmp_path / "watchdog.jsonl"], stdout=subprocess.PIPE) as tail:
            assert tail.stdout is not None
            done = [json.loads(tail.stdout.readline())["done"] for _ in range(5000)]
            tail.terminate()
        writing.kill()

    assert done == list(range(5000))


def test_what_cannot_be_written_is_said_in_its_place(tmp_path: Path) -> None:
    logs = Logs(tmp_path, level="info", max_bytes=10**6, keep=1, echo=False)
    logs.write("info", "job_progress", {"done": object, "path": "\udc80"})
    logs.write("info", "job_progress", {"done": 2})
    closed(logs)

    people, machines = (tmp_path / "watchdog.log").read_text().splitlines(), (tmp_path / "watchdog.jsonl").read_text().splitlines()
    assert len(people) == len(machines) == 2
    assert "unwritable" in json.loads(machines[0])


def test_new_limits_count_from_the_next_line(tmp_path: Path) -> None:
    logs = Logs(tmp_path, level="info", max_bytes=10**6, keep=1, echo=False)
    logs.write("debug", "job_progress", {"done": 1})
    logs.set_limits(level="debug", max_bytes=10**6, keep=1)
    logs.write("debug", "job_progress", {"done": 2})
    closed(logs)

    assert numbers(tmp_path / "watchdog.jsonl") == [2]


@pytest.mark.parametrize(("level", "priority"), [("debug", 7), ("info", 6), ("warning", 4), ("error", 3)])
def test_the_journal_gets_the_priority_before_the_line(level: str, priority: int) -> None:
    said = event(1) | {"level": level}

    assert journal_line(said) == f"<{priority}>{line(said)}"


def test_only_the_stderr_that_systemd_opened_leads_to_the_journal() -> None:
    read_end, write_end = os.pipe()
    found = os.fstat(write_end)
    named = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}

    answers = (to_journal(named, write_end), to_journal({"JOURNAL_STREAM": "1:2"}, write_end), to_journal({}, write_end))
    os.close(read_end)
    Stream(write_end, line).write([event(1)], 0)  # nobody reads any more: no failure
    os.close(write_end)

    assert answers == (True, False, False)
    assert not to_journal(named, write_end)


@pytest.mark.slow
@pytest.mark.faults
def test_a_real_full_disk_and_a_real_frozen_one(tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        logs = Logs(disk.folder / "logs", level="info", max_bytes=10**8, keep=1, echo=False)
        path = disk.folder / "logs" / "watchdog.jsonl"
        disk.fill()
        for number in range(40_000):
            logs.write("info", "job_progress", {"done": number, "padding": "x" * 200})
        disk.free()
        with disk.frozen():
            logs.write("info", "job_progress", {"done": 40_000})
            began_s = time.monotonic()
            for number in range(40_001, 40_100):
                logs.write("info", "job_progress", {"done": number})
            took_s = time.monotonic() - began_s
        closed(logs)
        said = numbers(path)
        lost = sum(said["count"] for said in events(path, "log_lines_lost"))

    assert took_s < WITHIN_S, "whoever waits for a frozen disk waits for ever: it thaws only afterwards"
    assert len(said) == len(set(said))
    assert len(said) + lost == 40_100
    assert said[0] == 0
    assert lost > 0
