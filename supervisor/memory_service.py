"""How memory is looked at: chooses the real meter, or one that pretends a smaller machine for drills; samples, and keeps the guard told."""

import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from typing import Final

from supervisor.adapters.guard_client import GuardClient
from supervisor.adapters.headroom import Headroom
from supervisor.adapters.tree_meter import TreeMeter
from supervisor.core.brake import candidates
from supervisor.core.events import AnyEvent, MemorySampled
from supervisor.core.limits import JSONValue, Limits
from supervisor.core.memory import lines, look_every_s
from supervisor.core.model import Fleet, WorkerName, Zone
from supervisor.errors import StateError
from supervisor.runtime.loop import Loop
from supervisor.runtime.ports import Room
from supervisor.runtime.sampling import Sampler
from supervisor.units import SIZE_FORM, parse_size

PRETEND: Final = "WARDEN_PRETEND_MEMORY"
"""For drills: as if the machine had this much memory, and nobody used any but the workers. So they can run out of it without harm to anybody."""
_PUBLISH_EVERY_S: Final = {Zone.OK: 1.0, Zone.WARN: 0.02}
"""While nobody comes or goes; with less memory than that at each sample."""
_NEAR: Final = (3, 4)
"""Of the lowest limit: a tree that has less is told by its RSS."""


class MemoryService:
    """room reads the machine's memory. notes: what is to be said at the start, each an event and its reason."""

    def __init__(self, environ: Mapping[str, str], trees: TreeMeter, limits: Limits) -> None:
        """Choose the meter. Raises StateError for a size to pretend that is none."""
        self.notes: list[tuple[str, str]] = []
        self._trees = trees
        self._pretended_bytes = _size_of(environ.get(PRETEND, ""))
        self._headroom = Headroom()
        if self._pretended_bytes:
            self.notes = [("memory_pretended", f"{PRETEND} is set: memory counts as {environ[PRETEND]} less what the workers use, whatever the machine has")]
        self.take(limits)

    def take(self, limits: Limits) -> None:
        """Let the trees be read as these limits need it."""
        up, down = _NEAR
        lowest = min((limit for limit in (limits.memory.worker_soft_bytes, limits.memory.worker_limit_bytes) if limit), default=None)
        self._trees.near_bytes = None if lowest is None else lowest * up // down
        self._trees.stale_s = limits.memory.check_every_s
        self._trees.worker_limit_bytes = limits.memory.worker_limit_bytes

    def room(self) -> Room:
        """Return what the machine has available, or seems to have."""
        pretended = self._pretended_bytes
        return Room(max(0, pretended - self._trees.resident_bytes()), pretended) if pretended else self._headroom.read()

    def look_every_s(self, loop: Loop) -> float:
        """Return how often trees are looked at just now."""
        return look_every_s(loop.fleet, loop.limits)

    def sample(
        self,
        stack: AsyncExitStack,
        loop: Loop,
        *,
        post: Callable[[AnyEvent], None],
        say: Callable[[str, Mapping[str, JSONValue]], None],
    ) -> Coroutine[None, None, None]:
        """Start the guard, and return what samples until it is cancelled. The guard ends with the stack."""
        guard = GuardClient(say)
        stack.callback(guard.close)
        self._trees.by_guard = guard.ended

        published_at_s, published = float("-inf"), (frozenset[tuple[WorkerName, int]](), 0.0)

        def seen(event: MemorySampled) -> None:
            nonlocal published_at_s, published
            for acted in guard.news():  # before the sample is posted: what it killed reads as nothing, though its memory is still on its way back
                post(acted)
            now_s, ending_at_s = time.monotonic(), last_kill_s(loop.fleet)
            there = (_started(loop.fleet), ending_at_s)
            if there == published and now_s - published_at_s < _PUBLISH_EVERY_S.get(loop.fleet.zone, 0.0):
                return
            published_at_s, published = now_s, there
            floor = lines(loop.limits.memory, event.total_bytes).floor_bytes
            text = self._page(loop.fleet, loop.limits, event, now_s)
            guard.page.publish(text, floor_bytes=floor, pretended_bytes=self._pretended_bytes, ending_at_s=ending_at_s, now_s=now_s)

        return Sampler(self.room, self._trees.now, fleet=lambda: loop.fleet, limits=lambda: loop.limits, post=post, seen=seen).run()

    def _page(self, fleet: Fleet, limits: Limits, event: MemorySampled, now_s: float) -> str:
        """Return what the guard goes by: the cgroups that count, and the workers that it may end with what each has, the first victim first."""
        rows: list[tuple[str, ...]] = []
        for group, limit in () if self._pretended_bytes else self._headroom.limited():
            rows.append(("group", str(limit), str(group.folder / group.names.used), str(group.folder / "memory.stat"), ",".join(group.names.reclaimable)))
        trees = self._trees.processes()
        for one in candidates(fleet, limits, event, now_s, spares=False, least_bytes=0):  # who has little now may have most when the guard must act
            generation, processes = trees.get(one.worker, (0, []))
            if processes and generation == fleet.workers[one.worker].generation:
                rows.append(("worker", f"{one.worker}#{generation}", str(one.size_bytes), *(f"{pid}:{ticks}" for pid, ticks in processes)))
        return "\n".join("\t".join(row) for row in rows)


def _started(fleet: Fleet) -> frozenset[tuple[WorkerName, int]]:
    return frozenset((worker.name, worker.generation) for worker in fleet.workers.values() if worker.process is not None and worker.process.pid is not None)


def last_kill_s(fleet: Fleet) -> float:
    """Return when the last of those was killed whose process is still there; 0 where none was."""
    stops = [worker.stop for worker in fleet.workers.values() if worker.process is not None and worker.stop is not None]
    return max((stop.killed_at_s for stop in stops if stop.killed_at_s is not None), default=0.0)


def _size_of(text: str) -> int:
    try:
        return parse_size(text) if text else 0
    except ValueError as error:
        raise StateError(f"environment {PRETEND}={text}: must be {SIZE_FORM}") from error
