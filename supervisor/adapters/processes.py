"""Worker processes: spawned through a shim in a session of their own, watched by pidfd, ended as whole trees; every signal proves its target first."""

import asyncio
import os
import signal
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from supervisor.adapters import proc, spawning
from supervisor.adapters.evidence import gather, tail
from supervisor.core.events import Adopted, TreeGone, TreeStuck, WorkerExited
from supervisor.core.model import Evidence, WorkerName
from supervisor.errors import StateError
from supervisor.runtime.ports import Launch, SpawnError

_SWEEP_PAUSE_S: Final = 0.02
_STUCK_LOOK_S: Final = 1.0


class Record(Struct, kw_only=True):
    """One generation, written down before it is spawned and completed after: what a later supervisor needs to prove that a process is ours."""

    worker: WorkerName
    generation: int
    token: str
    tag: str
    log: str
    boot_id: str
    pid: int = 0
    start_ticks: int = 0
    adopted: bool = False

    def members(self) -> list[proc.Seen]:
        """Return who lives of it. Slow: for a thread."""
        return proc.members(self.pid, self.start_ticks, self.tag)


class LocalProcesses:
    """The processes of this supervisor. Everything but the thread work runs on the loop."""

    def __init__(self, *, run_dir: Path, post: Callable[[WorkerExited], None]) -> None:
        """Keep records in run_dir; post each exit."""
        self._run_dir = run_dir
        self._post = post
        self._records: dict[tuple[WorkerName, int], Record] = {}
        self._pidfds: dict[tuple[WorkerName, int], int] = {}
        self._spawning: dict[tuple[WorkerName, int], signal.Signals | None] = {}  # with the signal that was ordered meanwhile

    async def spawn(self, launch: Launch) -> int:
        """Start it and return the pid, once its own program runs. Raises SpawnError."""
        key = (launch.worker, launch.generation)
        self._spawning[key] = None
        try:
            pid = await self._spawn(launch)
        finally:
            ordered = self._spawning.pop(key)
        if ordered is not None:
            self._signal_group(launch.worker, launch.generation, ordered)
        return pid

    async def _spawn(self, launch: Launch) -> int:
        record = Record(worker=launch.worker, generation=launch.generation, token=launch.token, tag=launch.tag, log=str(launch.log), boot_id=proc.boot_id())
        try:
            await asyncio.to_thread(self._write, record)
            report, record.pid, pidfd = spawning.fork(launch)
        except OSError as error:
            raise SpawnError(f"{error.strerror or error}: {error.filename or launch.argv[0]}") from error
        except ValueError as error:
            raise SpawnError(f"{error}: {launch.argv[0]!r}") from error
        seen = proc.look(record.pid)  # not reaped yet, so it is there, if only as a zombie
        record.start_ticks = seen.start_ticks if seen else 0
        self._records[launch.worker, launch.generation] = record
        problem = await spawning.report(report)
        if problem:
            with suppress(ProcessLookupError):
                os.killpg(record.pid, signal.SIGKILL)
            await spawning.readable(pidfd, spawning.SPAWN_MAX_S)
            spawning.reap(pidfd)
            os.close(pidfd)
            del self._records[launch.worker, launch.generation]
            raise SpawnError(problem)
        await asyncio.to_thread(self._write, record)
        self._pidfds[launch.worker, launch.generation] = pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._exited, record, pidfd)
        return record.pid

    def _write(self, record: Record) -> None:
        path = self._run_dir / f"{record.worker}.json"
        partial = path.with_suffix(".partial")
        partial.write_bytes(msgspec.json.encode(record))
        partial.replace(path)  # not fsynced: only our own death has to be survived, and a reboot ends the process as well

    def _exited(self, record: Record, pidfd: int) -> None:
        asyncio.get_running_loop().remove_reader(pidfd)
        if not record.adopted:  # that one was reaped by its new parent: its group's number may be somebody else's, and the sweep proves each member
            with suppress(ProcessLookupError):
                os.killpg(record.pid, signal.SIGKILL)  # the leader is a zombie until it is reaped: its group cannot be anybody else's
        ended = spawning.reap(pidfd)
        os.close(pidfd)
        self._pidfds.pop((record.worker, record.generation), None)
        self._post(WorkerExited(worker=record.worker, generation=record.generation, exit=ended))

    def terminate(self, worker: WorkerName, generation: int) -> None:
        """SIGTERM, then SIGCONT (a stopped process hears nothing else), to its group."""
        if (worker, generation) in self._spawning:  # it would hear nothing yet
            self._spawning[worker, generation] = self._spawning[worker, generation] or signal.SIGTERM
        self._signal_group(worker, generation, signal.SIGTERM)
        self._signal_group(worker, generation, signal.SIGCONT)

    def _signal_group(self, worker: WorkerName, generation: int, number: signal.Signals) -> None:
        if (worker, generation) in self._pidfds:  # not reaped, so the group is ours
            with suppress(ProcessLookupError):
                os.killpg(self._records[worker, generation].pid, number)

    async def kill(self, worker: WorkerName, generation: int) -> None:
        """SIGKILL to its whole tree."""
        if (worker, generation) in self._spawning:
            self._spawning[worker, generation] = signal.SIGKILL
        self._signal_group(worker, generation, signal.SIGKILL)
        record = self._records.get((worker, generation))
        if record is not None:
            await asyncio.to_thread(_sweep, record)

    async def prove_gone(self, worker: WorkerName, generation: int, within_s: float) -> TreeGone | TreeStuck:
        """End what the leader left behind; return the proof that nothing is left, or who is."""
        record = self._records.get((worker, generation))
        if record is None:
            return TreeGone(worker=worker, generation=generation)
        end_s = asyncio.get_running_loop().time() + within_s
        swept: set[int] = set()
        while left := await asyncio.to_thread(_sweep, record):
            swept |= set(left)
            if asyncio.get_running_loop().time() >= end_s:
                return TreeStuck(worker=worker, generation=generation, pids=tuple(left))
            await asyncio.sleep(_SWEEP_PAUSE_S)
        return await self._gone(record, len(swept))

    async def wait_gone(self, worker: WorkerName, generation: int) -> TreeGone:
        """Return once a tree that was stuck is gone after all. Waits for as long as the kernel keeps it: nothing else waits for this."""
        record = self._records[worker, generation]
        while await asyncio.to_thread(_sweep, record):  # noqa: ASYNC110  # the kernel sends no event for a tree
            await asyncio.sleep(_STUCK_LOOK_S)
        return await self._gone(record, 0)

    async def _gone(self, record: Record, swept: int) -> TreeGone:
        self._records.pop((record.worker, record.generation), None)
        last = await asyncio.to_thread(tail, Path(record.log))
        (self._run_dir / f"{record.worker}.json").unlink(missing_ok=True)
        return TreeGone(worker=record.worker, generation=record.generation, swept=swept, log_tail=last)

    async def evidence(self, worker: WorkerName, generation: int) -> Evidence:
        """Return what can be seen of it, within three seconds."""
        record = self._records.get((worker, generation))
        pidfd = self._pidfds.get((worker, generation))
        if record is None or pidfd is None:
            return Evidence()
        own = os.dup(pidfd)  # the exit may close the other one meanwhile
        try:
            return await asyncio.to_thread(gather, record.pid, own, Path(record.log))
        finally:
            os.close(own)

    async def memory(self) -> Mapping[WorkerName, int]:
        """Return the PSS of every worker's tree in bytes."""
        return await asyncio.to_thread(_memory, tuple(self._records.values()))

    async def memory_of(self, worker: WorkerName) -> int:
        """Return the PSS of one worker's tree in bytes; 0 when nothing of it is left."""
        records = tuple(record for record in self._records.values() if record.worker == worker)
        return (await asyncio.to_thread(_memory, records)).get(worker, 0)

    def pid_of(self, worker: WorkerName) -> int:
        """Return the leader's pid of the worker's newest generation, 0 when there is none."""
        return max(((generation, record.pid) for (name, generation), record in self._records.items() if name == worker), default=(0, 0))[1]

    def last_generations(self) -> Mapping[str, int]:
        """Return the generation that each record of an earlier supervisor names."""
        return {record.worker: record.generation for record in self._earlier()}

    async def adopt(self, known: Collection[str]) -> list[Adopted]:
        """Take back every worker of these names that an earlier supervisor left running and whose leader is provably ours."""
        taken = []
        for record in self._earlier():
            if record.worker not in known or record.boot_id != proc.boot_id():
                continue
            leader = await asyncio.to_thread(proc.leader, record.pid, record.start_ticks, record.tag)
            if leader is None:
                continue
            try:
                pidfd = os.pidfd_open(leader.pid)
            except OSError:
                continue
            if (again := proc.look(leader.pid)) is None or again.start_ticks != leader.start_ticks:  # it ended, and the number is somebody else's
                os.close(pidfd)
                continue
            record.pid, record.start_ticks, record.adopted = leader.pid, leader.start_ticks, True
            await asyncio.to_thread(self._write, record)
            key = (record.worker, record.generation)
            self._records[key], self._pidfds[key] = record, pidfd
            asyncio.get_running_loop().add_reader(pidfd, self._exited, record, pidfd)
            taken.append(Adopted(worker=record.worker, generation=record.generation, pid=leader.pid, age_s=proc.age_s(leader)))
        return taken

    def token_of(self, worker: WorkerName, generation: int) -> str:
        """Return the token that this generation was given."""
        return self._records[worker, generation].token

    async def end_survivors(self) -> Mapping[WorkerName, int]:
        """End what an earlier supervisor left running and is provably ours. Returns how many processes of each worker there were. Raises StateError."""
        ended: dict[WorkerName, int] = {}
        for record in self._earlier():
            if record.boot_id == proc.boot_id() and (record.worker, record.generation) not in self._records:
                self._records[record.worker, record.generation] = record
                left = await asyncio.to_thread(record.members)
                if left:
                    ended[record.worker] = len(left)
                    gone = await self.prove_gone(record.worker, record.generation, spawning.SPAWN_MAX_S)
                    if isinstance(gone, TreeStuck):
                        pids = ", ".join(map(str, gone.pids))
                        raise StateError(f"processes of an earlier {record.worker} do not die: pid {pids}; start again when the kernel has let them go")
                self._records.pop((record.worker, record.generation), None)
        return ended

    def _earlier(self) -> list[Record]:
        found = []
        for path in sorted(self._run_dir.glob("*.json")):
            with suppress(msgspec.DecodeError, OSError):  # a record torn by a crash between two writes: what it named was not spawned yet
                found.append(msgspec.json.decode(path.read_bytes(), type=Record))
        return found


def _sweep(record: Record) -> list[int]:
    """SIGKILL every member of the tree and return who there was. Each is proved to be ours again between its pidfd and the signal."""
    found = []
    for member in record.members():
        try:
            pidfd = os.pidfd_open(member.pid)
        except OSError:
            continue
        try:
            again = proc.look(member.pid)
            if again is not None and again.start_ticks == member.start_ticks:
                found.append(member.pid)
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)
    return found


def _memory(records: tuple[Record, ...]) -> dict[WorkerName, int]:
    used: dict[WorkerName, int] = {}
    for record in records:
        used[record.worker] = used.get(record.worker, 0) + sum(proc.pss_bytes(member.pid) for member in record.members())
    return used
