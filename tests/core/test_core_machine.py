"""Random lives of a fleet: after every event the invariants hold, every journal replays, and when peace returns all work ends and SAM is back."""

from collections import Counter
from dataclasses import fields
from typing import Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from msgspec.structs import replace

from supervisor.core import events as ev
from supervisor.core.decide import decide
from supervisor.core.limits import GIB, GpuLimits, JobLimits, Limits, SupervisorLimits, Watchdog, WorkerSpec
from supervisor.core.model import AT_WORK, DeviceState, Fleet, JobId, JobStatus, LeaseState, Wanted, WorkerName, WorkerState
from tests.support.simulated import CRASHED, Faults
from tests.support.world import World, usual_limits

DOG: Final = Watchdog(
    start_timeout_s=20,
    silent_after_s=15,
    stall_after_s=20,
    stop_grace_s=5,
    unkillable_after_s=5,
    critical_max_s=10,
    backoff_first_s=1,
    backoff_max_s=20,
    healthy_after_s=60,
    quarantine_after=4,
)
WORKERS: Final = ("sam-0", "yolo-0", "words-0", "words-1")
BROKEN: Final[list[dict[str, bool | int | float]]] = [
    {"spawn_fails": True},
    {"never_ready": True},
    {"crash_in_load": True},
    {"load_s": 6.0},
    {"mute": True},
    {"deaf": True},
    {"stalls_at": 2},
    {"stalls_at": 2, "critical": True},
    {"crashes_at": 2},
    {"fails_at": 2},
    {"ignores_drain": True, "ignores_cancel": True},
    {"ignores_term": True, "ignores_drain": True, "ignores_cancel": True},
    {"unkillable": True, "ignores_drain": True, "stalls_at": 1},
    {"wordless": True},
    {"exit_s": 4.0},
    {"no_evidence": True, "stalls_at": 1},
    {"leftovers": 1},
    {"tree_stuck": True},
    {"keeps_memory": True},
    {"release_s": 8.0},
    {"memory_back_s": 12.0},
    {"memory_back_s": 90.0},
]
PEACE_S: Final = 1500.0


def small_limits() -> Limits:
    """Return limits under which much happens in little time."""
    usual = usual_limits()
    workers = {name: replace(spec, watchdog=DOG) for name, spec in usual.workers.items()}
    workers["words"] = WorkerSpec(command=("words",), serves=("words.count",), replicas=2, concurrency=2, watchdog=DOG)
    return replace(
        usual,
        workers=workers,
        watchdog=DOG,
        gpu=GpuLimits(vacate_timeout_s=30),
        jobs=JobLimits(max_running=4, max_queued=6, age_step_s=5),
        supervisor=SupervisorLimits(shutdown_grace_s=10),
    )


class Life(RuleBasedStateMachine):
    """One life: people, faults and time in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(small_limits(), watch=self._check)
        self.submitted: list[str] = []

    # ---- what happens

    @rule(kind=st.sampled_from(["sam.propagate", "sam.segment", "yolo.train", "words.count"]), priority=st.sampled_from([0, 10, 15, 20]))
    def submit(self, kind: str, priority: int) -> None:
        name = f"j-{len(self.submitted)}"
        self.submitted.append(name)
        self.world.submit(name, kind, priority=priority)
        self.world.run(self.world.now_s)

    @rule(which=st.integers(0, 30))
    def cancel(self, which: int) -> None:
        if self.submitted:
            self.world.post(0, ev.CancelRequested(request="cancel", job=JobId(self.submitted[which % len(self.submitted)])))

    @rule(worker=st.sampled_from(WORKERS), broken=st.sampled_from(BROKEN))
    def break_something(self, worker: str, broken: dict[str, bool | float]) -> None:
        for name, value in broken.items():
            setattr(self.world.fault(worker), name, value)

    @rule(worker=st.sampled_from(WORKERS))
    def mend(self, worker: str) -> None:
        healthy = Faults()
        for switch in fields(Faults):
            setattr(self.world.fault(worker), switch.name, getattr(healthy, switch.name))

    @rule(which=st.integers(0, 3))
    def crash(self, which: int) -> None:
        alive = [process for process in self.world.processes.values() if process.alive]
        if alive:
            alive[which % len(alive)].leave(CRASHED)

    @rule(worker=st.sampled_from(WORKERS), wanted=st.sampled_from(Wanted), restart=st.booleans())
    def order(self, worker: str, wanted: Wanted, restart: bool) -> None:
        restart = restart and wanted is Wanted.UP
        self.world.post(0, ev.WantedChanged(request="order", workers=(WorkerName(worker),), wanted=wanted, restart=restart))

    @rule(lag_s=st.sampled_from([0.5, 5.0, 60.0]))
    def freeze(self, lag_s: float) -> None:
        self.world.freeze(lag_s)
        self.world.run(self.world.now_s + lag_s)

    @rule(store_fails=st.booleans(), unreadable=st.booleans(), stranger=st.sampled_from([0, 0, 10 * GIB]))
    def surroundings(self, store_fails: bool, unreadable: bool, stranger: int) -> None:
        self.world.store_fails, self.world.device_unreadable, self.world.stranger_bytes = store_fails, unreadable, stranger

    @rule(seconds=st.sampled_from([0.004, 0.11, 0.7, 3.0, 12.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.run(self.world.now_s + seconds)

    @rule(at_once=st.booleans())
    def shutdown(self, at_once: bool) -> None:
        self.world.post(0, ev.ShutdownRequested(request="shutdown", at_once=at_once))
        self.world.run(self.world.now_s + 30)
        assert self.world.left, "it did not leave within shutdown_grace, stop_grace and unkillable_after"
        self._replays()
        self.world.restart_supervisor()

    @rule()
    def new_supervisor(self) -> None:
        self._replays()
        self.world.restart_supervisor()

    # ---- what must hold

    def _check(self, before: Fleet, event: ev.AnyEvent, after: Fleet) -> None:
        assert not self.world.wrongs, self.world.wrongs
        assert after.fence >= before.fence
        self._check_leases(after)
        self._check_jobs(after)
        if isinstance(event, ev.Tick):
            self._check_clocks(after)

    def _check_leases(self, fleet: Fleet) -> None:
        fences = [lease.fence for lease in fleet.leases.values() if lease.fence]
        assert len(fences) == len(set(fences))
        for device in fleet.devices.values():
            leases = [lease for lease in fleet.leases.values() if lease.device == device.id]
            having = [lease for lease in leases if lease.state in {LeaseState.HELD, LeaseState.YIELDING}]
            assert len(having) <= 1, having
            for lease in having:
                assert fleet.workers[lease.worker].process is not None, f"{lease.worker} holds a device and has no process"
            waiting = [lease.id for lease in leases if lease.state is LeaseState.WAITING]
            assert waiting == ([device.handover.lease] if device.handover else [])

    def _check_jobs(self, fleet: Fleet) -> None:
        places = Counter(name for worker in fleet.workers.values() for name in worker.jobs)
        at_work = {job.id for job in fleet.jobs.values() if job.status in AT_WORK}
        assert places == Counter(at_work)
        for worker in fleet.workers.values():
            assert all(fleet.jobs[name].worker == worker.name for name in worker.jobs)
        assert all(job.live for job in fleet.jobs.values())

    def _check_clocks(self, fleet: Fleet) -> None:
        for worker in fleet.workers.values():
            moved = [fleet.jobs[name] for name in worker.jobs if fleet.jobs[name].status is JobStatus.RUNNING]
            for job in moved:
                still_s = self.world.now_s - (job.progress_at_s or 0.0)
                allowed_s = DOG.stall_after_s + (DOG.critical_max_s if job.critical else 0.0)
                assert still_s <= allowed_s or worker.state in {WorkerState.STOPPING, WorkerState.EXITED}, (worker, job)

    def _check_no_job_is_lost(self) -> None:
        endings = Counter(job.id for job in self.world.endings)
        assert not [name for name, count in endings.items() if count > 1]
        for name in self.submitted:
            reply = self.world.replies.get(f"submit {name}")
            if reply is not None and not reply.error:
                assert (name in self.world.fleet.jobs) != (endings[JobId(name)] == 1), f"{name} is lost, or both live and ended"

    def _replays(self) -> None:
        fleet = self.world.first
        for event, now_s in self.world.journal:
            fleet = decide(fleet, event, self.world.limits, now_s).fleet
        assert fleet == self.world.fleet

    # ---- when peace returns

    def teardown(self) -> None:
        world = self.world
        world.store_fails = world.device_unreadable = False
        world.stranger_bytes = 0
        for worker in WORKERS:
            self.mend(worker)
        for process in tuple(world.processes.values()):
            if world.fleet.workers[process.worker].state is WorkerState.UNKILLABLE:
                process.leave(CRASHED)
        world.post(0, ev.WantedChanged(request="order", workers=tuple(map(WorkerName, WORKERS)), wanted=Wanted.UP))
        until_s = world.now_s + PEACE_S
        while world.now_s < until_s and not self._at_peace():
            world.run(world.now_s + 10)
        assert self._at_peace(), (world.fleet.workers, world.fleet.jobs, world.fleet.leases, world.fleet.devices)
        self._check_no_job_is_lost()
        self._replays()

    def _at_peace(self) -> bool:
        fleet = self.world.fleet
        sam, yolo = fleet.workers[WorkerName("sam-0")], fleet.workers[WorkerName("yolo-0")]
        held = [(lease.worker, lease.state) for lease in fleet.leases.values()]
        return (
            not fleet.jobs
            and not self.world.unsaved
            and sam.state is WorkerState.READY
            and yolo.state in {WorkerState.DOWN, WorkerState.QUARANTINED}
            and held == [("sam-0", LeaseState.HELD)]
            and all(device.state is DeviceState.OK for device in fleet.devices.values())
        )


SEARCH: Final = settings.get_current_profile_name() == "search"
TestLife = Life.TestCase
TestLife.settings = settings(max_examples=250, stateful_step_count=60) if SEARCH else settings(max_examples=25, stateful_step_count=25)
