"""The Python client over HTTP: what the API answers, as the client says it."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.client import Away, Busy, Gpu, Refused
from supervisor.client.lines import Http
from supervisor.client.patience import Patience
from tests.front.conftest import MakeFront
from tests.support.front import FrontChild, fronts, until

ASKED = {"owner": "trainer", "ttl_s": 30.0, "need": "8GiB", "priority": 15, "ticket": "t-1"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontChild]:
    """A front that wants a token."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "tokens").write_text("r-token read\no-token operate\n")
    with fronts(folder / "f", token_file=str(folder / "tokens")) as one:
        yield one


def test_a_device_is_held_renewed_and_given_back_with_a_token(guarded: FrontChild) -> None:
    gpu = Gpu(guarded.url, token="o-token")
    with gpu.lease(need="8GiB", owner="trainer") as lease:
        inside = (lease.held, lease.id, lease.fence, lease.device, lease.env["WARDEN_DEVICE"])
        renewed = Http(guarded.url, "o-token").renew({"lease": lease.id, "fence": lease.fence}, 10.0)

    assert inside == (True, "l-7", 7, "host", "host")
    assert renewed["expires_in_s"] == 30.0
    assert [op for op, _args, _by in guarded.warden.asked if op.startswith("gpu.")] == ["gpu.lock", "gpu.renew", "gpu.unlock"]
    assert [device["id"] for device in gpu.status()]


@pytest.mark.parametrize(("token", "code"), [("", "unauthorized"), ("wrong", "unauthorized"), ("r-token", "forbidden")])
def test_a_token_that_does_not_do_is_a_refusal(guarded: FrontChild, token: str, code: str) -> None:
    with pytest.raises(Refused) as caught, Gpu(guarded.url, token=token).lease(away="without"):
        pass

    assert caught.value.code == code


def test_one_that_is_held_is_busy_with_its_holder_ticket_and_when_to_come_again(make_front: MakeFront) -> None:
    front = make_front()
    line = Http(front.url, "")
    line.lock({**ASKED, "owner": "first"}, 5.0)
    with pytest.raises(Busy, match="first holds host") as caught:
        line.lock({**ASKED, "ticket": "t-2"}, 5.0)

    assert (caught.value.ticket, caught.value.holders[0]["owner"], caught.value.retry_after_s) == ("t-2", "first", 5.0)


def test_what_makes_no_sense_is_a_refusal_with_the_sentence(make_front: MakeFront) -> None:
    line = Http(make_front().url, "")
    with pytest.raises(Refused, match="need") as caught:
        line.lock({**ASKED, "need": "much"}, 5.0)
    with pytest.raises(Refused) as late:
        line.renew({"lease": "l-7", "fence": 6}, 5.0)

    assert (caught.value.code, late.value.code) == ("invalid", "conflict")


def test_an_api_whose_supervisor_is_away_and_one_that_is_not_there_are_away(make_front: MakeFront) -> None:
    front = make_front()
    line = Http(front.url, "")
    front.warden.stop()
    with pytest.raises(Away, match="does not answer"):
        line.lock(ASKED, 5.0)
    front.end()
    front.listener.close()
    with pytest.raises(Away, match="does not answer"):
        line.lock(ASKED, 5.0)


def test_what_is_no_api_of_ours_is_a_refusal(make_front: MakeFront) -> None:
    with pytest.raises(Refused, match="no such path"):
        Http(f"{make_front().url}/elsewhere", "").devices(10.0)


def test_whoever_waits_asks_again_with_its_ticket_after_the_api_was_restarted(make_front: MakeFront, tmp_path: Path) -> None:
    front = make_front()
    front.warden.unanswered.add("gpu.lock")
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with Gpu(front.url, patience=Patience(spread=lambda: 0.5)).lease(owner="trainer", timeout=600):
            entered.set()
            leave.wait()

    waiting = threading.Thread(target=hold)
    waiting.start()
    until(lambda: any(op == "gpu.lock" for op, _args, _by in front.warden.asked), "the lock is asked for")
    front.end()
    front.warden.unanswered.clear()
    front.start().ready()
    until(entered.is_set, "the lease is held")
    leave.set()
    waiting.join()

    asked = [args["ticket"] for op, args, _by in front.warden.asked if op == "gpu.lock"]
    assert len(asked) > 1
    assert len(set(asked)) == 1
