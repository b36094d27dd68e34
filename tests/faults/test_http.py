"""The HTTP front under a real supervisor: it may be killed at any moment, and nobody is refused and nothing is lost; a training is answered as it went."""

import json
import os
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.test_job_service import pid_of
from tests.support.live import Live, MakeLive, alive

pytestmark = [pytest.mark.faults, pytest.mark.slow]

CHROMIUM = Path("/usr/bin/chromium")
ANY_PORT = "127.0.0.1:0"
TRAINER = """
from workers.base import main
from workers.fake import Fake, Params

class Trainer(Fake):
    serves = ("yolo.train",)
    params = {"yolo.train": Params}

main(Trainer)
"""


def url_of(warden: Live) -> str:
    """Return where the front serves, once it does."""
    assert warden.holds(lambda: warden.worker("api-0").state == "ready"), (warden.log_dir / "workers" / "api-0.log").read_text()
    return warden.status().supervisor.api


def is_ready(warden: Live, worker: str, generation: int) -> bool:
    """Return whether this generation of a worker is ready."""
    found = warden.worker(worker)
    return (found.state, found.generation) == ("ready", generation)


@contextmanager
def client(warden: Live) -> Iterator[httpx.Client]:
    """A caller who waits for an answer, however slow the machine is, but takes no refused connection."""
    with httpx.Client(base_url=url_of(warden), timeout=60.0) as one:
        yield one


def two_models(live: MakeLive, tmp_path: Path, gpu: str = "") -> Live:
    """Start a supervisor with a resident SAM, and a YOLO that comes for trainings; both are fakes."""
    script = tmp_path / "trainer.py"
    script.write_text(TRAINER)
    fake = 'command = ["{python}", "-P", "-m", "workers.fake"]'
    warden = live(
        f"""
[watchdog]
stop_grace = "4s"
[gpu]
{gpu}
[workers.sam]
{fake}
serves = ["demo.count"]
gpu = "14GiB"
[workers.yolo]
command = ["{{python}}", "-P", {json.dumps(str(script))}]
serves = ["yolo.train"]
gpu = "8GiB"
priority = 15
resident = false
""",
        api=ANY_PORT,
    )
    assert warden.holds(lambda: warden.worker("sam-0").state == "ready")
    return warden


def test_nobody_is_refused_while_the_front_is_killed_again_and_again(live: MakeLive) -> None:
    warden = live(api=ANY_PORT)
    answers: list[int] = []
    broken: list[str] = []
    done = threading.Event()
    url = url_of(warden)

    def call() -> None:
        while not done.is_set():
            try:
                answers.append(httpx.get(f"{url}/v1/status", timeout=60.0).status_code)
            except httpx.ConnectError as error:
                broken.append(repr(error))
            except httpx.TransportError:  # its answer was under way as the front died: it may ask again
                pass

    caller = threading.Thread(target=call)
    caller.start()
    try:
        for generation in range(2, 5):
            pid = pid_of(warden, "api-0")
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            assert warden.holds(partial(is_ready, warden, "api-0", generation))
        before = len(answers)
        assert warden.holds(lambda: len(answers) > before)
    finally:
        done.set()
        caller.join()

    assert not broken
    assert set(answers) == {200}


def test_a_front_that_is_killed_costs_no_worker_and_no_job(live: MakeLive) -> None:
    warden = live(api=ANY_PORT)
    with client(warden) as http:
        name = http.post("/v1/jobs", json={"kind": "demo.count", "params": {"steps": 40, "step_s": 0.1}}).json()["id"]
        worker = warden.wait_for_event("worker_spawned", worker="sam-0")["pid"]
        front = pid_of(warden, "api-0")
        assert front is not None

        os.kill(front, signal.SIGKILL)

    answer = httpx.get(f"{warden.status().supervisor.api}/v1/jobs/{name}", params={"wait": 60}, timeout=90.0)
    assert answer.json()["status"] == "completed"
    assert warden.wait_for_job(name).status == "completed"
    assert pid_of(warden, "sam-0") == worker


def test_the_front_of_a_supervisor_that_was_killed_makes_way_for_the_next_one(live: MakeLive) -> None:
    warden = live(api=ANY_PORT)
    url_of(warden)
    old = pid_of(warden, "api-0")
    assert old is not None

    warden.kill()
    warden.start()

    with client(warden) as http:
        assert http.get("/healthz").status_code == 200
    assert not alive(old)


def test_a_unix_socket_alone_serves_without_a_token(live: MakeLive, tmp_path: Path) -> None:
    warden = live(start=False)
    toml = warden.folder / "supervisor.toml"
    toml.write_text(toml.read_text().replace('bind = "off"', 'bind = "off"\nsocket = "warden.sock"'))

    warden.start()

    assert warden.holds(partial(is_ready, warden, "api-0", 1))
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(warden.folder / "warden.sock")), base_url="http://warden", timeout=60.0) as http:
        assert http.get("/healthz").json() == {"alive": True}
        assert http.post("/v1/jobs", json={"kind": "demo.count", "params": {"steps": 1}}).status_code == 202
    assert stat.S_IMODE((warden.folder / "warden.sock").stat().st_mode) == 0o660
    warden.stop()
    assert not (warden.folder / "warden.sock").exists()
    warden.start()


def test_a_front_that_nobody_asks_is_idle_and_not_stalled(live: MakeLive) -> None:
    warden = live('[watchdog]\nstall_after = "1s"\n[workers.sam]\ncommand = ["{python}", "-P", "-m", "workers.fake"]\nserves = ["demo.count"]\n', api=ANY_PORT)
    url_of(warden)

    clocks = {clock.clock for clock in warden.worker("api-0").clocks if clock.limit_s < 1e6}

    assert clocks <= {"silent"}


def test_a_port_that_is_taken_is_a_sentence_and_exit_78(live: MakeLive) -> None:
    first = live(api=ANY_PORT)
    port = url_of(first).rpartition(":")[2]
    second = live(api=f"127.0.0.1:{port}", start=False, name="second")

    ended = second.cli("run")

    assert ended.returncode == 78
    assert port in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_training_whose_device_does_not_come_back_is_503_and_names_the_holder(live: MakeLive, tmp_path: Path) -> None:
    warden = two_models(live, tmp_path, gpu='vacate_timeout = "1s"\npoll_max = "500ms"')
    pid = pid_of(warden, "sam-0")
    assert pid is not None

    with client(warden) as http:
        os.kill(pid, signal.SIGSTOP)
        refused = http.post("/api/training/jobs", json={"params": {"steps": 2}})

    assert refused.status_code == 503
    assert refused.headers["content-type"] == "application/problem+json"
    assert "Retry-After" in refused.headers
    body: dict[str, Any] = refused.json()
    assert body["reason"] == "gpu_refused"
    assert f"sam-0 (pid {pid})" in body["detail"]
    assert (body["job"]["status"], body["job"]["reason"]) == ("failed", "gpu_refused")
    assert warden.job(body["job"]["id"]).message == body["detail"], "the same words in the job as in the answer"


def test_a_training_that_gets_the_device_is_202_goes_through_its_states_and_sam_comes_back(live: MakeLive, tmp_path: Path) -> None:
    warden = two_models(live, tmp_path)

    with client(warden) as http:
        taken = http.post("/api/training/jobs", json={"params": {"steps": 4}})
        name = taken.json()["id"]
        assert taken.status_code == 202
        assert taken.headers["location"] == f"/v1/jobs/{name}"
        assert warden.wait_for_job(name).status == "completed"
        told = [line for line in http.get(f"/v1/jobs/{name}/events").text.splitlines() if line.startswith("data:")]
    states = [json.loads(line.removeprefix("data:"))["data"]["status"] for line in told]
    assert list(dict.fromkeys(states)) == ["queued", "preparing", "running", "completed"]
    assert warden.holds(lambda: warden.worker("sam-0").state == "ready")


@pytest.mark.timeout(180)
@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no {CHROMIUM}: install it with apt-get install chromium")
def test_a_browser_sees_each_step_of_a_job_over_a_kill_of_the_front_and_of_the_supervisor(live: MakeLive) -> None:
    from playwright.sync_api import sync_playwright

    steps = 50  # they must outlast the starts of a front and of a supervisor
    warden = live(api=ANY_PORT)
    port = url_of(warden).rpartition(":")[2]
    toml = warden.folder / "supervisor.toml"
    toml.write_text(toml.read_text().replace(ANY_PORT, f"127.0.0.1:{port}"))  # the browser must find the next supervisor's front
    name = warden.submit(steps=steps, step_s=0.4)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{port}/healthz")
        page.evaluate(
            """path => {
                window.told = [];
                window.source = new EventSource(path);
                window.source.onmessage = event => window.told.push([Number(event.lastEventId), JSON.parse(event.data)]);
            }""",
            f"/v1/jobs/{name}/events?after=0",
        )
        page.wait_for_function("window.told.filter(([, event]) => event.event === 'job_moved').length >= 3", timeout=60_000)
        front = pid_of(warden, "api-0")
        assert front is not None
        os.kill(front, signal.SIGKILL)
        assert warden.holds(partial(is_ready, warden, "api-0", 2))
        warden.kill()
        warden.start()
        page.wait_for_function("window.told.some(([, event]) => event.event === 'job_completed')", timeout=90_000)
        told = page.evaluate("window.told")
        browser.close()

    numbers = [number for number, _ in told]
    assert numbers == sorted(set(numbers)), "none twice, none out of order"
    kept = [event["seq"] for event in warden.ask("events.since", after=0, job=name, limit=1000)["events"]]
    assert numbers == kept, "none missed"
    done = [event["data"]["done"] for _, event in told if event["event"] == "job_moved"]
    assert done == sorted(done)
    assert len(done) >= steps // 3, "the steps are slower than four a second: nearly each is told"
