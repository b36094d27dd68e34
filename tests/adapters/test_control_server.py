"""The control socket: requests are answered side by side, whatever one of them does."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
import zmq

from supervisor import control
from supervisor.adapters.control_server import ControlServer
from supervisor.adapters.sockets import Router
from supervisor.runtime.requests import Rejected

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def client(tmp_path: Path) -> AsyncIterator[control.Client]:
    """A client of a server whose operations are: echo, refuse, slow (until the next `go`), strange."""
    go = asyncio.Event()

    async def handle(op: str, args: Mapping[str, Any]) -> Any:
        match op:
            case "refuse":
                raise Rejected("busy", "the queue is full")
            case "slow":
                await go.wait()
            case "go":
                go.set()
            case "strange":
                return {"x": object()}
            case _:
                pass
        return dict(args)

    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    server = ControlServer(partial(Router, context, tmp_path / "control.sock", max_message_bytes=control.MAX_MESSAGE_BYTES), handle)
    one = control.Client(lambda: control.endpoint_of(tmp_path))
    yield one
    one.close()
    server.close()
    context.term()


async def test_an_answer_comes_back(client: control.Client) -> None:
    assert await asyncio.to_thread(client.ask, "echo", {"a": [1, "ü"]}) == {"a": [1, "ü"]}


async def test_a_refusal_is_a_refusal_with_its_code(client: control.Client) -> None:
    with pytest.raises(control.Refused, match="the queue is full") as refused:
        await asyncio.to_thread(client.ask, "refuse")

    assert refused.value.code == "busy"


async def test_an_answer_that_json_cannot_hold_is_a_refusal_and_not_the_end(client: control.Client) -> None:
    with pytest.raises(control.Refused, match="the answer cannot be sent as JSON"):
        await asyncio.to_thread(client.ask, "strange")

    assert await asyncio.to_thread(client.ask, "echo", {"a": 1}) == {"a": 1}


async def test_a_slow_request_holds_nobody_up_and_a_late_answer_is_not_taken_for_the_next(client: control.Client, tmp_path: Path) -> None:
    with pytest.raises(control.Unreachable, match=r"no supervisor answered at ipc://.*control.sock within 0.2 s"):
        await asyncio.to_thread(partial(client.ask, "slow", {"late": True}, timeout_s=0.2))

    await asyncio.to_thread(client.ask, "go")
    assert await asyncio.to_thread(client.ask, "echo", {"a": 1}) == {"a": 1}


async def test_many_clients_at_once_each_get_their_own_answer(client: control.Client, tmp_path: Path) -> None:
    def ask(number: int) -> Any:
        with control.Client(lambda: control.endpoint_of(tmp_path)) as own:
            return own.ask("echo", {"n": number}, timeout_s=20)

    answers = await asyncio.gather(*(asyncio.to_thread(ask, number) for number in range(30)))

    assert answers == [{"n": number} for number in range(30)]


async def test_a_request_may_be_written_by_hand() -> None:
    request = msgspec.json.decode(b'{"id": "1", "op": "status"}', type=control.Request)

    assert (request.op, request.args, request.v) == ("status", {}, 1)
