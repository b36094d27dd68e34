"""Jobs in memory: for tests, and for whoever wants nothing kept. Passes the same contract suite as the SQLite store."""

from collections import Counter
from collections.abc import Mapping, Sequence

from supervisor.core.model import TERMINAL, Job, JobId, Lease


def supersedes(new: Job, old: Job | None) -> bool:
    """Return whether a write may replace what is stored: an older attempt is refused, and an ended job never changes."""
    return old is None or (old.status not in TERMINAL and new.attempt >= old.attempt)


class MemoryJobs:
    """A store that forgets when the process ends."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._jobs: dict[JobId, Job] = {}
        self._fence = 0
        self._leases: tuple[Lease, ...] = ()

    async def save(self, job: Job) -> None:
        """Keep the job, unless a newer attempt or its end is kept already."""
        if supersedes(job, self._jobs.get(job.id)):
            self._jobs[job.id] = job

    async def find(self, job: str) -> Job | None:
        """Return the job with this id, or the only one whose id begins so."""
        if JobId(job) in self._jobs:
            return self._jobs[JobId(job)]
        found = [kept for name, kept in self._jobs.items() if name.startswith(job)]
        return found[0] if len(found) == 1 else None

    async def newest(self, *, statuses: Sequence[str], kind: str, limit: int) -> Sequence[Job]:
        """Return jobs, the newest first; all of them where statuses or kind are empty."""
        fitting = [job for job in self._jobs.values() if (not statuses or job.status in statuses) and (not kind or job.kind == kind)]
        return sorted(fitting, key=lambda job: (job.created_wall, job.id), reverse=True)[:limit]

    async def live(self) -> Sequence[Job]:
        """Return the jobs that have not ended, the oldest first."""
        return sorted((job for job in self._jobs.values() if job.live), key=lambda job: (job.created_wall, job.id))

    async def counts(self) -> Mapping[str, int]:
        """Return how many jobs there are in each status."""
        return Counter(job.status.value for job in self._jobs.values())

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

    async def close(self) -> None:
        """Nothing waits to be written."""
