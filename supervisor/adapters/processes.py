"""Worker processes: spawned through a shim in a session and a cgroup of their own, watched by pidfd, ended as whole trees; each signal proves its target."""

import asyncio
import os
import signal
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from supervisor.adapters import proc, spawning, survivors
from supervisor.adapters.cgroups import Leaf, prefix_of
from supervisor.adapters.evidence import gather, tail
from supervisor.adapters.passes import Passes
from supervisor.adapters.tree_members import Members, Owner
from supervisor.adapters.tree_meter import TreeMeter
from supervisor.adapters.trees import Record, go_on, remember_all, send_to_group, sweep
from supervisor.core.events import Adopted, TreeGone, TreeStuck, WorkerExited
from supervisor.core.model import DeviceId, Evidence, WorkerName
from supervisor.errors import StateError
from supervisor.runtime.process_ports import Launch, SpawnError

_SWEEP_PAUSE_S: Final = 0.02
_LOOK_MAX_S: Final = 1.0


class LocalProcesses:
    """The processes of this supervisor. Everything but the thread work runs on the loop.

    strangers: what an earlier supervisor wrote down and is not provably ours, a sentence each; it is left alone.
    """

    def __init__(self, *, run_dir: Path, post: Callable[[WorkerExited], None], leaves_in: Path | None = None) -> None:
        """Keep records in run_dir; post each exit. leaves_in: the cgroup below which each generation gets a leaf (see `find_parent`); None for none."""
        self.strangers: list[tuple[WorkerName, str]] = []
        self._run_dir = run_dir
        self._post = post
        self._leaves_in = leaves_in
        self._records: dict[tuple[WorkerName, int], Record] = {}
        self._pidfds: dict[tuple[WorkerName, int], int] = {}
        self._spawning: dict[tuple[WorkerName, int], signal.Signals | None] = {}  # with the signal that was ordered meanwhile
        self._doomed: set[tuple[WorkerName, int]] = set()  # ordered to be killed
        self.meter = TreeMeter(lambda: tuple(self._records.values()))
        self._members = Members()
        # Apart, so that many stalls at once, each three seconds of evidence, keep no proof and no meter waiting. A thread is made when it is first needed.
        self._proofs = ThreadPoolExecutor(8, "warden-proof")
        self._sweeps = Passes(self._proofs, sweep)
        self._looks = Passes(self._proofs, remember_all)
        self._witnesses = ThreadPoolExecutor(16, "warden-evidence")

    def expect(self, worker: WorkerName, generation: int) -> None:
        """Remember from now on what is ordered of a generation that is about to be spawned: an order may come in the same turn as the spawn."""
        self._spawning[worker, generation] = None

    async def spawn(self, launch: Launch) -> int:
        """Start it and return the pid, once its own program runs. Raises SpawnError."""
        key = (launch.worker, launch.generation)
        self._spawning.setdefault(key, None)
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
            await asyncio.to_thread(self._prepare, record)
            report, record.pid, pidfd = spawning.fork(launch, record.cgroup)
        except OSError as error:
            record.remove_leaf()
            raise SpawnError(f"{error.strerror or error}: {error.filename or launch.argv[0]}") from error
        except ValueError as error:
            record.remove_leaf()
            raise SpawnError(f"{error}: {launch.argv[0]!r}") from error
        seen = proc.look(record.pid)  # not reaped yet, so it is there, if only as a zombie
        record.start_ticks = seen.start_ticks if seen else 0
        key = (launch.worker, launch.generation)
        self._records[key] = record
        problem = await spawning.report(report)
        if problem:
            with suppress(ProcessLookupError):
                os.killpg(record.pid, signal.SIGKILL)
            await spawning.readable(pidfd, spawning.SPAWN_MAX_S)
            spawning.reap(pidfd)
            os.close(pidfd)
            record.remove_leaf()
            del self._records[key]
            raise SpawnError(problem)
        if record.leaf is not None and not record.leaf.holds(record.pid) and not record.leaf.pids():  # it was not let in
            record.remove_leaf()
            record.cgroup = ""
        self._members.born(record)
        self.meter.oom.born(record.pid)
        with suppress(OSError):  # a full disk: what was written before the spawn finds it as well
            await asyncio.to_thread(record.write, self._run_dir)
        self._watch(record, pidfd)
        self.meter.forget()
        return record.pid

    def _prepare(self, record: Record) -> None:
        """Write down what is about to be spawned, and make its cgroup. Raises OSError. For a thread."""
        if self._leaves_in is not None:
            leaf = Leaf(self._leaves_in / f"{prefix_of(self._run_dir)}{record.worker}-{record.generation}")
            record.cgroup = str(leaf.path) if leaf.make() else ""
        with suppress(OSError):  # there is none yet
            record.log_bytes = Path(record.log).stat().st_size
        record.forks = proc.forks()
        record.write(self._run_dir)

    def _watch(self, record: Record, pidfd: int) -> None:
        self._pidfds[record.worker, record.generation] = pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._exited, record, pidfd)

    def _exited(self, record: Record, pidfd: int) -> None:
        asyncio.get_running_loop().remove_reader(pidfd)
        killer = self.meter.killer_of(record, ours=(record.worker, record.generation) in self._doomed)
        ended = spawning.reap(pidfd)
        if killer and ended.kind == "signal" and ended.number == signal.SIGKILL:
            ended = replace(ended, killer=killer)
        os.close(pidfd)
        self._pidfds.pop((record.worker, record.generation), None)
        self._post(WorkerExited(worker=record.worker, generation=record.generation, exit=ended))

    async def terminate(self, worker: WorkerName, generation: int, name: str = "TERM") -> None:
        """Send the signal of this name, then SIGCONT (a stopped process hears nothing else), to its group.

        Without a cgroup there is a look at the tree before: who loses his parents by this signal, and has neither session nor tag of ours, is known by it.
        """
        number = signal.Signals[f"SIG{name}"]
        if (worker, generation) in self._spawning:  # it would hear nothing yet
            self._spawning[worker, generation] = self._spawning[worker, generation] or number
            return
        record = self._records.get((worker, generation))
        if record is not None and record.leaf is None:
            with suppress(TimeoutError, OSError):
                await asyncio.wait_for(self._looks.over(record), _LOOK_MAX_S)
        if (worker, generation) in self._doomed:  # a SIGCONT would wake a tree that is stopped to be killed
            return
        self._signal_group(worker, generation, number)
        self._signal_group(worker, generation, signal.SIGCONT)

    def _signal_group(self, worker: WorkerName, generation: int, number: signal.Signals) -> None:
        pidfd = self._pidfds.get((worker, generation))
        if pidfd is None:
            return
        record = self._records[worker, generation]
        with suppress(ProcessLookupError):
            if record.adopted:  # not our child: it may be reaped at any moment, and then the group's number means nothing
                signal.pidfd_send_signal(pidfd, number)
                self._proofs.submit(send_to_group, record, number)
            else:
                os.killpg(record.pid, number)  # not reaped, so the group is ours

    async def kill(self, worker: WorkerName, generation: int) -> None:
        """SIGKILL to its whole tree."""
        if (worker, generation) in self._spawning:
            self._spawning[worker, generation] = signal.SIGKILL
        record = self._records.get((worker, generation))
        if record is None:
            return
        self._doomed.add((worker, generation))
        self._signal_group(worker, generation, signal.SIGSTOP)  # at once: the look at the tree takes milliseconds, in which a hog would take 100 MB more
        try:  # the whole of it at once: a group that dies first leaves children of whom nobody can tell whose they are
            with suppress(TimeoutError, OSError):
                await asyncio.wait_for(asyncio.shield(self._sweeps.over(record)), _LOOK_MAX_S)
        finally:  # also where /proc does not answer, as it does for a process that is stuck in a driver
            self._signal_group(worker, generation, signal.SIGKILL)

    async def prove_gone(self, worker: WorkerName, generation: int, within_s: float) -> TreeGone | TreeStuck:
        """End what the leader left behind; return the proof that nothing is left, or who is."""
        record = self._records.get((worker, generation))
        if record is None:
            return TreeGone(worker=worker, generation=generation)
        swept: set[int] = set()
        left = [record.pid]
        try:
            async with asyncio.timeout(within_s):
                while left := await asyncio.shield(self._sweeps.over(record)):
                    swept |= set(left)
                    await asyncio.sleep(_SWEEP_PAUSE_S)
        except TimeoutError:  # somebody does not die, or /proc does not answer
            return TreeStuck(worker=worker, generation=generation, pids=tuple(left))
        return await self._gone(record, len(swept))

    async def _gone(self, record: Record, swept: int) -> TreeGone:
        last = await asyncio.get_running_loop().run_in_executor(self._proofs, self._forget, record)
        self._records.pop((record.worker, record.generation), None)
        self._doomed.discard((record.worker, record.generation))
        self.meter.forget()
        return TreeGone(worker=record.worker, generation=record.generation, swept=swept, log_tail=last)

    def _forget(self, record: Record) -> tuple[str, ...]:
        """Remove what was kept of a tree that is gone, and return the end of its log. For a thread."""
        record.remove_leaf()
        with suppress(OSError):
            (self._run_dir / f"{record.worker}.json").replace(self._run_dir / f"{record.worker}.gone")  # nobody is looked for by it, but its number was used
        return tail(Path(record.log), record.log_bytes)

    async def evidence(self, worker: WorkerName, generation: int) -> Evidence:
        """Return what can be seen of it, within three seconds."""
        record = self._records.get((worker, generation))
        pidfd = self._pidfds.get((worker, generation))
        if record is None or pidfd is None:
            return Evidence()
        own = os.dup(pidfd)  # the exit may close the other one meanwhile
        try:
            return await asyncio.get_running_loop().run_in_executor(self._witnesses, gather, record, own)
        finally:
            os.close(own)

    async def memory(self) -> Mapping[WorkerName, int]:
        """Return the PSS of every worker's tree in bytes. Who asks within 0.1 s of another gets the same reading."""
        return await self.meter.all()

    async def memory_of(self, worker: WorkerName) -> int:
        """Return the PSS of one worker's tree in bytes, read anew; 0 when nothing of it is left."""
        return await self.meter.one(worker)

    async def outsiders(self) -> Sequence[str]:
        """Return who has most memory of those that are not ours, in words, the most first."""
        return await self.meter.outsiders()

    async def owners(self, pids: Collection[int]) -> Mapping[int, Owner]:
        """Return whose each of these pids is, or was when it was last seen."""
        return await asyncio.get_running_loop().run_in_executor(self.meter.thread, self._members.owners, tuple(self._records.values()), pids)

    def pid_of(self, worker: WorkerName) -> int:
        """Return the leader's pid of the worker's newest generation, 0 when there is none."""
        return max(((generation, record.pid) for (name, generation), record in self._records.items() if name == worker), default=(0, 0))[1]

    def token_of(self, worker: WorkerName, generation: int) -> str:
        """Return the token that this generation was given."""
        return self._records[worker, generation].token

    # --- what an earlier supervisor left ---

    def last_generations(self) -> Mapping[str, int]:
        """Return the last generation of each worker that an earlier supervisor started, also where nothing of it is left: a number is never used twice."""
        return survivors.last_generations(self._run_dir)

    async def adopt(self, known: Collection[str]) -> list[Adopted]:
        """Take back every worker of these names that an earlier supervisor left running and whose leader is provably ours."""
        taken = []
        for record in survivors.records(self._run_dir)[0]:
            if record.worker not in known or record.boot_id != proc.boot_id():
                continue
            leader = await asyncio.to_thread(survivors.leader, record)
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
            with suppress(OSError):  # a full disk: what was written before finds it as well
                await asyncio.to_thread(record.write, self._run_dir)
            await asyncio.to_thread(go_on, record)
            self._records[record.worker, record.generation] = record
            self._watch(record, pidfd)
            given = DeviceId(await asyncio.to_thread(proc.born_with, leader.pid, "WARDEN_DEVICE")) or None
            taken.append(Adopted(worker=record.worker, generation=record.generation, pid=leader.pid, age_s=proc.age_s(leader), device=given))
        return taken

    async def end_survivors(self) -> Mapping[WorkerName, int]:
        """End what an earlier supervisor left running and is provably ours. Returns how many processes of each worker there were. Raises StateError."""
        ended: dict[WorkerName, int] = {}
        found, unreadable = survivors.records(self._run_dir)
        self.strangers += unreadable
        self._members.born(*survivors.everybody(self._run_dir))  # a device may list them still
        for record in found:
            if record.boot_id == proc.boot_id() and (record.worker, record.generation) not in self._records:
                self.strangers += await asyncio.to_thread(survivors.stranger, record)
                self._records[record.worker, record.generation] = record
                left = await asyncio.to_thread(record.members)
                if left:
                    ended[record.worker] = len(left)
                    gone = await self.prove_gone(record.worker, record.generation, spawning.SPAWN_MAX_S)
                    if isinstance(gone, TreeStuck):
                        pids = ", ".join(map(str, gone.pids))
                        raise StateError(f"processes of an earlier {record.worker} do not die: pid {pids}; start again when the kernel has let them go")
                record.remove_leaf()
                self._records.pop((record.worker, record.generation), None)
        if self._leaves_in is not None:
            in_use = {record.cgroup for record in self._records.values()}
            self.strangers += await asyncio.to_thread(survivors.clear_leaves, self._leaves_in, self._run_dir, in_use)
        return ended
