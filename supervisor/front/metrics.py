"""Prometheus: counters and histograms are fed by the stream of events, gauges are read from the supervisor when somebody scrapes."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import datetime
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

import supervisor
from supervisor.control import Refused, Unreachable
from supervisor.front.client import Supervisor
from supervisor.shapes import DeviceView, EventView, JobView, LiveView, StatusView

SCRAPE_S: Final = 3.0
_ENDS: Final = {"job_completed": "completed", "job_failed": "failed", "job_cancelled": "cancelled"}
_SECONDS: Final = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 10_800, 43_200)
_SOON: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The numbers of this front's life. No job id and no pid is ever a label."""

    def __init__(self) -> None:
        """Begin at zero, in a registry of its own."""
        disable_created_metrics()  # type: ignore[no-untyped-call]  # else each counter and histogram gets a gauge more
        self.registry = CollectorRegistry(auto_describe=False)
        self._tasks: set[asyncio.Task[None]] = set()
        self._ask_job: Callable[[str], Awaitable[JobView]] | None = None
        registry = self.registry
        Gauge("warden_build_info", "The release, as a label.", ["version"], registry=registry).labels(supervisor.__version__).set(1)
        self.requests = Counter("warden_http_requests", "Requests by route and status.", ["method", "route", "status"], registry=registry)
        self.open_streams = 0
        Gauge("warden_http_streams", "Streams of events that are open.", registry=registry).set_function(lambda: self.open_streams)
        self.jobs = Counter("warden_jobs", "Jobs that ended.", ["kind", "outcome", "reason"], registry=registry)
        self.queue_wait = Histogram("warden_job_queue_wait_seconds", "From submit to start.", ["kind"], buckets=_SECONDS, registry=registry)
        self.run = Histogram("warden_job_run_seconds", "From start to end.", ["kind"], buckets=_SECONDS, registry=registry)
        self.duration = Histogram("warden_job_duration_seconds", "From submit to end.", ["kind"], buckets=_SECONDS, registry=registry)
        self.recycles = Counter("warden_worker_recycle", "Planned fresh processes.", ["worker", "reason"], registry=registry)
        self.preemptions = Counter("warden_gpu_lease_preemptions", "Holders that were asked to leave for another.", ["gpu"], registry=registry)
        self.lease_wait = Histogram("warden_gpu_lease_wait_seconds", "From the order to leave to the grant.", buckets=_SECONDS, registry=registry)
        self.brakes = Counter("warden_memory_brake", "Emergency brakes.", ["layer", "action"], registry=registry)
        self.reaction = Histogram("warden_memory_brake_reaction_seconds", "From the reading to the exit.", buckets=_SOON, registry=registry)
        self.cleanup = Histogram("warden_gpu_cleanup_seconds", "From a cancel to the proof that its memory is back.", buckets=_SOON, registry=registry)
        self.reloaded = Gauge("warden_config_last_reload_success_timestamp_seconds", "When the configuration was last taken.", registry=registry)
        self._vacating: dict[str, datetime] = {}

    def follow(self, ask_job: Callable[[str], Awaitable[JobView]]) -> None:
        """From now on ask for the jobs that end: their kind and their times are not in every event."""
        self._ask_job = ask_job

    def hear(self, event: EventView) -> None:
        """Count one event."""
        data, worker = event.data, event.worker or ""
        match event.event:
            case "job_completed" | "job_failed" | "job_cancelled" if event.job and self._ask_job:
                task = asyncio.get_running_loop().create_task(self._ended(self._ask_job(event.job), event.event))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case "worker_recycled":
                self.recycles.labels(worker, str(data.get("cause", "recycle"))).inc()
            case "gpu_vacating":
                self.preemptions.labels(str(data.get("device", ""))).inc(len(data.get("leaving") or ()))
                self._vacating[worker] = _instant(event.at)
            case "lease_granted" if worker in self._vacating:
                self.lease_wait.observe(max(0.0, (_instant(event.at) - self._vacating.pop(worker)).total_seconds()))
            case "gpu_refused":
                self._vacating.pop(worker, None)
            case "emergency_brake":
                self.brakes.labels(str(data.get("layer", "supervisor")), str(data.get("action", "kill"))).inc()
                if isinstance(took_s := data.get("took_s"), int | float):
                    self.reaction.observe(took_s)
            case "config_reloaded":
                self.reloaded.set(_instant(event.at).timestamp())
            case _:
                pass

    async def _ended(self, asked: Awaitable[JobView], name: str) -> None:
        try:
            job = await asked
        except (Refused, Unreachable):  # cleaned up already, or nobody answers: one ended job goes uncounted
            return
        outcome = _ENDS[name]
        self.jobs.labels(job.kind, outcome, job.error.reason if job.error else "").inc()
        for histogram, since, until in (
            (self.queue_wait, job.created_at, job.started_at),
            (self.run, job.started_at, job.completed_at),
            (self.duration, job.created_at, job.completed_at),
        ):
            if since and until:
                histogram.labels(job.kind).observe(max(0.0, (_instant(until) - _instant(since)).total_seconds()))
        if job.cancel is not None:
            self.cleanup.observe(job.cancel.took_s)

    async def scrape(self, asked: Supervisor) -> bytes:
        """Return everything in Prometheus' text form. Without a supervisor: warden_up 0, and what the front knows itself."""
        try:
            status = await asked.view("status", StatusView, by="metrics", timeout_s=SCRAPE_S)
            live = await asked.view("jobs.live", list[LiveView], by="metrics", timeout_s=SCRAPE_S)
            families = [GaugeMetricFamily("warden_up", "Whether the supervisor answers.", value=1), *gauges(status, live)]
        except (Refused, Unreachable):
            families = [GaugeMetricFamily("warden_up", "Whether the supervisor answers.", value=0)]
        return generate_latest(self.registry) + generate_latest(_Fixed(families))


class _Fixed(CollectorRegistry):
    """The gauges of one scrape."""

    def __init__(self, families: list[Metric]) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def gauges(status: StatusView, live: list[LiveView]) -> Iterator[Metric]:
    """Yield what the supervisor knows now."""
    yield GaugeMetricFamily("warden_loop_lag_seconds", "How late the supervisor's loop is.", value=status.supervisor.loop_lag_ms / 1000)
    good = float(not status.supervisor.config_error)
    yield GaugeMetricFamily("warden_config_last_reload_successful", "Whether the configuration file is sound.", value=good)
    memory = GaugeMetricFamily("warden_memory_available_bytes", "Memory that is there to be had.", labels=["scope"])
    if status.memory.available_bytes is not None:
        memory.add_metric(["machine"], status.memory.available_bytes)
    yield memory
    yield GaugeMetricFamily("warden_memory_promised_bytes", "What jobs at work are taken to need beyond what they have.", value=status.memory.promised_bytes)
    yield _jobs(live)
    yield from _workers(status)
    yield from _devices(status.devices)


def _jobs(live: list[LiveView]) -> Metric:
    family = GaugeMetricFamily("warden_jobs", "Jobs that wait or are at work; what ended is in warden_jobs_total.", labels=["kind", "status"])
    for one in live:
        family.add_metric([one.kind, one.status], one.count)
    return family


def _workers(status: StatusView) -> Iterator[Metric]:
    up = GaugeMetricFamily("warden_worker_up", "Whether the worker can work.", labels=["worker", "model", "state"])
    age = GaugeMetricFamily("warden_worker_heartbeat_age_seconds", "Since its last word.", labels=["worker"])
    still = GaugeMetricFamily("warden_job_progress_age_seconds", "Since the progress of its job last moved.", labels=["worker"])
    rss = GaugeMetricFamily("warden_worker_resident_memory_bytes", "Memory of its process tree, shared pages by their share (PSS).", labels=["worker"])
    typed = GaugeMetricFamily("warden_worker_memory_bytes", "The same, by type.", labels=["worker", "type"])
    leaks = GaugeMetricFamily("warden_worker_leak_bytes_per_job", "By how much its idle memory grows with each job, by the verdict.", labels=["worker", "kind"])
    restarts = CounterMetricFamily("warden_worker_restarts", "Restarts by cause.", labels=["worker", "reason"])
    for worker in status.workers:
        up.add_metric([worker.name, worker.model, worker.state], float(worker.state in {"ready", "busy"}))
        for family, value in ((age, worker.silent_s), (still, worker.still_s), (rss, worker.memory_bytes)):
            if value is not None:
                family.add_metric([worker.name], value)
        if worker.memory_bytes is not None:
            typed.add_metric([worker.name, "pss"], worker.memory_bytes)
        if worker.leak is not None:
            leaks.add_metric([worker.name, worker.leak.kind], worker.leak.per_job_bytes)
        for cause, number in worker.restarts.items():
            restarts.add_metric([worker.name, cause], number)
    yield from (up, age, still, rss, typed, leaks, restarts)


def _devices(devices: list[DeviceView]) -> Iterator[Metric]:
    used = GaugeMetricFamily("warden_gpu_used_bytes", "Memory in use on the device.", labels=["gpu"])
    total = GaugeMetricFamily("warden_gpu_total_bytes", "Memory of the device.", labels=["gpu"])
    held = GaugeMetricFamily("warden_gpu_lease_held", "1 for who has the device.", labels=["gpu", "owner"])
    waiting = GaugeMetricFamily("warden_gpu_waiters", "Jobs that wait for the device.", labels=["gpu"])
    memory = GaugeMetricFamily("warden_worker_gpu_memory_bytes", "What a holder has of a device.", labels=["gpu", "worker"])
    for device in devices:
        total.add_metric([device.id], device.total_bytes)
        waiting.add_metric([device.id], len(device.waiters))
        if device.used_bytes is not None:
            used.add_metric([device.id], device.used_bytes)
        for holder in device.holders:
            held.add_metric([device.id, holder.owner], float(holder.state in {"held", "yielding"}))
            if holder.used_bytes is not None:
                memory.add_metric([device.id, holder.owner], holder.used_bytes)
    yield from (used, total, held, waiting, memory)


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)
