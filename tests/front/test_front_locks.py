"""The device over HTTP: taken, refused with who holds it, given up when the connection closes, and whose the process is."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.front.conftest import MakeFront
from tests.support.front import WITHIN_S, FrontChild, until

ASK = {"owner": "trainer", "need": "8GiB", "timeout_s": 30}


def asked(front: FrontChild, op: str) -> list[dict[str, Any]]:
    """Return what was asked of the supervisor by this operation."""
    return [args for name, args, _by in front.warden.asked if name == op]


def test_a_device_is_taken_renewed_and_given_back(make_front: MakeFront) -> None:
    front = make_front()
    with front.client() as http:
        taken = http.post("/v1/gpu/lock", json=ASK)
        renewed = http.post("/v1/gpu/renew", json={"lease": "l-7", "fence": 7, "ttl_s": 60})
        given = http.post("/v1/gpu/unlock", json={"lease": "l-7", "fence": 7})
        late = http.post("/v1/gpu/unlock", json={"lease": "l-7", "fence": 6})

    assert [one.status_code for one in (taken, renewed, given, late)] == [200, 200, 200, 409], taken.text
    assert {name: taken.json()[name] for name in ("lease", "fence", "device", "expires_in_s")} == {
        "lease": "l-7",
        "fence": 7,
        "device": "host",
        "expires_in_s": 30.0,
    }
    (sent,) = asked(front, "gpu.lock")
    assert (sent["owner"], sent["need"], sent["timeout_s"], sent["pid"], sent["priority"]) == ("trainer", "8GiB", 30.0, 0, 15)
    assert sent["caller"] == front.process.pid if front.process else None
    assert "ttl_s" not in sent


def test_the_lock_for_loading_is_asked_for_by_its_purpose(make_front: MakeFront) -> None:
    front = make_front()
    with front.client() as http:
        loads = http.post("/v1/gpu/lock", json={"owner": "trainer", "purpose": "load"})
        uses = http.post("/v1/gpu/lock", json=ASK)

    assert (loads.status_code, loads.json()["lease"]) == (200, "l-8")
    assert uses.status_code == 200
    assert [sent["purpose"] for sent in asked(front, "gpu.lock")] == ["load", "inference"]


def test_one_that_is_not_free_in_time_is_503_with_who_holds_it_and_a_ticket(make_front: MakeFront) -> None:
    front = make_front()
    with front.client() as http:
        http.post("/v1/gpu/lock", json={**ASK, "owner": "first"})
        refused = http.post("/v1/gpu/lock", json=ASK)
        again = http.post("/v1/gpu/lock", json={**ASK, "ticket": refused.json()["ticket"]})

    problem = refused.json()
    assert (refused.status_code, problem["reason"], problem["detail"]) == (503, "lock_timeout", "first holds host")
    assert int(refused.headers["retry-after"]) > 0
    assert problem["holders"][0]["owner"] == "first"
    assert asked(front, "gpu.lock")[-1]["ticket"] == problem["ticket"] == again.json()["ticket"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({**ASK, "owner": ""}, 422),
        ({**ASK, "need": "much"}, 422),
        ({**ASK, "purpose": "training"}, 422),
        ({**ASK, "timeout_s": -1}, 422),
        ({**ASK, "device": "GPU-1"}, 404),
        ({**ASK, "holdr": 1}, 422),
    ],
)
def test_what_makes_no_sense_is_refused(front: FrontChild, body: dict[str, Any], status: int) -> None:
    with front.client() as http:
        refused = http.post("/v1/gpu/lock", json=body)
        assert refused.status_code == status
        assert "regex" not in refused.json()["detail"]


def test_what_is_no_size_is_told_what_a_size_is(front: FrontChild) -> None:
    with front.client() as http:
        assert http.post("/v1/gpu/lock", json={**ASK, "need": "much"}).json()["detail"] == (
            'the body does not fit: Expected `str` that is a size such as "8GiB" - at `$.need`'
        )


def test_a_waiter_whose_connection_closes_is_withdrawn(make_front: MakeFront) -> None:
    front = make_front()
    front.warden.unanswered.add("gpu.lock")
    body = b'{"owner": "trainer", "timeout_s": 600}'
    head = f"POST /v1/gpu/lock HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    one = front.raw(head + body)
    until(lambda: bool(asked(front, "gpu.lock")), "the lock is asked for")

    one.close()

    until(lambda: bool(asked(front, "gpu.withdraw")), "the waiter is withdrawn")
    assert asked(front, "gpu.withdraw") == [{"ticket": asked(front, "gpu.lock")[0]["ticket"]}]


def test_the_unix_socket_proves_whose_the_process_is_and_tcp_does_not(make_front: MakeFront) -> None:
    front = make_front(unix=True)
    transport = httpx.HTTPTransport(uds=str(front.unix_path))
    with front.client(transport=transport) as local, front.client() as remote:
        first = local.post("/v1/gpu/lock", json=ASK)
        stranger = local.post("/v1/gpu/lock", json={**ASK, "pid": 1})
        local.post("/v1/gpu/lock", json={**ASK, "pid": 0})
        remote.post("/v1/gpu/lock", json={**ASK, "pid": os.getpid()})

    assert (first.status_code, stranger.status_code) == (200, 422)
    assert [sent["pid"] for sent in asked(front, "gpu.lock")] == [os.getpid(), 0, 0]
    assert asked(front, "gpu.lock")[0]["start_ticks"] > 0


def test_whoever_waits_hears_at_once_that_the_front_ends(make_front: MakeFront) -> None:
    front = make_front()
    front.warden.unanswered.add("gpu.lock")
    with front.client() as http, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: http.post("/v1/gpu/lock", json={**ASK, "timeout_s": 600}))
        until(lambda: bool(asked(front, "gpu.lock")), "the lock is asked for")

        front.end()
        answer = waiting.result(WITHIN_S)

    assert (answer.status_code, answer.json()["reason"]) == (503, "withdrawn")
    assert asked(front, "gpu.withdraw") == [{"ticket": answer.json()["ticket"]}]
