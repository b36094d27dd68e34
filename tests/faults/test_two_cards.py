"""A whole supervisor on two fake cards, under the real pynvml: who gets which, by UUID, whatever becomes of the other one and of their numbers."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_card import GIB, FakeCards
from tests.support.live import FAKE, WARDEN, WITHIN_S, Live, MakeLive

pytestmark = [pytest.mark.faults, pytest.mark.slow]

BOTH = f"""
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
resident = false
options = {{ card_mb = 8192 }}
"""
SHOWS = "import json, os; print(json.dumps({name: os.environ[name] for name in ('CUDA_VISIBLE_DEVICES', 'CUDA_DEVICE_ORDER', 'WARDEN_DEVICE')}))"


@pytest.fixture
def on_two(cards: FakeCards, live: MakeLive) -> Iterator[MakeLive]:
    """What makes supervisors on two cards of one size."""
    cards.add()
    cards.add()

    def make(toml: str = BOTH) -> Live:
        warden: Live = live(toml, start=False)
        return warden.start(env=cards.env)

    yield make
    assert not cards.was_over(), "more of a card was held than it has"


def card_of(warden: Live, worker: str) -> str:
    """Return the card that a worker holds, once it is ready and alone holds what it wants of it."""
    assert warden.holds(lambda: warden.worker(worker).state in {"ready", "busy"}), warden.said()[-3000:]
    (device,) = [device.id for device in warden.status().devices for holder in device.holders if holder.owner == worker]
    return device


def sees(pid: int | None) -> str:
    """Return the card that a process sees."""
    pairs = (pair.partition("=") for pair in Path(f"/proc/{pid}/environ").read_text().split("\0"))
    return {name: value for name, _, value in pairs}["CUDA_VISIBLE_DEVICES"]


def test_a_training_takes_the_card_that_is_free_and_sam_stays(on_two: MakeLive) -> None:
    warden = on_two()
    sams = card_of(warden, "sam-0")
    pid = warden.worker("sam-0").pid

    name = warden.submit("demo.train", steps=100_000)
    job = warden.wait_for_job(name, "running")
    yolos = sees(warden.worker("yolo-0").pid)
    warden.ask("jobs.cancel", job=name)

    assert {sams, yolos} == {device.id for device in warden.status().devices}
    assert (job.device, sees(pid)) == (yolos, sams)
    assert warden.wait_for_job(name).status == "cancelled"
    assert warden.worker("sam-0").pid == pid


def test_a_card_that_is_lost_stops_nothing_on_the_other(on_two: MakeLive, cards: FakeCards) -> None:
    warden = on_two()
    sams = card_of(warden, "sam-0")
    number = next(path.parent.name for path in cards.folder.glob("*/uuid") if path.read_text() == sams)
    cards.put(f"{number}/error", 15)
    warden.wait_for_event("device_lost", device=sams)
    pid = warden.worker("sam-0").pid

    job = warden.wait_for_job(warden.submit("demo.train", steps=2))
    states = {device.id: device.state for device in warden.status().devices}
    cards.take(f"{number}/error")

    assert (job.status, job.device != sams) == ("completed", True)
    assert sorted(states.values()) == ["lost", "ok"]
    assert states[sams] == "lost"
    assert warden.worker("sam-0").pid == pid
    assert warden.wait_for_event("device_back", device=sams)


def test_cards_that_changed_their_numbers_between_two_boots_are_the_same_cards(on_two: MakeLive, cards: FakeCards) -> None:
    warden = on_two()
    sams = card_of(warden, "sam-0")
    pid = warden.worker("sam-0").pid
    other = next(device.id for device in warden.status().devices if device.id != sams)
    warden.kill()
    first, second = ((cards.folder / f"{number}/uuid").read_text() for number in (0, 1))
    claims = {number: list((cards.folder / f"{number}/claims").iterdir()) for number in (0, 1)}
    for number, uuid in ((0, second), (1, first)):
        cards.put(f"{number}/uuid", uuid)
        for claim in claims[1 - number]:
            claim.rename(cards.folder / f"{number}/claims" / claim.name)
    warden.start(env=cards.env)

    assert card_of(warden, "sam-0") == sams
    assert warden.holds(lambda: {device.id: device.used_bytes for device in warden.status().devices} == {sams: 12 * GIB, other: 0})
    job = warden.wait_for_job(warden.submit("demo.train", steps=2))
    assert (job.status, job.device) == ("completed", other)
    assert warden.worker("sam-0").pid == pid


def test_an_outside_program_names_its_card_and_sees_it_alone(on_two: MakeLive) -> None:
    warden = on_two()
    sams = card_of(warden, "sam-0")
    command: list[str | Path] = [WARDEN, "gpu", "run", "--need", "8GiB", "--device", sams, "--", sys.executable, "-c", SHOWS]

    run = subprocess.run(command, cwd=warden.folder, capture_output=True, text=True, timeout=WITHIN_S, check=False)
    unknown = warden.cli("gpu", "run", "--device", "GPU-of-yesterday", "--", "true")

    assert json.loads(run.stdout) == {"CUDA_VISIBLE_DEVICES": sams, "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "WARDEN_DEVICE": sams}, run.stderr
    assert unknown.returncode != 0
    assert f"there is no device GPU-of-yesterday; there are {', '.join(device.id for device in warden.status().devices)}" in unknown.stderr
    assert card_of(warden, "sam-0")


def test_a_job_names_its_card_and_its_worker_moves_there(on_two: MakeLive) -> None:
    warden = on_two()
    sams = card_of(warden, "sam-0")
    other = next(device.id for device in warden.status().devices if device.id != sams)

    name = warden.cli("jobs", "submit", "demo.count", "steps=2", "--device", other).stdout.strip()
    job = warden.wait_for_job(name)
    unknown = warden.cli("jobs", "submit", "demo.count", "--device", "GPU-of-yesterday")

    assert (job.status, job.device, job.only_on) == ("completed", other, other)
    assert card_of(warden, "sam-0") == other
    assert unknown.returncode != 0
    assert "there is no device GPU-of-yesterday" in unknown.stderr


def test_an_outside_program_that_names_none_gets_the_card_that_is_free(on_two: MakeLive) -> None:
    warden = on_two()
    sams = card_of(warden, "sam-0")
    pid = warden.worker("sam-0").pid

    run = subprocess.run(
        [WARDEN, "gpu", "run", "--need", "8GiB", "--", sys.executable, "-c", SHOWS],
        cwd=warden.folder,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )

    assert json.loads(run.stdout)["WARDEN_DEVICE"] != sams, run.stderr
    assert warden.worker("sam-0").pid == pid
