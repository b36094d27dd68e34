"""Streams: what was is replayed, what comes follows, and nothing is missing or twice in between, whatever is cut off."""

import json
import threading

import pytest

from tests.front.conftest import MakeFront
from tests.support.front import WITHIN_S, FrontChild, events_of, numbers, told


def test_a_job_is_followed_from_its_first_event_to_its_end(make_front: MakeFront) -> None:
    front = make_front()
    job = front.warden.submit("demo.count")
    other = front.warden.submit("demo.count")
    for step in range(5):
        front.warden.change(job, progress=float(step))
        front.warden.change(other, progress=float(step))
    front.warden.change(job, "job_completed", status="completed")

    with front.client() as http, http.stream("GET", f"/v1/jobs/{job}/events") as stream:
        events = events_of(stream, 100)

    told = [json.loads(event["data"]) for event in events]
    assert [one["event"] for one in told] == ["job_queued", *["job_moved"] * 5, "job_completed"]
    assert {one["job"] for one in told} == {job}
    assert numbers(events) == [one["seq"] for one in told]
    assert stream.headers["x-accel-buffering"] == "no"
    assert stream.headers["cache-control"] == "no-store"


def test_whoever_saw_the_end_is_told_to_stop_asking(make_front: MakeFront) -> None:
    front = make_front()
    job = front.warden.submit("demo.count")
    last = front.warden.change(job, "job_completed", status="completed")

    with front.client() as http:
        assert http.get(f"/v1/jobs/{job}/events", headers={"Last-Event-ID": str(last)}).status_code == 204
        assert http.get("/v1/jobs/j-0000009999/events").status_code == 404


@pytest.mark.parametrize("wrong", ["abc", "-1", "9" * 30])
def test_a_number_that_is_none_is_refused(front: FrontChild, wrong: str) -> None:
    with front.client() as http:
        assert http.get("/v1/events", headers={"Last-Event-ID": wrong}).status_code == 422


def test_only_the_named_jobs_are_told(make_front: MakeFront) -> None:
    front = make_front()
    a, b, c = (front.warden.submit("demo.count") for _ in range(3))
    for job in (a, b, c, a):
        front.warden.change(job)

    with front.client() as http, http.stream("GET", "/v1/events", params={"job": f"{a},{c}", "after": 0}) as stream:
        told = [json.loads(event["data"])["job"] for event in events_of(stream, 5)]

    assert told == [a, c, a, c, a]


def test_events_while_the_replay_runs_come_once_and_in_order(make_front: MakeFront) -> None:
    front = make_front()
    job = front.warden.submit("demo.count")
    for step in range(1200):  # more than a page of the store, so the replay takes several questions
        front.warden.change(job, done=float(step))
    going = threading.Event()

    def move_on() -> None:
        for step in range(400):
            front.warden.change(job, done=1200.0 + step)
            going.set()

    mover = threading.Thread(target=move_on)
    mover.start()
    assert going.wait(WITHIN_S)
    with front.client() as http, http.stream("GET", "/v1/events", params={"after": 0}) as stream:
        events = events_of(stream, 1601)
    mover.join()

    assert numbers(events) == list(range(1, 1602))


def test_a_hole_is_filled_by_asking(make_front: MakeFront) -> None:
    front = make_front()
    job = front.warden.submit("demo.count")
    with front.client() as http, http.stream("GET", "/v1/events", headers={"Last-Event-ID": "1"}) as stream:
        front.warden.change(job)
        front.warden.do(lambda: setattr(front.warden, "mute", True))
        for _ in range(5):
            front.warden.change(job)
        front.warden.do(lambda: setattr(front.warden, "mute", False))
        front.warden.change(job)

        assert numbers(events_of(stream, 7)) == list(range(2, 9))


def test_what_was_never_published_comes_without_a_later_event(make_front: MakeFront) -> None:
    front = make_front()
    job = front.warden.submit("demo.count")
    with front.client() as http, http.stream("GET", "/v1/events", headers={"Last-Event-ID": "1"}) as stream:
        front.warden.do(lambda: setattr(front.warden, "mute", True))
        front.warden.change(job)

        assert numbers(events_of(stream, 1)) == [2]


def test_a_stream_lives_through_a_restart_of_the_supervisor(make_front: MakeFront) -> None:
    front = make_front()
    job = front.warden.submit("demo.count")
    with front.client() as http, http.stream("GET", f"/v1/jobs/{job}/events") as stream:
        front.warden.change(job)
        front.warden.stop()
        front.warden.start()
        front.warden.change(job)
        front.warden.change(job, "job_completed", status="completed")

        assert numbers(events_of(stream, 10)) == [1, 2, 3, 4]


def test_a_follower_goes_on_after_a_restart_of_the_front(make_front: MakeFront) -> None:
    front = make_front()
    job = front.warden.submit("demo.count")
    with front.client() as http, http.stream("GET", f"/v1/jobs/{job}/events") as stream:
        assert numbers(events_of(stream, 1)) == [1]
    front.end(kill=True)
    front.warden.change(job)
    front.start().ready()
    front.warden.change(job, "job_completed", status="completed")

    with front.client() as http, http.stream("GET", f"/v1/jobs/{job}/events", headers={"Last-Event-ID": "1"}) as stream:
        assert numbers(events_of(stream, 10)) == [2, 3]


def test_a_gap_is_said_once_however_long_the_replay_is(make_front: MakeFront) -> None:
    front = make_front()
    job = front.warden.submit("demo.count")
    for step in range(1200):  # more than two pages of the store
        front.warden.change(job, done=float(step))
    front.warden.whole_from = 1100
    front.end(kill=True)
    front.start().ready()  # what was before its start it has to ask for

    with front.client() as http, http.stream("GET", "/v1/events", headers={"Last-Event-ID": "1"}) as stream:
        events = events_of(stream, 1201)

    gaps = [json.loads(event["data"]) for event in events if event.get("event") == "gap"]
    assert gaps == [{"after": 1, "first": 1100}]
    assert numbers([event for event in events if "id" in event]) == list(range(2, 1202))


def test_a_number_of_another_life_is_a_gap_and_not_silence(make_front: MakeFront) -> None:
    front = make_front()
    front.warden.submit("demo.count")
    with front.client() as http, http.stream("GET", "/v1/events", headers={"Last-Event-ID": "999"}) as stream:
        events = told(stream)
        gap = next(events)
        front.warden.submit("demo.count")
        event = next(events)

    assert (gap["event"], json.loads(gap["data"])) == ("gap", {"after": 999, "first": 2})
    assert event["id"] == "2"


@pytest.mark.slow
def test_a_silent_stream_is_pinged(make_front: MakeFront) -> None:
    front = make_front()
    with front.client() as http, http.stream("GET", "/v1/events") as stream:
        assert next(line for line in stream.iter_lines() if line.startswith(":")).startswith(": ping")
