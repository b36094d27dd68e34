"""The state folder: private, held by one supervisor, with paths short enough for sockets."""

import os
from pathlib import Path

import pytest

from supervisor.adapters.state_dir import StateDir
from supervisor.errors import StateError, Taken
from tests.support.disk import small_disk

CONFIG = Path("/c/supervisor.toml")


def _die(state: StateDir) -> None:
    """Let go as a death does: the locks alone."""
    os.close(state._lock)
    os.close(state._log_lock)


def test_it_is_private_and_complete(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "a" / "var", tmp_path / "logs", {}, config=CONFIG)

    assert (tmp_path / "a" / "var").stat().st_mode & 0o777 == 0o700
    assert all(path.is_dir() for path in (state.run_dir, state.jobs_dir, tmp_path / "logs" / "workers"))
    assert state.sockets_dir == state.path
    state.close()


def test_a_second_one_is_refused_and_names_the_first(tmp_path: Path) -> None:
    first = StateDir(tmp_path / "var", tmp_path / "logs", {}, config=CONFIG)

    with pytest.raises(Taken, match=rf"another supervisor \(pid {os.getpid()}\) runs on"):
        StateDir(tmp_path / "var", tmp_path / "logs", {}, config=CONFIG)

    first.close()
    StateDir(tmp_path / "var", tmp_path / "logs", {}, config=CONFIG).close()


def test_a_long_path_gets_a_short_folder_that_only_we_can_enter(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    long = tmp_path / ("x" * 120)
    state = StateDir(long, tmp_path / "logs", {"XDG_RUNTIME_DIR": str(tmp_path / "run")}, config=CONFIG)

    assert state.sockets_dir.parent == tmp_path / "run"
    assert state.sockets_dir.stat().st_mode & 0o777 == 0o700
    assert (long / "sockets").read_text() == f"{state.sockets_dir}\n"
    state.close()
    assert not state.sockets_dir.exists()
    assert not (long / "sockets").exists()


def test_the_short_folder_of_one_that_was_killed_is_used_again_unless_it_became_somebody_elses(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 120)
    first = StateDir(long, tmp_path / "logs", {}, config=CONFIG)
    _die(first)

    second = StateDir(long, tmp_path / "logs", {}, config=CONFIG)
    assert second.sockets_dir == first.sockets_dir
    second.sockets_dir.chmod(0o755)
    _die(second)
    third = StateDir(long, tmp_path / "logs", {}, config=CONFIG)

    assert third.sockets_dir != second.sockets_dir
    third.close()
    second.sockets_dir.rmdir()


@pytest.mark.parametrize("taken", ["var", "logs", "var/run", "var/jobs", "logs/workers"])
def test_a_file_in_the_place_of_a_folder_is_a_sentence(tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).parent.mkdir(exist_ok=True)
    (tmp_path / taken).write_text("in the way")
    if taken.startswith("var/"):
        (tmp_path / "var" / "supervisor.lock").touch()  # it is ours all the same

    with pytest.raises(StateError, match=str(tmp_path / taken)):
        StateDir(tmp_path / "var", tmp_path / "logs", {}, config=CONFIG)


def test_a_folder_that_others_use_is_refused_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "var").chmod(0o777)
    (tmp_path / "var" / "thesis.txt").write_text("theirs")

    with pytest.raises(StateError, match=r"var: holds thesis\.txt and is no state folder of Warden's"):
        StateDir(tmp_path / "var", tmp_path / "logs", {}, config=CONFIG)

    assert (tmp_path / "var").stat().st_mode & 0o777 == 0o777
    assert [path.name for path in (tmp_path / "var").iterdir()] == ["thesis.txt"]


def test_a_shared_folder_is_refused_even_while_it_is_empty(tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "var").chmod(0o1777)

    with pytest.raises(StateError, match=r"var: is shared \(sticky\)"):
        StateDir(tmp_path / "var", tmp_path / "logs", {}, config=CONFIG)

    assert (tmp_path / "var").stat().st_mode & 0o7777 == 0o1777


@pytest.mark.parametrize("marked", [True, False])
def test_whoever_could_enter_is_shut_out_and_that_is_said(tmp_path: Path, marked: bool) -> None:
    (tmp_path / "var" / "lost+found").mkdir(parents=True)
    (tmp_path / "var").chmod(0o755)
    if marked:
        (tmp_path / "var" / "supervisor.lock").touch()
        (tmp_path / "var" / "thesis.txt").write_text("ours")

    state = StateDir(tmp_path / "var", tmp_path / "logs", {}, config=CONFIG)

    assert state.closed == f"{state.path} had mode 0755, and has 0700 now: it holds what only Warden may change"
    assert state.path.stat().st_mode & 0o777 == 0o700
    state.close()
    again = StateDir(tmp_path / "var", tmp_path / "logs", {}, config=CONFIG)
    assert again.closed == ""
    again.close()


@pytest.mark.slow
def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        (disk.folder / "var").mkdir()
        disk.fill()

        with pytest.raises(StateError, match="No space left on device: make room on its disk"):
            StateDir(disk.folder / "var", tmp_path / "logs", {}, config=CONFIG)
