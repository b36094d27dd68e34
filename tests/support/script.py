"""Incident scripts: a fleet and what happens to it, then the story that must follow. `python -m tests.support.script --rewrite` writes the story anew.

Above the line `----`, in any order of the first two kinds, then the events in order of time:
    limit jobs.max_running=1 gpu.vacate_timeout=30s     a limit other than the default
    worker sam stall_after=5s replicas=2                one of a worker (a new name makes a new worker)
    show job_progress stored                            also tell these events and messages; peaks: of memory, at the end
    @5 submit j-1 yolo.train priority=3 memory=6GiB     also: cancel, pause, resume, start, hold, release, up, down, restart, shutdown, freeze, look ...
    @5 lock t-a 8GiB priority=5 timeout=30s ttl=10s pid=900 kin=101 purpose=load    a program outside Warden asks
    @5 renew t-a                                        also: unlock, withdraw, dies t-a, uses t-a 8GiB; reset, force-release
    @5 submit j-2 yolo.train held=1 run_at=60           one that waits for a person, or for its time
    @7 edit worker sam stall_after=5s                   also: edit limit, edit remove sam; several with "and" between them
    @5 switch sam-0 memory_bytes=9GiB       also: available 3GiB: what the machine has left
    @5 sample 1.9GiB sam-0=2GiB yolo-0=6GiB+3GiB fell=3GiB     near the line: what each has and gained in the last second
    @9 new-supervisor keeps sam-0                       it was killed and is back: with every worker ("keeps all"), these, or none
    @9 supervisor-dies                                  it is killed, and only @12 new-supervisor brings another
Below it: `@time announcement worker job (reason)`, the orders to processes, refusals, and how it all stood at the end.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from supervisor.core import actions as act
from supervisor.core import events as ev
from supervisor.core.limits import GIB, Limits, Retries, WorkerSpec
from supervisor.core.model import DeviceState, Job, JobId, Lease, Ticket, Wanted, WorkerName
from supervisor.core.sharing import shared
from supervisor.units import format_size, parse_duration, parse_size
from tests.support.simulated import CRASHED, Faults
from tests.support.simulated_device import HOST
from tests.support.world import World, usual_limits

INCIDENTS: Final = Path(__file__).parent.parent / "incidents"
RULE: Final = "----"
_QUIET: Final = {"job_progress", "worker_healthy", "worker_evidence"}
_TOLD: Final[dict[type[act.AnyAction], str]] = {
    act.GatherEvidence: "evidence",
    act.SendDrain: "drain",
    act.Terminate: "terminate",
    act.Kill: "kill",
    act.SendCancel: "cancel",
    act.SendBrake: "brake",
    act.SendPause: "pause",
    act.SendResume: "resume",
    act.SendResync: "resync",
}


def play(text: str) -> str:
    """Return the story that follows from the part of an incident above its rule."""
    return Script(text).play()


class Script:
    """One incident being played."""

    def __init__(self, text: str) -> None:
        self.limits = usual_limits()
        self.shown: set[str] = set()
        self.story: list[str] = []
        self.told = 0
        self.steps: list[tuple[float, list[str]]] = []
        for line in text.splitlines():
            words = line.partition("#")[0].split() if " #" in f" {line}" else line.split()
            if words:
                self._read(words)

    def _read(self, words: list[str]) -> None:
        match words:
            case ["limit" | "worker", *_]:
                self.limits = _edited(self.limits, words)
            case ["show", *names]:
                self.shown.update(names)
            case [at, *what] if at.startswith("@"):
                self.steps.append((float(at[1:]), what))
            case _:
                raise ValueError(f"{' '.join(words)!r} is no line of an incident: see tests/support/script.py")

    def play(self) -> str:
        """Run the events, and return the story."""
        world = self.world = World(self.limits)
        for at_s, what in self.steps:
            world.run(at_s)
            self._tell(world)
            self._do(world, what)
        self._tell(world)
        self._stand(world)
        self.story += [f"WRONG: {wrong}" for wrong in world.wrongs]
        return "\n".join(self.story) + "\n"

    def _do(self, world: World, what: list[str]) -> None:  # noqa: C901, PLR0912, PLR0915  # one row per event
        match what:
            case ["submit", job, kind, *pairs]:
                asked = [pair.partition("=") for pair in pairs]
                world.submit(job, kind, **{key: parse_size(value) if key == "memory" else int(value) for key, _, value in asked})
            case ["cancel", job]:
                world.post(0, ev.CancelRequested(request=f"cancel {job}", job=JobId(job)))
            case ["pause", job]:
                world.post(0, ev.PauseRequested(request=f"pause {job}", job=JobId(job)))
            case ["resume", job]:
                world.post(0, ev.ResumeRequested(request=f"resume {job}", job=JobId(job)))
            case ["start", job]:
                world.post(0, ev.StartRequested(request=f"start {job}", job=JobId(job)))
            case ["hold" | "release" as order]:
                world.post(0, ev.HoldChanged(request=order, held=order == "hold"))
            case ["disk", size]:
                world.post(0, ev.MemoryMeasured(workers={}, available_bytes=30 * GIB, total_bytes=32 * GIB, disk_free_bytes=parse_size(size)))
            case ["available", size, *total]:
                world.available_bytes, world.total_bytes = parse_size(size), parse_size(total[0]) if total else world.total_bytes
                world.post(0, ev.MemorySampled(available_bytes=world.available_bytes, total_bytes=world.total_bytes))
            case ["sample", size, *pairs]:
                world.sample(parse_size(size), {key: text for key, _, text in (pair.partition("=") for pair in pairs)})
            case ["up" | "down" | "restart" as order, *names]:
                wanted, workers = Wanted.DOWN if order == "down" else Wanted.UP, tuple(map(WorkerName, names))
                world.post(0, ev.WantedChanged(request=f"{order} {' '.join(names)}", workers=workers, wanted=wanted, restart=order == "restart"))
            case ["recycle", *names]:
                world.post(0, ev.RecycleRequested(request=f"recycle {' '.join(names)}", workers=tuple(map(WorkerName, names))))
            case ["lock", ticket, need, *pairs]:
                world.lock(ticket, parse_size(need), **dict(map(_asked, pairs)))
            case ["renew" | "unlock" as order, ticket, *fence]:
                lease, current = world.lease_of(ticket)
                shape = ev.RenewRequested if order == "renew" else ev.UnlockRequested
                world.post(0, shape(request=f"{order} {ticket}", lease=lease, fence=int(fence[0]) if fence else current))
            case ["reset" | "force-release" as order]:
                world.post(0, ev.ReleaseRequested(request=order, every=order == "force-release", by="ann (uid 7)", why="it hangs"))
            case ["withdraw", ticket]:
                world.post(0, ev.LockWithdrawn(ticket=Ticket(ticket)))
            case ["dies", ticket]:
                world.end_outsider(ticket)
            case ["uses", ticket, size]:
                world.device.outside[world.outsiders[Ticket(ticket)].pid] = parse_size(size)
            case ["shutdown", *now]:
                world.post(0, ev.ShutdownRequested(request="shutdown", at_once=bool(now)))
            case ["supervisor-dies"]:
                world.die()
                self.story.append(f"@{world.now_s:.2f} the supervisor is killed")
            case ["new-supervisor", *keeps]:
                world.restart_supervisor(None if keeps == ["keeps", "all"] else keeps[1:])
                self.story.append(f"@{world.now_s:.2f} a new supervisor starts")
            case ["edit", *edits]:
                world.edit(_edited(world.in_file, edits))
            case ["freeze", lag]:
                world.freeze(parse_duration(lag))
            case ["switch", worker, *pairs]:
                for pair in pairs:
                    _switch(world.fault(worker), pair)
            case ["store", "fails" | "works" as how]:
                world.disk.fails = how == "fails"
            case ["device", how]:
                world.device.unreadable = how != "readable"
                world.device.state = None if how in {"unreadable", "readable"} else DeviceState(how)
            case ["xid", code]:
                world.post(0, ev.DeviceFaulted(device=HOST, xid=int(code)))
            case ["stranger", size, *name]:
                world.device.stranger_bytes, world.device.stranger = parse_size(size), " ".join(name)
            case ["crash", worker]:
                world.process(worker).leave(CRASHED)
            case ["terminate", worker]:
                world.process(worker).terminate()
            case ["store", "lost"]:
                world.disk.jobs.clear()
            case ["message", worker, generation, kind, job, attempt, *rest]:
                world.post(0, _message(WorkerName(worker), int(generation), kind, job=JobId(job), attempt=int(attempt), rest=rest))
            case ["look"]:
                self._stand(world, f"@{world.now_s:.2f} ")
            case ["end"]:
                pass
            case _:
                raise ValueError(f"{' '.join(what)!r} is no event of an incident: see tests/support/script.py")

    def _tell(self, world: World) -> None:
        if self.told > len(world.performed):
            self.told = 0
        for at_s, action in world.performed[self.told :]:
            line = self._line(action)
            if line:
                self.story.append(f"@{at_s:.2f} {line}")
        self.told = len(world.performed)

    def _line(self, action: act.AnyAction) -> str:  # noqa: C901, PLR0911  # one row per action
        match action:
            case act.Announce() if action.event not in _QUIET or action.event in self.shown:
                fields = action.fields
                extra = [f"{fields['owner']}"] if action.event.startswith("lease_") and action.worker is None else []
                extra += [f"freed {format_size(fields['freed_bytes'])} in {fields['took_s']:.2f} s"] if "freed_bytes" in fields else []
                extra += [f"{key[:-2]} {fields[key]:.2f} s" for key in ("exit_s", "gone_s", "back_s", "proof_s") if key in fields]
                extra += [f"fence {fields['fence']}"] if "fence" in fields else []
                extra += [fields["evidence"]] if action.event in {"gpu_oom", "gpu_error"} else []
                extra += [f"{format_size(fields['available_bytes'])} available"] if "available_bytes" in fields else []
                extra += [f"attempt {fields['attempt']}"] if action.event == "job_started" else []
                extra += [f"{fields['done']:g} of {fields['total']:g}"] if action.event == "job_progress" else []
                reason = "; ".join(part for part in (action.reason, *extra) if part)
                return " ".join(str(part) for part in (action.event, action.worker, action.job, f"({reason})" if reason else "") if part)
            case act.Reply() if action.lease is not None:
                return f"answer {action.request} (lease {action.lease})"
            case act.Reply() if action.released:
                return f"answer {action.request} (released {', '.join(f'{lease.id} fence {lease.fence}' for lease in action.released)})"
            case act.Reply() if action.message and not action.error:
                return f"answer {action.request} ({action.message})"
            case act.Reply() if action.error:
                return f"refuse {action.request} ({action.error}: {action.message})"
            case act.Leave():
                return "leave"
            case act.SendStored() if "stored" in self.shown:
                return f"-> stored {action.what} {action.job} attempt {action.attempt} {action.worker} gen {action.generation}"
            case act.MeasureDevice() if "measure" in self.shown:
                return f"-> read {action.device}"
            case act.SendJob() if action.job in self.shown:
                return f"-> job {action.job} attempt {action.attempt} {action.worker} gen {action.generation}"
            case act.SendDrain(boundary=True):
                return f"-> drain {action.worker} gen {action.generation} at a boundary"
            case act.Terminate() if action.signal != "TERM":
                return f"-> signal {action.signal} {action.worker} gen {action.generation}"
            case act.ForWorker() if type(action) in _TOLD:
                return f"-> {_TOLD[type(action)]} {action.worker} gen {action.generation}"
        return ""

    def _stand(self, world: World, before: str = "= ") -> None:
        """Tell how all stands: the workers, what the device is doing, the jobs."""
        for worker in world.fleet.workers.values():
            jobs = f" with {', '.join(worker.jobs)}" if worker.jobs else ""
            causes = "".join(f" {cause}={count}" for cause, count in worker.restarts.items())
            failures = f" failures={worker.failures}" if worker.failures else ""
            self.story.append(f"{before}{worker.name} {worker.state} gen {worker.generation}{jobs}{failures}{causes}")
        for device in world.fleet.devices.values():
            leases = ", ".join(_held(lease, world) for lease in world.fleet.leases.values() if lease.device == device.id)
            self.story.append(f"{before}{device.id} {device.state}: {leases or 'no lease'}{f', for {device.handover.to}' if device.handover else ''}")
        for work, peak in world.fleet.peaks.items() if "peaks" in self.shown else ():
            self.story.append(f"{before}{work}: seen to have {format_size(peak.memory_bytes)} of the machine's memory")
        for work, peak in world.fleet.peaks.items() if shared(world.limits) else ():
            wanted = f", wants {format_size(peak.wanted_bytes)}" if peak.wanted_bytes else ""
            self.story.append(f"{before}{work}: seen to use {format_size(peak.seen_bytes)}{wanted}")
        for waiter in world.fleet.waiters.values():
            self.story.append(f"{before}{waiter.outside.words} waits ({waiter.message})")
        for job in {**world.disk.jobs, **world.fleet.jobs}.values():
            self.story.append(f"{before}{_job(job)}")
        if world.fleet.dropped:
            self.story.append(f"{before}dropped {world.fleet.dropped}")


def _held(lease: Lease, world: World) -> str:
    return f"{lease.owner} {lease.state}{f' with {format_size(lease.need_bytes)}' if shared(world.limits) else ''}"


def _job(job: Job) -> str:
    failure = f"; evidence: {job.error.evidence}" if job.error and job.error.evidence and job.error.evidence not in job.message else ""
    words = f"{job.id} {job.status}{f' {job.reason}' if job.reason else ''} attempt {job.attempt}"
    return f"{words} ({job.message}{failure})" if job.message else words


def _asked(pair: str) -> tuple[str, Any]:
    key, _, text = pair.partition("=")
    if key in {"timeout", "ttl", "keep_free"}:
        return f"{key}_s", parse_duration(text)
    return key, text if key == "purpose" else int(text)


def _message(name: WorkerName, generation: int, kind: str, *, job: JobId, attempt: int, rest: list[str]) -> ev.AnyEvent:
    match kind:
        case "beat":
            progress = ev.JobProgress(job=job, attempt=attempt, phase="train", done=float(rest[0]), total=100.0)
            return ev.BeatHeard(worker=name, generation=generation, jobs=(progress,))
        case "accepted":
            return ev.JobAccepted(worker=name, generation=generation, job=job, attempt=attempt)
        case "result":
            return ev.JobFinished(worker=name, generation=generation, job=job, attempt=attempt, value=rest)
        case "failed":
            return ev.JobEnded(worker=name, generation=generation, job=job, attempt=attempt, reason=rest[0], error=" ".join(rest[1:]))
        case "note":
            return ev.NoteHeard(worker=name, generation=generation, level=rest[0], text=" ".join(rest[1:]))
        case _:
            raise ValueError(f"{kind!r} is no message of a worker: beat, accepted, result, failed, note")


def _set(values: Any, pair: str) -> Any:
    """Return the limits with one key set, as it would be spelled in supervisor.toml."""
    key, _, text = pair.partition("=")
    for name, read in ((f"{key}_s", parse_duration), (f"{key}_bytes", parse_size), (key, _value)):
        if hasattr(values, name):
            return replace(values, **{name: read(text)})
    raise ValueError(f"{key!r} is no limit of {type(values).__name__}")


def _value(text: str) -> object:
    if ":" in text:  # jobs.retries=crash:1,stall:1
        return Retries(**{cause: int(count) for cause, _, count in (pair.partition(":") for pair in text.split(","))})
    constants = {"yes": True, "no": False, "none": None}
    if text in constants:
        return constants[text]
    return int(text) if text.lstrip("-").isdigit() else text


def _with_worker(limits: Limits, name: str, pairs: list[str]) -> Limits:
    spec = limits.workers.get(name) or WorkerSpec(command=(name,))
    for pair in pairs:
        key, _, text = pair.partition("=")
        if key in {"serves", "after", "command"}:
            spec = replace(spec, **{key: tuple(text.split(","))})
        elif key in {"progress", "stop_signal"}:
            spec = replace(spec, **{key: text})
        elif key == "phases":
            spec = replace(spec, phases={phase: parse_duration(limit) for phase, _, limit in (pair.partition(":") for pair in text.split(","))})
        elif any(field.removesuffix("_s") == key for field in spec.watchdog.__struct_fields__):
            spec = replace(spec, watchdog=_set(spec.watchdog, pair))
        else:
            spec = _set(spec, pair)
    return replace(limits, workers={**limits.workers, name: spec})


def _edited(limits: Limits, words: list[str]) -> Limits:
    """Return the limits after an edit of the file: `limit gpu.x=1 and worker sam stall_after=5s and remove yolo`."""
    if "and" in words:
        here = words.index("and")
        return _edited(_edited(limits, words[:here]), words[here + 1 :])
    match words:
        case ["limit", *pairs]:
            for pair in pairs:
                table, _, rest = pair.partition(".")
                limits = replace(limits, **{table: _set(getattr(limits, table), rest)})
            return limits
        case ["worker", name, *pairs]:
            return _with_worker(limits, name, pairs)
        case ["remove", name]:
            return replace(limits, workers={other: spec for other, spec in limits.workers.items() if other != name})
        case _:
            raise ValueError(f"{' '.join(words)!r} is no edit: limit, worker, remove")


def _switch(faults: Faults, pair: str) -> None:
    key, _, text = pair.partition("=")
    if not hasattr(faults, key):
        raise ValueError(f"{key!r} is no switch of a simulated process: see tests/support/simulated.py")
    setattr(faults, key, parse_duration(text) if key.endswith("_s") else parse_size(text) if key.endswith("_bytes") else _value(text))


def parts(path: Path) -> tuple[str, str]:
    """Return what is above an incident's rule, and the story below it."""
    above, _, below = path.read_text(encoding="utf-8").partition(f"{RULE}\n")
    return above, below


def main(arguments: list[str], say: Callable[[str], object] = sys.stdout.write) -> int:
    """Play the incidents that are named (all of them without a name) and say which tell another story; with --rewrite, write it down."""
    names = [name for name in arguments if name != "--rewrite"]
    changed = 0
    for path in sorted(INCIDENTS.glob("*.txt")):
        above, below = parts(path)
        if names and path.stem not in names:
            continue
        story = play(above)
        if story != below:
            changed += 1
            say(f"{path.name} tells another story\n")
            if "--rewrite" in arguments:
                path.write_text(f"{above}{RULE}\n{story}", encoding="utf-8")
    return 0 if "--rewrite" in arguments else min(changed, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
