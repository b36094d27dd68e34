"""The device kept safe: who is on it without a lease, who loads on it, and what an operator can take back. Whole supervisors on a fake T4."""

import os
import subprocess
from collections.abc import Iterator
from typing import Any, Final

import httpx
import msgspec
import pytest

from supervisor.control import Client, Refused, endpoint_of
from supervisor.shapes import DeviceView, LockView, ReleaseView, VacateView
from tests.support.fake_card import GIB, FakeCards
from tests.support.live import FAKE, WARDEN, WITHIN_S, Live, MakeLive, alive

pytestmark = [pytest.mark.faults, pytest.mark.slow]

TWO: Final = f"""
[gpu]
backend = "nvml"
[workers.sam]
{FAKE}
serves = ["demo.count"]
gpu = "12GiB"
options = {{ card_mb = 12288 }}
[workers.yolo]
{FAKE}
serves = ["demo.train"]
gpu = "8GiB"
priority = 15
resident = false
options = {{ card_mb = 8192 }}
"""


@pytest.fixture
def warden(cards: FakeCards, live: MakeLive) -> Iterator[Live]:
    """A supervisor on a fake T4 whose sam is ready."""
    cards.add()
    made: Live = live(TWO, start=False)
    made.start(env=cards.env)
    sam_is_back(made)
    yield made
    assert not cards.was_over(), "more of the card was held than it has"


def sam_is_back(warden: Live, *, after: int = 0) -> int:
    """Return sam's pid once one of a later generation is ready."""
    assert warden.holds(lambda: (sam := warden.worker("sam-0")).state == "ready" and sam.generation > after), warden.said()[-3000:]
    pid = warden.worker("sam-0").pid
    assert pid is not None
    return pid


def card(warden: Live) -> DeviceView:
    return warden.status().devices[0]


def test_a_program_without_a_lease_contaminates_the_card_until_it_is_gone_and_is_never_ended(warden: Live, cards: FakeCards) -> None:
    with subprocess.Popen(["sleep", "3600"]) as stranger:
        cards.claim(stranger.pid, GIB)
        told = warden.wait_for_event("device_contaminated")
        state = card(warden).holders[0].state
        shown, health = warden.cli("gpu", "status").stdout, warden.cli("health")
        assert warden.wait_for_job(warden.submit("demo.train", steps=2)).status == "completed", "there is room beside it"
        sam_is_back(warden, after=1)
        spared = alive(stranger.pid)
        stranger.kill()
    warden.wait_for_event("device_clean")

    assert (told["pid"], told["name"], told["used_bytes"], told["owner"]) == (stranger.pid, "sleep", GIB, "sam-0")
    assert state == "contaminated"
    assert f"NOT OURS      pid {stranger.pid}  sleep  1GiB  without a lease: waited for, not ended" in shown
    assert health.returncode == 3
    assert f"is contaminated: pid {stranger.pid} (sleep) uses 1GiB without a lease" in health.stdout
    assert spared
    assert len(warden.seen("device_contaminated")) == 1
    assert warden.holds(lambda: [holder.state for holder in card(warden).holders] == ["held"])
    assert warden.cli("health").returncode == 0


def ask(warden: Live, op: str, **args: Any) -> Any:
    """Ask by hand, and wait for the answer as long as it takes."""
    with Client(lambda: endpoint_of(warden.state_dir)) as client:
        return client.ask(op, args, timeout_s=WITHIN_S)


def lock(warden: Live, owner: str, **args: Any) -> LockView:
    """Return what is answered to a program without a process, which renews within a minute."""
    return msgspec.convert(ask(warden, "gpu.lock", owner=owner, ttl_s=60.0, **args), LockView)


def test_models_are_loaded_one_at_a_time_and_a_worker_that_has_the_card_waits_for_its_turn(warden: Live) -> None:
    first = lock(warden, "first", purpose="load")
    second = lock(warden, "second", purpose="load", timeout_s=0.0)
    mark = warden.mark()
    job = warden.submit("demo.train", steps=2)
    warden.wait_for_event("lease_granted", worker="yolo-0", after=mark)
    assert warden.holds(lambda: warden.worker("yolo-0").next_action == f"starts when first has loaded its model on {first.device}")
    seen, shown = card(warden), warden.cli("gpu", "status").stdout
    ask(warden, "gpu.unlock", lease=first.lease, fence=first.fence)
    warden.wait_for_event("worker_spawned", worker="yolo-0", after=mark)

    assert warden.wait_for_job(job).status == "completed"
    assert first.granted
    assert first.expires_in_s is not None
    assert (second.granted, second.message) == (False, f"the device was not free within 0 s: first loads a model on {first.device}")
    assert seen.loading is not None
    assert (seen.loading.owner, seen.loading.lease, seen.loading.fence) == ("first", first.lease, first.fence)
    assert f"LOADING       first  {first.lease}  fence {first.fence}" in shown
    order = [one["event"] for one in warden.events[mark:] if one.get("owner") == "first" or one.get("worker") == "yolo-0"]
    assert order.index("lease_released") < order.index("worker_spawned")


def test_whoever_loads_for_longer_than_the_limit_is_named_and_its_lock_is_over(cards: FakeCards, live: MakeLive) -> None:
    cards.add()
    warden = live(TWO.replace('"nvml"', '"nvml"\nload_timeout = "1s"'), start=False).start(env=cards.env)
    sam_is_back(warden)

    slow = lock(warden, "slow", purpose="load")
    told = warden.wait_for_event("load_overdue", owner="slow")
    warden.wait_for_event("lease_released", owner="slow")
    with pytest.raises(Refused, match="is over"):
        ask(warden, "gpu.renew", lease=slow.lease, fence=slow.fence)

    assert told["reason"] == f"slow has loaded on {slow.device} for 1 s, gpu.load_timeout: others may load beside it"
    assert lock(warden, "next", purpose="load").granted
    assert sam_is_back(warden), "loading says nothing about whose the card is"


def test_a_reset_takes_back_what_is_stale_and_nothing_else(warden: Live, cards: FakeCards) -> None:
    with subprocess.Popen(["sleep", "3600"]) as owner:
        lease, fence, _ = warden.cli("gpu", "lock", "--pid", str(owner.pid), "--owner", "late", "--ttl", "1h").stdout.split()
        cards.claim(owner.pid, GIB)
        early = warden.cli("gpu", "reset", "--reason", "to see")
        warden.cli("gpu", "renew", lease, fence, "--ttl", "100ms")
        warden.wait_for_event("lease_stale", lease=lease)
        late = warden.cli("gpu", "reset", "--reason", "it hangs since noon", "--json")
        refused = [warden.cli("gpu", what, lease, fence).returncode for what in ("renew", "unlock")]
        sam_is_back(warden, after=1)
        contaminated = warden.wait_for_event("device_contaminated", pid=owner.pid)
        spared = alive(owner.pid)
        owner.kill()

    assert early.stdout == "no lease is stale: nothing was taken back\n"
    (taken,) = msgspec.json.decode(late.stdout, type=ReleaseView).released
    assert (taken.lease, taken.owner, taken.pid, taken.state, taken.fence) == (lease, "late", owner.pid, "stale", int(fence))
    assert refused == [1, 1]
    assert contaminated["owner"] == "sam-0"
    assert spared
    forced = warden.seen("lease_forced")
    assert [(one["old_fence"], one["fence"] > one["old_fence"]) for one in forced] == [(int(fence), True)]
    assert f"(uid {os.getuid()}), pid " in forced[0]["reason"]
    assert forced[0]["reason"].endswith("on the command line: it hangs since noon")
    assert len(warden.seen("gpu_reset")) == 2
    kept = [one for one in warden.status().interventions if one.event == "gpu_reset"]
    assert "it hangs since noon" in kept[-1].reason


def test_everything_taken_back_ends_workers_and_brings_them_back_and_the_memory_is_measured_before_the_next_grant(warden: Live, cards: FakeCards) -> None:
    before = sam_is_back(warden)
    generation = warden.worker("sam-0").generation
    mark = warden.mark()

    nobody = subprocess.run(
        [WARDEN, "gpu", "force-release"], cwd=warden.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=WITHIN_S, check=False
    )
    untouched = warden.worker("sam-0").pid
    done = warden.cli("gpu", "force-release", "--yes", "--reason", "the card is stuck")
    after = sam_is_back(warden, after=generation)
    warden.wait_for_event("worker_ready", worker="sam-0", after=mark)

    assert (nobody.returncode, untouched) == (2, before)
    assert "say --yes" in nobody.stderr
    assert f"sam-0 (pid {before}), on {card(warden).id}" in nobody.stderr
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"sam-0 has {card(warden).id} no more: it is ended, and comes back\n"
    assert after != before
    assert not alive(before)
    told = {"lease_forced", "gpu_force_released", "worker_stopped", "lease_released", "lease_granted", "worker_spawned"}
    order = [one["event"] for one in warden.events[mark:] if one["event"] in told]
    assert order == ["lease_forced", "gpu_force_released", "worker_stopped", "lease_released", "lease_granted", "worker_spawned"]
    assert warden.worker("sam-0").restarts == {"operator": 1}


def test_a_job_whose_worker_loses_its_card_by_force_goes_back_to_the_queue_and_is_worked_on_again(warden: Live) -> None:
    name = warden.submit("demo.train", steps=10_000)
    assert warden.holds(lambda: warden.job(name).done >= 1)
    mark = warden.mark()

    warden.cli("gpu", "force-release", "--yes")
    returned = warden.wait_for_event("job_returned", job=name, after=mark)
    warden.wait_for_event("job_started", job=name, after=mark)
    again = warden.job(name)
    warden.ask("jobs.cancel", job=name)

    assert "its device was released by" in returned["reason"]
    assert (again.attempt, again.failures) == (2, 0)
    assert warden.wait_for_job(name).status == "cancelled"
    sam_is_back(warden, after=1)


def test_a_program_that_stays_after_everything_was_taken_back_is_contaminated_and_in_the_way(cards: FakeCards, live: MakeLive) -> None:
    cards.add()
    warden = live(TWO.replace('"nvml"', '"nvml"\nvacate_timeout = "8s"\npoll_max = "1s"'), start=False).start(env=cards.env)
    sam_is_back(warden)
    with subprocess.Popen(["sleep", "3600"]) as owner:
        lease, fence, _ = warden.cli("gpu", "lock", "--pid", str(owner.pid), "--owner", "stays", "--need", "8GiB").stdout.split()
        cards.claim(owner.pid, 8 * GIB)
        done = warden.cli("gpu", "force-release", "--yes", "--json")
        old = warden.cli("gpu", "renew", lease, fence)
        warden.wait_for_event("device_contaminated", pid=owner.pid)
        job = warden.wait_for_job(warden.submit("demo.train", steps=2))
        spared = alive(owner.pid)
        owner.kill()

    assert [one.owner for one in msgspec.json.decode(done.stdout, type=ReleaseView).released] == ["stays"]
    assert old.returncode == 1
    assert (job.status, job.reason) == ("failed", "gpu_refused")
    assert f"pid {owner.pid} (sleep), not ours, uses 8GiB" in job.message
    assert spared
    sam_is_back(warden, after=1)


def test_an_old_fence_is_refused_also_by_the_supervisor_after_the_one_that_took_it_back(warden: Live, cards: FakeCards) -> None:
    held = lock(warden, "far", need="1GiB")
    assert held.granted
    ask(warden, "gpu.force_release", by="tests", reason="to see")

    warden.kill()
    warden.start(env=cards.env)
    with pytest.raises(Refused, match="is over") as old:
        ask(warden, "gpu.unlock", lease=held.lease, fence=held.fence)
    again = lock(warden, "far", need="1GiB")

    assert old.value.code == "conflict"
    assert again.fence is not None
    assert held.fence is not None
    assert again.fence > held.fence


def test_a_card_is_emptied_and_kept_free_until_somebody_waits_for_the_resident(warden: Live) -> None:
    pid = sam_is_back(warden)

    done = warden.cli("gpu", "vacate", "--need", "8GiB", "--json")
    view = msgspec.json.decode(done.stdout, type=VacateView)
    gone = not alive(pid)
    empty, shown = card(warden), warden.cli("gpu", "status").stdout
    waits = warden.worker("sam-0").next_action
    job = warden.wait_for_job(warden.submit("demo.count", steps=2))

    assert done.returncode == 0, done.stderr
    assert (view.success, view.freed_bytes, view.holders, view.kept_free_s) == (True, 12 * GIB, [], 300.0)
    assert "is empty: sam-0 left, 15GiB of 15GiB free, read twice; residents stay away for 5 min" in view.message
    assert gone
    assert empty.holders == []
    assert empty.kept_free_s is not None
    assert "KEPT FREE     residents stay away for" in shown
    assert waits.startswith("comes back when somebody waits for it, or in ")
    assert job.status == "completed"
    sam_is_back(warden, after=1)


def test_a_card_kept_free_is_the_residents_again_when_the_time_is_over_or_the_operator_says_so(warden: Live) -> None:
    sam_is_back(warden)

    warden.cli("gpu", "vacate", "--keep-free", "500ms")
    sam_is_back(warden, after=1)
    warden.cli("gpu", "vacate", "--keep-free", "1h")
    warden.cli("workers", "start", "sam")

    sam_is_back(warden, after=2)


def test_nobody_at_work_is_sent_away_to_empty_a_card_and_who_it_is_is_said_at_once(warden: Live) -> None:
    name = warden.submit("demo.train", steps=10_000)
    assert warden.holds(lambda: warden.job(name).done >= 1)
    pid = warden.worker("yolo-0").pid

    refused = warden.cli("gpu", "vacate")
    program = warden.cli("gpu", "vacate", "--json")
    spared = warden.worker("yolo-0").pid
    warden.ask("jobs.cancel", job=name)

    assert (refused.returncode, refused.stdout) == (75, "")
    assert f"yolo-0 holds {card(warden).id} and is busy with {name}" in refused.stderr
    assert f"yolo-0 (pid {pid}) holds 8GiB, busy for" in refused.stderr
    view = msgspec.json.decode(program.stdout, type=VacateView)
    assert (program.returncode, view.success, [one.owner for one in view.holders]) == (75, False, ["yolo-0"])
    assert spared == pid
    assert warden.wait_for_job(name).status == "cancelled"


def test_over_http_what_is_taken_back_names_who_asked_and_a_busy_card_is_503(cards: FakeCards, live: MakeLive) -> None:
    cards.add()
    warden = live(TWO, start=False, api="127.0.0.1:0").start(env=cards.env)
    sam_is_back(warden)
    warden.wait_for_event("worker_ready", worker="api-0")
    with httpx.Client(base_url=warden.status().supervisor.api, timeout=WITHIN_S) as http:
        held = http.post("/v1/gpu/lock", json={"owner": "far", "need": "1GiB", "ttl_s": 60}).json()
        busy = http.post("/v1/gpu/vacate")
        taken = http.post("/v1/gpu/force-release-all", json={"reason": "over HTTP"})
        old = http.post("/v1/gpu/renew", json={"lease": held["lease"], "fence": held["fence"]})
        sam_is_back(warden, after=1)
        emptied = http.post("/v1/gpu/vacate", json={"need": "8GiB", "keep_free_s": 0})
        nothing = http.post("/v1/gpu/reset")

    assert (busy.status_code, busy.json()["success"], busy.json()["holders"][0]["owner"]) == (503, False, "far")
    assert [one["owner"] for one in taken.json()["released"]] == ["far"]
    assert old.status_code == 409
    assert (emptied.status_code, emptied.json()["success"], emptied.json()["freed_bytes"]) == (200, True, 12 * GIB)
    assert nothing.json()["released"] == []
    (forced,) = warden.told("lease_forced")
    assert forced["reason"] == "by http 127.0.0.1: over HTTP"
    sam_is_back(warden, after=2)
