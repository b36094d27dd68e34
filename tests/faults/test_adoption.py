"""The supervisor is killed at every moment of a worker's life: what ran runs on under the same pid, every job ends once, and what is not ours is left alone."""

import json
import os
import signal
import sqlite3
import subprocess
import time
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import pytest

from supervisor.adapters import proc
from tests.support.live import FAKE, ONE_WORKER, Live, MakeLive, alive

pytestmark = [pytest.mark.faults, pytest.mark.slow]

QUICK = '[watchdog]\nstop_grace = "1s"\n'
STALLS = '[watchdog]\nstop_grace = "1s"\nstall_after = "5s"\n'
SILENT = '[watchdog]\nstop_grace = "1s"\nsilent_after = "5s"\n'
"""One clock is short, the one that a test is about: a starved process must not be judged by the other."""


def leader(warden: Live, name: str = "sam-0") -> int:
    """Return the pid of a worker that is up."""
    assert warden.holds(lambda: warden.worker(name).state in {"ready", "busy"})
    pid = warden.worker(name).pid
    assert pid is not None
    return pid


def again(warden: Live) -> int:
    """Kill the supervisor, start it anew, and return the mark between the two."""
    warden.kill()
    mark = warden.mark()
    warden.start()
    return mark


def adopted(warden: Live, mark: int, name: str = "sam-0") -> int:
    """Return the pid that was taken back."""
    return int(warden.wait_for_event("worker_adopted", worker=name, after=mark)["pid"])


def ended_once(warden: Live, name: str) -> None:
    """Check that one end was said of a job, whichever supervisor said it."""
    warden.wait_for_event(f"job_{warden.job(name).status}", job=name)  # written a moment after the answer
    ends = [event for end in ("job_completed", "job_failed", "job_cancelled") for event in warden.seen(end, job=name)]
    assert len(ends) == 1, ends


def test_killed_while_a_worker_starts(live: MakeLive) -> None:
    warden = live(ONE_WORKER + "options = { load_s = 2.0 }\n")
    pid = warden.wait_for_event("worker_spawned", worker="sam-0")["pid"]

    mark = again(warden)

    assert adopted(warden, mark) == pid
    assert warden.wait_for_job(warden.submit(steps=1)).result["pid"] == pid
    assert warden.worker("sam-0").generation == 1


def test_killed_while_a_worker_is_idle_and_while_a_program_runs(live: MakeLive) -> None:
    warden = live(ONE_WORKER + '[workers.tool]\ncommand = ["sleep", "3600"]\nprogress = "none"\n')
    pids = [leader(warden), leader(warden, "tool-0")]

    mark = again(warden)

    assert [adopted(warden, mark), adopted(warden, mark, "tool-0")] == pids
    assert warden.wait_for_job(warden.submit(steps=1)).result["pid"] == pids[0]
    assert warden.worker("tool-0").state == "ready"
    assert len(warden.ours()) == 2


def test_killed_again_and_again_while_a_worker_is_busy(live: MakeLive) -> None:
    warden = live()
    name = warden.submit(steps=250, step_s=0.05)  # it must outlast three starts
    pid = leader(warden)

    def went_on(seen: float) -> bool:
        job = warden.job(name)
        return job.done > seen or job.status == "completed"  # what was done while nobody listened is not told any more, only its result

    for _ in range(3):
        seen = warden.job(name).done
        again(warden)
        assert warden.holds(partial(went_on, seen)), warden.job(name)
    job = warden.wait_for_job(name)

    assert (job.status, job.attempt, job.result["pid"], job.result["from"]) == ("completed", 1, pid, 0)
    ended_once(warden, name)
    assert len(warden.ours()) == 1


def test_killed_while_a_worker_drains(live: MakeLive) -> None:
    warden = live()
    name = warden.submit(steps=150, step_s=0.05)  # it must outlast a start
    pid = leader(warden)
    warden.ask("workers.restart", name="sam-0")
    warden.wait_for_event("worker_draining", worker="sam-0")

    mark = again(warden)
    job = warden.wait_for_job(name)

    assert adopted(warden, mark) == pid
    assert (job.status, job.attempt, job.result["pid"]) == ("completed", 1, pid)
    ended_once(warden, name)
    assert warden.wait_for_job(warden.submit(steps=1)).result["pid"] != pid, "it leaves all the same, as it was asked to"
    assert not alive(pid)


def test_killed_while_a_worker_is_being_killed(live: MakeLive) -> None:
    warden = live(STALLS.replace('stop_grace = "1s"', 'stop_grace = "60s"') + ONE_WORKER)
    name = warden.submit(fault="deaf")
    warden.wait_for_event("worker_stalled", worker="sam-0")
    pid = warden.worker("sam-0").pid
    assert warden.holds(lambda: warden.worker("sam-0").clocks == [] and warden.worker("sam-0").state == "stopping")

    config = warden.folder / "supervisor.toml"
    warden.kill()
    config.write_text(config.read_text().replace('"60s"', '"1s"'))
    mark = warden.mark()
    warden.start()
    job = warden.wait_for_job(name)

    assert adopted(warden, mark) == pid
    assert (job.status, job.reason, job.attempt) == ("failed", "stalled", 1)
    warden.wait_for_event("worker_killed", worker="sam-0", after=mark)
    ended_once(warden, name)
    warden.wait_for_event("worker_spawned", worker="sam-0", generation=2)
    assert not alive(pid or 0)


def test_killed_between_spawn_and_record(live: MakeLive) -> None:
    warden = live(start=False)
    path = warden.state_dir / "run" / "sam-0.json"
    caught = 0
    for _ in range(4):
        mark = warden.mark()
        warden.start()
        end_s = time.monotonic() + 10
        while time.monotonic() < end_s and not warden.seen("worker_adopted", after=mark):  # nothing tells of the moment: the folder is watched
            with suppress(FileNotFoundError):  # not there yet, or renamed since
                if json.loads(path.read_bytes())["pid"] == 0:
                    caught += 1
                    break
            if warden.seen("worker_spawned", after=mark):
                break
        warden.kill()
    mark = warden.mark()
    warden.start()

    assert warden.wait_for_job(warden.submit(steps=1)).status == "completed"
    assert len(warden.ours()) == 1, f"caught in the middle {caught} times"


def test_a_result_that_came_while_nobody_listened_is_delivered(live: MakeLive) -> None:
    warden = live()
    name = warden.submit(steps=80, step_s=0.05, checkpoint=True)  # it must outlast the look that finds it begun
    assert warden.holds(lambda: warden.job(name).done >= 3)
    pid = leader(warden)

    warden.kill()
    checkpoint = warden.state_dir / "jobs" / name / "checkpoint"
    assert warden.holds(lambda: checkpoint.read_text() == "80")
    warden.start()
    job = warden.wait_for_job(name)

    assert (job.status, job.attempt, job.result["pid"]) == ("completed", 1, pid)
    ended_once(warden, name)


def test_a_fence_that_was_given_out_and_not_written_down_is_given_out_to_nobody_else(live: MakeLive) -> None:
    warden = live(ONE_WORKER + 'gpu = "1GiB"\nautostart = false\n')
    with closing(sqlite3.connect(warden.state_dir / "jobs.sqlite")) as store:
        before = store.execute("SELECT name, fence FROM fences").fetchall()
    warden.ask("workers.start", name="sam")
    first = warden.wait_for_event("lease_granted", worker="sam-0")["fence"]
    warden.kill()
    with closing(sqlite3.connect(warden.state_dir / "jobs.sqlite")) as store, store:  # as if it had been killed a moment earlier
        store.execute("DELETE FROM leases")
        store.execute("DELETE FROM fences")
        store.executemany("INSERT INTO fences (name, fence) VALUES (?, ?)", before)
    mark = warden.mark()

    warden.start(env={"WARDEN_SUPERVISOR__ON_CRASH": "kill"})

    assert warden.wait_for_event("lease_granted", after=mark, worker="sam-0")["fence"] > first


def test_a_lease_is_kept_with_its_fence(live: MakeLive) -> None:
    other = f'[workers.other]\n{FAKE}\nserves = ["demo.other"]\ngpu = "15GiB"\nresident = false\n'
    warden = live(ONE_WORKER + 'gpu = "15GiB"\n' + other)
    name = warden.submit(steps=250, step_s=0.05)  # it must outlast a start
    assert warden.holds(lambda: warden.job(name).done >= 3)
    (before,) = warden.status().devices[0].holders
    waiting = warden.submit("demo.other", steps=1)

    again(warden)

    (after,) = warden.status().devices[0].holders
    assert (after.owner, after.fence, after.pid) == (before.owner, before.fence, before.pid)
    first, second = warden.wait_for_job(name), warden.wait_for_job(waiting)
    assert (first.status, first.attempt, second.status) == ("completed", 1, "completed")
    granted = warden.told("lease_granted", worker="other-0")
    assert all(event["fence"] > before.fence for event in granted)


def test_a_leader_that_died_meanwhile_is_swept_and_its_job_is_tried_again(live: MakeLive) -> None:
    warden = live(QUICK + ONE_WORKER)
    warden.wait_for_job(warden.submit(fault="family", steps=1))
    name = warden.submit(steps=100, step_s=0.05, checkpoint=True)  # it must outlast the looks before the kill
    assert warden.holds(lambda: warden.job(name).done >= 6)  # a step is saved after it was told: the fifth is
    pid = leader(warden)
    old = warden.ours()

    warden.kill()
    os.kill(pid, signal.SIGKILL)
    mark = warden.mark()
    warden.start()
    job = warden.wait_for_job(name)

    assert warden.wait_for_event("worker_swept", worker="sam-0", after=mark)
    assert not [one for one in old if alive(one)]
    assert (job.status, job.attempt) == ("completed", 2)
    assert job.result["from"] >= 5
    ended_once(warden, name)


def test_a_worker_that_the_file_no_longer_names_is_ended(live: MakeLive) -> None:
    warden = live(ONE_WORKER + f'[workers.other]\n{FAKE}\nserves = ["demo.other"]\n')
    pid, other = leader(warden), leader(warden, "other-0")
    warden.kill()
    config = warden.folder / "supervisor.toml"
    config.write_text(config.read_text().partition("[workers.other]")[0])
    mark = warden.mark()

    warden.start()

    assert adopted(warden, mark) == pid
    assert warden.wait_for_event("worker_swept", worker="other-0", after=mark)
    assert not alive(other)


def test_a_pid_that_is_somebody_elses_by_now_is_left_alone_and_said(live: MakeLive) -> None:
    warden = live()
    pid = leader(warden)
    warden.kill()
    os.kill(pid, signal.SIGKILL)
    with subprocess.Popen(["sleep", "3600"], start_new_session=True) as stranger:
        record = warden.state_dir / "run" / "sam-0.json"
        seen = proc.look(stranger.pid)
        assert seen is not None
        record.write_text(record.read_text().replace(f'"pid":{pid}', f'"pid":{stranger.pid}'))
        mark = warden.mark()

        warden.start()

        note = warden.wait_for_event("worker_note", worker="sam-0", after=mark)
        assert note["level"] == "warning"
        assert f"pid {stranger.pid} (sleep) is left alone" in note["reason"]
        assert warden.wait_for_job(warden.submit(steps=1)).status == "completed"
        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.parametrize(("fault", "reason"), [("stall", "stalled"), ("hang", "silent")])
def test_an_adopted_worker_that_goes_wrong_is_handled_like_any_other(live: MakeLive, fault: str, reason: str) -> None:
    warden = live((STALLS if fault == "stall" else SILENT) + ONE_WORKER)
    name = warden.submit(steps=400, step_s=0.05, fault=fault, at=60)
    assert warden.holds(lambda: warden.job(name).done >= 3)
    pid = leader(warden)

    mark = again(warden)
    job = warden.wait_for_job(name)

    assert adopted(warden, mark) == pid
    assert (job.status, job.reason) == ("failed", reason)
    assert job.error is not None
    assert "_stand_still" in job.error.stack or "_go_wrong" in job.error.stack
    warden.wait_for_event("worker_spawned", worker="sam-0", generation=2)
    assert not alive(pid)


def test_an_adopted_worker_that_crashes_has_an_unknown_exit_and_its_job_goes_on(live: MakeLive) -> None:
    warden = live(QUICK + ONE_WORKER)
    warden.wait_for_job(warden.submit(fault="family", steps=1))
    name = warden.submit(steps=200, step_s=0.05, checkpoint=True)  # it must outlast a start
    assert warden.holds(lambda: warden.job(name).done >= 3)
    pid = leader(warden)
    old = warden.ours()

    mark = again(warden)
    adopted(warden, mark)
    os.kill(pid, signal.SIGKILL)
    job = warden.wait_for_job(name)

    assert "exit unknown" in warden.wait_for_event("worker_exited", worker="sam-0", after=mark)["reason"]
    assert (job.status, job.attempt) == ("completed", 2)
    assert not [one for one in old if alive(one)]


def test_an_adopted_worker_hears_sigterm(live: MakeLive) -> None:
    warden = live(
        ONE_WORKER + '[workers.tool]\ncommand = ["sh", "-c", "trap \'exit 0\' USR1; while :; do sleep 0.05; done"]\nprogress = "none"\nstop_signal = "USR1"\n'
    )
    pids = [leader(warden), leader(warden, "tool-0")]

    mark = again(warden)
    adopted(warden, mark)
    assert warden.stop() == 0

    assert not [pid for pid in pids if alive(pid)]
    assert not warden.seen("worker_killed", after=mark), "each left by itself, as it was asked to"


def test_a_worker_that_no_supervisor_comes_back_for_saves_and_ends_itself(live: MakeLive) -> None:
    warden = live(start=False)
    config = warden.folder / "supervisor.toml"
    config.write_text(config.read_text().replace("[supervisor]\n", '[supervisor]\norphan_after = "10s"\n'))
    warden.start()
    name = warden.submit(steps=400, step_s=0.05, checkpoint=True)
    assert warden.holds(lambda: warden.job(name).done >= 3)
    pid = leader(warden)

    warden.kill()
    assert warden.holds(lambda: not alive(pid)), "10 s after the last word of a supervisor"
    saved = int((Path(warden.state_dir) / "jobs" / name / "checkpoint").read_text())
    warden.start()

    assert warden.holds(lambda: warden.job(name).done > saved)
    warden.ask("jobs.cancel", job=name)
    assert warden.wait_for_job(name).attempt == 2
