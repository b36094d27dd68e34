"""Whole trees: every kind of process that is hard to get rid of is found and ended, nobody else is touched, and what cannot be proved is left alone."""

import asyncio
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from supervisor.adapters import proc, spawning
from supervisor.adapters.cgroups import Leaf, prefix_of
from supervisor.adapters.trees import Record
from supervisor.core.events import TreeGone
from supervisor.core.model import Exit
from supervisor.runtime.process_ports import SpawnError
from tests.support.kept import NAME, PARENT, WITHIN_S, Kept
from tests.support.live import alive
from workers.fake_tree import KINDS, RENAMED

pytestmark = [pytest.mark.asyncio, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")


@pytest.fixture
def bystander() -> Iterator[int]:
    """A process of somebody else, with the name of one of ours."""
    with subprocess.Popen(RENAMED, executable="/bin/sleep", env={}, start_new_session=True) as process:
        yield process.pid
        assert process.poll() is None, "somebody else's process was ended"
        process.kill()


def seen_of(pid: int) -> proc.Seen:
    seen = proc.look(pid)
    assert seen is not None
    return seen


async def family(kept: Kept) -> tuple[int, dict[str, int]]:
    """Return the pid of a leader and of each of its family, once each has become what it is."""
    folder = kept.folder / "family"
    script = 'trap "exit 0" TERM; PYTHONPATH="$2" "$0" -P -m workers.fake_tree "$1" & wait'
    pid = await kept.spawn("sh", "-c", script, sys.executable, str(folder), str(ROOT))
    await kept.until(lambda: folder.is_dir() and len(list(folder.iterdir())) == len(KINDS))
    members = {kind: int((folder / kind).read_text()) for kind in KINDS}
    await kept.until(lambda: seen_of(members["stopped"]).state == "T")
    await kept.until(lambda: seen_of(members["renamed"]).name == "sleep")
    return pid, members


def parent_of(pid: int) -> int:
    return seen_of(pid).ppid


@pytest.mark.parametrize("end", ["asked to stop", "killed by us", "crashed"])
async def test_nobody_of_a_family_outlives_its_leader_and_a_namesake_of_somebody_else_is_not_touched(
    kept: Kept, bystander: int, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.adapters.processes._LOOK_MAX_S", WITHIN_S)  # the look before the signal, on a slow machine
    pid, members = await family(kept)

    if end == "asked to stop":
        await kept.processes.terminate(NAME, 1)
    elif end == "killed by us":
        await kept.processes.kill(NAME, 1)
    else:
        os.kill(pid, signal.SIGKILL)
    await kept.exit()
    gone = await kept.processes.prove_gone(NAME, 1, WITHIN_S)

    assert isinstance(gone, TreeGone)
    assert not {kind: one for kind, one in members.items() if alive(one)}
    assert alive(bystander)


async def test_who_lost_tag_and_parent_before_the_end_is_found_by_its_cgroup_or_by_an_earlier_look(kept: Kept, bystander: int) -> None:
    _, members = await family(kept)
    if kept.leaves_in is None:
        await kept.processes.memory()  # as every look_every
    parent = parent_of(members["renamed"])
    os.kill(parent, signal.SIGKILL)
    await kept.until(lambda: parent_of(members["renamed"]) != parent)

    await kept.exit()
    await kept.processes.prove_gone(NAME, 1, WITHIN_S)

    assert not alive(members["renamed"])
    assert alive(bystander)


async def test_the_memory_of_a_tree_is_read_once_for_those_who_ask_together(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.adapters.tree_meter._SHARED_S", WITHIN_S)  # together, however far apart a slow machine puts them
    await family(kept)

    first, second = await asyncio.gather(kept.processes.memory(), kept.processes.memory())

    assert first is second
    assert first[NAME] > 0


async def test_nobody_is_born_outside_of_the_cgroup(kept: Kept) -> None:
    if kept.leaves_in is None:
        pytest.skip("there is none")
    _, members = await family(kept)

    inside = Leaf(kept.leaves_in / f"{prefix_of(kept.folder / 'run')}{NAME}-1").pids()

    assert set(members.values()) <= set(inside)


@pytest.mark.skipif(PARENT is None, reason="no cgroup can be made on this machine")
async def test_what_a_member_makes_below_the_cgroup_goes_with_it(kept: Kept) -> None:
    if kept.leaves_in is None:
        pytest.skip("there is none")
    inner = kept.leaves_in / f"{prefix_of(kept.folder / 'run')}{NAME}-1" / "inner"
    await kept.spawn("sh", "-c", 'mkdir "$0"; echo 0 > "$0/cgroup.procs"; echo up; sleep 60', str(inner))
    await kept.until(lambda: (inner / "cgroup.procs").exists() and (inner / "cgroup.procs").read_text())

    await kept.processes.kill(NAME, 1)
    await kept.exit()

    assert isinstance(await kept.processes.prove_gone(NAME, 1, WITHIN_S), TreeGone)
    assert not inner.parent.exists()


async def test_who_writes_itself_out_of_the_cgroup_is_found_all_the_same(kept: Kept) -> None:
    if kept.leaves_in is None or not os.access(kept.leaves_in / "cgroup.procs", os.W_OK):
        pytest.skip("there is nothing to get out of")
    out = kept.folder / "out"
    script = 'setsid sh -c \'echo 0 > "$0/cgroup.procs"; echo $$ > "$1"; exec sleep 60\' "$0" "$1" & wait'
    leader = await kept.spawn("sh", "-c", script, str(kept.leaves_in), str(out))
    await kept.until(lambda: out.exists() and out.read_text().endswith("\n"))
    pid = int(out.read_text())
    assert pid not in Leaf(kept.leaves_in / f"{prefix_of(kept.folder / 'run')}{NAME}-1").pids()

    os.kill(leader, signal.SIGKILL)
    await kept.exit()
    gone = await kept.processes.prove_gone(NAME, 1, WITHIN_S)

    assert isinstance(gone, TreeGone)
    assert gone.swept == 1
    assert not alive(pid)


async def test_a_cgroup_that_cannot_be_made_or_joined_is_done_without(tmp_path: Path) -> None:
    for place in (tmp_path / "nowhere", tmp_path):  # the second can be made, but is no cgroup
        kept = Kept(tmp_path, place)

        pid = await kept.spawn("sleep", "60")

        assert kept.processes._records[NAME, 1].cgroup == ""
        await kept.processes.kill(NAME, 1)
        await kept.exit()
        assert isinstance(await kept.processes.prove_gone(NAME, 1, WITHIN_S), TreeGone)
        assert not alive(pid)


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT", "USR1", "USR2"])
async def test_the_stop_signal_is_the_one_that_was_named(kept: Kept, name: str) -> None:
    wanted = f"{{signal.SIG{name}}}"  # blocked and waited for: a handler might run before the wait begins, and the wait then last for ever
    code = f"import signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, {wanted}); print('up', flush=True); signal.sigwait({wanted}); sys.exit(42)"
    await kept.spawn(sys.executable, "-S", "-c", code)
    await kept.until(lambda: "up" in (kept.folder / "tool.log").read_text())

    await kept.processes.terminate(NAME, 1, name)

    assert await kept.exit() == Exit("code", 42)


@needs_root
async def test_a_program_runs_as_the_user_that_was_named_with_nothing_of_ours_left(kept: Kept) -> None:
    nobody = pwd.getpwnam("nobody")
    launch = msgspec.structs.replace(
        kept.launch("sh", "-c", "id -u; id -g; id -G; echo $HOME $USER; cat /proc/self/loginuid > /dev/null; umask"), user="nobody"
    )

    await kept.processes.spawn(launch)
    await kept.exit()

    uid, gid, groups, names, mask = (kept.folder / "tool.log").read_text().splitlines()
    assert (int(uid), int(gid)) == (nobody.pw_uid, nobody.pw_gid)
    assert set(map(int, groups.split())) == set(os.getgrouplist("nobody", nobody.pw_gid))
    assert names == f"{nobody.pw_dir} nobody"
    assert mask == "0077"


@needs_root
@pytest.mark.parametrize(
    ("user", "argv", "path", "says"),
    [
        ("no-such-user", ("true",), None, 'there is no user "no-such-user" on this machine: add it, or correct user'),
        ("$(id)", ("true",), None, 'user "$(id)" is no user\'s name'),
        ("nobody", ("no-such-program",), None, "command not found or not executable for nobody: no-such-program"),
        ("nobody", ("true",), "id", 'user "nobody" found, but there is no setpriv to become that user: install util-linux'),
    ],
)
async def test_a_user_that_cannot_be_become_is_said(kept: Kept, user: str, argv: tuple[str, ...], path: str | None, says: str) -> None:
    env = {}
    if path:  # a PATH with this program alone
        (kept.folder / "bin").mkdir()
        (kept.folder / "bin" / path).symlink_to(f"/usr/bin/{path}")
        env = {"PATH": str(kept.folder / "bin")}

    with pytest.raises(SpawnError) as refused:
        await kept.processes.spawn(msgspec.structs.replace(kept.launch(*argv, env=env), user=user))

    assert str(refused.value) == says


@needs_root
async def test_a_user_is_refused_where_we_are_not_root(kept: Kept) -> None:
    shim = ["/bin/sh", "-c", spawning._SCRIPT, "warden-shim", "/dev/null", "0077", "0", "", "daemon", "/", "true"]
    code = f"import os; os.setgid(65534); os.setuid(65534); os.execv('/bin/sh', {shim!r})"

    ended = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=False)  # noqa: ASYNC221  # a moment

    assert ended.returncode == 126
    assert ended.stderr == 'user "daemon" found, but only root can become somebody else: run warden as root, or take it out\n'


async def test_the_shim_changes_nothing_of_the_programs_environment(kept: Kept) -> None:
    await kept.processes.spawn(kept.launch("env", env={"log": "mine", "user": "mine", "umask": "mine", "leaf": "mine"}))
    await kept.exit()

    lines = (kept.folder / "tool.log").read_text().splitlines()
    assert {"log=mine", "user=mine", "umask=mine", "leaf=mine"} <= set(lines)
    assert not [line for line in lines if line.lower().startswith("warden_") and not line.startswith("WARDEN_TAG=")]


async def test_evidence_tells_the_children_and_who_of_them_is_stopped(kept: Kept) -> None:
    pid, members = await family(kept)
    os.killpg(members["bearing"], signal.SIGKILL)  # its children would fill the list, which names twenty
    await kept.until(lambda: not [seen for seen in proc.everyone() if seen.session == members["bearing"] and seen.state not in "ZX"])

    seen = await kept.processes.evidence(NAME, 1)

    assert seen.process.startswith(f"pid {pid} is sleeping")
    assert "children: " in seen.process
    assert f"{members['plain']} " in seen.process
    assert f"{members['renamed']} sleep" in seen.process
    assert " (stopped)" in seen.process


async def test_many_processes_that_do_not_answer_keep_no_proof_waiting(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.adapters.evidence.BUDGET_S", 2 * WITHIN_S)  # they wait for as long as the proof takes on a slow machine
    code = """
import os, signal
signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b"asked\\n"))  # it catches, and never writes a stack
os.write(1, b"up\\n")
while True: signal.pause()
"""
    for generation in range(1, 8):
        await kept.spawn(sys.executable, "-S", "-c", code, generation=generation)
    pid = await kept.spawn("sleep", "60", generation=8)
    log = kept.folder / "tool.log"
    await kept.until(lambda: log.read_text().count("up") == 7)

    looks = [asyncio.ensure_future(kept.processes.evidence(NAME, generation)) for generation in range(1, 8)]
    await kept.until(lambda: log.read_text().count("asked") == 7)  # side by side: not one of them has ended
    os.kill(pid, signal.SIGKILL)
    await kept.exit()
    gone = await kept.processes.prove_gone(NAME, 8, WITHIN_S)
    ended = [look.done() for look in looks]
    with log.open("a") as file:
        file.write("Thread 0x1\n")  # as a stack begins: they have their answer, and end
    await asyncio.gather(*looks)

    assert isinstance(gone, TreeGone)
    assert not any(ended)


async def test_a_process_that_never_answers_is_not_waited_for_longer_than_the_budget(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.adapters.evidence.BUDGET_S", 0.8)
    code = "import signal; signal.signal(signal.SIGUSR1, lambda *_: None); print('up', flush=True)\nwhile True: signal.pause()"
    await kept.spawn(sys.executable, "-S", "-c", code)
    await kept.until(lambda: "up" in (kept.folder / "tool.log").read_text())

    async with asyncio.timeout(WITHIN_S):
        seen = await kept.processes.evidence(NAME, 1)

    assert seen.stack == ""
    assert seen.process.endswith("; no stack: it did not answer SIGUSR1")


async def test_a_process_that_was_spawned_but_not_written_down_is_taken_back(kept: Kept) -> None:
    pid = await kept.spawn("sleep", "60", generation=3)
    path = kept.folder / "run" / "tool-0.json"
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(kept.processes._records[NAME, 3], pid=0, start_ticks=0)))

    later = kept.later()
    (taken,) = await later.adopt({NAME})

    assert (taken.worker, taken.generation, taken.pid) == (NAME, 3, pid)
    assert msgspec.json.decode(path.read_bytes(), type=Record).pid == pid
    await later.terminate(NAME, 3)
    assert {await kept.exit(), await kept.exit()} == {Exit("signal", 15, "SIGTERM"), Exit("unknown")}, "each of the two supervisors sees its end in its own way"
    assert isinstance(await later.prove_gone(NAME, 3, WITHIN_S), TreeGone)


async def test_a_tree_that_stands_still_goes_on_when_it_is_taken_back(kept: Kept) -> None:
    await kept.spawn("sh", "-c", "sleep 60 & wait")
    members = kept.processes._records[NAME, 1].members
    await kept.until(lambda: len(members()) == 2)
    for member in members():
        os.kill(member.pid, signal.SIGSTOP)  # as a supervisor that ended in the middle of a kill
    await kept.until(lambda: {member.state for member in members()} == {"T"})

    await kept.later().adopt({NAME})

    await kept.until(lambda: {member.state for member in members()} == {"S"})


async def test_an_adopted_group_hears_the_stop_signal_as_a_whole(kept: Kept) -> None:
    log = kept.folder / "tool.log"
    await kept.spawn("sh", "-c", 'trap : TERM; sh -c "trap \\"echo heard; exit 0\\" TERM; echo up; while :; do sleep 0.02; done" & wait; wait')
    await kept.until(lambda: "up" in log.read_text())
    later = kept.later()
    await later.adopt({NAME})

    await later.terminate(NAME, 1)

    await kept.until(lambda: "heard" in log.read_text())


async def test_what_is_not_provably_ours_is_left_alone_and_said(kept: Kept) -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as stranger:  # noqa: ASYNC220  # it stands for somebody else's
        seen = proc.look(stranger.pid)
        assert seen is not None
        record = Record(worker=NAME, generation=1, token="t", tag="old", log="", boot_id=proc.boot_id(), pid=stranger.pid, start_ticks=seen.start_ticks - 5)
        (kept.folder / "run" / "tool-0.json").write_bytes(msgspec.json.encode(record))
        (kept.folder / "run" / "torn-0.json").write_text('{"worker": "to')
        later = kept.later()

        assert await later.adopt({NAME}) == []
        assert await later.end_survivors() == {}

        assert stranger.poll() is None
        stranger.kill()
    said = dict(later.strangers)
    assert said[NAME] == f"pid {stranger.pid} (sleep) is left alone: an earlier supervisor wrote that pid down, but it is another process by now"
    assert "torn-0.json cannot be read" in said["torn-0"]  # type: ignore[index]  # the name as it stands in the folder


async def test_a_record_that_names_a_cgroup_of_somebody_else_ends_nobody_in_it(kept: Kept) -> None:
    if kept.leaves_in is None:
        pytest.skip("there is none")
    other = kept.leaves_in / f"warden-test-{os.getpid()}"
    other.mkdir()
    try:
        with subprocess.Popen(["sh", "-c", 'echo 0 > "$0/cgroup.procs"; exec sleep 60', str(other)], start_new_session=True) as stranger:  # noqa: ASYNC220  # somebody else's
            await kept.until((other / "cgroup.procs").read_text)
            record = Record(worker=NAME, generation=1, token="t", tag="old", log="", boot_id=proc.boot_id(), cgroup=str(other))
            (kept.folder / "run" / "tool-0.json").write_bytes(msgspec.json.encode(record))

            assert await kept.later().end_survivors() == {}

            assert stranger.poll() is None
            stranger.kill()
    finally:
        await kept.until(lambda: not Leaf(other).pids())
        other.rmdir()


async def test_cgroups_that_an_earlier_supervisor_left_are_removed_and_inhabited_ones_are_said(kept: Kept) -> None:
    if kept.leaves_in is None:
        pytest.skip("there is none")
    prefix = prefix_of(kept.folder / "run")
    empty, inhabited = (Leaf(kept.leaves_in / f"{prefix}old-0-{number}") for number in (1, 2))
    empty.make()
    inhabited.make()
    with subprocess.Popen(["sh", "-c", 'echo 0 > "$0/cgroup.procs"; exec sleep 60', str(inhabited.path)]) as stranger:  # noqa: ASYNC220  # nobody wrote it down
        await kept.until(inhabited.pids)
        later = kept.later()

        await later.end_survivors()

        assert not empty.path.exists()
        assert stranger.poll() is None
        assert [(worker, str(stranger.pid) in sentence) for worker, sentence in later.strangers] == [("old-0", True)]
        stranger.kill()
    await kept.until(inhabited.empty)
    inhabited.remove()
