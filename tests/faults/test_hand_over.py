"""SAM and YOLO on one device: who leaves, the proof, who comes back; and the refusal when somebody does not leave."""

import os
import signal

import pytest

from tests.support.live import FAKE, Live, MakeLive, alive

pytestmark = [pytest.mark.faults, pytest.mark.slow]


def two_models(*, sam: str = "", gpu: str = "", head: str = "") -> str:
    """Return the configuration: a resident sam, and a yolo that comes for jobs."""
    return f"""
{head}
[gpu]
{gpu}
[workers.sam]
{FAKE}
serves = ["demo.count"]
gpu = "14GiB"
{sam}
[workers.yolo]
{FAKE}
serves = ["demo.train"]
gpu = "8GiB"
priority = 15
resident = false
"""


def sam_pid(warden: Live) -> int:
    """Return sam's pid once it is ready."""
    assert warden.holds(lambda: warden.worker("sam-0").state == "ready")
    pid = warden.worker("sam-0").pid
    assert pid is not None
    return pid


def test_a_training_gets_the_device_after_sam_is_proved_off_it_and_sam_comes_back(live: MakeLive) -> None:
    warden = live(two_models())
    pid = sam_pid(warden)
    mark = warden.mark()

    job = warden.wait_for_job(warden.submit("demo.train", steps=5))

    assert job.status == "completed"
    vacated = warden.wait_for_event("gpu_vacated", worker="yolo-0", after=mark)
    warden.wait_for_event("worker_spawned", worker="yolo-0", after=mark)
    assert vacated["reason"] == "sam-0 left"
    assert {"exit_s", "gone_s", "back_s", "proof_s", "free_bytes", "polls"} <= set(vacated)
    order = [event["event"] for event in warden.events[mark:] if event["event"] in {"worker_stopped", "gpu_vacated", "lease_granted", "worker_spawned"}]
    assert order[:4] == ["worker_stopped", "gpu_vacated", "lease_granted", "worker_spawned"]
    assert not alive(pid)
    assert sam_pid(warden) != pid
    assert not alive(job.result["pid"])
    fences = [event["fence"] for event in warden.told("lease_granted")]
    assert fences == sorted(set(fences))


def test_a_busy_sam_finishes_its_job_first(live: MakeLive) -> None:
    warden = live(two_models())
    sam_pid(warden)
    busy = warden.submit("demo.count", steps=60, step_s=0.1)  # it must outlast the looks at the one that waits
    warden.wait_for_event("job_started", job=busy)

    training = warden.submit("demo.train", steps=2)
    waiting = warden.wait_for_job(training, "queued")
    done = warden.wait_for_job(training)

    assert waiting.reason == "waiting_for_gpu"
    assert f"sam-0 holds host and is busy with {busy}" in waiting.message
    assert done.status == "completed"
    assert warden.job(busy).status == "completed"
    assert (warden.job(busy).completed_at or "") <= (done.started_at or "")


def test_a_sam_that_is_still_starting_makes_room_at_once(live: MakeLive) -> None:
    warden = live(two_models(sam="options = { load_s = 3600.0 }"))
    warden.wait_for_event("worker_spawned", worker="sam-0")

    job = warden.wait_for_job(warden.submit("demo.train", steps=2))

    assert job.status == "completed"
    warden.wait_for_event("worker_spawned", worker="sam-0", generation=2)


def test_a_holder_that_does_not_leave_is_a_refusal_that_names_it(live: MakeLive) -> None:
    warden = live(two_models(gpu='vacate_timeout = "1s"\npoll_max = "500ms"', head='[watchdog]\nstop_grace = "5s"'))
    pid = sam_pid(warden)
    os.kill(pid, signal.SIGSTOP)

    job = warden.wait_for_job(warden.submit("demo.train", steps=2))

    assert (job.status, job.reason) == ("failed", "gpu_refused")
    assert f"sam-0 (pid {pid}) holds" in job.message
    assert "yolo-0 needs 8GiB + 256MiB margin on host" in job.message
    refused = warden.wait_for_event("gpu_refused", worker="yolo-0")
    assert not warden.seen("worker_spawned", worker="yolo-0")
    stopping = warden.wait_for_event("worker_stopping", worker="sam-0")
    assert warden.events.index(refused) < warden.events.index(stopping), "it was there when the job was refused"
    assert warden.holds(lambda: warden.worker("sam-0").generation == 2), "the ladder ends it, and it comes back"
    sam_pid(warden)
    config = warden.folder / "supervisor.toml"
    config.write_text(config.read_text().replace('vacate_timeout = "1s"', 'vacate_timeout = "120s"'))  # to leave in order may take a second
    warden.wait_for_event("config_reloaded")
    assert warden.wait_for_job(warden.submit("demo.train", steps=2)).status == "completed"


def test_sam_comes_back_after_a_training_that_crashed_and_one_that_was_cancelled(live: MakeLive) -> None:
    warden = live(two_models(head="[jobs]\nretries = { crash = 0 }"))
    sam_pid(warden)

    crashed = warden.wait_for_job(warden.submit("demo.train", fault="crash"))
    sam_pid(warden)
    name = warden.submit("demo.train", steps=10_000)
    assert warden.holds(lambda: warden.job(name).done >= 1)
    warden.ask("jobs.cancel", job=name)
    cancelled = warden.wait_for_job(name)

    assert (crashed.status, cancelled.status) == ("failed", "cancelled")
    sam_pid(warden)
    assert warden.wait_for_job(warden.submit("demo.count", steps=1)).status == "completed"


def test_a_cancel_while_sam_leaves_gives_the_device_back(live: MakeLive) -> None:
    warden = live(two_models(head='[watchdog]\nstop_grace = "8s"'))
    pid = sam_pid(warden)
    os.kill(pid, signal.SIGSTOP)
    name = warden.submit("demo.train", steps=2)
    warden.wait_for_job(name, "preparing")

    warden.ask("jobs.cancel", job=name)

    assert warden.wait_for_job(name).status == "cancelled"
    assert warden.holds(lambda: warden.worker("sam-0").generation == 2)
    sam_pid(warden)
    assert not warden.seen("worker_spawned", worker="yolo-0")
