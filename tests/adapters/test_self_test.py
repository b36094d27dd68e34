"""The proof at start: nothing to say where all is well, a sentence for each thing that is not, and nothing left behind."""

import os
import time
from pathlib import Path

from supervisor.adapters.self_test import ANSWER_WITHIN_S, self_test


def named_by(sentences: list[str], word: str) -> list[str]:
    return [sentence for sentence in sentences if word in sentence]


def test_on_this_machine_processes_store_and_meters_are_proved(tmp_path: Path) -> None:
    state, logs = tmp_path / "var", tmp_path / "logs"
    state.mkdir()
    logs.mkdir()

    sentences = self_test(state, logs)

    # what a machine may lack without harm is only said: cgroup v2, and a file system that cuts logs in place
    assert [sentence for sentence in sentences if "cgroup" not in sentence and "cut in place" not in sentence] == []
    assert list(state.iterdir()) == []
    assert list(logs.iterdir()) == []


def test_it_is_quick_and_leaves_no_process(tmp_path: Path) -> None:
    fastest_s = ANSWER_WITHIN_S
    for _ in range(5):
        began_s = time.monotonic()
        self_test(tmp_path, tmp_path)
        fastest_s = min(fastest_s, time.monotonic() - began_s)

    assert fastest_s < 0.3
    tasks = [path.read_text() for path in Path(f"/proc/{os.getpid()}/task").glob("*/children")]
    assert not [pid for text in tasks for pid in text.split() if b"sleep\x0060" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_folder_that_is_not_there_is_said_for_store_and_logs(tmp_path: Path) -> None:
    sentences = self_test(tmp_path / "gone", tmp_path / "away")

    assert len(named_by(sentences, "jobs cannot be accepted")) == 1
    assert len(named_by(sentences, "cannot be cut in place here (No such file or directory)")) == 1


def test_a_disk_that_does_not_answer_is_said_and_not_waited_for(tmp_path: Path) -> None:
    began_s = time.monotonic()

    sentences = self_test(tmp_path, tmp_path, within_s=0.0)

    assert time.monotonic() - began_s < ANSWER_WITHIN_S
    assert sentences == [] or named_by(sentences, "did not answer within 0 s")
