"""What an operator orders of the devices over HTTP: who may, who it was for the record, and what is answered when the answer is no."""

import hashlib
import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.front.conftest import MakeFront
from tests.support.front import FrontChild

ASK = {"owner": "trainer", "need": "8GiB", "timeout_s": 30}
ORDERS = ("reset", "force-release-all")


def asked(front: FrontChild, op: str) -> list[dict[str, Any]]:
    """Return what was asked of the supervisor by this operation."""
    return [args for name, args, _by in front.warden.asked if name == op]


def test_leases_are_taken_back_with_or_without_a_reason(make_front: MakeFront) -> None:
    front = make_front()
    with front.client() as http:
        lease = http.post("/v1/gpu/lock", json=ASK).json()
        reset = http.post("/v1/gpu/reset")
        forced = http.post("/v1/gpu/force-release-all", json={"reason": "it hangs"})
        old = http.post("/v1/gpu/renew", json={"lease": lease["lease"], "fence": lease["fence"]})

    assert (reset.status_code, reset.json()["released"]) == (200, [])
    assert [(one["owner"], one["lease"], one["fence"]) for one in forced.json()["released"]] == [("trainer", "l-7", 7)]
    assert old.status_code == 409
    assert asked(front, "gpu.reset") == [{"by": "http 127.0.0.1", "reason": ""}]
    assert asked(front, "gpu.force_release") == [{"by": "http 127.0.0.1", "reason": "it hangs"}]


def test_the_unix_socket_proves_who_it_was(make_front: MakeFront) -> None:
    front = make_front(unix=True)
    with front.client(transport=httpx.HTTPTransport(uds=str(front.unix_path))) as http:
        http.post("/v1/gpu/force-release-all")

    assert asked(front, "gpu.force_release")[0]["by"] == f"uid {os.getuid()}, pid {os.getpid()}, over the http unix socket"


def test_a_token_is_known_by_its_fingerprint_and_only_admin_may(make_front: MakeFront, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("a-token admin\no-token operate\n")
    front = make_front(token_file=str(path))
    with front.client() as http:
        codes = [
            [http.post(f"/v1/gpu/{order}", headers={"Authorization": f"Bearer {token}"}).status_code for order in ORDERS] for token in ("o-token", "a-token")
        ]
        emptied = http.post("/v1/gpu/vacate", headers={"Authorization": "Bearer o-token"}).status_code

    assert codes == [[403, 403], [200, 200]]
    assert emptied == 200, "to empty a card sends away no more than to lock it"
    assert [args["by"] for args in asked(front, "gpu.reset")] == [f"http 127.0.0.1, token {hashlib.sha256(b'a-token').hexdigest()[:8]}"]


def test_a_card_is_emptied_or_it_is_503_with_who_is_in_the_way(make_front: MakeFront) -> None:
    front = make_front()
    with front.client() as http:
        empty = http.post("/v1/gpu/vacate", json={"need": "8GiB", "timeout_s": 60, "keep_free_s": 10})
        http.post("/v1/gpu/lock", json=ASK)
        busy = http.post("/v1/gpu/vacate")

    sent, bare = asked(front, "gpu.vacate")
    assert (empty.status_code, empty.json()) == (
        200,
        {"success": True, "message": "host is empty", "freed_bytes": 5, "holders": [], "device": "host", "kept_free_s": 300.0},
    )
    problem = busy.json()
    assert (busy.status_code, problem["reason"], problem["detail"], problem["retryable"]) == (503, "not_vacated", "trainer holds host", True)
    assert (problem["success"], problem["message"], problem["freed_bytes"]) == (False, "trainer holds host", 0)
    assert problem["holders"][0]["owner"] == "trainer"
    assert int(busy.headers["retry-after"]) > 0
    assert (sent["need"], sent["timeout_s"], sent["keep_free_s"]) == ("8GiB", 60.0, 10.0)
    assert bare["timeout_s"] == 120.0
    assert front.process is not None
    assert sent["caller"] == front.process.pid


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("reset", {"reason": "x" * 501}, 422),
        ("reset", {"reason": "two\nlines"}, 422),
        ("force-release-all", {"why": "?"}, 422),
        ("force-release-all", [], 422),
        ("vacate", {"need": "much"}, 422),
        ("vacate", {"timeout_s": -1}, 422),
        ("vacate", {"device": "GPU-1"}, 404),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_is_ordered(front: FrontChild, path: str, body: Any, status: int) -> None:
    with front.client() as http:
        answer = http.post(f"/v1/gpu/{path}", json=body)

    assert answer.status_code == status, answer.text


def test_a_body_of_another_kind_is_refused(front: FrontChild) -> None:
    with front.client() as http:
        answer = http.post("/v1/gpu/force-release-all", content=b"reason=x", headers={"Content-Type": "application/x-www-form-urlencoded"})

    assert answer.status_code == 415
