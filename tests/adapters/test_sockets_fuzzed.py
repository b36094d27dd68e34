"""Whatever comes in on the two sockets, bytes or messages with wrong insides: it is dropped and counted or refused, and the next good message is heard."""

import asyncio
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor import control, wire
from supervisor.adapters.channel import WorkerChannel
from supervisor.adapters.control_server import ControlServer
from supervisor.adapters.sockets import Router
from supervisor.core.events import AnyEvent, NoteHeard
from supervisor.core.model import WorkerName

pytestmark = pytest.mark.slow

WITHIN_S = 20
NAME = WorkerName("sam-0")
GOOD = {"worker": NAME, "generation": 1, "token": "secret"}
TAGS = ["hello", "ready", "beat", "accepted", "result", "failed", "log", "bye", "nonsense"]
FIELDS = ["v", "pid", "serves", "jobs", "params", "note", "seq", "device_bytes", "job", "attempt", "value", "reason", "error", "stack", "level", "text"]

SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=20) | st.binary(max_size=20)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=8)
MESSAGES = st.builds(
    lambda tag, stamp, fields: msgspec.msgpack.encode({**stamp, **fields, "t": tag}),
    st.sampled_from(TAGS),
    st.sampled_from([GOOD, {**GOOD, "token": "wrong"}, {**GOOD, "generation": 7}, {}]),
    st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=6),
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
REQUESTS = st.builds(
    msgspec.json.encode,
    st.fixed_dictionaries({}, optional={"id": JSON_VALUES, "op": JSON_VALUES, "args": JSON_VALUES, "by": JSON_VALUES, "v": JSON_VALUES, "more": JSON_VALUES}),
)
ANY = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def dealer(context: "zmq.Context[zmq.Socket[bytes]]", path: Path) -> "zmq.Socket[bytes]":
    """Return a client's end."""
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(f"ipc://{path}")
    return socket


@ANY
@given(flood=st.lists(st.binary(max_size=200) | MESSAGES, max_size=30))
def test_a_good_message_is_heard_after_any_flood_on_the_workers_socket(tmp_path: Path, flood: list[bytes]) -> None:
    async def story() -> None:
        heard: asyncio.Queue[AnyEvent] = asyncio.Queue()
        with zmq.Context() as context:
            bind = partial(Router, context, tmp_path / "w.sock", max_message_bytes=wire.MAX_MESSAGE_BYTES)
            channel = WorkerChannel(bind, post=heard.put_nowait, limits={}, learn=lambda _worker, _params: None)
            channel.expect(NAME, 1, "secret")
            worker = dealer(context, tmp_path / "w.sock")
            for message in flood:
                worker.send(message)
            worker.send(wire.encode(wire.Log(worker=NAME, generation=1, token="secret", text="the good one")))
            async with asyncio.timeout(WITHIN_S):
                while not (isinstance(event := await heard.get(), NoteHeard) and event.text == "the good one"):
                    pass
            worker.close()
            channel.close()

    asyncio.run(story())


@ANY
@given(flood=st.lists(st.binary(max_size=200) | REQUESTS, max_size=30))
def test_a_good_request_is_answered_after_any_flood_on_the_control_socket(tmp_path: Path, flood: list[bytes]) -> None:
    async def echo(op: str, args: Mapping[str, Any]) -> Any:
        return [op, args]

    async def story() -> None:
        with zmq.Context() as context:
            server = ControlServer(partial(Router, context, tmp_path / "c.sock", max_message_bytes=control.MAX_MESSAGE_BYTES), echo)
            person = dealer(context, tmp_path / "c.sock")
            for request in flood:
                person.send(request)
            person.send(msgspec.json.encode(control.Request(id="the good one", op="status")))
            async with asyncio.timeout(WITHIN_S):
                while True:
                    await asyncio.to_thread(person.poll)  # nobody else touches the socket meanwhile
                    answer = msgspec.json.decode(person.recv(), type=control.Answer)
                    if answer.id == "the good one":
                        break
            assert answer.ok
            assert answer.data == ["status", {}]
            person.close()
            server.close()

    asyncio.run(story())
