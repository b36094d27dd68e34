"""Jobs in memory: for tests, and for whoever wants nothing kept. Passes the same contract suite as the SQLite store."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

import msgspec

from supervisor.adapters.stored_shapes import EVENTS_KEPT, EXPIRE_AT_ONCE, cursor_after, encode_event, encode_job, large_result, place_of, shortened
from supervisor.core.model import TERMINAL, Job, JobId, Lease, Peak, Work
from supervisor.runtime.ports import StreamEvent, Tombstone


def supersedes(new: Job, old: Job | None) -> bool:
    """Return whether a write may replace what is stored: an older attempt is refused, and an ended job never changes."""
    return old is None or (old.status not in TERMINAL and new.attempt >= old.attempt)


def ended_wall(job: Job) -> float:
    """Return when the job ended, or at least was there."""
    return job.created_wall if job.completed_wall is None else job.completed_wall


class MemoryJobs:
    """A store that forgets when the process ends."""

    def __init__(self, *, events_kept: int = EVENTS_KEPT) -> None:
        """Begin with nothing. events_kept: of each live job, and of all others together."""
        self._events_kept = events_kept
        self._jobs: dict[JobId, Job] = {}
        self._listed: dict[JobId, Job] = {}  # without their large results
        self._keys: dict[str, tuple[JobId, str, float]] = {}
        self._tombstones: dict[JobId, Tombstone] = {}
        self._events: dict[int, tuple[str | None, bytes]] = {}  # as bytes: what the poster does to its event later must not be seen
        self._last_event = 0
        self._trimmed = 0  # up to there some may be missing
        self._marks: dict[str, str] = {}
        self._fence = 0
        self._leases: tuple[Lease, ...] = ()
        self._peaks: dict[Work, Peak] = {}

    async def save(self, job: Job, events: Sequence[StreamEvent] = ()) -> Sequence[int]:
        """Keep the job and its events, unless a newer attempt or its end is kept already."""
        if job.id in self._tombstones:
            return ()
        if job.idempotency_key and job.id not in self._jobs:
            self._keys.setdefault(job.idempotency_key, (job.id, job.fingerprint, job.created_wall))
        if not supersedes(job, self._jobs.get(job.id)):
            return ()
        large = large_result(job, encode_job(job))
        self._jobs[job.id] = job
        self._listed[job.id] = job if large is None else shortened(job, len(large))
        return await self.append_events(events)

    async def find(self, job: str) -> Job | None:
        """Return the job with this id, or the only one whose id begins so."""
        if JobId(job) in self._jobs:
            return self._jobs[JobId(job)]
        found = [kept for name, kept in self._jobs.items() if name.startswith(job)]
        return found[0] if len(found) == 1 else None

    async def newest(self, *, statuses: Sequence[str], kind: str, limit: int) -> Sequence[Job]:
        """Return jobs, the newest first; all of them where statuses or kind are empty."""
        return self._page(statuses, kind, "")[:limit]

    async def page(self, *, statuses: Sequence[str], kind: str, limit: int, cursor: str) -> tuple[Sequence[Job], str]:
        """Return jobs after the cursor, the newest first, and the cursor of the next page. Raises ValueError for a cursor that is none."""
        return cursor_after(self._page(statuses, kind, cursor), limit)

    def _page(self, statuses: Sequence[str], kind: str, cursor: str) -> list[Job]:
        place = place_of(cursor)
        fitting = (job for job in self._listed.values() if (not statuses or job.status in statuses) and (not kind or job.kind == kind))
        later = [job for job in fitting if place is None or (job.created_wall, job.id) < place]
        return sorted(later, key=lambda job: (job.created_wall, job.id), reverse=True)

    async def live(self) -> Sequence[Job]:
        """Return the jobs that have not ended, the oldest first."""
        return sorted((job for job in self._jobs.values() if job.live), key=lambda job: (job.created_wall, job.id))

    async def counts(self) -> Mapping[str, int]:
        """Return how many jobs there are in each status."""
        return Counter(job.status.value for job in self._jobs.values())

    async def by_key(self, key: str) -> tuple[JobId, str] | None:
        """Return the job that was made under this idempotency key, and the fingerprint of what was asked for then."""
        return self._keys[key][:2] if key in self._keys else None

    async def gone(self, job: str) -> Tombstone | None:
        """Return what is left of a job that was cleaned up."""
        return self._tombstones.get(JobId(job))

    async def expire(self, *, ended_before: float, gone_before: float, keys_before: float) -> Sequence[JobId]:
        """Take away the jobs that ended before an instant, and whatever else has run out. Returns the ids of the jobs, at most 500 at a time."""
        ended = sorted((job for job in self._jobs.values() if not job.live and ended_wall(job) < ended_before), key=ended_wall)[:EXPIRE_AT_ONCE]
        for job in ended:
            self._tombstones[job.id] = Tombstone(job=job.id, kind=job.kind, status=job.status.value, completed_wall=ended_wall(job))
            del self._jobs[job.id], self._listed[job.id]
        self._tombstones = {name: stone for name, stone in self._tombstones.items() if stone.completed_wall >= gone_before}
        self._keys = {key: kept for key, kept in self._keys.items() if kept[2] >= keys_before}
        gone = set(self._spare_events({job.id for job in ended}))
        self._events = {number: event for number, event in self._events.items() if number not in gone}
        self._trimmed = max(self._trimmed, *gone, 0)
        return [job.id for job in ended]

    def _spare_events(self, ended: Collection[str]) -> Iterator[int]:
        """Yield the numbers of the events of these jobs, and of each live job, and of all others together, whatever is older than the newest so many."""
        of: dict[str | None, list[int]] = {}
        for number, (name, _) in self._events.items():
            if name in ended:
                yield number
                continue
            job = self._jobs.get(JobId(name)) if name else None
            of.setdefault(name if job is not None and job.live else None, []).append(number)
        for numbers in of.values():
            yield from numbers[: max(0, len(numbers) - self._events_kept)]

    async def append_events(self, events: Sequence[StreamEvent]) -> Sequence[int]:
        """Return the numbers that the events got. Raises StoreError; then none of them is kept."""
        first = self._last_event + 1
        self._events |= dict(enumerate([(event.job, encode_event(event)) for event in events], first))
        self._last_event += len(events)
        return range(first, self._last_event + 1)

    async def events_since(self, after: int, *, job: str, limit: int) -> Sequence[tuple[int, StreamEvent]]:
        """Return the events after a number, of one job or of all, the oldest first."""
        found = [(number, doc) for number, (name, doc) in self._events.items() if number > after and (not job or name == job)]
        return [(number, msgspec.json.decode(doc, type=StreamEvent)) for number, doc in found[:limit]]

    async def event_bounds(self) -> tuple[int, int]:
        """Return the number from which on every event is kept, and the last number ever given."""
        return min(self._trimmed + 1, self._last_event), self._last_event

    async def save_marks(self, marks: Mapping[str, str]) -> None:
        """Remember these; an empty value forgets one."""
        self._marks = {name: value for name, value in {**self._marks, **marks}.items() if value}

    async def marks(self) -> Mapping[str, str]:
        """Return all that was to be remembered."""
        return dict(self._marks)

    async def save_leases(self, leases: Sequence[Lease], fence: int) -> None:
        """Keep the leases, and the fence if it is higher than the last."""
        self._leases = tuple(leases)
        self._fence = max(self._fence, fence)

    async def leases(self) -> Sequence[Lease]:
        """Return the leases that were saved last."""
        return self._leases

    async def last_fence(self) -> int:
        """Return the highest fence ever saved."""
        return self._fence

    async def save_peaks(self, peaks: Mapping[Work, Peak]) -> None:
        """Keep these instead of the ones before."""
        self._peaks = dict(peaks)

    async def peaks(self) -> Mapping[Work, Peak]:
        """Return the peaks that were saved last, in their order."""
        return dict(self._peaks)

    async def close(self) -> None:
        """Nothing waits to be written."""
