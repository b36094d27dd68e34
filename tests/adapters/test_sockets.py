"""The ROUTER sockets: no message is missed whatever the edges do, and what cannot be believed is dropped and counted."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
import zmq

from supervisor import wire
from supervisor.adapters.channel import WorkerChannel
from supervisor.adapters.sockets import Router
from supervisor.core.actions import SendDrain, SendJob
from supervisor.core.events import AnyEvent, BeatHeard, JobEnded, JobFinished, OfWorker
from supervisor.core.model import JobId, WorkerName
from supervisor.errors import StateError

pytestmark = pytest.mark.asyncio

WITHIN_S = 20
NAME = WorkerName("sam-0")


@pytest.fixture
def context() -> Iterator["zmq.Context[zmq.Socket[bytes]]"]:
    with zmq.Context() as one:
        yield one


def dealer(context: "zmq.Context[zmq.Socket[bytes]]", path: Path, name: bytes = b"sam-0#1") -> "zmq.Socket[bytes]":
    one = context.socket(zmq.DEALER)
    one.setsockopt(zmq.LINGER, 0)
    one.setsockopt(zmq.ROUTING_ID, name)
    one.connect(f"ipc://{path}")
    return one


async def test_every_message_of_a_flood_is_heard_while_answers_go_out(context: "zmq.Context[zmq.Socket[bytes]]", tmp_path: Path) -> None:
    heard: list[bytes] = []
    done = asyncio.Event()
    path = tmp_path / "r.sock"

    def receive(sender: bytes, data: bytes) -> None:
        heard.append(data)
        router.send(sender, data)
        if len(heard) == 6000:
            done.set()

    router = Router(context, path, receive, max_message_bytes=1000)
    clients = [dealer(context, path, f"c{number}".encode()) for number in range(3)]
    for number in range(2000):
        for client in clients:
            client.send(str(number).encode())
        if number % 50 == 0:
            await asyncio.to_thread(clients[0].poll, 1)

    async with asyncio.timeout(WITHIN_S):
        await done.wait()

    assert len(heard) == 6000
    for client in clients:
        client.close()
    router.close()
    assert not path.exists()


async def test_a_message_that_comes_while_one_is_sent_is_not_slept_over(context: "zmq.Context[zmq.Socket[bytes]]", tmp_path: Path) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    path = tmp_path / "r.sock"
    router = Router(context, path, lambda _sender, data: heard.put_nowait(data), max_message_bytes=1000)
    client = dealer(context, path)
    client.send(b"first")
    async with asyncio.timeout(WITHIN_S):
        await heard.get()

        for number in range(300):
            client.send(str(number).encode())
            router.send(b"sam-0#1", b"meanwhile")  # this may swallow the edge of the message above
            assert await heard.get() == str(number).encode()

    client.close()
    router.close()


async def test_a_send_to_nobody_is_false(context: "zmq.Context[zmq.Socket[bytes]]", tmp_path: Path) -> None:
    router = Router(context, tmp_path / "r.sock", lambda _sender, _data: None, max_message_bytes=1000)

    assert router.send(b"nobody", b"x") is False

    router.close()


async def test_a_socket_that_cannot_be_made_is_a_sentence(context: "zmq.Context[zmq.Socket[bytes]]", tmp_path: Path) -> None:
    with pytest.raises(StateError, match="a socket must be possible there"):
        Router(context, tmp_path / "nowhere" / "r.sock", lambda _sender, _data: None, max_message_bytes=1000)


@pytest.mark.parametrize("how", ["removed", "replaced"])
async def test_a_socket_file_that_was_taken_away_is_made_again_and_nobody_loses_their_line(
    context: "zmq.Context[zmq.Socket[bytes]]", tmp_path: Path, how: str
) -> None:
    path = tmp_path / "r.sock"
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    router = Router(context, path, lambda _sender, data: heard.put_nowait(data), max_message_bytes=1000)
    old = dealer(context, path, b"old")
    async with asyncio.timeout(WITHIN_S):
        old.send(b"1")
        assert await heard.get() == b"1"
        untouched = router.file.restore()
        path.unlink()
        if how == "replaced":
            path.write_text("somebody's")

        restored = router.file.restore()

        new = dealer(context, path, b"new")
        new.send(b"2")
        assert await heard.get() == b"2"
        old.send(b"3")
        assert await heard.get() == b"3"
    assert (untouched, restored) == (False, True)
    old.close()
    new.close()
    router.close()
    assert not path.exists()


class Line:
    """A channel, one worker's end of it, and what it made of the messages."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", path: Path) -> None:
        self.events: asyncio.Queue[AnyEvent] = asyncio.Queue()
        self.channel = WorkerChannel(
            partial(Router, context, path, max_message_bytes=wire.MAX_MESSAGE_BYTES),
            post=self.events.put_nowait,
            limits={},
            learn=lambda _worker, _params: None,
        )
        self.channel.expect(NAME, 1, "secret")
        self.worker = dealer(context, path, wire.routing_id("sam-0", 1, "hers"))

    async def hears(self, message: wire.AnyFromWorker) -> AnyEvent:
        self.worker.send(wire.encode(message))
        async with asyncio.timeout(WITHIN_S):
            return await self.events.get()


@pytest_asyncio.fixture
async def line(context: "zmq.Context[zmq.Socket[bytes]]", tmp_path: Path) -> AsyncIterator[Line]:
    one = Line(context, tmp_path / "w.sock")
    yield one
    one.worker.close()
    one.channel.close()


def hello(worker: str = "sam-0", generation: int = 1, token: str = "secret") -> wire.Hello:  # noqa: S107  # a test's
    return wire.Hello(worker=worker, generation=generation, token=token, pid=1)


async def test_only_the_expected_token_and_generation_are_believed(line: Line) -> None:
    for lie in (hello(token=""), hello(generation=2), hello(worker="yolo-0")):
        line.worker.send(wire.encode(lie))
    line.worker.send(b"\xc1")

    event = await line.hears(hello())

    assert isinstance(event, OfWorker)
    assert line.events.empty()
    assert dict(line.channel.dropped) == {"wrong token or generation": 3, "malformed": 1}


async def test_an_old_generation_is_not_believed_once_the_next_is_expected(line: Line) -> None:
    line.channel.expect(NAME, 2, "other")
    line.worker.send(wire.encode(hello()))

    event = await line.hears(hello(generation=2, token="other"))

    assert isinstance(event, OfWorker)
    assert event.generation == 2
    assert line.channel.dropped["wrong token or generation"] == 1


async def test_numbers_that_are_none_do_not_come_in(line: Line) -> None:
    beat = wire.JobBeat(job="j-1", attempt=1, done=float("nan"), total=float("inf"), metrics={"loss": float("nan"), "lr": 0.5, "x": float("-inf")})

    event = await line.hears(wire.Beat(worker="sam-0", generation=1, token="secret", seq=1, jobs=(beat,)))

    assert isinstance(event, BeatHeard)
    (progress,) = event.jobs
    assert (progress.done, progress.total, progress.metrics) == (0.0, 0.0, {"lr": 0.5})


@pytest.mark.parametrize("value", [None, {"a": [1, 2.5, "x", None]}, [[1]] * 5, "text", 3])
async def test_a_result_comes_in_as_it_is(line: Line, value: object) -> None:
    event = await line.hears(wire.Result(worker="sam-0", generation=1, token="secret", job="j-1", attempt=1, value=value))

    assert isinstance(event, JobFinished)
    assert event.value == value


@pytest.mark.parametrize("value", [msgspec.msgpack.Ext(4, b"x"), {(1, 2): 3}])
async def test_a_result_that_json_cannot_hold_is_the_end_of_the_job(line: Line, value: object) -> None:
    event = await line.hears(wire.Result(worker="sam-0", generation=1, token="secret", job="j-1", attempt=1, value=value))

    assert isinstance(event, JobEnded)
    assert (event.reason, event.job) == ("user_error", "j-1")
    assert "its result cannot be kept: it holds what JSON cannot" in event.error


async def test_orders_reach_the_generation_they_are_for(line: Line, tmp_path: Path) -> None:
    await line.hears(hello())

    line.channel.send(SendJob(worker=NAME, generation=1, job=JobId("j-1"), attempt=2, kind="k", params={"a": 1}), folder=tmp_path, checkpoint=tmp_path / "c")
    line.channel.send(SendDrain(worker=NAME, generation=1))
    line.channel.ping()
    line.channel.send(SendDrain(worker=NAME, generation=7))
    got = [wire.decode_to_worker(await asyncio.to_thread(line.worker.recv)) for _ in range(3)]

    assert got == [
        wire.JobOrder(job="j-1", attempt=2, kind="k", params={"a": 1}, dir=str(tmp_path), resume_from=str(tmp_path / "c")),
        wire.Drain(),
        wire.Ping(),
    ]
    assert line.channel.dropped["worker away"] == 1


async def test_a_stranger_under_its_id_costs_a_worker_nothing(line: Line, context: "zmq.Context[zmq.Socket[bytes]]", tmp_path: Path) -> None:
    await line.hears(hello())
    stranger = dealer(context, tmp_path / "w.sock", b"sam-0#1")
    stranger.send(wire.encode(hello(token="wrong")))
    async with asyncio.timeout(WITHIN_S):
        while not line.channel.dropped["wrong token or generation"]:
            await asyncio.to_thread(os.sched_yield)
    await line.hears(hello())

    line.channel.send(SendDrain(worker=NAME, generation=1))

    assert wire.decode_to_worker(await asyncio.to_thread(line.worker.recv)) == wire.Drain()
    assert not stranger.poll(0)
    stranger.close()


async def test_a_worker_is_answered_where_it_was_last_heard(line: Line, context: "zmq.Context[zmq.Socket[bytes]]", tmp_path: Path) -> None:
    await line.hears(hello())
    line.worker.close()
    line.worker = dealer(context, tmp_path / "w.sock", b"another")

    await line.hears(hello())
    line.channel.send(SendDrain(worker=NAME, generation=1))

    assert wire.decode_to_worker(await asyncio.to_thread(line.worker.recv)) == wire.Drain()
