"""Trainings and single images: the answer waits for the hand-over, and whoever is in the way is named."""

import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.front.conftest import MakeFront
from tests.support.fake_supervisor import device, holder, worker
from tests.support.front import WITHIN_S, FrontChild

POINT = {"points": [[1, 1]], "labels": [1]}


def vacating(front: FrontChild) -> None:
    """From now on a training that is submitted waits for its hand-over, until the test decides."""

    def begin(job: dict[str, Any]) -> None:
        handover = {
            "to": "yolo-0", "job": job["id"], "leaving": ["sam-0"], "need_bytes": 1, "ago_s": 0.1, "exit_s": None, "gone_s": None, "back_s": None,
            "proof_s": None, "spawned_s": None, "polls": 1,
        }  # fmt: skip
        front.warden.devices[:] = [device(holder("sam-0", state="yielding"), handover=handover)]
        front.warden._change(job["id"], "gpu_vacating", {"status": "queued", "reason": "waiting_for_gpu"})
        going.set()

    going = threading.Event()
    front.warden.going = going  # type: ignore[attr-defined]
    front.warden.on_submit["yolo.train"] = begin


def in_background(call: Any) -> tuple[threading.Thread, list[httpx.Response]]:
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(call()))
    thread.start()
    return thread, answers


def test_a_training_that_gets_the_device_is_202(make_front: MakeFront) -> None:
    front = make_front()
    vacating(front)
    with front.client() as http:
        thread, answers = in_background(lambda: http.post("/api/training/jobs", json={"params": {"epochs": 1}}))
        assert front.warden.going.wait(WITHIN_S)  # type: ignore[attr-defined]
        (job,) = front.warden.jobs
        assert thread.is_alive()
        front.warden.do(lambda: front.warden.devices[0]["handover"].update(proof_s=0.3))
        front.warden.change(job, "job_started", status="preparing", reason="")
        thread.join(WITHIN_S)

    assert (answers[0].status_code, answers[0].json()["id"], answers[0].headers["location"]) == (202, job, f"/v1/jobs/{job}")


def test_a_training_that_is_refused_the_device_is_503_and_names_who_holds_it(make_front: MakeFront) -> None:
    front = make_front()
    vacating(front)
    with front.client() as http:
        thread, answers = in_background(lambda: http.post("/api/training/jobs", json={}))
        assert front.warden.going.wait(WITHIN_S)  # type: ignore[attr-defined]
        (job,) = front.warden.jobs
        error = {
            "reason": "gpu_refused",
            "message": "not free within 120 s: sam-0 holds 3GiB",
            "evidence": "3GiB",
            "phase": "vacating",
            "stack": "",
            "log_tail": [],
        }
        front.warden.change(job, "job_failed", status="failed", reason="gpu_refused", error=error)
        thread.join(WITHIN_S)

    problem = answers[0].json()
    assert (answers[0].status_code, problem["reason"], problem["retryable"]) == (503, "gpu_refused", True)
    assert "sam-0 holds 3GiB" in problem["detail"]
    assert problem["job"]["id"] == job
    assert (problem["holder"]["owner"], problem["holder"]["since_s"]) == ("sam-0", 65.0)
    assert int(answers[0].headers["retry-after"]) > 0


def test_a_training_behind_a_busy_holder_only_queues(make_front: MakeFront) -> None:
    front = make_front()
    front.warden.on_submit["yolo.train"] = lambda job: job.update(reason="waiting_for_gpu", message="sam-0 is busy")

    with front.client() as http:
        answer = http.post("/api/training/jobs", json={})

    assert (answer.status_code, answer.json()["status"]) == (202, "queued")


def test_a_training_that_nobody_decides_about_is_not_kept_for_long(make_front: MakeFront) -> None:
    front = make_front()  # its vacate_timeout is longer than the test may take
    front.warden.on_submit["yolo.train"] = lambda _job: None

    with front.client() as http:
        answer = http.post("/api/training/jobs", json={})

    assert (answer.status_code, answer.json()["status"]) == (202, "queued")


def test_whoever_prefers_not_to_wait_does_not(make_front: MakeFront) -> None:
    front = make_front()
    vacating(front)

    with front.client() as http:
        answer = http.post("/api/training/jobs", json={}, headers={"Prefer": "respond-async"})

    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "respond-async")


def test_waiting_ends_with_vacate_timeout_whatever_happens(make_front: MakeFront, monkeypatch: pytest.MonkeyPatch) -> None:
    front = make_front()
    front.warden.vacate_timeout_s = -4.5  # with the slack half a second
    vacating(front)

    with front.client() as http:
        answer = http.post("/api/training/jobs", json={})

    assert (answer.status_code, answer.json()["status"]) == (202, "queued")


def test_a_held_training_is_started_and_executed_cancelled_and_looked_at(front: FrontChild, http: httpx.Client) -> None:
    held = http.post("/api/training/jobs", json={"hold": True}).json()
    started = http.post(f"/api/training/jobs/{held['id']}/start")
    executed = http.post("/api/training/execute", json={"params": {"epochs": 2}})
    job = executed.json()["job_id"]
    looked = http.get(f"/api/training/status/{job}").json()
    cancelled = http.post("/api/training/cancel", json={"job_id": job})

    assert (held["status"], held["reason"]) == ("queued", "held")
    assert (started.status_code, started.json()["status"]) == (202, "running")
    assert (executed.status_code, looked["job_type"], looked["status"]) == (202, "training", "running")
    assert (cancelled.status_code, cancelled.json()["status"]) == (202, "cancelled")
    assert http.post("/api/training/cancel", json={"job_id": "j-0000009999"}).status_code == 404
    assert http.post("/api/training/cancel", json={"job_id": job}).status_code == 409


def test_a_review_is_pushed_with_its_masks(front: FrontChild, http: httpx.Client) -> None:
    film = front.state_dir / "film.mp4"
    film.write_bytes(b"film")
    session = http.post("/sessions", json={"path": str(film)}).json()["session_id"]
    early = http.post(f"/api/review/{session}/push", json={"classes": {"1": "car"}})
    http.post(f"/sessions/{session}/prompts", json={"prompts": [{"box": [0, 0, 1, 1]}]})
    propagated = http.post("/propagate", json={"session_id": session}).json()["job_id"]
    masks = front.state_dir / "jobs" / propagated / "masks"
    masks.mkdir()

    pushed = http.post(f"/api/review/{session}/push", json={"classes": {"1": "car"}, "params": {"epochs": 3}})

    assert early.status_code == 409
    assert pushed.status_code == 202
    assert pushed.json()["params"] == {"epochs": 3, "masks": {"video": str(film), "masks_dir": str(masks), "classes": {"1": "car"}}}
    assert http.post(f"/api/review/{session}/push", json={"classes": {}}).status_code == 422
    assert http.post("/api/review/s-aaaaaaaaaa/push", json={"classes": {"1": "car"}}).status_code == 404


def image(front: FrontChild) -> str:
    path = front.state_dir / "a.png"
    path.write_bytes(b"png")
    return str(path)


def test_one_image_is_predicted(front: FrontChild, http: httpx.Client) -> None:
    answer = http.post("/predict", json={"image": image(front), **POINT})
    uploaded = http.post("/predict", files={"file": ("a.png", b"png")}, data={"prompt": '{"boxes": [[0, 0, 1, 1]]}'})

    assert (answer.status_code, answer.json()["masks"]) == (200, [])
    assert (uploaded.status_code, uploaded.json()["size"]) == (200, [2, 2])
    assert list((front.state_dir / "uploads").glob("*")) == []
    assert http.post("/predict", json={"image": image(front)}).status_code == 422
    assert http.post("/predict", json={"image": "/etc/passwd", **POINT}).status_code == 422
    assert http.post("/predict", files={"file": ("a.png", b"png")}, data={"prompt": "{"}).status_code == 400


def test_while_sam_is_away_it_is_said_who_has_the_card_since_when_and_until_when(make_front: MakeFront) -> None:
    front = make_front()
    job = front.warden.submit("yolo.train", eta_s=90.0)
    front.warden.workers[:] = [worker("sam-0", "sam", state="down"), worker("yolo-0", "yolo", state="busy", jobs=[job])]
    front.warden.devices[:] = [device(holder("yolo-0"))]

    with front.client() as http:
        answer = http.post("/predict", json={"image": image(front), **POINT})

    problem = answer.json()
    assert (answer.status_code, problem["reason"], answer.headers["retry-after"]) == (503, "waiting_for_gpu", "90")
    assert {"owner": "yolo-0", "job": job, "since_s": 65.0, "until_s": 90.0}.items() <= problem["holder"].items()
    assert "yolo-0 has host" in problem["detail"]


def test_an_image_that_would_wait_for_a_busy_holder_is_cancelled_and_503(make_front: MakeFront) -> None:
    front = make_front()
    job = front.warden.submit("yolo.train", eta_s=10.0)
    front.warden.workers[1].update(state="busy", jobs=[job])
    front.warden.devices[:] = [device(holder("yolo-0"))]
    front.warden.on_submit["sam.segment"] = lambda job: job.update(reason="waiting_for_gpu")

    with front.client() as http:
        answer = http.post("/predict", json={"image": image(front), **POINT})

    assert (answer.status_code, answer.json()["holder"]["owner"]) == (503, "yolo-0")
    assert [one["status"] for one in front.warden.jobs.values() if one["kind"] == "sam.segment"] == ["cancelled"]


def test_a_prediction_that_fails_is_a_problem_with_the_workers_words(make_front: MakeFront) -> None:
    front = make_front()
    error = {"reason": "bad_input", "message": "point 0 lies outside", "evidence": "", "phase": "", "stack": "", "log_tail": []}
    front.warden.on_submit["sam.segment"] = lambda job: job.update(status="failed", error=error)

    with front.client() as http:
        answer = http.post("/predict", json={"image": image(front), **POINT})

    assert (answer.status_code, answer.json()["detail"]) == (422, "point 0 lies outside")


@pytest.mark.parametrize("by", ["path", "upload"])
def test_the_same_key_predicts_once(make_front: MakeFront, by: str) -> None:
    front = make_front()
    path = image(front)

    def ask(http: httpx.Client, *, x: int = 1) -> httpx.Response:
        headers, box = {"Idempotency-Key": "p"}, [[0, 0, x, 1]]
        if by == "path":
            return http.post("/predict", json={"image": path, "boxes": box}, headers=headers)
        return http.post("/predict", files={"file": ("a.png", b"png")}, data={"prompt": f'{{"boxes": {box}}}'}, headers=headers)

    with front.client() as http:
        first, again, other = ask(http), ask(http), ask(http, x=2)

    assert (first.status_code, again.status_code, other.status_code) == (200, 200, 422)
    assert first.json() == again.json()
    assert len(front.warden.jobs) == 1
    assert list((front.state_dir / "uploads").glob("*")) == []


@pytest.mark.parametrize("by", ["path", "upload"])
def test_the_same_key_at_the_same_time_predicts_once(make_front: MakeFront, by: str) -> None:
    front = make_front()
    path = image(front)
    going = threading.Event()
    front.warden.on_submit["sam.segment"] = lambda _: going.set()

    def ask() -> httpx.Response:
        headers = {"Idempotency-Key": "p"}
        with front.client() as http:
            if by == "path":
                return http.post("/predict", json={"image": path, **POINT}, headers=headers)
            return http.post("/predict", files={"file": ("a.png", b"png")}, data={"prompt": '{"boxes": [[0, 0, 1, 1]]}'}, headers=headers)

    threads, answers = zip(*(in_background(ask) for _ in range(3)), strict=True)
    assert going.wait(WITHIN_S)
    (job,) = front.warden.jobs
    assert by == "path" or Path(front.warden.jobs[job]["params"]["image"]).exists()
    front.warden.change(job, "job_completed", status="completed", result={"size": [2, 2], "masks": []})
    for one in threads:
        one.join(WITHIN_S)

    assert [one[0].status_code for one in answers] == [200] * 3
    assert list(front.warden.jobs) == [job]


def test_a_key_whose_prediction_could_not_wait_predicts_when_it_is_sent_again(make_front: MakeFront) -> None:
    front = make_front()
    job = front.warden.submit("yolo.train", eta_s=10.0)
    front.warden.workers[1].update(state="busy", jobs=[job])
    front.warden.devices[:] = [device(holder("yolo-0"))]
    predicts = front.warden.on_submit["sam.segment"]
    front.warden.on_submit["sam.segment"] = lambda job: job.update(reason="waiting_for_gpu")
    body, headers = {"image": image(front), **POINT}, {"Idempotency-Key": "p"}

    with front.client() as http:
        waits = http.post("/predict", json=body, headers=headers)
        front.warden.devices[:] = [device()]
        front.warden.on_submit["sam.segment"] = predicts
        goes = http.post("/predict", json=body, headers=headers)

    assert (waits.status_code, waits.json()["retryable"], goes.status_code) == (503, True, 200)
