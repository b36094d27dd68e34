"""Every worker gets a fresh process each recycle_after: idle ones at once, busy ones at a checkpoint, and nothing of their work is lost."""

import pytest

from tests.support.live import FAKE, ONE_WORKER, Live, MakeLive, alive

pytestmark = [pytest.mark.faults, pytest.mark.slow]

SOON = '[watchdog]\nrecycle_after = "4s"\nstop_grace = "30s"\n'
"""More than a start takes: a process that is due before it is ready does no work."""


def no_more(warden: Live) -> None:
    """Let nobody be due again."""
    config = warden.folder / "supervisor.toml"
    config.write_text(config.read_text().replace('recycle_after = "4s"', 'recycle_after = "60m"'))
    warden.wait_for_event("config_reloaded")


def test_an_idle_worker_is_renewed(live: MakeLive) -> None:
    warden = live(SOON + ONE_WORKER + 'gpu = "1GiB"\n')
    first = warden.wait_for_event("worker_spawned", worker="sam-0")["pid"]

    recycled = warden.wait_for_event("worker_recycled", worker="sam-0")
    second = warden.wait_for_event("worker_spawned", worker="sam-0", generation=2)["pid"]
    no_more(warden)

    assert "recycle_after is 4s" in recycled["reason"]
    assert second != first
    assert not alive(first)
    assert warden.holds(lambda: warden.worker("sam-0").state == "ready")
    view = warden.worker("sam-0")
    assert view.restarts["recycle"] >= 1
    assert "crash" not in view.restarts
    fences = [event["fence"] for event in warden.told("lease_granted", worker="sam-0")]
    assert len(fences) >= 2
    assert fences == sorted(set(fences)), "a fresh process has a fresh lease"
    (holder,) = warden.status().devices[0].holders
    assert holder.fence == fences[-1]


def test_a_job_with_checkpoints_goes_on_in_the_fresh_process_under_its_own_id(live: MakeLive) -> None:
    warden = live(SOON + ONE_WORKER)
    name = warden.submit(steps=120, step_s=0.05, checkpoint=True)  # longer than a process may live

    job = warden.wait_for_job(name)

    assert warden.told("worker_recycled", worker="sam-0")
    assert job.status == "completed"
    assert job.result["counted"] == 120
    assert job.result["from"] > 20, "it went on where it was, it did not start anew"
    assert len(warden.told("job_completed", job=name)) == 1
    assert len(warden.told("job_returned", job=name)) == job.attempt - 1 >= 1
    assert not warden.seen("worker_killed")


def test_a_job_without_checkpoints_is_waited_for(live: MakeLive) -> None:
    warden = live(SOON + ONE_WORKER)
    name = warden.submit(steps=120, step_s=0.05)  # longer than a process may live

    job = warden.wait_for_job(name)

    assert (job.status, job.attempt, job.result["from"]) == ("completed", 1, 0)
    drained = warden.wait_for_event("worker_draining", worker="sam-0")
    ended = warden.wait_for_event("job_completed", job=name)
    assert warden.events.index(drained) < warden.events.index(ended), "it was due while the job ran"
    warden.wait_for_event("worker_recycled", worker="sam-0")


def test_a_job_that_comes_to_no_boundary_is_returned_after_recycle_wait(live: MakeLive) -> None:
    warden = live(SOON + 'recycle_wait = "1s"\n' + ONE_WORKER)
    name = warden.submit(steps=160, step_s=0.05)  # longer than a process may live, and be waited for
    warden.wait_for_event("job_returned", job=name)

    no_more(warden)
    job = warden.wait_for_job(name)

    assert (job.status, job.attempt, job.result["from"]) == ("completed", 2, 0)
    assert any("no boundary came within recycle_wait" in event["reason"] for event in warden.seen("worker_stopping", worker="sam-0"))
    assert warden.told("worker_recycled", worker="sam-0")


def test_replicas_leave_one_after_the_other(live: MakeLive) -> None:
    warden = live(SOON + f'[workers.sam]\n{FAKE}\nserves = ["demo.count"]\nreplicas = 2\n')

    for number in (0, 1):
        warden.wait_for_event("worker_spawned", worker=f"sam-{number}", generation=3)

    away: set[str] = set()
    settled: set[str] = set()
    for event in warden.events:
        if event["event"] == "worker_ready":
            settled.add(event["worker"])
            away.discard(event["worker"])
        elif event["event"] == "worker_draining" and len(settled) == 2:
            away.add(event["worker"])
            assert len(away) == 1, f"both are away at {event['timestamp']}"


def test_a_recycle_by_hand_waits_for_a_checkpoint_and_is_counted_as_one(live: MakeLive) -> None:
    warden = live()
    name = warden.submit(steps=200, step_s=0.05, checkpoint=True)  # it must outlast the start of a command
    assert warden.holds(lambda: warden.job(name).done >= 6)  # a step is saved after it was told: the fifth is
    first = warden.worker("sam-0").pid

    asked = warden.cli("workers", "recycle", "sam")
    job = warden.wait_for_job(name)

    assert asked.stdout == "sam-0: gets a fresh process at the next boundary of its work; watch it with: warden status\n"
    assert (job.status, job.attempt, job.result["counted"]) == ("completed", 2, 200)
    assert job.result["from"] >= 5
    assert warden.wait_for_event("worker_recycled", worker="sam-0")["reason"] == "asked for by the operator"
    assert warden.worker("sam-0").restarts == {"recycle": 1}
    assert warden.worker("sam-0").pid != first
    assert not warden.seen("worker_killed")


def test_a_recycle_of_what_has_no_process_is_refused_with_why(live: MakeLive) -> None:
    warden = live(ONE_WORKER + "autostart = false\n")

    refused = warden.cli("workers", "recycle", "sam")

    assert refused.returncode == 1
    assert refused.stderr == "there is no process to recycle: sam-0 is down; the next one is a fresh one\n"
