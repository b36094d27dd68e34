"""A simulated job store: writes wait in order, may fail, and a failed one is tried again unless somebody hears of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from supervisor.core.actions import AnyAction, SaveJob
from supervisor.core.events import SaveFailed
from supervisor.core.model import Fleet, Job, JobId, Lease, Peak, Wanted, Work, WorkerName


@dataclass
class SimulatedDisk:
    """What outlives a supervisor."""

    jobs: dict[JobId, Job] = field(default_factory=dict)
    endings: list[Job] = field(default_factory=list)  # each write of a job in a terminal state
    leases: tuple[Lease, ...] = ()
    fence: int = 0
    peaks: Mapping[Work, Peak] = field(default_factory=dict)
    marks: dict[str, str] = field(default_factory=dict)
    wanted: dict[WorkerName, Wanted] = field(default_factory=dict)
    fails: bool = False
    waiting: list[SaveJob] = field(default_factory=list)

    def write(self) -> tuple[SaveFailed | None, tuple[AnyAction, ...]]:
        """Write what waits first. Return what is to be told of a failure, and what waited for the success."""
        save = self.waiting[0]
        failed = SaveFailed(job=save.job.id, error="disk full", refuse_to=save.refuse_to) if self.fails else None
        if not self.fails or save.refuse_to:
            self.waiting.pop(0)
        if failed is not None:
            return failed, ()
        self.jobs[save.job.id] = save.job
        if not save.job.live:
            self.endings.append(save.job)
        return None, save.then

    def write_leases(self, fleet: Fleet) -> None:
        """Write the leases as they now are, and the highest number ever given out."""
        if not self.fails:
            self.leases, self.fence = tuple(fleet.leases.values()), max(self.fence, fleet.last_number)

    def write_peaks(self, fleet: Fleet) -> None:
        """Write down what was learned of work."""
        if not self.fails:
            self.peaks = fleet.peaks

    def write_wanted(self, words: Mapping[WorkerName, Wanted | None]) -> None:
        """Write down where the operator wants these workers."""
        self.wanted = {name: wanted for name, wanted in {**self.wanted, **words}.items() if wanted is not None}

    def holds_back(self, job: JobId) -> bool:
        """Return whether a write of the job is under way: until it is done the worker is not told that its report is stored."""
        return any(save.job.id == job for save in self.waiting)
