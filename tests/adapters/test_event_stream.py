"""The live stream: on disk before it is told, in one order, with no number twice; a disk that fails holds it up and loses nothing it need not lose."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
import zmq

from supervisor.adapters.event_stream import PublishedEvents
from supervisor.adapters.jobs_sqlite import SqliteJobs, open_store
from supervisor.core import actions as act
from supervisor.core.model import Job, JobId, JobStatus
from supervisor.errors import StateError
from supervisor.runtime.ports import StreamEvent
from supervisor.runtime.saving import Saves
from supervisor.shapes import EventView

pytestmark = pytest.mark.asyncio

WITHIN_S = 20
WAITING_MAX = 50


def event(name: str, *, job: str | None = None, **data: Any) -> StreamEvent:
    return StreamEvent(at_wall=1_700_000_000.25, event=name, worker="sam-0", job=job, reason="r", data=data)


class Stream:
    """A stream on a real store, one subscriber, and what was said."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", folder: Path, store: SqliteJobs) -> None:
        self.store = store
        self.path = folder / "events.sock"
        self.said: list[tuple[str, str, Mapping[str, Any]]] = []
        self.telling = asyncio.Event()
        self.stream = PublishedEvents(context, self.path, store=store, say=self._say, waiting_max=WAITING_MAX, again_s=0.01)
        self.reader = context.socket(zmq.SUB)
        self.reader.setsockopt(zmq.LINGER, 0)

    def _say(self, *line: Any) -> None:
        self.said.append(line)
        self.telling.set()

    async def subscribed(self, topic: bytes = b"") -> None:
        """Return once the subscriber hears: a PUB socket tells nobody when a subscription has come in."""
        self.reader.setsockopt(zmq.SUBSCRIBE, topic)
        self.reader.connect(f"ipc://{self.path}")
        while not await asyncio.to_thread(self.reader.poll, 20):
            self.stream.post(event("probe", job=topic.decode() or None))
            await self.stream._idle.wait()  # a slow disk must not make probes wait until the oldest are forgotten
        self.stream.post(event("last_probe", job=topic.decode() or None))
        while (await self.hear())[1].event != "last_probe":
            pass

    async def hear(self) -> tuple[bytes, EventView]:
        """Return the next message."""
        assert await asyncio.to_thread(self.reader.poll, 1000 * WITHIN_S), "nothing was published"
        topic, data = self.reader.recv_multipart()
        return topic, msgspec.json.decode(data, type=EventView)

    async def events(self) -> list[tuple[int, str]]:
        """Return what is on disk."""
        return [(number, one.event) for number, one in await self.store.events_since(0, job="", limit=100_000)]

    async def break_disk(self) -> None:
        await self.store._file.do(lambda connection: connection.execute("ALTER TABLE events RENAME TO away"), writes=True)

    async def mend_disk(self) -> None:
        await self.store._file.do(lambda connection: connection.execute("ALTER TABLE away RENAME TO events"), writes=True)


@pytest.fixture
def context() -> Iterator["zmq.Context[zmq.Socket[bytes]]"]:
    with zmq.Context() as one:
        yield one


@pytest_asyncio.fixture
async def live(context: "zmq.Context[zmq.Socket[bytes]]", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stream]:
    monkeypatch.setattr("supervisor.adapters.event_stream.CLOSE_MAX_S", WITHIN_S)  # a slow disk is not a failure
    store = await open_store(tmp_path / "jobs.sqlite")
    one = Stream(context, tmp_path, store)
    yield one
    one.reader.close()
    await one.stream.close()
    await store.close()
    assert not one.path.exists()


async def test_an_event_is_told_whole_with_its_number_and_lies_on_disk_by_then(live: Stream) -> None:
    await live.subscribed()

    live.stream.post(event("job_started", job="j-1", attempt=2, text="ü"))
    topic, heard = await live.hear()

    assert (topic, heard.event, heard.worker, heard.job, heard.reason) == (b"j-1", "job_started", "sam-0", "j-1", "r")
    assert (heard.at, heard.data) == ("2023-11-14T22:13:20.250+00:00", {"attempt": 2, "text": "ü"})
    assert (heard.seq, "job_started") in await live.events()


async def test_events_are_told_in_the_order_of_their_numbers_which_have_no_hole(live: Stream) -> None:
    await live.subscribed()

    names = [f"e-{number}" for number in range(WAITING_MAX)]
    for name in names:
        live.stream.post(event(name))
    heard = [(await live.hear())[1] for _ in names]

    assert [one.event for one in heard] == names
    assert [one.seq for one in heard] == list(range(heard[0].seq, heard[0].seq + len(names)))


async def test_a_subscriber_may_choose_one_job(live: Stream) -> None:
    await live.subscribed(b"j-1")

    for job in ("j-2", None, "j-1"):
        live.stream.post(event("job_started", job=job))

    assert (await live.hear())[1].job == "j-1"


async def test_of_the_moves_of_one_job_that_wait_only_the_newest_is_written(live: Stream) -> None:
    before = (await live.store.event_bounds())[1]

    for done in range(5):
        live.stream.post(event("job_moved", job="j-1", done=done))
        live.stream.post(event("job_moved", job="j-2", done=done))
    live.stream.post(event("job_started", job="j-2"))
    live.stream.post(event("job_moved", job="j-1", done=9))
    await live.stream.close()

    kept = [(one.event, one.job, one.data.get("done")) for _, one in await live.store.events_since(before, job="", limit=99)]
    assert kept == [("job_moved", "j-2", 4), ("job_started", "j-2", None), ("job_moved", "j-1", 9)]


async def test_a_disk_that_fails_holds_events_up_and_none_is_lost_doubled_or_told_early(live: Stream) -> None:
    await live.subscribed()
    before = (await live.store.event_bounds())[1]
    await live.break_disk()

    for number in range(WAITING_MAX):
        live.stream.post(event(f"e-{number}"))
    async with asyncio.timeout(WITHIN_S):
        await live.telling.wait()
    told_early = live.reader.poll(0)
    await live.mend_disk()
    heard = [(await live.hear())[1] for _ in range(WAITING_MAX)]

    assert not told_early
    assert [one.event for one in heard] == [f"e-{number}" for number in range(WAITING_MAX)]
    assert [one.seq for one in heard] == list(range(before + 1, before + 1 + WAITING_MAX))
    assert (await live.events())[-WAITING_MAX:] == [(one.seq, one.event) for one in heard]
    assert [(level, name) for level, name, _ in live.said] == [("error", "store_failed")]
    assert "no such table" in live.said[0][2]["reason"]


async def test_when_too_many_wait_the_oldest_are_forgotten_counted_and_said(live: Stream) -> None:
    await live.break_disk()
    live.stream.post(event("in hand"))
    async with asyncio.timeout(WITHIN_S):
        await live.telling.wait()

    for number in range(WAITING_MAX + 12):
        live.stream.post(event(f"e-{number}"))
    await live.mend_disk()
    await live.stream.close()

    names = [name for _, name in await live.events()]
    assert names[-WAITING_MAX:] == [f"e-{number}" for number in range(12, WAITING_MAX + 12)]
    assert names[:-WAITING_MAX] in ([], ["in hand"]), "it waited with the others, or was being tried again"
    assert live.stream.lost == 1 + WAITING_MAX + 12 - len(names)
    assert [(name, fields["count"]) for _, name, fields in live.said[1:]] == [("events_lost", 1), ("events_lost", 10)]
    assert "the oldest are forgotten; make room on the disk of state_dir" in live.said[1][2]["reason"]


@pytest.mark.parametrize("wrong", [object(), "\ud800", {(1, 2): 3}])
async def test_an_event_that_json_cannot_hold_stands_in_nobodys_way(live: Stream, wrong: object) -> None:
    await live.subscribed()

    live.stream.post(event("wrong", data=wrong))
    live.stream.post(event("right"))

    assert (await live.hear())[1].event == "right"
    assert [name for _, name, _ in live.said] == ["events_lost"]


async def test_a_close_writes_what_waits(live: Stream) -> None:
    for number in range(WAITING_MAX):
        live.stream.post(event(f"e-{number}"))

    await live.stream.close()

    assert len(await live.events()) == WAITING_MAX


async def test_a_close_does_not_wait_for_ever_for_a_disk(live: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.adapters.event_stream.CLOSE_MAX_S", 0.05)
    await live.break_disk()
    live.stream.post(event("late"))

    async with asyncio.timeout(WITHIN_S):
        await live.stream.close()

    await live.mend_disk()
    assert await live.events() == []


async def test_a_subscriber_that_never_reads_holds_nobody_up(live: Stream, context: "zmq.Context[zmq.Socket[bytes]]") -> None:
    deaf = context.socket(zmq.SUB)
    deaf.setsockopt(zmq.LINGER, 0)
    deaf.setsockopt(zmq.RCVHWM, 1)
    deaf.setsockopt(zmq.SUBSCRIBE, b"")
    deaf.connect(f"ipc://{live.path}")
    await live.subscribed()

    for first in range(0, 500, 25):
        names = [f"e-{number}" for number in range(first, first + 25)]
        for name in names:
            live.stream.post(event(name, pad="x" * 2000))
        assert [(await live.hear())[1].event for _ in names] == names

    deaf.close()


async def test_a_new_stream_on_the_same_place_goes_on_with_the_numbers(live: Stream, context: "zmq.Context[zmq.Socket[bytes]]", tmp_path: Path) -> None:
    live.stream.post(event("before"))
    await live.stream.close()

    again = PublishedEvents(context, live.path, store=live.store, say=lambda *_: None)
    again.post(event("after"))
    await again.close()

    assert await live.events() == [(1, "before"), (2, "after")]


async def test_a_socket_that_cannot_be_made_is_a_sentence(context: "zmq.Context[zmq.Socket[bytes]]", live: Stream, tmp_path: Path) -> None:
    with pytest.raises(StateError, match="a socket must be possible there"):
        PublishedEvents(context, tmp_path / "nowhere" / "events.sock", store=live.store, say=lambda *_: None)


async def test_what_is_written_with_a_job_does_not_overtake_what_waited(live: Stream) -> None:
    moved, of_another = event("job_moved", job="j-1", done=1.0), event("job_moved", job="j-2")
    ended = act.Announce(event="job_completed", job=JobId("j-1"))
    job = Job(id=JobId("j-1"), kind="k", params={}, priority=15, max_attempts=1, created_wall=1.0, status=JobStatus.COMPLETED)
    done = asyncio.Event()
    tasks = set()

    def start(work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)
        return task

    saves = Saves(live.store, live.stream, start=start, post=lambda _: None, follow=lambda *_: done.set(), told=lambda said, _: event(said.event, job=said.job))
    disk = threading.Event()
    held = asyncio.ensure_future(live.store._file.do(lambda _: disk.wait(WITHIN_S), writes=False))
    live.stream.post(of_another)
    while live.stream._waiting:
        await asyncio.to_thread(os.sched_yield)
    live.stream.post(moved)  # waits, for the one before is on its way to the disk
    saves.save(act.SaveJob(job=job, then=(ended,)))
    disk.set()
    await held
    await done.wait()
    await live.stream._idle.wait()

    order = [(one.event, one.job) for _, one in await live.store.events_since(0, job="", limit=10)]
    assert sorted(order) == [("job_completed", "j-1"), ("job_moved", "j-1"), ("job_moved", "j-2")]
    assert order.index(("job_moved", "j-1")) < order.index(("job_completed", "j-1"))


async def test_what_waited_is_told_also_where_the_write_of_its_job_comes_too_late(live: Stream) -> None:
    ended = Job(id=JobId("j-1"), kind="k", params={}, priority=15, max_attempts=1, created_wall=1.0, status=JobStatus.COMPLETED)
    await live.store.save(ended)
    done = asyncio.Event()
    tasks: set[asyncio.Task[None]] = set()

    def start(work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        tasks.add(asyncio.get_running_loop().create_task(work))
        return next(iter(tasks))

    saves = Saves(live.store, live.stream, start=start, post=lambda _: None, follow=lambda *_: done.set(), told=lambda said, _: event(said.event, job=said.job))
    live.stream.post(event("worker_note", job="j-1"))
    saves.save(act.SaveJob(job=ended, then=(act.Announce(event="job_completed", job=JobId("j-1")),)))
    await done.wait()
    await live.stream._idle.wait()

    assert [one.event for _, one in await live.store.events_since(0, job="", limit=10)] == ["worker_note"]
