"""Holders that live together on a fake card under the real pynvml: who fits beside whom, whose excess is whose failure, and what is learned."""

from collections.abc import Iterator
from typing import Final

import pytest

from supervisor.shapes import HolderView
from tests.support.fake_card import GIB, FakeCards
from tests.support.live import FAKE, Live, MakeLive

pytestmark = [pytest.mark.faults, pytest.mark.slow]

SAM: Final = 6 * GIB
YOLO: Final = 4 * GIB


def models(*, jobs: str = "", sam: str = "card_mb = 6144", sam_gpu: str = "6GiB", yolo: str = "card_mb = 2048", yolo_gpu: str = "4GiB") -> str:
    """Return the configuration: a resident sam, a yolo that comes for jobs, and a large one that needs nearly the whole card."""
    return f"""
[gpu]
backend = "nvml"
sharing = "budget"
[jobs]
max_running = 4
{jobs}
[workers.sam]
{FAKE}
serves = ["demo.count"]
gpu = "{sam_gpu}"
options = {{ {sam} }}
[workers.yolo]
{FAKE}
serves = ["demo.train"]
gpu = "{yolo_gpu}"
priority = 15
resident = false
options = {{ {yolo} }}
[workers.large]
{FAKE}
serves = ["demo.other"]
gpu = "14GiB"
priority = 15
resident = false
options = {{ card_mb = 14336 }}
"""


@pytest.fixture
def on_a_t4(cards: FakeCards, live: MakeLive) -> Iterator[MakeLive]:
    """What makes supervisors on the fake cards, of which there is one, a T4 of 15 GiB. Its own ledger is the witness that nobody took more than there is."""
    cards.add()

    def make(toml: str) -> Live:
        warden: Live = live(toml, start=False)
        return warden.start(env=cards.env)

    yield make
    assert not cards.was_over(), "more of a card was held than it has"


def ready(warden: Live, name: str, *, after: int = 0) -> int:
    """Return the pid of a worker once one that came after another is ready."""
    assert warden.holds(lambda: (one := warden.worker(name)).state == "ready" and one.generation > after), warden.said()[-3000:]
    pid = warden.worker(name).pid
    assert pid is not None
    return pid


def holders(warden: Live) -> dict[str, HolderView]:
    """Return who holds the card."""
    return {one.owner: one for one in warden.status().devices[0].holders}


def test_sam_and_yolo_live_together_and_a_large_one_makes_both_leave(on_a_t4: MakeLive) -> None:
    warden = on_a_t4(models().replace("resident = false", "resident = true", 1))
    pids = ready(warden, "sam-0"), ready(warden, "yolo-0")
    first = warden.submit("demo.count", steps=100_000)
    second = warden.submit("demo.train", steps=100_000)
    warden.wait_for_job(first, "running")
    warden.wait_for_job(second, "running")
    assert warden.holds(lambda: {name: one.used_bytes for name, one in holders(warden).items()} == {"sam-0": SAM, "yolo-0": 2 * GIB})
    together = {name: (one.state, one.booked_bytes) for name, one in holders(warden).items()}
    spared = warden.worker("sam-0").pid, warden.worker("yolo-0").pid
    large = warden.submit("demo.other", steps=2)
    assert warden.holds(lambda: "14GiB do not fit on" in warden.job(large).message)
    said = warden.job(large).message
    for name in (first, second):
        warden.ask("jobs.cancel", job=name)
        warden.wait_for_job(name)

    done = warden.wait_for_job(large)

    assert together == {"sam-0": ("held", SAM), "yolo-0": ("held", YOLO)}
    assert spared == pids
    assert f"sam-0, which is busy with {first} (6GiB)" in said
    assert f"yolo-0, which is busy with {second} (4GiB)" in said
    assert done.status == "completed"
    vacated = warden.wait_for_event("gpu_vacated", worker="large-0")
    assert vacated["reason"] == "sam-0, yolo-0 left"
    assert ready(warden, "sam-0", after=1) != pids[0]
    assert ready(warden, "yolo-0", after=1) != pids[1]


def test_for_one_that_does_not_fit_only_as_many_leave_as_have_to(on_a_t4: MakeLive) -> None:
    warden = on_a_t4(models(yolo_gpu="8GiB", yolo="card_mb = 8192") + f'[workers.words]\n{FAKE}\npriority = 20\ngpu = "2GiB"\noptions = {{ card_mb = 1024 }}\n')
    sam, words = ready(warden, "sam-0"), ready(warden, "words-0")

    done = warden.wait_for_job(warden.submit("demo.train", steps=2))

    assert done.status == "completed"
    assert warden.wait_for_event("gpu_vacated", worker="yolo-0")["reason"] == "words-0 left"
    assert ready(warden, "words-0", after=1) != words
    assert warden.worker("sam-0").pid == sam


def test_what_is_booked_while_it_loads_is_given_to_nobody_else_though_the_card_shows_it_free(on_a_t4: MakeLive) -> None:
    warden = on_a_t4(models(sam="card_mb = 9216, load_s = 3600.0", sam_gpu="9GiB", yolo="card_mb = 6144", yolo_gpu="6GiB"))
    first = warden.submit("demo.count", steps=2)
    warden.wait_for_job(first, "preparing")
    warden.wait_for_event("worker_spawned", worker="sam-0")

    second = warden.submit("demo.train", steps=2)

    assert warden.holds(lambda: warden.job(second).reason == "waiting_for_gpu")
    waits, (card,) = warden.job(second).message, warden.status().devices
    assert card.used_bytes == 0
    assert waits == f"6GiB do not fit on {card.id} beside sam-0, which is busy with {first} (9GiB): 5.75GiB left after the margin"
    assert not warden.seen("worker_spawned", worker="yolo-0")
    warden.ask("jobs.cancel", job=first)
    assert warden.wait_for_job(second).status == "completed", "an idle one leaves, loading or not"


def test_the_excess_of_a_neighbour_is_its_own_failure_and_its_next_attempt_is_given_more(on_a_t4: MakeLive) -> None:
    warden = on_a_t4(models())
    sam = ready(warden, "sam-0")
    beside = warden.submit("demo.count", steps=100_000)
    warden.wait_for_job(beside, "running")

    done = warden.wait_for_job(warden.submit("demo.train", steps=2, card_mb=2560))  # and 2 GiB that it has loaded: 4.5

    assert (done.status, done.attempt) == ("completed", 2), done
    oom = warden.wait_for_event("gpu_oom", worker="yolo-0")
    assert "asked for 4.50 GiB; 4GiB of " in oom["evidence"]
    assert "taken to need 5GiB from now on" in oom["evidence"]
    assert warden.holds(lambda: len(warden.seen("worker_spawned", worker="yolo-0")) == 2), "never in the same process"
    first, second = warden.seen("lease_granted", worker="yolo-0")
    assert (first["need_bytes"], second["need_bytes"]) == (YOLO, 5 * GIB * 11 // 10 + GIB // 4)
    assert (warden.worker("sam-0").pid, warden.job(beside).status) == (sam, "running")
    warden.ask("jobs.cancel", job=beside)


def test_a_model_that_does_not_fit_into_what_is_declared_is_given_more_until_it_does(on_a_t4: MakeLive) -> None:
    warden = on_a_t4(models(sam="card_mb = 3072", sam_gpu="2GiB"))

    ready(warden, "sam-0", after=1)

    said = warden.wait_for_event("gpu_oom", worker="sam-0")
    assert "sam-0 could not load: RuntimeError: CUDA out of memory. Tried to allocate 3.00 GiB" in said["reason"]
    assert holders(warden)["sam-0"].booked_bytes == 2 * GIB * 5 // 4 * 11 // 10 + GIB // 4


def test_a_program_that_torch_does_not_hold_is_named_and_counts_with_what_it_uses(on_a_t4: MakeLive) -> None:
    warden = on_a_t4(models(sam="card_mb = 6144, card_capped = false"))
    ready(warden, "sam-0")
    job = warden.submit("demo.count", steps=100_000, imgsz=1024, batch=4, card_mb=6144)

    over = warden.wait_for_event("gpu_need_exceeded", worker="sam-0")
    waiting = warden.submit("demo.train", steps=2)
    assert warden.holds(lambda: warden.job(waiting).reason == "waiting_for_gpu")
    message, shown = warden.job(waiting).message, warden.cli("gpu", "status").stdout
    warden.ask("jobs.cancel", job=job)

    assert over["level"] == "warning"
    assert (over["job"], over["need_bytes"], over["peak_bytes"]) == (job, SAM, 12 * GIB)
    assert over["work"] == "sam demo.count imgsz=1024 batch=4"
    assert f"4GiB do not fit on {warden.status().devices[0].id} beside sam-0, which is busy with {job} (12GiB): 2.75GiB left" in message
    assert "PEAK          sam demo.count imgsz=1024 batch=4  12GiB of 6GiB declared: more than that" in shown
    assert warden.wait_for_job(waiting).status == "completed"


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_peaks_are_shown_and_booked_after_a_restart_of_the_supervisor(on_a_t4: MakeLive, cards: FakeCards, how: str) -> None:
    warden = on_a_t4(models(yolo="card_mb = 2048, card_capped = false"))
    ready(warden, "sam-0")
    job = warden.submit("demo.train", steps=100_000, batch=16, card_mb=3072)
    warden.wait_for_event("gpu_need_exceeded", worker="yolo-0")
    warden.ask("jobs.cancel", job=job)
    warden.wait_for_job(job)
    before = warden.status().devices[0].id

    getattr(warden, how)()
    warden.start(env=cards.env)
    again = warden.submit("demo.train", steps=100_000, batch=16)
    warden.wait_for_job(again, "running")
    yolo = holders(warden)["yolo-0"]
    warden.ask("jobs.cancel", job=again)
    warden.wait_for_job(again)

    assert warden.status().devices[0].id == before
    assert {one.work: (one.peak_bytes, one.over) for one in yolo.peaks}["yolo demo.train batch=16"] == (5 * GIB, True)
    assert (yolo.need_bytes, yolo.booked_bytes, yolo.peak_bytes) == (YOLO, 5 * GIB * 11 // 10 + GIB // 4, 5 * GIB)


def test_a_broken_device_context_ends_the_process_and_the_job_goes_on_in_a_fresh_one(on_a_t4: MakeLive) -> None:
    warden = on_a_t4(models())
    sam = ready(warden, "sam-0")

    done = warden.wait_for_job(warden.submit("demo.count", steps=3, fault="broken", attempt=1))

    assert (done.status, done.attempt) == ("completed", 2), done
    assert done.last_end == "attempt 1 ended: RuntimeError: CUDA error: device-side assert triggered"
    assert warden.wait_for_event("gpu_error", worker="sam-0")["job"] == done.id
    assert ready(warden, "sam-0", after=1) != sam
    assert warden.worker("sam-0").restarts == {"crash": 1}


def test_a_job_that_the_card_is_too_small_for_fails_as_gpu_oom_with_what_it_asked_for(on_a_t4: MakeLive) -> None:
    warden = on_a_t4(models(jobs="retries = { memory = 0 }"))
    sam = ready(warden, "sam-0")

    failed = warden.wait_for_job(warden.submit("demo.count", steps=3, fault="oom"))

    assert (failed.status, failed.reason) == ("failed", "gpu_oom")
    assert failed.error is not None
    assert failed.error.evidence.startswith("asked for 2.00 GiB; 6GiB of ")
    assert ready(warden, "sam-0", after=1) != sam, "the process is not used again"
    assert warden.worker("sam-0").restarts == {"memory": 1}


def test_sam_stays_between_two_trainings_though_the_driver_gives_the_memory_of_the_first_back_late(on_a_t4: MakeLive) -> None:
    warden = on_a_t4(models(yolo="card_mb = 4096, card_release_s = 3.0, card_listed = false", yolo_gpu="5GiB"))
    sam = ready(warden, "sam-0")

    first = warden.wait_for_job(warden.submit("demo.train", steps=2))
    warden.wait_for_event("lease_released", worker="yolo-0")
    second = warden.wait_for_job(warden.submit("demo.train", steps=2))

    assert (first.status, second.status) == ("completed", "completed")
    assert warden.worker("sam-0").pid == sam, "nobody leaves for memory that is on its way back"
