"""The plan for all devices at once against a slow obvious twin: who takes which device, who waits for which, and who is asked to give way."""

from dataclasses import dataclass, field
from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from supervisor.core.gpu import Begin, Blocked
from supervisor.core.limits import GIB, GpuLimits, JobLimits, Limits, WorkerSpec
from supervisor.core.line import Claim, choose
from supervisor.core.model import (
    Device,
    DeviceId,
    DeviceState,
    Fleet,
    Job,
    JobId,
    JobStatus,
    Lease,
    LeaseId,
    LeaseState,
    Outside,
    Process,
    Ticket,
    Waiter,
    Worker,
    WorkerName,
    WorkerState,
)
from supervisor.core.placing import assign
from supervisor.core.sharing import Offer
from supervisor.core.turn import Turn

NOW_S: Final = 5000.0
NEEDS: Final = {"small": 6, "middle": 12, "large": 20}
HOLDERS: Final = ("nobody", "idle", "busy", "resumable", "draining", "gone", "outside")


@dataclass
class Scene:
    """A fleet as hypothesis draws it. ages: of the jobs 60 s a level, of the programs 5 s."""

    totals: list[int]
    broken: list[bool]
    holders: list[tuple[str, str, int, int, int]]  # for each device: which, of what model, its priority, how long it held, how long it had waited
    jobs: list[tuple[str, int, int]] = field(default_factory=list)  # model, priority, waited
    programs: list[tuple[int, int, int, int]] = field(default_factory=list)  # need, priority, waited, the device that it insists on (or none)
    max_hold_s: int = 0

    def limits(self) -> Limits:
        """Return the limits that it lives under."""
        workers = {name: WorkerSpec(command=(name,), serves=(f"{name}.do",), gpu_bytes=need * GIB, resident=False) for name, need in NEEDS.items()}
        return Limits(workers=workers, jobs=JobLimits(max_running=99), gpu=GpuLimits(max_hold_s=self.max_hold_s))

    def held(self) -> dict[int, tuple[str, str, int, int, int]]:
        """Return who holds which device. A worker holds one that is large enough for it, and no second one."""
        found: dict[int, tuple[str, str, int, int, int]] = {}
        for number, holder in enumerate(self.holders):
            which, model = holder[:2]
            has_one = any(other[0] != "outside" and other[1] == model for other in found.values())
            if which == "outside" or (which != "nobody" and not has_one and NEEDS[model] < self.totals[number]):
                found[number] = holder
        return found

    def fleet(self) -> Fleet:
        """Return it as the core has it."""
        devices, leases = dict[DeviceId, Device](), dict[LeaseId, Lease]()
        jobs = dict[JobId, Job]()
        workers = {WorkerName(name): Worker(name=WorkerName(name), model=name) for name in NEEDS}
        for number, total in enumerate(self.totals):
            name = DeviceId(f"d{number}")
            state = DeviceState.LOST if self.broken[number] else DeviceState.OK
            devices[name] = Device(id=name, name=name, backend="host", total_bytes=total * GIB, state=state)
        for number, (which, model, priority, held, waited) in self.held().items():
            lease = Lease(
                id=LeaseId(f"l-{number}"),
                device=DeviceId(f"d{number}"),
                need_bytes=GIB,
                priority=priority,
                state=LeaseState.HELD,
                since_s=NOW_S - held,
                fence=number + 1,
            )
            if which == "outside":
                leases[lease.id] = replace(lease, outside=Outside(ticket=Ticket(f"h{number}"), name=f"h{number}"), waited_s=float(waited))
            else:
                leases[lease.id] = replace(lease, worker=WorkerName(model), state=LeaseState.COOLING if which == "gone" else LeaseState.HELD)
                workers[WorkerName(model)], job = self._holder(which, model, priority, held, waited)
                jobs |= {job.id: job} if job else {}
        for number, (model, priority, waited) in enumerate(self.jobs):
            job = Job(id=JobId(f"j{number}"), kind=f"{model}.do", priority=priority, queued_at_s=NOW_S - waited)
            jobs[job.id] = job
        waiters = {}
        for number, (need, priority, waited, insists) in enumerate(self.programs):
            who = Outside(ticket=Ticket(f"t{number}"), name=f"t{number}")
            waiters[who.ticket] = Waiter(
                outside=who, request=f"r{number}", priority=priority, need_bytes=need * GIB, arrived_at_s=NOW_S - waited, deadline_at_s=9e9, timeout_s=9e9,
                device=DeviceId(f"d{insists}") if insists < len(self.totals) else None,
            )  # fmt: skip
        return Fleet(workers=workers, devices=devices, leases=leases, jobs=jobs, waiters=waiters, serial=50)

    def _holder(self, which: str, model: str, priority: int, held: int, waited: int) -> tuple[Worker, Job | None]:
        worker = Worker(name=WorkerName(model), model=model, process=Process(spawned_at_s=0.0, pid=7))
        if which == "gone":
            return replace(worker, process=None), None
        if which == "idle":
            return replace(worker, state=WorkerState.READY), None
        name = JobId(f"of-{model}")
        given_at_s = NOW_S - held
        job = Job(id=name, kind=f"{model}.do", priority=priority, status=JobStatus.RUNNING, worker=worker.name, resumable=which != "busy", sent_at_s=given_at_s)
        state = WorkerState.DRAINING if which == "draining" else WorkerState.BUSY
        return replace(worker, state=state, jobs=(name,)), replace(job, given_at_s=given_at_s, queued_at_s=given_at_s - waited)


@dataclass
class Plan:
    """What comes of it."""

    handed: dict[str, str] = field(default_factory=dict)  # device: to whom
    taken_on: dict[str, str] = field(default_factory=dict)  # job: the worker that is up and takes it
    asked: dict[str, str] = field(default_factory=dict)  # worker: for whom it leaves
    told: dict[str, str] = field(default_factory=dict)  # outside holder: who should have it instead


Claimant = tuple[str, str, str, int, int, int]
"""job or program, its name, its model or its need, its priority, how long it has waited, the device that it insists on."""


def in_line(scene: Scene) -> list[Claimant]:
    """Return everybody who waits, the next first."""
    line = [("job", f"j{n}", model, priority, waited, 9) for n, (model, priority, waited) in enumerate(scene.jobs)]
    line += [("program", f"t{n}", str(need), priority, waited, pin) for n, (need, priority, waited, pin) in enumerate(scene.programs)]
    return sorted(line, key=lambda one: (max(0, one[3] - one[4] // (60 if one[0] == "job" else 5)), -one[4], one[1]))


def twin(scene: Scene) -> Plan:  # one rule after the other
    """Say it one rule after the other, for everybody and every device that there is."""
    plan, held = Plan(), scene.held()
    at = {holder[1]: number for number, holder in held.items() if holder[0] != "outside"}  # where each worker is
    lines: dict[int, list[Claimant]] = {number: [] for number in range(len(scene.totals))}
    for one in in_line(scene):
        kind, name, what, _, _, pin = one
        if kind == "job" and what in at and held.get(at[what], ("coming",))[0] != "gone":  # its worker has a device, or one is on its way to it
            here = at[what]
            state = held.get(here, ("coming",))[0]
            if state == "draining" or (state == "idle" and f"d{here}" in plan.handed):
                continue  # it leaves
            if state == "idle" and not lines[here]:
                plan.taken_on[name] = what
                held[here] = ("busy", *held[here][1:])
            else:
                lines[here].append(one)
            continue
        need = NEEDS[what] if kind == "job" else int(what)
        fits = [n for n, total in enumerate(scene.totals) if total > need] if pin >= len(scene.totals) else [pin]
        fits.sort(key=lambda n: (scene.broken[n], scene.totals[n], n))
        fits = [n for n in fits if not scene.broken[n]] or fits
        nobodys = [n for n in fits if not lines[n]]
        ready = [n for n in nobodys if not scene.broken[n] and f"d{n}" not in plan.handed and held.get(n, ("idle",))[0] in {"idle", "gone"}]
        ready.sort(key=lambda n: n in held)
        if ready and not (kind == "job" and what in at):
            plan.handed[f"d{ready[0]}"] = what if kind == "job" else name
            at |= {what: ready[0]} if kind == "job" else {}
        elif fits:
            lines[(ready or nobodys or fits)[0]].append(one)
    for number, holder in scene.held().items():
        asking = [one[1] for one in lines[number] if may_ask(one, holder, scene.max_hold_s)]
        if holder[0] == "outside" and asking:
            plan.told[f"h{number}"] = asking[0]
        if holder[0] == "resumable" and asking and not scene.broken[number]:
            plan.asked[holder[1]] = asking[0]
    return plan


def may_ask(one: Claimant, holder: tuple[str, str, int, int, int], max_hold_s: int) -> bool:
    """Say whether the holder should give way to this one."""
    kind, _, what, priority, waited, _ = one
    which, model, its_own, held, had_waited = holder
    if kind == "job" and which != "outside" and what == model:
        return False
    if max_hold_s and held >= max_hold_s:
        return True
    step, its_step = (60 if kind == "job" else 5), (5 if which == "outside" else 60)
    let_work = held < had_waited and held < 20 * its_step
    if waited >= max(20, priority) * step and (kind == "program" or not let_work):
        return True
    level, its_level = max(0, priority - waited // step), max(0, its_own - had_waited // its_step) if let_work else its_own
    return priority < its_own and level < its_level


def planned(scene: Scene) -> Plan:
    """Return what the core does."""
    turn = Turn(scene.fleet(), scene.limits(), NOW_S)
    before = turn.fleet
    assign(turn)
    fleet = turn.fleet
    plan = Plan(
        handed={device.id: device.handover.worker or str(device.handover.waiter) for device in fleet.devices.values() if device.handover},
        asked={lease.owner: lease.wanted_by for lease in fleet.leases.values() if lease.worker and lease.wanted_by},
        told={lease.owner: lease.wanted_by for lease in fleet.leases.values() if lease.outside and lease.wanted_by},
    )
    for job in fleet.jobs.values():
        if before.jobs[job.id].status is JobStatus.QUEUED and job.status is JobStatus.PREPARING and job.worker not in plan.handed.values():
            plan.taken_on[job.id] = str(job.worker)
    return plan


PRIORITIES: Final = st.sampled_from([0, 1, 10, 15, 20])
WAITS: Final = st.sampled_from([0, 4, 30, 60, 99, 100, 101, 599, 600, 1199, 1200, 1300])
SCENES: Final = st.integers(1, 3).flatmap(
    lambda count: st.builds(
        Scene,
        totals=st.lists(st.sampled_from([8, 16, 16, 24]), min_size=count, max_size=count),
        broken=st.lists(st.sampled_from([False, False, False, True]), min_size=count, max_size=count),
        holders=st.lists(st.tuples(st.sampled_from(HOLDERS), st.sampled_from(sorted(NEEDS)), PRIORITIES, WAITS, WAITS), min_size=count, max_size=count),
        jobs=st.lists(st.tuples(st.sampled_from(sorted(NEEDS)), PRIORITIES, WAITS), max_size=4),
        programs=st.lists(st.tuples(st.sampled_from([0, 4, 12, 20]), PRIORITIES, WAITS, st.sampled_from([0, 1, 9, 9, 9])), max_size=4),
        max_hold_s=st.sampled_from([0, 0, 100, 1000]),
    )
)


@pytest.mark.timeout(60)
@settings(max_examples=400, deadline=None)
@given(SCENES)
@example(Scene([16, 16], [False, False], [("busy", "middle", 10, 60, 0), ("nobody", "small", 0, 0, 0)], programs=[(20, 0, 0, 0), (4, 20, 0, 9)]))
def test_who_is_next_and_who_must_leave_is_what_the_twin_says(scene: Scene) -> None:
    assert planned(scene) == twin(scene)


def devices(*names: str) -> list[Device]:
    return [Device(id=DeviceId(name), name=name, backend="host", total_bytes=16 * GIB) for name in names]


def test_whoever_waits_for_one_device_is_in_nobodys_way_at_another() -> None:
    a, b = devices("a", "b")
    fleet = Fleet(devices={a.id: a, b.id: b})

    either = [Offer(device, GIB) for device in (a, b)]
    first = Claim(id="j-1", words="j-1", priority=10, age_s=0.0, step_s=60.0)

    assert choose(fleet, Limits(), either, {a.id: first}, NOW_S) == (either[1], Begin(()))
    assert choose(fleet, Limits(), either[:1], {a.id: first}, NOW_S) == (either[0], Blocked("j-1 is before it in the queue for the device"))


def test_a_device_that_is_nobodys_is_taken_before_one_that_somebody_must_leave() -> None:
    scene = Scene([16, 24], [False, False], [("idle", "middle", 10, 60, 0), ("nobody", "small", 0, 0, 0)], programs=[(4, 15, 0, 9)])

    assert planned(scene).handed == {"d1": "t0"}


def test_two_wait_for_two_devices_each_in_a_line_of_its_own() -> None:
    holders = [("resumable", "small", 20, 60, 0), ("resumable", "middle", 20, 60, 0)]
    scene = Scene([16, 16], [False, False], holders, programs=[(4, 10, 0, 9), (4, 15, 0, 9), (4, 15, 0, 9)])

    assert planned(scene).asked == {"small": "t0", "middle": "t1"}
