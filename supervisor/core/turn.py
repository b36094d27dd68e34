"""One turn of deciding: the fleet as it changes, and the actions as they are ordered. Lives only inside one call of `decide`."""

from collections.abc import Mapping

from msgspec.structs import replace

from supervisor.core.actions import Announce, AnyAction, Decision, SaveJob, WakeAt
from supervisor.core.announcements import LEVELS
from supervisor.core.limits import JSONValue, Limits, WorkerSpec
from supervisor.core.model import Device, DeviceId, Fleet, Job, JobId, Lease, LeaseId, Ticket, Waiter, Worker, WorkerName


class Turn:
    """The fleet under change. Every `put_` copies one mapping: the fleet that came in stays as it was."""

    def __init__(self, fleet: Fleet, limits: Limits, now_s: float) -> None:
        """Begin with the fleet as it is."""
        self.fleet = fleet
        self.before = fleet
        self.limits = limits
        self.now_s = now_s
        self.actions: list[AnyAction] = []

    @property
    def wall_s(self) -> float:
        """Seconds since 1970, for people only."""
        return self.now_s + self.fleet.wall_offset_s

    def spec(self, worker: Worker) -> WorkerSpec:
        """Return what the operator wrote about this worker's model."""
        return self.limits.workers[worker.model]

    def put_worker(self, worker: Worker) -> Worker:
        """Keep the worker as it now is."""
        self.fleet = replace(self.fleet, workers={**self.fleet.workers, worker.name: worker})
        return worker

    def put_job(self, job: Job) -> Job:
        """Keep the job as it now is; one that ended leaves the fleet (the store has it)."""
        if job.live:
            self.fleet = replace(self.fleet, jobs={**self.fleet.jobs, job.id: job})
        else:
            self.fleet = replace(self.fleet, jobs={name: other for name, other in self.fleet.jobs.items() if name != job.id})
        return job

    def save_job(self, job: Job, *then: AnyAction) -> Job:
        """Keep the job and write it down; `then` waits until it is on disk."""
        self.put_job(job)
        if job.retry_at_s > self.now_s:
            self.act(WakeAt(at_s=job.retry_at_s))
        self.act(SaveJob(job=job, then=then))
        return job

    def put_jobs(self, jobs: Mapping[JobId, Job]) -> None:
        """Keep many live jobs as they now are, with one copy of the mapping."""
        self.fleet = replace(self.fleet, jobs={**self.fleet.jobs, **jobs})

    def put_device(self, device: Device) -> Device:
        """Keep the device as it now is."""
        self.fleet = replace(self.fleet, devices={**self.fleet.devices, device.id: device})
        return device

    def put_lease(self, lease: Lease) -> Lease:
        """Keep the lease as it now is."""
        self.fleet = replace(self.fleet, leases={**self.fleet.leases, lease.id: lease})
        return lease

    def drop_lease(self, lease: LeaseId) -> None:
        """Take a lease that is free out of the fleet."""
        self.fleet = replace(self.fleet, leases={name: other for name, other in self.fleet.leases.items() if name != lease})

    def put_waiter(self, waiter: Waiter) -> Waiter:
        """Keep a program that waits for a device as it now is."""
        self.fleet = replace(self.fleet, waiters={**self.fleet.waiters, waiter.outside.ticket: waiter})
        return waiter

    def put_waiters(self, waiters: Mapping[Ticket, Waiter]) -> None:
        """Keep many of them, with one copy of the mapping."""
        self.fleet = replace(self.fleet, waiters={**self.fleet.waiters, **waiters})

    def drop_waiter(self, ticket: Ticket) -> None:
        """Take a waiter out of the fleet."""
        self.fleet = replace(self.fleet, waiters={name: other for name, other in self.fleet.waiters.items() if name != ticket})

    def act(self, action: AnyAction) -> None:
        """Order an action."""
        self.actions.append(action)

    def wake_in(self, pause_s: float) -> None:
        """Make sure that something which falls due then is seen then."""
        self.act(WakeAt(at_s=self.now_s + pause_s))

    def announcement(
        self, event: str, *, worker: WorkerName | None = None, job: JobId | None = None, reason: str = "", fields: Mapping[str, JSONValue] | None = None
    ) -> Announce:
        """Return the announcement, to be made after something else is done."""
        if event not in LEVELS:
            raise KeyError(f"event {event} is not in the log's vocabulary")
        return Announce(event=event, worker=worker, job=job, reason=reason, fields=fields or {})

    def announce(
        self, event: str, *, worker: WorkerName | None = None, job: JobId | None = None, reason: str = "", fields: Mapping[str, JSONValue] | None = None
    ) -> None:
        """Say what became true."""
        self.act(self.announcement(event, worker=worker, job=job, reason=reason, fields=fields))

    def device_of(self, worker: Worker) -> DeviceId | None:
        """Return the device that the worker holds or is about to hold."""
        lease = self.fleet.lease_of(worker.name)
        return lease.device if lease else None

    def end(self) -> Decision:
        """Return what was decided."""
        return Decision(self.fleet, tuple(self.actions))
