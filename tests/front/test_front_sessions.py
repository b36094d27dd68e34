"""Sessions, uploads and masks: what the review tool does, and what it does wrong."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.front.conftest import MakeFront
from tests.support.disk import small_disk
from tests.support.front import WITHIN_S, FrontChild

PROMPT = {"frame": 0, "object": 1, "points": [[1, 2]], "labels": [1]}


@pytest.fixture
def film(front: FrontChild) -> str:
    path = front.state_dir / "film.mp4"
    path.write_bytes(b"film")
    return str(path)


def session_of(http: httpx.Client, film: str) -> str:
    made = http.post("/sessions", json={"path": film})
    assert made.status_code == 201, made.text
    return str(made.json()["session_id"])


def uploads(front: FrontChild) -> list[str]:
    folder = front.state_dir / "uploads"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_session_on_a_path_is_prompted_propagated_and_removed(front: FrontChild, http: httpx.Client, film: str) -> None:
    session = session_of(http, film)
    http.post(f"/sessions/{session}/prompts", json={"prompts": [PROMPT, {"object": 2, "box": [0, 0, 5, 5]}]})
    shown = http.post(f"/sessions/{session}/prompts", json={"prompts": [{"frame": 0, "object": 1, "points": [[9, 9]]}]}).json()

    started = http.post("/propagate", json={"session_id": session})

    assert [one["points"] for one in shown["prompts"]] == [[[9, 9]], []]
    assert started.status_code == 202
    assert (started.json()["status"], bool(started.json()["message"])) == ("pending", True)
    job = started.json()["job_id"]
    assert front.warden.jobs[job]["params"]["video"] == film
    assert [one["object"] for one in front.warden.jobs[job]["params"]["prompts"]] == [1, 2]
    assert http.get(f"/sessions/{session}").json()["job_id"] == job
    assert http.delete(f"/sessions/{session}").status_code == 409
    http.post(f"/v1/jobs/{job}/cancel")
    assert http.delete(f"/sessions/{session}").status_code == 204
    assert http.get(f"/sessions/{session}").status_code == 404
    assert Path(film).exists()


@pytest.mark.parametrize(
    ("status", "word"),
    [
        ("queued", "pending"), ("preparing", "pending"), ("running", "running"), ("pausing", "running"), ("paused", "paused"),
        ("cancelling", "running"), ("completed", "completed"), ("failed", "failed"), ("cancelled", "cancelled"),
    ],
)  # fmt: skip
def test_a_status_has_one_of_the_words_of_the_compatibility_routes(front: FrontChild, http: httpx.Client, status: str, word: str) -> None:
    job = front.warden.submit("sam.propagate", status=status, progress=41.5)

    told = http.get(f"/job/{job}/status").json()

    assert (told["job_id"], told["job_type"], told["status"], told["progress"]) == (job, "propagation", word, 41.5)
    assert set(told) >= {"created_at", "started_at", "completed_at", "result", "error"}


def test_masks_are_served_while_the_job_runs_after_it_failed_and_while_the_supervisor_is_away(make_front: MakeFront) -> None:
    front = make_front()
    film = front.state_dir / "film.mp4"
    film.write_bytes(b"film")
    with front.client() as http:
        session = session_of(http, str(film))
        http.post(f"/sessions/{session}/prompts", json={"prompts": [PROMPT]})
        assert http.post("/frame-masks", json={"session_id": session, "frame_idx": 0}).status_code == 404
        job = http.post("/propagate", json={"session_id": session}).json()["job_id"]
        front.warden.change(job, status="running", progress=40.0)
        masks = Path(front.warden.jobs[job]["dir"]) / "masks"
        masks.mkdir()
        rle = {"size": [2, 2], "counts": "04"}
        (masks / "000003.json").write_text(json.dumps({"frame": 3, "size": [2, 2], "objects": {"1": rle}}))

        there, not_yet = (http.post("/frame-masks", json={"session_id": session, "frame_idx": number}) for number in (3, 4))
        front.warden.change(job, "job_failed", status="failed", message="it broke")
        failed, never = (http.post("/frame-masks", json={"session_id": session, "frame_idx": number}) for number in (3, 4))
        front.warden.stop()
        away = http.post("/frame-masks", json={"session_id": session, "frame_idx": 3})

    assert there.json() == failed.json() == away.json() == {"1": rle}
    assert (not_yet.status_code, not_yet.json()["reason"], "retry-after" in not_yet.headers) == (404, "not_yet", True)
    assert (never.status_code, never.json()["reason"]) == (404, "unknown")
    assert "it broke" in never.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/sessions", {"path": "/etc/passwd"}, 422),
        ("POST", "/sessions", {"path": "nowhere.mp4"}, 422),
        ("POST", "/sessions", {"path": ""}, 422),
        ("POST", "/sessions", {}, 422),
        ("GET", "/sessions/s-aaaaaaaaaa", None, 404),
        ("GET", "/sessions/..%2F..%2Fetc", None, 404),
        ("GET", "/sessions/keys", None, 404),
        ("POST", "/sessions/s-aaaaaaaaaa/prompts", {"prompts": [PROMPT]}, 404),
        ("POST", "/sessions/s-aaaaaaaaaa/prompts", {"prompts": []}, 422),
        ("POST", "/sessions/s-aaaaaaaaaa/prompts", {"prompts": [{"object": 1}]}, 422),
        ("POST", "/sessions/s-aaaaaaaaaa/prompts", {"prompts": [{"points": [[1, 2]], "labels": [1, 0]}]}, 422),
        ("POST", "/sessions/s-aaaaaaaaaa/prompts", {"prompts": [{"points": [[1]]}]}, 422),
        ("POST", "/propagate", {"session_id": "s-aaaaaaaaaa"}, 404),
        ("POST", "/frame-masks", {"session_id": "s-aaaaaaaaaa", "frame_idx": 0}, 404),
        ("POST", "/frame-masks", {"session_id": "s-aaaaaaaaaa", "frame_idx": -1}, 422),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_problem(http: httpx.Client, method: str, path: str, body: Any, status: int) -> None:
    answer = http.request(method, path, json=body)

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


def test_a_propagation_without_prompts_is_refused(http: httpx.Client, film: str) -> None:
    assert http.post("/propagate", json={"session_id": session_of(http, film)}).status_code == 422


def test_an_upload_becomes_a_session_and_goes_with_it(front: FrontChild, http: httpx.Client) -> None:
    data = bytes(range(256)) * 20_000

    made = http.post("/sessions", files={"file": ("my ../film.MP4", data, "video/mp4")})

    session = made.json()
    assert (made.status_code, session["size_bytes"], session["uploaded"]) == (201, len(data), True)
    assert Path(session["video"]).read_bytes() == data
    assert Path(session["video"]) == front.state_dir / "uploads" / session["session_id"] / "video.mp4"
    assert http.delete(f"/sessions/{session['session_id']}").status_code == 204
    assert not Path(session["video"]).exists()


def test_the_same_upload_under_one_key_is_kept_once(front: FrontChild, http: httpx.Client) -> None:
    before = uploads(front)
    first, again = (http.post("/sessions", files={"file": ("a.mp4", b"abc")}, headers={"Idempotency-Key": "up"}) for _ in range(2))
    other = http.post("/sessions", files={"file": ("a.mp4", b"abd")}, headers={"Idempotency-Key": "up"})

    assert first.json()["session_id"] == again.json()["session_id"]
    assert other.status_code == 422
    assert len(uploads(front)) == len(before) + 1


@pytest.mark.parametrize(
    ("files", "data", "status"),
    [
        ({"other": ("a", b"x")}, {}, 422),
        ({"file": ("a", b"")}, {}, 422),
        ([("file", ("a", b"x")), ("file", ("b", b"y"))], {}, 422),
        ({"file": ("a", b"x")}, {"note": "n" * 300_000}, 413),
        ({"file": ("a", b"x")}, {f"n{number}": "1" for number in range(30)}, 422),
    ],
)
def test_an_upload_that_is_not_one_file_leaves_nothing_behind(front: FrontChild, http: httpx.Client, files: Any, data: Any, status: int) -> None:
    before = uploads(front)

    assert http.post("/sessions", files=files, data=data).status_code == status
    assert uploads(front) == before


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=" + "b" * 500, "multipart/form-data; boundary=x"]
)
def test_a_body_that_is_no_multipart_is_refused(front: FrontChild, http: httpx.Client, content_type: str) -> None:
    before = uploads(front)

    assert http.post("/sessions", content=b"what is this", headers={"Content-Type": content_type}).status_code == 400
    assert uploads(front) == before


@pytest.fixture
def small(make_front: MakeFront) -> FrontChild:
    """A front that takes uploads of at most 300,000 bytes."""
    return make_front(max_upload_bytes=300_000)


def test_an_oversize_upload_is_cut_off_on_the_way(small: FrontChild) -> None:
    pieces = 0

    def endless() -> Iterator[bytes]:
        nonlocal pieces
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        while pieces < 2000:
            pieces += 1
            yield b"x" * 65536

    with small.client() as http:
        try:
            status = http.post("/sessions", content=endless(), headers={"Content-Type": "multipart/form-data; boundary=b"}).status_code
        except httpx.TransportError:  # the connection ended while we still wrote, which is the point
            status = 413
        over = http.post("/sessions", files={"file": ("a", b"x" * 300_001)})
        fits = http.post("/sessions", files={"file": ("a", b"x" * 300_000)})

    assert status == 413
    assert pieces < 1500
    assert (over.status_code, fits.status_code) == (413, 201)
    assert len(uploads(small)) == 1


def test_a_truncated_upload_leaves_nothing_behind(front: FrontChild, http: httpx.Client) -> None:
    before = uploads(front)
    head = b"POST /sessions HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 100000\r\n\r\n"
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + b"x" * 5000

    one = front.raw(head + part)
    one.shutdown(socket.SHUT_WR)
    answered = one.recv(65536)
    one.close()
    whole_body_torn = http.post("/sessions", content=part, headers={"Content-Type": "multipart/form-data; boundary=b"})

    assert answered == b"" or b" 400 " in answered
    assert (whole_body_torn.status_code, whole_body_torn.json()["reason"]) == (400, "truncated")
    assert wait_until(front, before) == before


def wait_until(front: FrontChild, before: list[str]) -> list[str]:
    """Return what lies there once every request so far was done with: the next answers come after it."""
    with front.client() as http:
        for _ in range(200):
            http.get("/healthz")
            if uploads(front) == before:
                break
    return uploads(front)


def test_sessions_survive_a_restart_and_torn_uploads_do_not(make_front: MakeFront) -> None:
    front = make_front()
    with front.client() as http:
        session = http.post("/sessions", files={"file": ("a.mp4", b"abc")}).json()
    front.end(kill=True)
    torn = front.state_dir / "uploads" / "s-torn000000"
    torn.mkdir()
    (torn / "partial").write_bytes(b"ab")
    front.start().ready()

    with front.client() as http:
        assert http.get(f"/sessions/{session['session_id']}").json() == session
    assert uploads(front) == [session["session_id"]]


@pytest.mark.parametrize("number", range(2))
def test_prompts_from_two_sides_are_both_kept(http: httpx.Client, film: str, number: int) -> None:
    session = session_of(http, film)
    with httpx.Client(base_url=http.base_url, timeout=WITHIN_S) as other:
        for thing in range(1, 6):
            for client, shift in ((http, 0), (other, 100)):
                client.post(f"/sessions/{session}/prompts", json={"prompts": [{"object": thing + shift, "box": [0, 0, 1, 1]}]})

    assert len(http.get(f"/sessions/{session}").json()["prompts"]) == 10


def test_a_full_disk_is_said_at_each_write_and_nothing_half_made_stays(tmp_path: Path, make_front: MakeFront) -> None:
    with small_disk(tmp_path) as disk:
        for name in ("uploads", "sessions"):
            (disk.folder / name).mkdir()
            (tmp_path / "f" / "var").mkdir(parents=True, exist_ok=True)
            (tmp_path / "f" / "var" / name).symlink_to(disk.folder / name)
        front = make_front()
        film = front.state_dir / "film.mp4"
        film.write_bytes(b"film")
        with front.client() as http:
            session = session_of(http, str(film))
            disk.fill()
            answers = [
                http.post("/sessions", files={"file": ("a.mp4", b"x" * 100_000)}),
                http.post("/sessions", json={"path": str(film)}),
                http.post(f"/sessions/{session}/prompts", json={"prompts": [PROMPT] * 1000}),
            ]
            kept = http.get(f"/sessions/{session}").json()
            left = uploads(front)
            disk.free()
            again = http.post("/sessions", files={"file": ("a.mp4", b"x" * 100_000)})
        front.end()

    assert [(one.status_code, one.json()["reason"]) for one in answers] == [(507, "full")] * 3
    assert kept["prompts"] == []
    assert left == []
    assert again.status_code == 201


@pytest.mark.parametrize(("free", "status"), [(2**30 - 1, 507), (2**30 + 10, 507), (2**30 + 100_000, 201)])
def test_an_upload_that_would_leave_less_room_than_the_floor_is_refused(make_front: MakeFront, free: int, status: int) -> None:
    front = make_front()
    front.warden.memory = {"available_bytes": None, "disk_free_bytes": free, "disk_floor_bytes": 2**30}

    with front.client() as http:
        answer = http.post("/sessions", files={"file": ("a.mp4", b"x" * 1000)})
        predicted = http.post("/predict", files={"file": ("a.png", b"x" * 1000)}, data={"prompt": '{"boxes": [[0, 0, 1, 1]]}'})

    assert answer.status_code == status, answer.text
    assert predicted.status_code == (507 if status == 507 else 200)
    if status == 507:
        assert (answer.json()["reason"], answer.json()["retryable"], "disk_floor" in answer.json()["detail"]) == ("full", True, True)
        assert uploads(front) == []


@pytest.mark.parametrize("named", ["video", "folder", "relative", "link"])
def test_a_session_stays_while_a_job_that_lives_needs_its_upload(front: FrontChild, http: httpx.Client, tmp_path: Path, named: str) -> None:
    made = http.post("/sessions", files={"file": ("a.mp4", b"abc")}).json()
    session, video = made["session_id"], Path(made["video"])
    link = tmp_path / "link.mp4"
    link.symlink_to(video)
    text = {"video": str(video), "folder": str(video.parent), "relative": f"uploads/{session}/video.mp4", "link": str(link)}[named]
    for number in range(3):
        front.warden.submit("demo.count", status="queued", params={"note": f"another {number}"})
    job = front.warden.submit("yolo.train", status="running", params={"masks": {"video": text, "classes": {"1": "car"}}})
    front.warden.submit("demo.count", status="completed", params={"video": str(video)})

    kept = http.delete(f"/sessions/{session}")
    front.warden.change(job, "job_completed", status="completed")
    gone = http.delete(f"/sessions/{session}")

    assert (kept.status_code, kept.json()["job_id"], job in kept.json()["detail"]) == (409, job, True)
    assert gone.status_code == 204
    assert not video.exists()


def test_a_session_stays_while_any_of_its_propagations_lives(front: FrontChild, http: httpx.Client, film: str) -> None:
    session = session_of(http, film)
    http.post(f"/sessions/{session}/prompts", json={"prompts": [PROMPT]})
    first, second = (http.post("/propagate", json={"session_id": session}).json()["job_id"] for _ in range(2))

    front.warden.change(second, "job_failed", status="failed")

    assert http.delete(f"/sessions/{session}").json()["job_id"] == first


def test_a_frame_is_served_from_the_newest_propagation_that_has_come_to_it(front: FrontChild, http: httpx.Client, film: str) -> None:
    session = session_of(http, film)
    http.post(f"/sessions/{session}/prompts", json={"prompts": [PROMPT]})
    jobs = [http.post("/propagate", json={"session_id": session}).json()["job_id"] for _ in range(2)]

    def write(job: str, frame: int, counts: str) -> None:
        masks = Path(front.warden.jobs[job]["dir"]) / "masks"
        masks.mkdir(exist_ok=True)
        objects = {"1": {"size": [2, 2], "counts": counts}}
        (masks / f"{frame:06d}.json").write_text(json.dumps({"frame": frame, "size": [2, 2], "objects": objects}))

    def asked(frame: int) -> httpx.Response:
        return http.post("/frame-masks", json={"session_id": session, "frame_idx": frame})

    write(jobs[0], 0, "old")
    write(jobs[0], 1, "old")
    write(jobs[1], 0, "new")
    served = [asked(frame).json()["1"]["counts"] for frame in (0, 1)]
    front.warden.change(jobs[1], "job_cancelled", status="cancelled")
    not_yet = asked(2)
    front.warden.change(jobs[0], "job_failed", status="failed")
    never = asked(2)

    assert served == ["new", "old"]
    assert (not_yet.json()["reason"], not_yet.json()["job_id"]) == ("not_yet", jobs[0])
    assert never.json()["reason"] == "unknown"
