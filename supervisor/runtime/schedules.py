"""Submits the jobs of [schedules.NAME] by the clock, none twice and none lost, also when the supervisor is killed at any moment.

A job's id is made of its schedule and its planned instant. The instant is remembered as dealt with only after the job is on disk; a kill between the two
leads to the same id again, which is then found to be there already.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

import msgspec
from msgspec import Struct

from supervisor import cron
from supervisor.core.limits import Limits, ScheduleSpec
from supervisor.core.model import Fleet, Job, JobId
from supervisor.core.schedules import due
from supervisor.errors import StoreError
from supervisor.runtime.instants import instant
from supervisor.runtime.perform import Say
from supervisor.runtime.ports import JobStore
from supervisor.runtime.requests import Rejected
from supervisor.shapes import ScheduleView

LOOK_S: Final = 1.0
AGAIN_S: Final = 10.0
"""After a refusal that may pass, such as a full queue."""
_MARK: Final = "schedule:"
_LAST: Final = "schedule_last:"
_FOR_GOOD: Final = frozenset({"usage", "invalid", "unknown", "gone"})
"""Refusals that the same job will meet again."""


class _Last(Struct, frozen=True):
    """What is remembered beside the instant: by which line it was counted, and the last job."""

    line: str
    job: str = ""
    planned_wall: float | None = None


class _Track(Struct):
    """Where one schedule stands. next_wall: the first instant after counted_wall, None until it is worked out."""

    counted_wall: float | None = None
    last: _Last = _Last("")
    next_wall: float | None = None
    again_wall: float = 0.0
    said: str = ""  # the trouble that was spoken of, until it is over


def job_of(schedule: str, planned_wall: float) -> JobId:
    """Return the id of the job that belongs to an instant. In UTC: local time has one hour twice a year."""
    return JobId(f"s-{schedule}-{datetime.fromtimestamp(planned_wall, tz=UTC):%Y%m%dT%H%M%SZ}")


class Schedules:
    """Looks each second until cancelled. submit returns once the job is on disk, and raises Rejected; fleet holds the live jobs."""

    def __init__(
        self, *, store: JobStore, submit: Callable[[Job], Awaitable[None]], fleet: Callable[[], Fleet], limits: Callable[[], Limits], say: Say
    ) -> None:
        """Submit through `submit`."""
        self._store = store
        self._submit = submit
        self._fleet = fleet
        self._limits = limits
        self._say = say
        self._tracks: dict[str, _Track] | None = None
        self._store_failed = False

    async def run(self) -> None:
        """Look at the clock each second."""
        while True:
            await self.look(time.time())
            await asyncio.sleep(LOOK_S)

    async def look(self, now_wall: float) -> None:
        """Do what is due at this instant."""
        try:
            if self._tracks is None:
                self._tracks = _remembered(await self._store.marks())
            specs = self._limits().schedules
            for name in self._tracks.keys() - specs.keys():  # one that comes back later is a new one
                await self._store.save_marks({_MARK + name: "", _LAST + name: ""})
                del self._tracks[name]
            for name, spec in specs.items():
                await self._one(name, spec, self._tracks.setdefault(name, _Track()), now_wall)
        except StoreError as error:
            if not self._store_failed:
                self._say("error", "store_failed", {"reason": f"schedules wait: {error}"})
            self._store_failed = True
        else:
            self._store_failed = False

    def views(self, now_wall: float) -> list[ScheduleView]:
        """Return each schedule of the configuration, for people."""
        found = []
        for name, spec in self._limits().schedules.items():
            track = (self._tracks or {}).get(name, _Track())
            coming = None if _wrong(spec.cron) else cron.next_after(spec.cron, max(now_wall, track.counted_wall or 0.0))
            last = track.last
            found.append(
                ScheduleView(name=name, cron=spec.cron, kind=spec.kind, next_at=instant(coming), last_at=instant(last.planned_wall), last_job=last.job or None)
            )
        return found

    async def _one(self, name: str, spec: ScheduleSpec, track: _Track, now_wall: float) -> None:
        if 0.0 < track.again_wall - now_wall <= AGAIN_S:
            return
        if wrong := _wrong(spec.cron):
            self._trouble(name, track, "schedule_refused", f"cron = {spec.cron!r} {wrong}")
            return
        counted = track.counted_wall if track.last.line == spec.cron else None
        planned = () if counted is None else self._planned(spec, track, counted, now_wall)
        model = self._limits().model_for(spec.kind)
        if planned and model is None:
            self._trouble(
                name, track, "schedule_unserved", f"no worker serves {spec.kind!r}: name it in the serves of a [workers.NAME], or change the schedule"
            )
            return
        own = job_of(name, planned[-1]) if planned else None  # it may be live already: then its answer was lost
        live = next((job.id for job in self._fleet().jobs.values() if job.schedule == name and job.id != own), None)
        found = due(spec, last_wall=counted, now_wall=now_wall, planned=planned, live=live)
        if found.what == "run" and model is not None and not await self._run(track, self._job(name, spec, model, planned[-1], now_wall), planned[-1]):
            return
        if found.reason and planned:
            event = "schedule_skipped" if found.what == "skip" else "schedule_caught_up"
            self._say("info", event, {"schedule": name, "planned": instant(planned[-1]), "reason": found.reason})
        if found.count_from_wall is not None:
            await self._count_from(name, spec, track, found.count_from_wall)

    def _planned(self, spec: ScheduleSpec, track: _Track, counted_wall: float, now_wall: float) -> tuple[float, ...]:
        """Return the first and the last instant since the one that was dealt with, if any came."""
        if track.next_wall is None:
            track.next_wall = cron.next_after(spec.cron, counted_wall)
        if track.next_wall > now_wall:
            return ()
        last = max(track.next_wall, cron.last_until(spec.cron, now_wall))
        return (track.next_wall,) if last == track.next_wall else (track.next_wall, last)

    async def _run(self, track: _Track, job: Job, planned_wall: float) -> bool:
        """Submit the job of an instant, unless it was. Returns whether the instant is dealt with."""
        stored = await self._store.find(job.id)
        if (stored is None or stored.id != job.id) and await self._store.gone(job.id) is None:
            if job.id in self._fleet().jobs:  # its write is under way
                return False
            try:
                await self._submit(job)
            except Rejected as error:
                self._trouble(job.schedule, track, "schedule_refused", f"job {job.id} was refused ({error.code}): {error}")
                track.again_wall = job.created_wall + AGAIN_S
                return error.code in _FOR_GOOD
        track.said = ""
        track.last = _Last(track.last.line, job.id, planned_wall)
        return True

    def _job(self, name: str, spec: ScheduleSpec, model: str, planned_wall: float, now_wall: float) -> Job:
        limits = self._limits()
        return Job(
            id=job_of(name, planned_wall),
            kind=spec.kind,
            params=dict(spec.params),
            priority=limits.workers[model].priority if spec.priority is None else spec.priority,
            max_attempts=1 + limits.jobs.retries.total(),
            created_wall=now_wall,
            schedule=name,
        )

    async def _count_from(self, name: str, spec: ScheduleSpec, track: _Track, wall_s: float) -> None:
        """Remember an instant as dealt with, on disk before in memory."""
        last = track.last if track.last.line == spec.cron else _Last(spec.cron, track.last.job, track.last.planned_wall)
        counted = datetime.fromtimestamp(wall_s, tz=UTC).isoformat()
        await self._store.save_marks({_MARK + name: counted, _LAST + name: msgspec.json.encode(last).decode()})
        track.counted_wall, track.last, track.next_wall = wall_s, last, None

    def _trouble(self, name: str, track: _Track, event: str, reason: str) -> None:
        """Say it once, until it is another."""
        if track.said != reason:
            track.said = reason
            self._say("warning", event, {"schedule": name, "reason": reason})


@lru_cache(maxsize=256)
def _wrong(line: str) -> str:
    """Return what is wrong with a cron line. The configuration checks it too; a wrong one must not end the supervisor."""
    try:
        cron.check(line)
    except ValueError as error:
        return str(error)
    return ""


def _remembered(marks: Mapping[str, str]) -> dict[str, _Track]:
    """Return where each schedule stood; one whose mark cannot be read is a new one."""
    tracks = {}
    for mark, value in marks.items():
        name = mark.removeprefix(_MARK)
        if name == mark:
            continue
        try:
            counted = datetime.fromisoformat(value).timestamp()
            last = msgspec.json.decode(marks[_LAST + name], type=_Last)
        except (ValueError, KeyError, msgspec.DecodeError):
            tracks[name] = _Track()
        else:
            tracks[name] = _Track(counted_wall=counted, last=last)
    return tracks
