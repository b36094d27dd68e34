"""Schedules on a real store: each planned instant gets its one job, whatever dies, is full, is away or is changed meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from msgspec.structs import replace

from supervisor import cron
from supervisor.adapters.jobs_sqlite import SqliteJobs, open_store
from supervisor.core.limits import Limits, ScheduleSpec, WorkerSpec
from supervisor.core.model import Fleet, Job, JobId, JobStatus
from supervisor.runtime.requests import Rejected
from supervisor.runtime.schedules import AGAIN_S, Schedules, job_of

pytestmark = pytest.mark.asyncio

NIGHTLY = ScheduleSpec(cron="0 3 * * *", kind="demo.train", params={"epochs": 3})
WORKER = WorkerSpec(command=("x",), serves=("demo.train",), priority=7)
DAY = 86_400.0
NOON = datetime.fromisoformat("2026-11-25T12:00:00").astimezone().timestamp()
THREE = cron.next_after("0 3 * * *", NOON)


class Killed(BaseException):
    """The supervisor was killed here."""


class Mortal:
    """The store of a supervisor that is killed at its nth call: just before it is done, or just after."""

    def __init__(self, house: "House") -> None:
        self._house = house

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **kwargs: Any) -> Any:
            self._house.step()
            result = await getattr(self._house.store, name)(*args, **kwargs)
            self._house.step()
            return result

        return call


class House:
    """A store, a fleet, the limits, and what was said."""

    def __init__(self, store: SqliteJobs) -> None:
        self.store = store
        self.fleet = Fleet()
        self.limits = Limits(schedules={"nightly": NIGHTLY}, workers={"yolo": WORKER})
        self.said: list[tuple[str, str, Mapping[str, Any]]] = []
        self.refusal: Rejected | None = None
        self.left = -1
        self.schedules = self.another()

    def another(self) -> Schedules:
        """Return those of a supervisor that starts now."""
        return Schedules(
            store=Mortal(self),  # a store by its behaviour
            submit=self.submit,
            fleet=lambda: self.fleet,
            limits=lambda: self.limits,
            say=lambda *line: self.said.append(line),
        )

    def step(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed

    def set(self, **specs: ScheduleSpec) -> None:
        self.limits = replace(self.limits, schedules=specs)

    async def submit(self, job: Job) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.step()
        assert await self.store.find(job.id) is None, "submitted twice"
        await self.store.save(job)
        self.fleet = replace(self.fleet, jobs={**self.fleet.jobs, job.id: job})
        self.step()

    async def end(self, name: str) -> None:
        """Let a job end."""
        job = self.fleet.jobs[JobId(name)]
        await self.store.save(replace(job, status=JobStatus.COMPLETED, completed_wall=job.created_wall + 1))
        self.fleet = replace(self.fleet, jobs={key: one for key, one in self.fleet.jobs.items() if key != name})

    async def jobs(self) -> list[str]:
        return sorted(job.id for job in await self.store.newest(statuses=[], kind="", limit=99))

    def events(self) -> list[str]:
        return [event for _, event, _ in self.said]


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    store = await open_store(tmp_path / "jobs.sqlite")
    yield House(store)
    await store.close()


async def test_the_job_of_an_instant_is_submitted_once_it_has_come_and_once_only(house: House) -> None:
    await house.schedules.look(NOON)
    await house.schedules.look(THREE - 0.5)
    before = await house.jobs()

    for late_s in (0.3, 1.3, 30.0, 3600.0):
        await house.schedules.look(THREE + late_s)

    assert before == []
    assert await house.jobs() == [job_of("nightly", THREE)]
    job = await house.store.find(job_of("nightly", THREE))
    assert job is not None
    assert (job.kind, job.params, job.priority, job.max_attempts, job.schedule) == ("demo.train", {"epochs": 3}, 7, 6, "nightly")
    assert house.said == []


async def test_an_id_names_the_schedule_and_the_instant_in_utc() -> None:
    assert job_of("nightly", datetime(2026, 11, 25, 3, tzinfo=UTC).timestamp()) == "s-nightly-20261125T030000Z"


async def test_a_kill_at_any_step_neither_loses_nor_doubles_a_run(house: House) -> None:
    await house.schedules.look(NOON)
    steps, killed = 0, True
    while killed:
        steps += 1
        instant = THREE + steps * DAY
        house.left = steps
        killed = False
        try:
            await house.another().look(instant)
        except Killed:
            killed = True
        house.left = -1

        await house.another().look(instant + 2)
        await house.another().look(instant + 4)

        assert job_of("nightly", instant) in await house.jobs()
        assert len(await house.jobs()) == steps
        await house.end(job_of("nightly", instant))
    assert steps > 10


async def test_a_kill_at_any_step_of_the_first_sight_loses_no_later_run(house: House) -> None:
    for steps in range(1, 9):
        house.set(**{f"n{steps}": NIGHTLY})
        house.left = steps
        with suppress(Killed):
            await house.another().look(NOON)
        house.left = -1

        await house.another().look(NOON + 1)
        await house.another().look(THREE + 1)

        assert await house.jobs() == [job_of(f"n{number}", THREE) for number in range(1, steps + 1)]


async def test_the_job_that_expired_meanwhile_is_not_run_again(house: House) -> None:
    await house.schedules.look(NOON)
    done = Job(id=job_of("nightly", THREE), kind="demo.train", status=JobStatus.COMPLETED, completed_wall=1.0, schedule="nightly")
    await house.store.save(done)  # and the kill came before the instant was remembered
    await house.store.expire(ended_before=2.0, gone_before=0.0, keys_before=0.0)

    await house.schedules.look(THREE + 1)

    assert await house.jobs() == []


@pytest.mark.parametrize(("overlap", "count"), [("skip", 1), ("queue", 3)])
async def test_while_the_one_before_is_live_the_next_is_skipped_or_queued(house: House, overlap: Any, count: int) -> None:
    house.set(nightly=replace(NIGHTLY, overlap=overlap))
    await house.schedules.look(NOON)

    for day in range(3):
        await house.schedules.look(THREE + day * DAY + 1)

    assert len(await house.jobs()) == count
    assert house.events() == ["schedule_skipped"] * (3 - count)


@pytest.mark.parametrize(("catch_up", "jobs", "event"), [("one", [THREE + 9 * DAY], "schedule_caught_up"), ("none", [], "schedule_skipped")])
async def test_after_a_time_away_one_run_or_none_stands_for_those_that_were_missed(house: House, catch_up: Any, jobs: list[float], event: str) -> None:
    house.set(nightly=replace(NIGHTLY, catch_up=catch_up))
    await house.schedules.look(NOON)

    await house.another().look(THREE + 9 * DAY + 3600)
    await house.another().look(THREE + 9 * DAY + 3601)

    assert await house.jobs() == [job_of("nightly", at) for at in jobs]
    assert house.events() == [event]


async def test_years_away_with_a_line_of_every_minute_are_worked_out_at_once(house: House) -> None:
    house.set(often=replace(NIGHTLY, cron="* * * * *"))
    await house.schedules.look(NOON)

    async with asyncio.timeout(20):
        await house.schedules.look(NOON + 5 * 365 * DAY)

    assert await house.jobs() == [job_of("often", NOON + 5 * 365 * DAY)]


async def test_a_queue_that_is_full_is_tried_again_and_spoken_of_once(house: House) -> None:
    await house.schedules.look(NOON)
    house.refusal = Rejected("busy", "the queue is full")
    for late_s in range(25):
        await house.schedules.look(THREE + late_s)

    house.refusal = None
    await house.schedules.look(THREE + 25 + AGAIN_S)

    assert await house.jobs() == [job_of("nightly", THREE)]
    assert house.said == [
        ("warning", "schedule_refused", {"schedule": "nightly", "reason": f"job {job_of('nightly', THREE)} was refused (busy): the queue is full"})
    ]


async def test_parameters_that_can_never_work_are_said_and_the_next_instant_is_tried(house: House) -> None:
    await house.schedules.look(NOON)
    house.refusal = Rejected("invalid", "epochs must be a number")
    await house.schedules.look(THREE + 1)
    house.refusal = None

    await house.schedules.look(THREE + 1 + 2 * AGAIN_S)
    before = await house.jobs()
    await house.schedules.look(THREE + DAY)

    assert (before, await house.jobs()) == ([], [job_of("nightly", THREE + DAY)])
    assert house.events() == ["schedule_refused"]


async def test_a_job_whose_write_is_under_way_is_waited_for(house: House) -> None:
    await house.schedules.look(NOON)
    own = Job(id=job_of("nightly", THREE), kind="demo.train", schedule="nightly")
    house.fleet = Fleet(jobs={own.id: own})

    await house.schedules.look(THREE + 1)
    during = await house.jobs()
    house.fleet = Fleet()  # the write failed, and the job was refused
    await house.schedules.look(THREE + 2)

    assert (during, await house.jobs()) == ([], [own.id])


async def test_a_kind_that_nobody_serves_is_said_once_and_caught_up_with_when_somebody_does(house: House) -> None:
    house.limits = replace(house.limits, workers={})
    await house.schedules.look(NOON)
    for late_s in range(5):
        await house.schedules.look(THREE + late_s)
    said = list(house.said)

    house.limits = replace(house.limits, workers={"yolo": WORKER})
    await house.schedules.look(THREE + 300)

    assert [event for _, event, _ in said] == ["schedule_unserved"]
    assert "no worker serves 'demo.train': name it in the serves of a [workers.NAME], or change the schedule" in said[0][2]["reason"]
    assert await house.jobs() == [job_of("nightly", THREE)]


async def test_a_changed_line_counts_from_when_it_was_seen_also_over_a_restart(house: House) -> None:
    await house.schedules.look(THREE - DAY + 3600)
    house.set(nightly=replace(NIGHTLY, cron="0 11 * * *"))  # eleven has passed today

    await house.another().look(NOON)
    await house.another().look(NOON + 1)
    before = await house.jobs()
    eleven = cron.next_after("0 11 * * *", NOON)
    await house.another().look(eleven + 1)

    assert (before, await house.jobs()) == ([], [job_of("nightly", eleven)])


async def test_a_schedule_that_went_and_comes_back_is_a_new_one(house: House) -> None:
    await house.schedules.look(NOON)
    house.set()
    await house.schedules.look(NOON + 1)
    forgotten = dict(await house.store.marks())

    house.set(nightly=NIGHTLY)
    await house.schedules.look(THREE + 3 * DAY + 100)

    assert forgotten == {}
    assert await house.jobs() == []


async def test_a_clock_that_is_put_back_repeats_nothing_and_stops_nothing(house: House) -> None:
    await house.schedules.look(NOON)
    await house.schedules.look(THREE + 1)
    await house.end(job_of("nightly", THREE))

    await house.schedules.look(THREE - 7200)
    await house.schedules.look(THREE + 1)
    repeated = await house.jobs()
    await house.schedules.look(THREE + 1000 * DAY)  # a wrong year, and back
    await house.end(job_of("nightly", THREE + 1000 * DAY))
    await house.schedules.look(THREE + 2)
    await house.schedules.look(THREE + DAY)

    assert repeated == [job_of("nightly", THREE)]
    assert job_of("nightly", THREE + DAY) in await house.jobs()


async def test_a_wrong_line_is_said_once_and_the_others_go_on(house: House) -> None:
    house.set(wrong=replace(NIGHTLY, cron="61 * * * *"), nightly=NIGHTLY)

    await house.schedules.look(NOON)
    await house.schedules.look(THREE)

    assert house.events() == ["schedule_refused"]
    assert await house.jobs() == [job_of("nightly", THREE)]
    assert [view.next_at is None for view in house.schedules.views(THREE)] == [True, False]


async def test_a_mark_that_cannot_be_read_makes_a_new_schedule(house: House) -> None:
    await house.store.save_marks({"schedule:nightly": "yesterday"})

    await house.schedules.look(NOON)
    await house.schedules.look(THREE)

    assert await house.jobs() == [job_of("nightly", THREE)]


async def test_a_store_that_fails_is_said_once_and_no_run_is_lost(house: House) -> None:
    await house.schedules.look(NOON)
    await house.store._file.do(lambda connection: connection.execute("ALTER TABLE jobs RENAME TO away"), writes=True)
    await house.schedules.look(THREE + 1)
    await house.schedules.look(THREE + 2)
    said = house.events()
    await house.store._file.do(lambda connection: connection.execute("ALTER TABLE away RENAME TO jobs"), writes=True)

    await house.schedules.look(THREE + 3)

    assert said == ["store_failed"]
    assert await house.jobs() == [job_of("nightly", THREE)]


async def test_views_say_what_comes_and_what_was_also_after_a_restart(house: House) -> None:
    (new,) = house.another().views(NOON)
    await house.schedules.look(NOON)
    await house.schedules.look(THREE + 1)
    later = house.another()
    await later.look(THREE + 2)

    (view,) = later.views(THREE + 2)

    def iso(wall_s: float) -> str:
        return datetime.fromtimestamp(wall_s, tz=UTC).isoformat(timespec="milliseconds")

    assert (new.name, new.cron, new.kind, new.next_at, new.last_at, new.last_job) == ("nightly", "0 3 * * *", "demo.train", iso(THREE), None, None)
    assert (view.next_at, view.last_at, view.last_job) == (iso(THREE + DAY), iso(THREE), job_of("nightly", THREE))
