"""Random lives of a fleet: after every event the invariants hold, every journal replays, and when peace returns all work ends and SAM is back."""

from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from typing import Final

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from msgspec.structs import replace

from supervisor.core import events as ev
from supervisor.core.actions import Announce
from supervisor.core.decide import decide
from supervisor.core.health import stall_limit_s
from supervisor.core.limits import GIB, GpuLimits, JobLimits, Limits, SupervisorLimits, Watchdog, WorkerSpec
from supervisor.core.loading import who_loads
from supervisor.core.model import AT_WORK, Cause, Device, DeviceState, Fleet, JobId, JobStatus, Lease, LeaseState, Ticket, Wanted, WorkerName, WorkerState
from supervisor.core.reload import places
from supervisor.core.rules import conflicts
from supervisor.core.settle import settle
from supervisor.core.turn import Turn
from tests.support.simulated import CRASHED, Faults
from tests.support.world import World, usual_limits

DOG: Final = Watchdog(
    start_timeout_s=20,
    silent_after_s=15,
    stall_after_s=20,
    stop_grace_s=5,
    unkillable_after_s=5,
    critical_max_s=10,
    recycle_after_s=150,
    recycle_wait_s=20,
    backoff_first_s=1,
    backoff_max_s=20,
    healthy_after_s=60,
    quarantine_after=4,
)
WORKERS: Final = ("sam-0", "yolo-0", "words-0", "words-1", "words-2", "tail-0", "web-0")
BROKEN: Final[list[dict[str, bool | int | float | str]]] = [
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
    {"checkpoint_every": 3},
    {"checkpoint_every": 3, "exit_s": 2.0},
    {"phase_at": 2, "phase_s": 30.0},
    {"extends_s": 25.0, "stalls_at": 2},
    {"fails_at": 2, "fails_as": "gpu_oom"},
    {"fails_at": 2, "fails_as": "gpu_error"},
]
PEACE_S: Final = 1500.0


def small_limits() -> Limits:
    """Return limits under which much happens in little time."""
    usual = usual_limits()
    workers = {name: replace(spec, watchdog=DOG) for name, spec in usual.workers.items()}
    workers["words"] = WorkerSpec(command=("words",), serves=("words.count",), replicas=2, concurrency=2, watchdog=DOG)
    workers["tail"] = WorkerSpec(command=("tail",), progress="output", watchdog=DOG)
    workers["web"] = WorkerSpec(command=("web",), progress="notify", after=("tail",), watchdog=DOG)
    return replace(
        usual,
        workers=workers,
        watchdog=DOG,
        gpu=GpuLimits(vacate_timeout_s=30),
        jobs=JobLimits(max_running=4, max_queued=6, age_step_s=5),
        supervisor=SupervisorLimits(shutdown_grace_s=10),
    )


def shared_limits() -> Limits:
    """Return the same for a device on which SAM and YOLO live together."""
    limits = small_limits()
    workers = {**limits.workers, "sam": replace(limits.workers["sam"], gpu_bytes=6 * GIB), "yolo": replace(limits.workers["yolo"], gpu_bytes=4 * GIB)}
    return replace(limits, workers=workers, gpu=replace(limits.gpu, sharing="budget"))


def _threshold(**limits: float) -> Callable[[Limits], Limits]:
    """Return an edit of every worker's clocks that touches nothing else."""

    def edit(limits_before: Limits) -> Limits:
        dogs = {name: replace(spec, watchdog=replace(spec.watchdog, **limits)) for name, spec in limits_before.workers.items()}
        return replace(limits_before, workers=dogs)

    return edit


def _of(name: str, **fields: object) -> Callable[[Limits], Limits]:
    """Return an edit of one worker's table, or that brings it back."""

    def edit(before: Limits) -> Limits:
        return replace(before, workers={**before.workers, name: replace(before.workers.get(name) or small_limits().workers[name], **fields)})

    return edit


def _without(name: str) -> Callable[[Limits], Limits]:
    """Return an edit that takes a worker out, and out of everybody's `after`."""

    def edit(before: Limits) -> Limits:
        left = {other: replace(spec, after=tuple(first for first in spec.after if first != name)) for other, spec in before.workers.items() if other != name}
        return replace(before, workers=left)

    return edit


Edit = Callable[[Limits], Limits]
THRESHOLDS: Final[dict[str, Edit]] = {
    "shorter stall": _threshold(stall_after_s=8),
    "longer stall and silence": _threshold(stall_after_s=40, silent_after_s=30),
    "shorter silence and start": _threshold(silent_after_s=4, start_timeout_s=6),
    "shorter grace and wait": _threshold(stop_grace_s=1, recycle_wait_s=5),
    "longer grace and start": _threshold(stop_grace_s=8, start_timeout_s=40),
    "shorter critical and recycle": _threshold(critical_max_s=1, recycle_after_s=60),
    "longer validation": _of("yolo", phases={"validate": 60.0}),
    "shorter validation": _of("yolo", phases={"validate": 9.0}),
    "one at a time": lambda limits: replace(limits, jobs=replace(limits.jobs, max_running=1)),
    "shorter vacate": lambda limits: replace(limits, gpu=replace(limits.gpu, vacate_timeout_s=20)),
}
EDITS: Final[dict[str, Edit]] = {
    **{f"{count} words": _of("words", replicas=count) for count in (1, 2, 3)},
    **{f"no {name}": _without(name) for name in ("words", "sam", "yolo", "tail")},
    **{f"{name} again": _of(name) for name in ("words", "sam", "yolo", "tail")},
    "words command": _of("words", command=("words", "-v")),
    "yolo need": _of("yolo", gpu_bytes=10 * GIB),
    "sam without need": _of("sam", gpu_bytes=0),
    "sam serves less": _of("sam", gpu_bytes=12 * GIB, serves=("sam.segment",)),
    "words by hand": _of("words", autostart=False),
    "words by itself": _of("words", autostart=True),
    "yolo resident": _of("yolo", resident=True),
    "tail says nothing": _of("tail", progress="none"),
    "a bound for holds": lambda limits: replace(limits, gpu=replace(limits.gpu, max_hold_s=6.0)),
    "larger budget": lambda limits: replace(limits, gpu=replace(limits.gpu, host_budget_bytes=20 * GIB)),
}


class Life(RuleBasedStateMachine):
    """One life: people, faults and time in any order."""

    limits = staticmethod(small_limits)

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.limits(), watch=self._check)
        self.submitted: list[str] = []
        self.lowered_s: dict[tuple[WorkerName, Cause], float] = {}
        self.only_thresholds = False

    # ---- what happens

    @rule(
        kind=st.sampled_from(["sam.propagate", "sam.segment", "yolo.train", "words.count"]),
        priority=st.sampled_from([0, 10, 15, 20]),
        held=st.sampled_from([0, 0, 0, 1]),
        later_s=st.sampled_from([None, None, None, 5, 200]),
    )
    def submit(self, kind: str, priority: int, held: int, later_s: int | None) -> None:
        name = f"j-{len(self.submitted)}"
        self.submitted.append(name)
        self.world.submit(name, kind, priority=priority, held=held, run_at=None if later_s is None else int(self.world.now_s) + later_s)
        self.world.run(self.world.now_s)

    @rule(which=st.integers(0, 30), order=st.sampled_from([ev.PauseRequested, ev.PauseRequested, ev.ResumeRequested, ev.StartRequested]))
    def rest(self, which: int, order: type[ev.PauseRequested | ev.ResumeRequested | ev.StartRequested]) -> None:
        if self.submitted:
            self.world.post(0, order(request="rest", job=JobId(self.submitted[which % len(self.submitted)])))

    @rule(held=st.booleans())
    def hold(self, held: bool) -> None:
        self.world.post(0, ev.HoldChanged(request="hold", held=held))

    @rule(which=st.integers(0, 30))
    def cancel(self, which: int) -> None:
        if self.submitted:
            self.world.post(0, ev.CancelRequested(request="cancel", job=JobId(self.submitted[which % len(self.submitted)])))

    @rule(worker=st.sampled_from(WORKERS), broken=st.sampled_from(BROKEN))
    def break_something(self, worker: str, broken: dict[str, bool | float | str]) -> None:
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

    @rule(worker=st.sampled_from(WORKERS))
    def recycle(self, worker: str) -> None:
        self.world.post(0, ev.RecycleRequested(request="recycle", workers=(WorkerName(worker),)))

    @rule(lag_s=st.sampled_from([0.5, 5.0, 60.0]))
    def freeze(self, lag_s: float) -> None:
        self.world.freeze(lag_s)
        self.world.run(self.world.now_s + lag_s)

    @rule(
        store_fails=st.booleans(),
        unreadable=st.booleans(),
        state=st.sampled_from([None, DeviceState.LOST, DeviceState.UNVERIFIABLE, DeviceState.UNRESPONSIVE]),
        stranger=st.sampled_from([0, 0, 10 * GIB]),
        shown=st.booleans(),
    )
    def surroundings(self, store_fails: bool, unreadable: bool, state: DeviceState | None, stranger: int, shown: bool) -> None:
        self.world.disk.fails = store_fails
        device = self.world.device
        device.unreadable, device.state, device.stranger_bytes, device.stranger_shown = unreadable, state, stranger, shown
        device.stranger = "python3"

    @rule(
        which=st.integers(0, 3),
        need=st.sampled_from([0, 4 * GIB, 15 * GIB]),
        priority=st.sampled_from([0, 10, 20]),
        timeout_s=st.sampled_from([0.0, 2.0, 60.0]),
        ttl_s=st.sampled_from([5.0, 30.0]),
        kin=st.sampled_from([0, 0, 0, 101]),
        purpose=st.sampled_from(["inference", "inference", "inference", "load", "vacate"]),
    )
    def lock(self, which: int, need: int, priority: int, timeout_s: float, ttl_s: float, kin: int, purpose: str) -> None:  # noqa: PLR0917  # hypothesis names them
        """Two of these programs have a process here, two live by their renewals."""
        pid = 900 + which if which % 2 else 0
        self.world.lock(
            f"t-{which}", need, priority=priority, timeout_s=timeout_s, ttl_s=ttl_s, pid=pid, kin=kin if pid else 0, purpose=purpose, keep_free_s=9.0
        )

    @rule(every=st.booleans())
    def take_leases_back(self, every: bool) -> None:
        self.world.post(0, ev.ReleaseRequested(request="release", every=every, by="ann", why="to see"))

    @rule(which=st.integers(0, 3), order=st.sampled_from([ev.RenewRequested, ev.UnlockRequested]), off=st.sampled_from([0, 0, 0, 1]))
    def speak_of_a_lease(self, which: int, order: type[ev.RenewRequested | ev.UnlockRequested], off: int) -> None:
        lease, fence = self.world.lease_of(f"t-{which}")
        self.world.post(0, order(request="lease", lease=lease, fence=fence - off))

    @rule(which=st.integers(0, 3), uses=st.sampled_from([0, 3 * GIB]), ends=st.booleans())
    def outsider(self, which: int, uses: int, ends: bool) -> None:
        who = self.world.outsiders.get(Ticket(f"t-{which}"))
        if ends:
            self.world.end_outsider(f"t-{which}")
        elif who is not None:
            self.world.device.outside[who.pid] = uses

    @rule(which=st.integers(0, 3))
    def withdraw(self, which: int) -> None:
        self.world.post(0, ev.LockWithdrawn(ticket=Ticket(f"t-{which}")))

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

    @rule(down_s=st.sampled_from([0.0, 0.0, 0.3, 4.0, 40.0]), keep=st.sampled_from([None, None, (), ("sam-0", "words-0"), ("yolo-0", "tail-0")]))
    def new_supervisor(self, down_s: float, keep: tuple[str, ...] | None) -> None:
        self._replays()
        self.world.die()
        self.world.run(self.world.now_s + down_s)
        self.lowered_s.clear()
        self.world.start_again(keep)

    @rule(edit=st.sampled_from(sorted(EDITS)))
    def edit(self, edit: str) -> None:
        self._edit(EDITS[edit](self.world.in_file))

    @rule(edit=st.sampled_from(sorted(THRESHOLDS)))
    def edit_thresholds(self, edit: str) -> None:
        if "yolo" in self.world.in_file.workers:
            self.only_thresholds = True
            self._edit(THRESHOLDS[edit](self.world.in_file))
            self.only_thresholds = False

    def _edit(self, after: Limits) -> None:
        assert not list(conflicts(after)), list(conflicts(after))
        before = self.world.limits
        for worker in self.world.fleet.workers.values():
            old, new = before.workers[worker.model], after.workers.get(worker.model)
            if new is not None:
                jobs = [self.world.fleet.jobs[name] for name in worker.jobs]
                lowered = {
                    Cause.STALL: new.watchdog.stall_after_s < old.watchdog.stall_after_s
                    or any(stall_limit_s(new, job) < stall_limit_s(old, job) for job in jobs),
                    Cause.SILENT: new.watchdog.silent_after_s < old.watchdog.silent_after_s,
                    Cause.START_TIMEOUT: new.watchdog.start_timeout_s < old.watchdog.start_timeout_s,
                }
                self.lowered_s |= {(worker.name, cause): self.world.now_s for cause, less in lowered.items() if less}
        self.world.edit(after)
        self.world.run(self.world.now_s)

    # ---- what must hold

    def _check(self, before: Fleet, event: ev.AnyEvent, after: Fleet) -> None:
        assert not self.world.wrongs, self.world.wrongs
        assert after.fence >= before.fence
        self._check_leases(after)
        self._check_grants(before, event, after)
        self._check_jobs(after)
        self._check_workers(before, after)
        if not isinstance(event, ev.BeatHeard | ev.LevelMeasured | ev.NoteHeard | ev.HelloHeard | ev.ProgramSeen | ev.MemoryMeasured):
            self._check_settled(after)
        if isinstance(event, ev.Tick):
            self._check_clocks(after)
        if self.only_thresholds and isinstance(event, ev.ConfigChanged):
            for worker in before.workers.values():
                now = after.workers[worker.name]
                by_chance = now.stop is not None and now.stop.cause in {Cause.HANDOVER, Cause.IDLE}  # its time had come in this very turn
                assert worker.process is None or by_chance or (now.generation, now.stop is None) == (worker.generation, worker.stop is None)

    def _check_settled(self, fleet: Fleet) -> None:
        """See that nothing was left out: the slow way, which looks at every worker, finds nothing more to do.

        But for one thing, that can wait until the holder is gone: a resident asks for the device of a holder which was told to leave after it was looked at.
        """
        turn = Turn(fleet, self.world.limits, self.world.now_s)
        if fleet.stopping_since_s is None:
            settle(turn, whole=True)
        first = turn.actions[0] if turn.actions else None
        assert first is None or (isinstance(first, Announce) and first.event == "gpu_vacating" and first.job is None), turn.actions

    def _check_workers(self, before: Fleet, after: Fleet) -> None:
        recycled = Counter(
            worker.model
            for worker in after.workers.values()
            if worker.stop and worker.stop.cause is Cause.RECYCLE and worker.state is not WorkerState.UNKILLABLE
        )
        assert all(count == 1 for count in recycled.values()), recycled
        for worker in after.workers.values():
            was = before.workers.get(worker.name)
            assert not (worker.retired and was and was.generation < worker.generation), worker
            new_verdict = worker.stop is not None and worker.stop.limit_s is not None and (was is None or was.stop is None or was.stop.limit_s is None)
            if new_verdict and worker.stop is not None and (since_s := self.lowered_s.get((worker.name, worker.stop.cause))) is not None:
                assert self.world.now_s - since_s >= (worker.stop.limit_s or 0.0), worker

    def _check_leases(self, fleet: Fleet) -> None:
        fences = [lease.fence for lease in fleet.leases.values() if lease.fence]
        assert len(fences) == len(set(fences))
        for device in fleet.devices.values():
            leases = [lease for lease in fleet.leases.values() if lease.device == device.id]
            held = {LeaseState.HELD, LeaseState.YIELDING, LeaseState.STALE, LeaseState.CONTAMINATED}
            having = [lease for lease in leases if lease.state in held and lease.purpose != "load"]
            self._check_beside(having, device)
            loading = [lease.owner for lease in leases if lease.purpose == "load"]
            for worker in (fleet.workers[lease.worker] for lease in having if lease.worker):
                fresh = worker.process is not None and not worker.process.adopted and not worker.process.load_overdue
                loading += [worker.name] if worker.state is WorkerState.STARTING and fresh else []
            assert len(loading) <= 1, loading
            for lease in having:
                assert (lease.worker is None) is (lease.outside is not None)
                if lease.worker is None:
                    continue
                loads = who_loads(fleet, device.id, self.world.limits, self.world.now_s)
                assert fleet.workers[lease.worker].process or loads, f"{lease.worker} holds a device, has no process, and waits for nobody who loads"
            waiting = [lease.id for lease in leases if lease.state is LeaseState.WAITING]
            assert waiting == ([device.handover.lease] if device.handover else [])

    def _check_beside(self, having: list[Lease], _device: Device) -> None:
        assert len(having) <= 1, having

    def _check_grants(self, before: Fleet, event: ev.AnyEvent, after: Fleet) -> None:
        """See that nothing is granted but on a good reading of a device that works."""
        for lease in after.leases.values():
            was = before.leases.get(lease.id)
            if lease.state is LeaseState.HELD and was is not None and was.state is LeaseState.WAITING:
                assert isinstance(event, ev.DeviceMeasured)
                assert event.sample is not None
                assert after.devices[lease.device].state is DeviceState.OK
                assert event.sample.free_bytes >= lease.need_bytes + self.world.limits.gpu.margin_bytes

    def _check_jobs(self, fleet: Fleet) -> None:
        places = Counter(name for worker in fleet.workers.values() for name in worker.jobs)
        at_work = {job.id for job in fleet.jobs.values() if job.status in AT_WORK}
        assert places == Counter(at_work)
        for worker in fleet.workers.values():
            assert all(fleet.jobs[name].worker == worker.name for name in worker.jobs)
        assert all(job.live for job in fleet.jobs.values())

    def _check_clocks(self, fleet: Fleet) -> None:
        for worker in fleet.workers.values():
            moved = [job for job in (fleet.jobs[name] for name in worker.jobs) if job.status in {JobStatus.RUNNING, JobStatus.PAUSING}]
            for job in moved:
                spec, moved_at_s = self.world.limits.workers[worker.model], job.progress_at_s or job.sent_at_s or 0.0
                limit_s = stall_limit_s(spec, job)
                extra_s = max(spec.watchdog.critical_max_s if job.critical else 0.0, job.extend_until_s - moved_at_s - limit_s)
                still_s = self.world.now_s - moved_at_s
                assert still_s <= limit_s + extra_s or worker.state in {WorkerState.STOPPING, WorkerState.EXITED}, (worker, job)

    def _check_no_job_is_lost(self) -> None:
        endings = Counter(job.id for job in self.world.disk.endings)
        assert not [name for name, count in endings.items() if count > 1]
        for name in self.submitted:
            reply = self.world.replies.get(f"submit {name}")
            if reply is not None and not reply.error:
                assert (name in self.world.fleet.jobs) != (endings[JobId(name)] == 1), f"{name} is lost, or both live and ended"

    def _replays(self) -> None:
        fleet = self.world.first
        for event, now_s, limits in self.world.journal:
            fleet = decide(fleet, event, limits, now_s).fleet
        assert fleet == self.world.fleet

    # ---- when peace returns

    def teardown(self) -> None:
        world = self.world
        world.disk.fails = world.device.unreadable = False
        world.device.stranger_bytes = 0
        for worker in WORKERS:
            self.mend(worker)
        for which in range(4):
            self.world.end_outsider(f"t-{which}")
            self.withdraw(which)
        self._edit(self.limits())
        for process in tuple(world.processes.values()):
            if process.killed or world.fleet.workers[process.worker].state is WorkerState.UNKILLABLE:  # the kernel lets it go
                process.leave(CRASHED)
        world.post(0, ev.WantedChanged(request="order", workers=tuple(places(small_limits())), wanted=Wanted.UP))
        until_s = world.now_s + PEACE_S
        while world.now_s < until_s and not self._at_peace():
            self._let_go()
            world.run(world.now_s + 10)
        assert self._at_peace(), (world.fleet.workers, world.fleet.jobs, world.fleet.leases, world.fleet.devices)
        assert not world.wrongs, world.wrongs
        self._check_no_job_is_lost()
        self._replays()

    def _let_go(self) -> None:
        """Take back whatever keeps a job or the queue at rest, the way a person would."""
        self.world.post(0, ev.HoldChanged(request="peace", held=False))
        for job in self.world.fleet.jobs.values():
            if job.held:
                self.world.post(0, ev.StartRequested(request="peace", job=job.id))
            if job.status in {JobStatus.PAUSED, JobStatus.PAUSING}:
                self.world.post(0, ev.ResumeRequested(request="peace", job=job.id))

    def _at_peace(self) -> bool:
        fleet = self.world.fleet
        sam, yolo = fleet.workers[WorkerName("sam-0")], fleet.workers[WorkerName("yolo-0")]
        held = [(lease.owner, lease.state) for lease in fleet.leases.values()]
        return (
            not fleet.jobs
            and not fleet.waiters
            and set(fleet.workers) == set(places(small_limits()))
            and not self.world.disk.waiting
            and sam.state is WorkerState.READY
            and yolo.state in {WorkerState.DOWN, WorkerState.QUARANTINED}
            and held == [("sam-0", LeaseState.HELD)]
            and all(device.state is DeviceState.OK for device in fleet.devices.values())
        )


class LifeTogether(Life):
    """The same lives where holders share the device: what is booked never passes what it has, and who says no need is alone."""

    limits = staticmethod(shared_limits)

    @rule(worker=st.sampled_from(["sam-0", "yolo-0"]), uses=st.sampled_from([None, 0.0, 5.0, 8.0]))
    def uses(self, worker: str, uses: float | None) -> None:
        self.world.fault(worker).uses_gib = uses

    def _check_beside(self, having: list[Lease], device: Device) -> None:
        """A holder that was taken over with less room than it needs is asked to leave: only those who stay are counted."""
        staying = [lease for lease in having if lease.state is not LeaseState.YIELDING]
        assert len(staying) <= 1 or all(lease.need_bytes for lease in staying), staying
        assert sum(lease.need_bytes for lease in staying) <= device.total_bytes, staying


SEARCH: Final = settings.get_current_profile_name() == "search"
HOW: Final = (
    settings(max_examples=400, stateful_step_count=50)
    if SEARCH
    else settings(max_examples=25, stateful_step_count=25, phases=[Phase.generate], report_multiple_bugs=False)
)
TestLife = Life.TestCase
TestLife.settings = HOW
TestLifeTogether = LifeTogether.TestCase
TestLifeTogether.settings = HOW
