"""The proof at start: nothing to say where all is well, a sentence for each thing that is not, and nothing left behind."""

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from supervisor.adapters.self_test import self_test

WITHIN_S = 20.0
QUICK_S = 0.3


def named_by(sentences: list[str], word: str) -> list[str]:
    return [sentence for sentence in sentences if word in sentence]


def children() -> list[bytes]:
    """Return the command lines of our children."""
    found = []
    for path in Path(f"/proc/{os.getpid()}/task").glob("*/children"):
        with suppress(OSError):  # a thread that ends just now
            for pid in path.read_text().split():
                with suppress(OSError):
                    found.append(Path(f"/proc/{pid}/cmdline").read_bytes())
    return found


def test_on_this_machine_processes_store_and_meters_are_proved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.adapters.self_test._CHILD_WITHIN_S", WITHIN_S)  # a slow machine is not a failure
    state, logs = tmp_path / "var", tmp_path / "logs"
    state.mkdir()
    logs.mkdir()

    sentences = self_test(state, logs, within_s=WITHIN_S)

    # what a machine may lack without harm is only said: cgroup v2, and a file system that cuts logs in place
    assert [sentence for sentence in sentences if "cgroup" not in sentence and "cut in place" not in sentence] == []
    assert list(state.iterdir()) == []
    assert list(logs.iterdir()) == []


def test_it_is_quick_and_leaves_no_process(tmp_path: Path) -> None:
    end_s, fastest_s = time.monotonic() + WITHIN_S, WITHIN_S
    while fastest_s >= QUICK_S and time.monotonic() < end_s:  # one time is enough: the others may have met a busy machine
        began_s = time.monotonic()
        self_test(tmp_path, tmp_path)
        fastest_s = min(fastest_s, time.monotonic() - began_s)

    assert fastest_s < QUICK_S
    assert not [command for command in children() if b"sleep\x0060" in command]


def test_a_folder_that_is_not_there_is_said_for_store_and_logs(tmp_path: Path) -> None:
    sentences = self_test(tmp_path / "gone", tmp_path / "away")

    assert len(named_by(sentences, "jobs cannot be accepted")) == 1
    assert len(named_by(sentences, "cannot be cut in place here (No such file or directory)")) == 1


def test_a_disk_that_does_not_answer_is_said_and_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, left = threading.Event(), threading.Event()

    def hang(_log_dir: Path) -> list[str]:
        answers.wait(WITHIN_S)
        left.set()
        return []

    monkeypatch.setattr("supervisor.adapters.self_test._cut", hang)

    sentences = self_test(tmp_path, tmp_path, within_s=0.1)
    waited = left.is_set()
    answers.set()
    for thread in threading.enumerate():
        if thread.name == "self-test":
            thread.join(WITHIN_S)

    assert not waited
    assert named_by(sentences, f"cutting a log in {tmp_path} did not answer within 0.1 s: does a disk hang?")
