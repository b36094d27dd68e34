"""The child's life: it says that it is ready and that it lives, ends in order, and outlives a supervisor that is away, mute or restarted."""

import threading

import httpx
import pytest

from tests.front.conftest import MakeFront
from tests.support.front import WITHIN_S, FrontChild, answered, events_of, fronts, until

__all__ = ["fronts"]


def test_it_answers_when_it_says_so_and_pings_its_watchdog(make_front: MakeFront) -> None:
    front = make_front()
    front.end()
    front.start(watchdog_usec=200_000)

    assert f"STATUS=serves on {front.url}" in front.wait_for_notice("READY=1")
    with front.client() as http:
        assert http.get("/healthz").status_code == 200
    front.wait_for_notice("WATCHDOG=1")
    front.wait_for_notice("WATCHDOG=1")


def test_sigterm_ends_it_in_order_and_no_connection_is_refused_meanwhile(make_front: MakeFront) -> None:
    front = make_front()
    job = front.warden.submit("demo.count")
    with front.client() as http, front.client() as other, http.stream("GET", f"/v1/jobs/{job}/events") as stream:
        assert len(events_of(stream, 1)) == 1
        waiting: list[httpx.Response] = []
        poll = threading.Thread(target=lambda: waiting.append(other.get(f"/v1/jobs/{job}", params={"wait": 60})))
        poll.start()
        wait_until_asked(front, "jobs.show", 2)

        code = front.end()
        poll.join(WITHIN_S)

    early = threading.Thread(target=lambda: waiting.append(httpx.get(f"{front.url}/healthz", timeout=60)))
    early.start()  # nobody serves now, yet the socket is the supervisor's: the connection waits
    front.start().ready()
    early.join(WITHIN_S)

    assert code == 0, front.said()
    assert [one.status_code for one in waiting] == [200, 200]


def wait_until_asked(front: FrontChild, op: str, times: int) -> None:
    """Return once the supervisor was asked so often."""
    until(lambda: sum(one[0] == op for one in front.warden.do(lambda: list(front.warden.asked))) >= times, f"{op} was asked {times} times")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/status", None),
        ("GET", "/v1/jobs/j-0000000001", None),
        ("GET", "/job/j-0000000001/status", None),
        ("POST", "/v1/jobs", {"kind": "demo.count"}),
        ("GET", "/readyz", None),
        ("GET", "/health", None),
    ],
)
def test_a_supervisor_that_is_away_is_503_and_never_a_hang(away: FrontChild, method: str, path: str, body: object) -> None:
    with away.client() as http:
        answer = http.request(method, path, json=body)

    assert (answer.status_code, answer.json()["reason"], answer.json()["retryable"]) == (503, "unreachable", True)
    assert int(answer.headers["retry-after"]) > 0


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> object:
    """A front whose supervisor is gone."""
    with fronts(tmp_path_factory.mktemp("away")) as one:
        one.warden.stop()
        yield one


def test_it_lives_and_counts_without_a_supervisor(away: FrontChild) -> None:
    with away.client() as http:
        assert http.get("/healthz").status_code == 200
        assert "warden_up 0.0" in http.get("/metrics").text


def test_it_answers_again_when_the_supervisor_is_back_and_nothing_asked_before_is_done_then(make_front: MakeFront) -> None:
    front = make_front()
    front.warden.stop()
    with front.client() as http:
        assert http.post("/v1/jobs", json={"kind": "demo.count"}).status_code == 503
        front.warden.start()
        assert answered(http, "/v1/jobs").json()["jobs"] == []


@pytest.mark.slow
def test_a_supervisor_that_falls_silent_is_503_after_the_deadline(make_front: MakeFront) -> None:
    front = make_front()
    front.warden.do(lambda: setattr(front.warden, "silent", True))
    with front.client() as http:
        answer = http.get("/v1/status")
        front.warden.do(lambda: setattr(front.warden, "silent", False))
        again = answered(http, "/v1/status")

    assert (answer.status_code, answer.json()["reason"]) == (503, "unreachable")
    assert again.status_code == 200


def test_health_names_what_is_wrong_and_who_holds_what(front: FrontChild, http: httpx.Client) -> None:
    good = http.get("/health")
    front.warden.unwell[:] = ["sam-0 is in quarantined: crash"]
    bad = http.get("/health")
    front.warden.unwell[:] = []

    assert (good.status_code, good.json()["status"], good.json()["devices"][0]["holders"]) == (200, "ok", [])
    assert (bad.status_code, bad.json()["reason"], bad.json()["health"]["unwell"]) == (503, "unwell", ["sam-0 is in quarantined: crash"])


GIB = 2**30


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"stopping": True}, "stopping"),
        ({"memory": {"available_bytes": None, "disk_free_bytes": GIB - 1, "disk_floor_bytes": GIB}}, "full"),
        ({"unwell": ["no job is taken: the store cannot write"]}, "unwell"),
        ({"unwell": ["sam-0 is in quarantined: crash"]}, None),
        ({"memory": {"available_bytes": None, "disk_free_bytes": GIB, "disk_floor_bytes": GIB}}, None),
        ({"memory": {"available_bytes": None, "disk_free_bytes": None, "disk_floor_bytes": GIB}}, None),
        ({}, None),
    ],
)
def test_it_is_ready_exactly_while_jobs_are_taken(front: FrontChild, http: httpx.Client, state: dict[str, object], reason: str | None) -> None:
    before = {name: getattr(front.warden, name) for name in state}
    for name, value in state.items():
        setattr(front.warden, name, value)
    answer = http.get("/readyz")
    for name, value in before.items():
        setattr(front.warden, name, value)

    if reason is None:
        assert (answer.status_code, answer.json()) == (200, {"ready": True})
    else:
        assert (answer.status_code, answer.headers["content-type"], answer.json()["reason"]) == (503, "application/problem+json", reason)
        assert answer.json()["detail"]


def test_metrics_count_what_happened_and_show_what_is(make_front: MakeFront) -> None:
    front = make_front()
    job = front.warden.submit("demo.count", started_at="2026-01-01T00:00:01.000+00:00")
    front.warden.submit("yolo.train")
    front.warden.publish("gpu_vacating", worker="yolo-0", device="host", leaving=["sam-0"])
    front.warden.publish("lease_granted", worker="yolo-0", device="host")
    front.warden.publish("worker_recycled", worker="sam-0")
    front.warden.publish("emergency_brake", worker="sam-0", took_s=0.2)
    front.warden.publish("config_reloaded")
    front.warden.change(job, "job_completed", status="completed", completed_at="2026-01-01T00:00:03.000+00:00")
    with front.client() as http:
        metrics_with(http, 'warden_jobs_total{kind="demo.count",outcome="completed",reason=""} 1.0')
        http.get(f"/v1/jobs/{job}")
        text = http.get("/metrics").text

    for line in (
        "warden_up 1.0",
        'warden_build_info{version="',
        'warden_worker_up{model="sam",state="ready",worker="sam-0"} 1.0',
        'warden_worker_restarts_total{reason="crash",worker="sam-0"} 2.0',
        'warden_worker_heartbeat_age_seconds{worker="sam-0"} 0.2',
        'warden_worker_resident_memory_bytes{worker="sam-0"}',
        'warden_jobs{kind="yolo.train",status="running"} 1.0',
        'warden_job_run_seconds_sum{kind="demo.count"} 2.0',
        'warden_gpu_lease_preemptions_total{gpu="host"} 1.0',
        "warden_gpu_lease_wait_seconds_count 1.0",
        'warden_worker_recycle_total{reason="recycle",worker="sam-0"} 1.0',
        "warden_memory_brake_reaction_seconds_count 1.0",
        'warden_memory_available_bytes{scope="machine"}',
        "warden_config_last_reload_successful 1.0",
        "warden_loop_lag_seconds 0.0005",
        'warden_http_requests_total{method="GET",route="/v1/jobs/{job}",status="200"} 1.0',
    ):
        assert line in text, line
    assert "_created" not in text
    assert job not in text


def metrics_with(http: httpx.Client, line: str) -> None:
    """Return once the metrics have a line: what ended is asked for after its event."""
    until(lambda: line in http.get("/metrics").text, line)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_thousand_slow_clients_are_put_out_while_others_are_served(make_front: MakeFront) -> None:
    front = make_front()
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    heads = [b"", b"GET /v1/status HTTP/1.1\r\nHost: local", b"POST /v1/jobs HTTP/1.1\r\n"]
    slow = [front.raw(heads[number % len(heads)]) for number in range(1000)]
    try:
        with front.client() as http:
            served = [http.get("/healthz").status_code for _ in range(20)]
            assert http.get("/v1/status").status_code == 200
        ended = [one.recv(4096) for one in slow]  # each returns when its connection is closed, at most 15 s from its start
    finally:
        for one in slow:
            one.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert served == [200] * 20
    assert set(ended) == {b""}


def test_a_body_that_does_not_come_is_not_waited_for_after_the_answer(front: FrontChild) -> None:
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: evil.example\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n"
    with front.raw(head) as one:
        data = b"".join(iter(lambda: one.recv(65536), b""))

    assert data.startswith(b"HTTP/1.1 421")
    assert b"connection: close" in data
