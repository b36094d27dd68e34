"""Shell completion: jobs, kinds and workers of the running supervisor, and silence where there is none."""

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import ShellComplete

from supervisor.cli import cli
from supervisor.shapes import JobsPage, KindView, WorkerView
from tests.support.live import WARDEN, WITHIN_S
from tests.support.scripted import SILENCE, Scripted, a_job, a_status, always, refuses


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a slow machine longer than a person waits who has pressed the tab key."""
    monkeypatch.setattr("supervisor.cli.complete._WITHIN_S", WITHIN_S)


JOBS = JobsPage(jobs=[a_job(id="j-1", status="running"), a_job(id="j-22"), a_job(id="k-3")])
KINDS = [KindView(kind="sam.propagate", worker="sam"), KindView(kind="yolo.train", worker="yolo")]


def a_worker(name: str) -> WorkerView:
    """Return a worker that is ready."""
    return WorkerView(
        name=name,
        state="ready",
        wanted="up",
        pid=1,
        generation=1,
        model=name.rpartition("-")[0],
        jobs=[],
        since_s=1.0,
        age_s=1.0,
        silent_s=0.1,
        still_s=None,
        memory_limit_bytes=None,
        memory_bytes=1,
        device_bytes=None,
        restarts={},
        last_reason="",
        note="",
        next_action="",
        clocks=[],
    )


ANSWERS: dict[str, Any] = {
    "jobs.page": always(JOBS),
    "kinds": always(KINDS),
    "status": always(a_status(workers=[a_worker("sam-0"), a_worker("sam-1"), a_worker("yolo-0")])),
}


def completed(folder: Path, *words: str) -> list[str]:
    """Return what the last word may become."""
    shell = ShellComplete(cli, {}, "warden", "_WARDEN_COMPLETE")
    return [item.value for item in shell.get_completions(["--config", str(folder / "supervisor.toml"), *words[:-1]], words[-1])]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("jobs", "cancel", ""), ["j-1", "j-22", "k-3"]),
        (("jobs", "why", "j-"), ["j-1", "j-22"]),
        (("jobs", "watch", "x"), []),
        (("jobs", "submit", "sam."), ["sam.propagate"]),
        (("jobs", "list", "--kind", "y"), ["yolo.train"]),
        (("workers", "stop", ""), ["sam-0", "sam-1", "yolo-0", "sam", "yolo"]),
        (("workers", "recycle", "yolo-"), ["yolo-0"]),
        (("jobs", "list", "--status", "pa"), ["pausing", "paused"]),
        (("logs", "yolo-"), ["yolo-0"]),
        (("config", "set", "api.b"), ["api.bind"]),
        (("jobs", "pa"), ["pause"]),
        (("completion", "b"), ["bash"]),
    ],
)
@pytest.mark.usefixtures("patience")
def test_a_word_is_completed_from_what_the_supervisor_knows(tmp_path: Path, words: tuple[str, ...], found: list[str]) -> None:
    with Scripted(tmp_path, ANSWERS).answering():
        assert completed(tmp_path, *words) == found


@pytest.mark.parametrize(
    ("command", "statuses"),
    [("cancel", ["queued", "preparing", "running", "pausing", "paused", "cancelling"]), ("resume", ["pausing", "paused"]), ("show", [])],
)
@pytest.mark.usefixtures("patience")
def test_only_jobs_are_offered_that_the_command_is_for(tmp_path: Path, command: str, statuses: list[str]) -> None:
    with Scripted(tmp_path, ANSWERS).answering() as warden:
        completed(tmp_path, "jobs", command, "")

    assert warden.asked == [("jobs.page", {"statuses": statuses, "limit": 50})]


def test_nobody_there_is_silence(tmp_path: Path) -> None:
    Scripted(tmp_path, {})

    assert completed(tmp_path, "jobs", "cancel", "") == []
    (tmp_path / "supervisor.toml").write_text("not TOML")
    assert completed(tmp_path, "workers", "stop", "") == []
    assert completed(tmp_path, "config", "set", "") == []
    assert completed(tmp_path / "nowhere", "jobs", "submit", "") == []


@pytest.mark.slow
@pytest.mark.parametrize("answer", [always(SILENCE), refuses("failed", "the job store does not answer"), always({"of": "another shape"})])
def test_no_answer_in_time_or_a_strange_one_is_silence(tmp_path: Path, answer: Any) -> None:
    with Scripted(tmp_path, {"jobs.page": answer}).answering():
        assert completed(tmp_path, "jobs", "cancel", "") == []


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell_is_printed_and_names_the_program(shell: str) -> None:
    done = subprocess.run([WARDEN, "completion", shell], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert f"_WARDEN_COMPLETE={shell}_complete" in done.stdout
    assert "warden" in done.stdout


@pytest.mark.slow
def test_what_bash_asks_is_answered(tmp_path: Path) -> None:
    end_s = time.monotonic() + WITHIN_S
    with Scripted(tmp_path, ANSWERS).answering() as warden:
        done = None
        while done is None or (not done.stdout and time.monotonic() < end_s):  # a slow machine may take longer than it waits: who gets nothing asks again
            done = warden.cli(env={"_WARDEN_COMPLETE": "bash_complete", "COMP_WORDS": "warden jobs cancel j-", "COMP_CWORD": "3"})

    assert done.stdout.split() == ["plain,j-1", "plain,j-22"]
