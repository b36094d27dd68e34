"""A whole supervisor on fake cards, under the real pynvml: hand-overs with late release, drivers that hang, cards that are lost."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import pytest

from tests.support.fake_card import GIB, T4, FakeCards
from tests.support.live import FAKE, Live, MakeLive, alive, processes_with

pytestmark = [pytest.mark.faults, pytest.mark.slow]


def two_models(*, gpu: str = "", sam: str = "", yolo: str = "8GiB", backend: str = "nvml") -> str:
    """Return the configuration: a resident sam of 14 GiB, a yolo of 8 GiB that comes for jobs, and a worker that needs no card."""
    return f"""
[gpu]
backend = "{backend}"
{gpu}
[workers.sam]
{FAKE}
serves = ["demo.count"]
gpu = "14GiB"
options = {{ card_mb = 14336{sam} }}
[workers.yolo]
{FAKE}
serves = ["demo.train"]
gpu = "{yolo}"
priority = 15
resident = false
options = {{ card_mb = 8192 }}
[workers.words]
{FAKE}
serves = ["demo.other"]
resident = false
"""


def sam_pid(warden: Live, *, after: int = 0) -> int:
    """Return sam's pid once one that came after another is ready."""
    assert warden.holds(lambda: (sam := warden.worker("sam-0")).state == "ready" and sam.generation > after), warden.said()[-3000:]
    pid = warden.worker("sam-0").pid
    assert pid is not None
    return pid


def environ(pid: int) -> dict[str, str]:
    """Return what a process was born with."""
    pairs = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}


def probes(cards: FakeCards) -> set[int]:
    """Return the probes that live."""
    born = processes_with(f"FAKE_NVML={cards.folder}")
    return {pid for pid in born if b"supervisor.helpers.probe" in Path(f"/proc/{pid}/cmdline").read_bytes()}


def round_trips_s(warden: Live) -> list[float]:
    """Return how long a status took, each time that it was asked for."""
    took_s = []
    for _ in range(30):
        began_s = time.monotonic()
        warden.status()
        took_s.append(time.monotonic() - began_s)
    return took_s


@pytest.fixture
def on_a_t4(cards: FakeCards, live: MakeLive) -> Iterator[MakeLive]:
    """What makes supervisors on the fake cards, of which there is one, a T4."""
    cards.add()

    def make(toml: str) -> Live:
        warden: Live = live(toml, start=False)
        return warden.start(env=cards.env)

    yield make
    assert not cards.was_over(), "more of a card was held than it has"


def test_a_training_gets_the_card_after_its_memory_came_back_late_and_sam_returns(on_a_t4: MakeLive, cards: FakeCards) -> None:
    warden = on_a_t4(two_models(sam=", card_release_s = 1.5"))
    pid = sam_pid(warden)
    (card,) = warden.status().devices
    born = environ(pid)
    mark = warden.mark()

    job = warden.wait_for_job(warden.submit("demo.train", steps=5))

    assert (card.backend, card.name, card.total_bytes, card.state) == ("nvml", "Fake T4", T4, "ok")
    assert (born["CUDA_VISIBLE_DEVICES"], born["CUDA_DEVICE_ORDER"], born["WARDEN_DEVICE"]) == (card.id, "PCI_BUS_ID", card.id)
    assert job.status == "completed", job
    vacated = warden.wait_for_event("gpu_vacated", worker="yolo-0", after=mark)
    assert vacated["gone_s"] < vacated["back_s"] < vacated["proof_s"]
    assert vacated["polls"] > 2, "it was read free at once, and its release was to be late"
    assert vacated["free_bytes"] >= 8 * GIB
    told = {"worker_stopped", "lease_released", "gpu_vacated", "lease_granted", "worker_spawned"}
    order = [event["event"] for event in warden.events[mark:] if event["event"] in told]
    assert order[:5] == ["worker_stopped", "lease_released", "gpu_vacated", "lease_granted", "worker_spawned"]
    assert not alive(pid)
    assert "libnvidia-ml" not in Path(f"/proc/{warden.pid}/maps").read_text(), "the driver's library belongs into the probe"
    assert sam_pid(warden, after=1) != pid
    assert warden.holds(lambda: [holder.used_bytes for holder in warden.status().devices[0].holders] == [14 * GIB])


def test_memory_that_never_comes_back_is_a_refusal_with_pid_and_bytes_and_sam_returns_when_it_does(on_a_t4: MakeLive, cards: FakeCards) -> None:
    warden = on_a_t4(two_models(gpu='vacate_timeout = "2s"\npoll_max = "250ms"', sam=", card_release_s = -1.0"))
    pid = sam_pid(warden)

    job = warden.wait_for_job(warden.submit("demo.train", steps=2))

    assert (job.status, job.reason) == ("failed", "gpu_refused")
    assert f"sam-0 (pid {pid}) holds 14GiB" in job.message
    assert "yolo-0 needs 8GiB + 256MiB margin" in job.message
    assert "1GiB of 15GiB free" in job.message
    assert not warden.seen("worker_spawned", worker="yolo-0")
    sam = warden.worker("sam-0")
    assert (sam.state, sam.wanted) == ("down", "up")
    assert sam.next_action == f"comes back when what it had of {warden.status().devices[0].id} is proved free"
    cards.take(f"0/claims/{pid}")
    assert sam_pid(warden, after=1) != pid


def test_memory_of_no_process_at_all_is_a_refusal_that_says_so(on_a_t4: MakeLive) -> None:
    warden = on_a_t4(two_models(gpu='vacate_timeout = "2s"\npoll_max = "250ms"', sam=", card_release_s = -1.0, card_listed = false"))
    sam_pid(warden)

    job = warden.wait_for_job(warden.submit("demo.train", steps=2))

    assert (job.status, job.reason) == ("failed", "gpu_refused")
    assert "14GiB are used by no process that is listed" in job.message


def test_a_program_that_is_not_ours_is_named_with_pid_name_and_bytes_and_never_harmed(on_a_t4: MakeLive, cards: FakeCards) -> None:
    warden = on_a_t4(two_models(gpu='vacate_timeout = "2s"\npoll_max = "250ms"', yolo="14GiB"))
    sam_pid(warden)
    with subprocess.Popen(["sleep", "3600"]) as stranger:
        cards.claim(stranger.pid, GIB)
        assert warden.holds(lambda: [one.pid for one in warden.status().devices[0].strangers] == [stranger.pid])
        shown = warden.cli("gpu", "status").stdout
        job = warden.wait_for_job(warden.submit("demo.train", steps=2))
        spared = alive(stranger.pid)
        stranger.kill()

    assert f"NOT OURS      pid {stranger.pid}  sleep  1GiB" in shown
    assert (job.status, job.reason) == ("failed", "gpu_refused")
    assert f"pid {stranger.pid} (sleep), not ours, uses 1GiB" in job.message
    assert spared
    sam_pid(warden, after=1)


def test_with_a_driver_that_hangs_status_answers_and_who_needs_no_card_goes_on(
    on_a_t4: MakeLive, cards: FakeCards, record_property: Callable[[str, object], None]
) -> None:
    warden = on_a_t4(two_models())
    pid = sam_pid(warden)
    healthy_s = round_trips_s(warden)
    cards.put("0/hang")
    assert warden.holds((cards.folder / "0/hang.here").exists), "nobody asked the driver"

    hung_s = round_trips_s(warden)
    words = warden.wait_for_job(warden.submit("demo.other", steps=2))
    abandoned = warden.holds(lambda: "the driver gave no answer within" in warden.status().devices[0].trouble)
    training = warden.submit("demo.train", steps=2)
    waits = warden.holds(lambda: "cannot be read just now" in warden.job(training).message)
    shown = warden.cli("gpu", "status")
    spared = warden.worker("sam-0").pid
    hung = (cards.folder / "0/hang").exists()
    cards.take("0/hang")

    record_property("status_s", {"healthy": median(healthy_s), "while the driver hangs": median(hung_s)})
    assert median(hung_s) < 20 * median(healthy_s), "two milliseconds each, as a rule; one that waited for the driver would take seconds"
    assert words.status == "completed"
    assert abandoned
    assert waits
    assert hung
    assert spared == pid, "nobody is sent away while nothing can be proved"
    assert "TROUBLE       the driver gave no answer within 2 s, and was abandoned" in shown.stdout
    assert warden.wait_for_job(training, within_s=60).status == "completed"
    assert sam_pid(warden, after=1) != pid
    assert warden.holds(lambda: not warden.status().devices[0].trouble)


def test_a_card_that_is_lost_leaves_its_holder_alone_and_is_back_by_itself(on_a_t4: MakeLive, cards: FakeCards) -> None:
    warden = on_a_t4(two_models())
    pid = sam_pid(warden)
    cards.put("0/error", 15)
    lost = warden.wait_for_event("device_lost")

    name = warden.submit("demo.train", steps=2)
    waiting = warden.wait_for_job(name, "queued")
    assert warden.holds(lambda: warden.job(name).reason == "waiting_for_gpu")
    why = "\n".join(warden.ask("jobs.why", job=name)["sentences"])
    unwell = warden.status().unwell
    spared = warden.worker("sam-0").pid
    cards.take("0/error")
    warden.wait_for_event("device_back")
    done = warden.wait_for_job(name)

    assert lost["level"] == "error"
    assert "fallen off the bus" in lost["reason"]
    assert waiting.status == "queued"
    assert "is lost: the card has fallen off the bus" in why
    assert any("is lost" in sentence for sentence in unwell)
    assert spared == pid
    assert done.status == "completed"


def test_without_a_driver_the_trouble_is_named_with_what_to_do_and_cards_that_come_later_are_taken(cards: FakeCards, live: MakeLive) -> None:
    card = cards.add()
    cards.put("init", 9)
    warden = live(two_models(), start=False).start(env=cards.env)

    said = warden.wait_for_event("device_unverifiable")
    (stand_in,) = warden.status().devices
    words = warden.wait_for_job(warden.submit("demo.other", steps=2))
    name = warden.submit("demo.train", steps=2)
    assert warden.holds(lambda: "modprobe nvidia" in warden.job(name).message)
    cards.take("init")

    assert warden.wait_for_job(name, within_s=60).status == "completed"
    assert [device.id for device in warden.status().devices] == [card]
    assert "modprobe nvidia" in said["reason"]
    assert (stand_in.state, stand_in.name) == ("unverifiable", "no card")
    assert words.status == "completed"


@pytest.mark.parametrize(("code", "backend"), [(0, "nvml"), (9, "host")])
def test_auto_takes_the_card_where_one_answers_and_the_host_aloud_where_none_does(cards: FakeCards, live: MakeLive, code: int, backend: str) -> None:
    cards.add()
    cards.put("init", code)
    warden = live(two_models(backend="auto").replace("card_mb = 14336", ""), start=False).start(env=cards.env)

    sam_pid(warden)

    assert [device.backend for device in warden.status().devices] == [backend]
    said = [event["reason"] for event in warden.seen("proof_missing") if "driver" in event["reason"]]
    assert bool(said) is (backend == "host")


def test_of_two_cards_each_worker_gets_the_one_that_fits_it_best(cards: FakeCards, live: MakeLive) -> None:
    large, small = cards.add(), cards.add("Fake 3080", total_bytes=10 * GIB)
    warden = live(two_models(), start=False).start(env=cards.env)
    pid = sam_pid(warden)

    name = warden.submit("demo.train", steps=200)
    job = warden.wait_for_job(name, "running")
    training = warden.worker("yolo-0").pid
    assert training is not None
    born = environ(training)
    warden.ask("jobs.cancel", job=name)

    assert (job.device, born["CUDA_VISIBLE_DEVICES"], environ(pid)["CUDA_VISIBLE_DEVICES"]) == (small, small, large)
    assert warden.worker("sam-0").pid == pid, "nobody has to leave"
    assert warden.wait_for_job(name).status == "cancelled"


def test_a_supervisor_that_is_killed_takes_its_probes_along_and_the_next_one_takes_the_holders_back(on_a_t4: MakeLive, cards: FakeCards) -> None:
    warden = on_a_t4(two_models())
    pid = sam_pid(warden)
    (card,) = warden.status().devices
    before = probes(cards)

    warden.kill()
    assert warden.holds(lambda: not any(map(alive, before)))
    warden.start(env=cards.env)

    assert before
    assert sam_pid(warden) == pid
    (taken,) = warden.status().devices
    assert [(holder.owner, holder.pid) for holder in taken.holders] == [("sam-0", pid)]
    assert taken.id == card.id
    assert before.isdisjoint(probes(cards)), "the probes are the new supervisor's own"
    assert warden.wait_for_job(warden.submit("demo.train", steps=2)).status == "completed"


def test_a_holder_that_ends_while_the_next_supervisor_waits_for_the_driver_is_seen(on_a_t4: MakeLive, cards: FakeCards) -> None:
    warden = on_a_t4(two_models())
    pid = sam_pid(warden)
    warden.kill()
    assert warden.holds(lambda: not probes(cards))
    cards.put("hang-nvmlInitWithFlags")
    mark = warden.mark()

    with ThreadPoolExecutor(1) as one:
        starting = one.submit(warden.start, env=cards.env)
        while not probes(cards):  # it was taken back before the driver is asked
            assert not starting.done(), starting.exception()
        os.kill(pid, signal.SIGKILL)
        cards.take("hang-nvmlInitWithFlags")
        starting.result()

    warden.wait_for_event("worker_exited", worker="sam-0", after=mark)
    assert sam_pid(warden) != pid


def test_a_cancel_gives_back_what_the_job_had_on_the_card_and_the_worker_stays(on_a_t4: MakeLive, cards: FakeCards) -> None:
    warden = on_a_t4(two_models().replace("card_mb = 14336", "card_mb = 1024"))
    pid = sam_pid(warden)
    name = warden.submit("demo.count", steps=10_000, card_mb=2048)
    assert warden.holds(lambda: warden.job(name).done >= 1)
    assert warden.holds(lambda: [holder.used_bytes for holder in warden.status().devices[0].holders] == [3 * GIB])

    warden.ask("jobs.cancel", job=name)
    job = warden.wait_for_job(name)

    assert (job.status, job.message) == ("cancelled", "")
    assert job.cancel is not None
    assert job.cancel.freed_bytes == 2 * GIB
    assert warden.worker("sam-0").pid == pid


def test_a_cancel_whose_release_cannot_be_read_ends_the_process_that_had_it(on_a_t4: MakeLive, cards: FakeCards) -> None:
    warden = on_a_t4(two_models().replace("card_mb = 14336", "card_mb = 1024"))
    sam_pid(warden)
    name = warden.submit("demo.count", steps=10_000, card_mb=2048)
    assert warden.holds(lambda: warden.job(name).done >= 1)
    cards.put("0/error", 15)

    warden.ask("jobs.cancel", job=name)
    job = warden.wait_for_job(name)
    cards.take("0/error")

    assert job.status == "cancelled"
    assert "what is still held cannot be read" in job.message
    sam_pid(warden, after=1)


def test_a_start_does_not_wait_for_a_driver_that_hangs_and_takes_its_cards_when_it_answers(cards: FakeCards, live: MakeLive) -> None:
    card = cards.add()
    cards.put("hang-nvmlInitWithFlags")

    warden = live(two_models(), start=False).start(env=cards.env)
    words = warden.wait_for_job(warden.submit("demo.other", steps=2))
    hung = (cards.folder / "hang-nvmlInitWithFlags").exists()
    (stand_in,) = warden.status().devices
    cards.take("hang-nvmlInitWithFlags")

    assert (words.status, hung) == ("completed", True)
    assert (stand_in.state, "the driver" in stand_in.trouble) == ("unresponsive", True)
    assert sam_pid(warden)
    assert [device.id for device in warden.status().devices] == [card]


def test_auto_waits_for_the_card_of_a_driver_that_hangs_and_lets_no_ram_stand_in(cards: FakeCards, live: MakeLive) -> None:
    cards.add()
    cards.put("hang-nvmlInitWithFlags")

    warden = live(two_models(backend="auto"), start=False).start(env=cards.env)
    (stand_in,) = warden.status().devices
    cards.take("hang-nvmlInitWithFlags")

    assert (stand_in.backend, stand_in.state) == ("nvml", "unresponsive")
    assert sam_pid(warden)


def test_a_worker_whose_card_reports_its_fault_is_named_and_started_anew(on_a_t4: MakeLive, cards: FakeCards) -> None:
    warden = on_a_t4(two_models())
    pid = sam_pid(warden)

    cards.report(31)
    said = warden.wait_for_event("device_fault")
    ended = warden.wait_for_event("worker_gpu_error", worker="sam-0")

    assert said["reason"] == f"Xid 31: a program used an address that is not its own; on it: sam-0 (pid {pid})"
    assert "has neither ended nor moved" in ended["reason"]
    assert sam_pid(warden, after=1) != pid
    assert warden.worker("sam-0").restarts == {"gpu_error": 1}
    assert warden.status().devices[0].xids == {"31": 1}
    assert "FAULTS        Xid 31: 1" in warden.cli("gpu", "status").stdout


def test_a_card_that_reports_its_own_fault_is_out_of_service_until_it_was_gone_and_is_back(on_a_t4: MakeLive, cards: FakeCards) -> None:
    warden = on_a_t4(two_models())
    pid = sam_pid(warden)

    cards.report(48)
    said = warden.wait_for_event("device_lost")
    name = warden.submit("demo.train", steps=2)
    waits = warden.holds(lambda: "Xid 48: a memory error that cannot be corrected" in warden.job(name).message)
    spared = warden.worker("sam-0").pid
    cards.put("0/error", 15)
    assert warden.holds(lambda: "fallen off" in warden.status().devices[0].trouble)
    cards.take("0/error")

    assert waits
    assert spared == pid
    assert "nvidia-smi --gpu-reset" in said["reason"]
    assert warden.wait_for_job(name, within_s=60).status == "completed"


def test_who_has_the_card_open_and_is_not_listed_is_named_in_the_refusal(on_a_t4: MakeLive, cards: FakeCards) -> None:
    warden = on_a_t4(two_models(gpu='vacate_timeout = "2s"\npoll_max = "250ms"', yolo="14GiB"))
    sam_pid(warden)
    with cards.node().open() as node:
        hidden = subprocess.Popen(["sleep", "3600"], stdin=node)
    with hidden:
        cards.claim(hidden.pid, GIB, listed=False)
        job = warden.wait_for_job(warden.submit("demo.train", steps=2))
        hidden.kill()

    assert (job.status, job.reason) == ("failed", "gpu_refused")
    assert f"1GiB are used by no process that is listed; pid {hidden.pid} (sleep), not ours, has {cards.node()} open and is not listed" in job.message


def test_a_probe_that_is_killed_is_replaced(on_a_t4: MakeLive, cards: FakeCards) -> None:
    warden = on_a_t4(two_models())
    sam_pid(warden)
    for pid in probes(cards):
        os.kill(pid, signal.SIGKILL)

    assert warden.wait_for_job(warden.submit("demo.train", steps=2)).status == "completed"
    assert warden.status().devices[0].state == "ok"
