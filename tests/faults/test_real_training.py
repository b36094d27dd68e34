"""A real YOLO training through what happens to it: paused, everything started anew, resumed; and the supervisor killed in the middle of it."""

import csv
import importlib.util
from pathlib import Path

import pytest

from tests.faults.test_job_service import pid_of
from tests.support.live import Live, MakeLive

pytestmark = [
    pytest.mark.faults,
    pytest.mark.slow,
    pytest.mark.models,
    pytest.mark.timeout(900),
    pytest.mark.skipif(importlib.util.find_spec("ultralytics") is None, reason="needs the extra models: make test installs it"),
]

WITHIN_S = 400.0
YOLO = """
[workers.yolo]
command = ["{python}", "-P", "-m", "workers.yolo"]
serves = ["yolo.train", "yolo.predict"]
gpu = "8GiB"
resident = false
env = { OMP_NUM_THREADS = "1" }
options = { weights = "yolo11n.pt", allow_untrained = true, device = "cpu", image_size = 64 }
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from workers import samples

    return samples.dataset(tmp_path_factory.mktemp("street"), train=12, val=6)


def epochs_in(warden: Live, job: str) -> list[int]:
    """Return the epochs in the one results table of a training, in its order."""
    tables = sorted(Path(warden.job(job).dir).rglob("results.csv"))
    assert len(tables) == 1, tables
    with tables[0].open() as file:
        return [int(row["epoch"]) for row in csv.DictReader(file)]


def train(warden: Live, data: Path, epochs: int) -> str:
    """Start a training and return its id once its first epoch is over."""
    name = warden.submit("yolo.train", data=str(data), epochs=epochs, batch=4, image_size=64, optimizer="AdamW")
    assert warden.holds(lambda: warden.job(name).metrics.get("epoch", 0) >= 1, WITHIN_S), warden.job(name)
    return name


def test_a_training_that_is_paused_goes_on_after_everything_was_started_anew(live: MakeLive, data: Path) -> None:
    warden = live(YOLO)
    name = train(warden, data, epochs=5)

    warden.ask("jobs.pause", job=name)
    paused = warden.wait_for_job(name, "paused", within_s=WITHIN_S)
    reached = int(paused.metrics["epoch"])
    assert reached < 5, "it was paused before its end"
    assert warden.holds(lambda: pid_of(warden, "yolo-0") is None), "the device is free"
    warden.stop()
    warden.start()
    warden.ask("jobs.resume", job=name)
    done = warden.wait_for_job(name, within_s=WITHIN_S)

    assert (done.status, done.result["epochs"], done.result["resumed_from_epoch"]) == ("completed", 5, reached)
    assert epochs_in(warden, name) == [1, 2, 3, 4, 5]
    assert 0.0 <= done.result["metrics"]["mAP50"] <= 1.0


def test_a_training_does_not_notice_that_its_supervisor_was_killed(live: MakeLive, data: Path) -> None:
    warden = live(YOLO)
    name = train(warden, data, epochs=4)
    pid = pid_of(warden, "yolo-0")

    warden.kill()
    mark = warden.mark()
    warden.start()
    assert warden.wait_for_event("worker_adopted", worker="yolo-0", after=mark)["pid"] == pid
    done = warden.wait_for_job(name, within_s=WITHIN_S)

    assert (done.status, done.attempt, done.result["epochs"]) == ("completed", 1, 4)
    assert epochs_in(warden, name) == [1, 2, 3, 4]
