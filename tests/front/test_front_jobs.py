"""Jobs over HTTP: submitted, listed, waited for, changed; every no is a problem with its status."""

import threading
from typing import Any

import httpx
import pytest

from tests.support.front import WITHIN_S, FrontChild


def submit(http: httpx.Client, kind: str = "demo.count", **body: Any) -> dict[str, Any]:
    answer = http.post("/v1/jobs", json={"kind": kind, **body})
    assert answer.status_code == 202, answer.text
    return answer.json()


def test_a_job_is_accepted_with_its_place_and_a_time_to_ask_again(http: httpx.Client) -> None:
    answer = http.post("/v1/jobs", json={"kind": "demo.count", "params": {"to": 3}, "priority": 0, "max_attempts": 2, "run_at": "2030-01-01T00:00:00+00:00"})

    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
    assert int(answer.headers["retry-after"]) >= 1
    assert http.get(answer.headers["location"]).json()["params"] == {"to": 3}


def test_the_same_key_makes_one_job_and_another_body_under_it_is_refused(http: httpx.Client) -> None:
    first, again = (http.post("/v1/jobs", json={"kind": "demo.count"}, headers={"Idempotency-Key": "k1"}) for _ in range(2))
    other = http.post("/v1/jobs", json={"kind": "demo.count", "params": {"x": 1}}, headers={"Idempotency-Key": "k1"})

    assert first.json()["id"] == again.json()["id"]
    assert (other.status_code, other.json()["reason"]) == (422, "invalid")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "reason"),
    [
        ("POST", "/v1/jobs", {"kind": "no.such"}, 400, "usage"),
        ("POST", "/v1/jobs", {}, 422, "invalid"),
        ("POST", "/v1/jobs", {"kind": "demo.count", "colour": 1}, 422, "invalid"),
        ("POST", "/v1/jobs", {"kind": "demo.count", "priority": -1}, 422, "invalid"),
        ("POST", "/v1/jobs", {"kind": "demo.count", "run_at": "tomorrow"}, 422, "invalid"),
        ("GET", "/v1/jobs/j-0000009999", None, 404, "unknown"),
        ("GET", "/v1/jobs/j-", None, 404, "unknown"),
        ("GET", "/v1/jobs?limit=0", None, 422, "invalid"),
        ("GET", "/v1/jobs?status=odd", None, 400, "usage"),
        ("POST", "/v1/jobs/j-0000009999/cancel", None, 404, "unknown"),
        ("POST", "/v1/jobs/j-000000/cancel", None, 404, "unknown"),
        ("GET", "/nowhere", None, 404, "unknown"),
        ("DELETE", "/v1/jobs", None, 405, "method"),
        ("POST", "/v1/workers/nobody/start", None, 404, "unknown"),
        ("POST", "/v1/workers/sam-0/explode", None, 422, "invalid"),
    ],
)
def test_every_no_is_a_problem(*, http: httpx.Client, method: str, path: str, body: Any, status: int, reason: str) -> None:
    answer = http.request(method, path, json=body)

    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (answer.status_code, problem["status"], problem["reason"]) == (status, status, reason)
    assert set(problem) >= {"type", "title", "status", "detail", "reason", "evidence", "retryable"}
    assert problem["detail"]


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{", 400), (b'{"kind": "a", "params": {"x": ' + b"[" * 100_000, 400), (b'{"kind": "\xff"}', 400), (b'{"kind": NaN}', 400), (b"[]", 422)],
)
def test_a_body_that_is_no_job_is_a_problem(http: httpx.Client, body: bytes, status: int) -> None:
    answer = http.post("/v1/jobs", content=body, headers={"content-type": "application/json"})

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


def test_a_form_is_told_to_be_json(http: httpx.Client) -> None:
    answer = http.post("/v1/jobs", data={"kind": "demo.count"})

    assert answer.status_code == 415
    assert "application/json" in answer.json()["detail"]


def test_an_expired_job_is_gone_and_an_ended_one_cannot_be_cancelled(front: FrontChild, http: httpx.Client) -> None:
    old, ended = submit(http)["id"], submit(http)["id"]
    front.warden.do(lambda: front.warden.gone.add(old))
    front.warden.change(ended, "job_completed", status="completed")

    assert http.get(f"/v1/jobs/{old}").status_code == 410
    assert http.get(f"/job/{old}/status").status_code == 410
    assert http.post(f"/v1/jobs/{ended}/cancel").status_code == 409


def test_pause_resume_retry_and_why(front: FrontChild, http: httpx.Client) -> None:
    job = submit(http)["id"]
    front.warden.change(job, "job_started", status="running")

    assert http.post(f"/v1/jobs/{job}/resume").status_code == 409
    assert http.post(f"/v1/jobs/{job}/pause").json()["status"] == "paused"
    assert http.post(f"/v1/jobs/{job}/resume").json()["status"] == "queued"
    assert http.post(f"/v1/jobs/{job}/cancel").json()["cancel"] == {"freed_bytes": 5, "took_s": 0.1}
    retried = http.post(f"/v1/jobs/{job}/retry")
    assert retried.json()["retry_of"] == job
    assert retried.headers["location"].endswith(retried.json()["id"])
    assert http.get(f"/v1/jobs/{job}/why").json()["sentences"] == ["it waits"]


def test_a_retry_under_the_same_key_makes_one_job(front: FrontChild, http: httpx.Client) -> None:
    old, other = submit(http)["id"], submit(http)["id"]
    for one in (old, other):
        front.warden.change(one, "job_failed", status="failed")

    first, again = (http.post(f"/v1/jobs/{old}/retry", headers={"Idempotency-Key": "retry-1"}) for _ in range(2))
    elsewhere = http.post(f"/v1/jobs/{other}/retry", headers={"Idempotency-Key": "retry-1"})
    free = http.post(f"/v1/jobs/{old}/retry")

    assert first.json()["id"] == again.json()["id"] != free.json()["id"]
    assert (elsewhere.status_code, elsewhere.json()["reason"]) == (422, "invalid")


def test_pages_join_without_a_job_twice(http: httpx.Client) -> None:
    made = {submit(http)["id"] for _ in range(7)}
    seen: list[str] = []
    cursor = ""
    while True:
        page = http.get("/v1/jobs", params={"limit": 2, "cursor": cursor}).json()
        seen += [job["id"] for job in page["jobs"]]
        cursor = page["next"]
        if not cursor:
            break

    assert made <= set(seen)
    assert len(seen) == len(set(seen))


def test_statuses_may_be_repeated_or_parted_by_commas(front: FrontChild, http: httpx.Client) -> None:
    job = submit(http)["id"]
    front.warden.change(job, status="paused")

    for query in ("status=paused&status=pausing", "status=paused,pausing"):
        assert {one["status"] for one in http.get(f"/v1/jobs?{query}").json()["jobs"]} == {"paused"}


def test_an_unchanged_job_is_304_and_a_changed_one_is_not(front: FrontChild, http: httpx.Client) -> None:
    job = submit(http)["id"]
    tag = http.get(f"/v1/jobs/{job}").headers["etag"]

    same = http.get(f"/v1/jobs/{job}", headers={"If-None-Match": tag})
    front.warden.change(job, progress=5.0)
    other = http.get(f"/v1/jobs/{job}", headers={"If-None-Match": tag})

    assert (same.status_code, same.content) == (304, b"")
    assert other.status_code == 200
    assert other.headers["etag"] != tag


def test_a_long_poll_comes_back_when_the_job_ends(front: FrontChild, http: httpx.Client) -> None:
    job = submit(http)["id"]
    answers: list[httpx.Response] = []
    waiting = threading.Thread(target=lambda: answers.append(http.get(f"/v1/jobs/{job}", params={"wait": 60})))

    waiting.start()
    front.warden.change(job, progress=50.0)
    front.warden.change(job, "job_completed", status="completed", progress=100.0)
    waiting.join(WITHIN_S)

    assert answers[0].json()["status"] == "completed"


def test_a_long_poll_with_a_tag_comes_back_when_the_job_changes_and_304_when_it_does_not(front: FrontChild, http: httpx.Client) -> None:
    job = submit(http)["id"]
    tag = http.get(f"/v1/jobs/{job}").headers["etag"]

    same = http.get(f"/v1/jobs/{job}", params={"wait": 0.3}, headers={"If-None-Match": tag})
    answers: list[httpx.Response] = []
    waiting = threading.Thread(target=lambda: answers.append(http.get(f"/v1/jobs/{job}", params={"wait": 60}, headers={"If-None-Match": tag})))
    waiting.start()
    front.warden.change(job, progress=10.0)
    waiting.join(WITHIN_S)

    assert same.status_code == 304
    assert answers[0].json()["progress"] == 10.0


def test_big_json_is_compressed(front: FrontChild, http: httpx.Client) -> None:
    for _ in range(10):
        submit(http)

    assert http.get("/v1/jobs?limit=10").headers["content-encoding"] == "gzip"


def test_the_supervisor_is_told_who_asks(front: FrontChild, http: httpx.Client) -> None:
    submit(http)

    assert front.warden.do(lambda: next(by for op, _, by in reversed(front.warden.asked) if op == "jobs.submit")) == "http 127.0.0.1"


@pytest.mark.parametrize("path", ["/v1/status", "/v1/workers", "/v1/gpu/status", "/v1/kinds", "/v1/schedules", "/readyz", "/healthz", "/docs", "/openapi.json"])
def test_what_can_be_read_is_read(http: httpx.Client, path: str) -> None:
    assert http.get(path).status_code == 200


def test_workers_are_acted_on_and_the_queue_is_held(http: httpx.Client) -> None:
    for action in ("start", "stop", "restart", "recycle"):
        answer = http.post(f"/v1/workers/sam/{action}")
        assert (answer.status_code, answer.json()) == (202, ["sam-0"])
    assert http.post("/v1/workers/sam-0/dump").json()[0]["worker"] == "sam-0"
    assert http.post("/v1/hold").json() == {"held": True}
    assert http.post("/v1/release").json() == {"held": False}


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", "/v1/jobs", "GET, HEAD, POST"),
        ("PUT", "/v1/jobs/j-0000000001", "GET, HEAD"),
        ("GET", "/v1/jobs/j-0000000001/cancel", "POST"),
        ("HEAD", "/v1/hold", "POST"),
        ("PUT", "/sessions/s-aaaaaaaaaa", "DELETE, GET, HEAD"),
        ("POST", "/healthz", "GET, HEAD"),
    ],
)
def test_a_method_that_a_path_does_not_know_is_told_those_that_it_does(http: httpx.Client, method: str, path: str, allow: str) -> None:
    answer = http.request(method, path)

    assert (answer.status_code, answer.headers["allow"]) == (405, allow)


def test_head_answers_as_get_without_the_body(front: FrontChild, http: httpx.Client) -> None:
    job = submit(http)["id"]
    (front.state_dir / "jobs" / job / "big").write_bytes(b"x" * 5_000_000)

    for path in ("/healthz", "/v1/status", "/v1/jobs", f"/v1/jobs/{job}", f"/v1/jobs/{job}/files/big", "/v1/jobs/j-0000009999", "/docs", "/metrics"):
        get, head = http.get(path), http.head(path)
        assert (head.status_code, head.content) == (get.status_code, b""), path
        assert head.headers["content-type"] == get.headers["content-type"], path
    assert http.head(f"/v1/jobs/{job}/files/big", headers={"Accept-Encoding": "identity"}).headers["content-length"] == "5000000"


@pytest.mark.parametrize("path", ["/v1/events", "/v1/jobs/{job}/events"])
def test_head_of_a_stream_ends_with_its_head(http: httpx.Client, path: str) -> None:
    answer = http.head(path.format(job=submit(http)["id"]))

    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, "text/event-stream")
    assert http.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/jobs?state=queued", 422),
        ("GET", "/v1/jobs?status=queued&Limit=5", 422),
        ("GET", "/v1/status?x", 422),
        ("POST", "/v1/hold?force=1", 422),
        ("GET", "/v1/events?before=1", 422),
        ("GET", "/v1/jobs?status=queued&limit=5", 200),
        ("GET", "/healthz?probe=1", 200),
        ("GET", "/metrics?name=up", 200),
    ],
)
def test_a_query_that_a_path_does_not_know_is_refused_by_name(http: httpx.Client, method: str, path: str, status: int) -> None:
    answer = http.request(method, path)

    assert answer.status_code == status, answer.text
    if status == 422:
        name = {"state", "Limit", "x", "force", "before"} & set(path.replace("?", " ").replace("=", " ").replace("&", " ").split())
        assert f"{name.pop()!r} is unknown" in answer.json()["detail"]
