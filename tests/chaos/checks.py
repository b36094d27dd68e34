"""The invariants under chaos: what must never be seen, neither in the stamps, nor in the log, nor in /proc, nor in the answers."""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from tests.chaos import processes
from tests.chaos.blame import Witness
from tests.chaos.scene import Scene
from tests.chaos.stamps import Reader
from tests.chaos.work import Work

JUDGED: Final = ("worker_silent", "worker_stalled", "worker_overrun", "worker_killed", "worker_start_timeout")
NEVER: Final = ("store_failed", "worker_unkillable", "worker_spawn_failed", "gpu_refused")
"""Events for which no fault here is a reason: the disk is well, SIGKILL works, every command exists, nobody holds a device for two minutes."""
ENDS: Final = ("job_completed", "job_failed", "job_cancelled")
_SETTLED_S: Final = 10.0
_ZOMBIE_S: Final = 3.0
_MIB: Final = 2**20
FDS_MORE: Final = 12
RSS_MORE: Final = 32 * _MIB
RESULT_S: Final = 20.0
"""A process that lives this long after it finished a job has had the time to hand its result over, restarts of the supervisor included."""


class Checks:
    """Looks at everything, again and again. counts: violations by kind. say: tells one as soon as it is seen."""

    def __init__(self, scene: Scene, work: Work, say: Callable[[str], None]) -> None:
        """Watch this scene."""
        self.witness = Witness()
        self.counts: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        self.growth_fds = 0
        self.growth_bytes = 0
        self._scene = scene
        self._work = work
        self._say = say
        self._stamps = Reader(scene.folder)
        self._spawned: dict[str, int] = {}
        self._ended: Counter[str] = Counter()
        self._fence = 0
        self._zombie_since: dict[int, float] = {}
        self._levels: list[tuple[float, int, int]] = []
        self._life = 0
        self._told: set[tuple[int, ...]] = set()

    def wrong(self, kind: str, what: str) -> None:
        """Record a violation."""
        self.counts[kind] += 1
        self._say(f"VIOLATION ({kind}): {what}")

    def look(self) -> None:
        """Read stamps and log, and judge what is new. The stamps first: they are the evidence for what the log says."""
        events = self._scene.read()
        for stamp in self._stamps.read():
            self.witness.take(stamp)
            if stamp.what == "double":
                self.wrong("doubles", f"{stamp.worker}#{stamp.generation} pid {stamp.pid}: {stamp.note}")
        for event in events:
            self.seen[event["event"]] += 1
            self._event(event)

    def _event(self, event: dict[str, Any]) -> None:
        name, worker = event["event"], event.get("worker", "")
        if name == "worker_spawned":
            if event["generation"] <= self._spawned.get(worker, 0):
                self.wrong("doubles", f"{worker} generation {event['generation']} was spawned after {self._spawned[worker]}")
            self._spawned[worker] = event["generation"]
        elif name == "lease_granted":
            if event["fence"] <= self._fence:
                self.wrong("fences", f"fence {event['fence']} of {worker} came after {self._fence}")
            self._fence = event["fence"]
        elif name in ENDS:
            self._ended[event["job"]] += 1
            if self._ended[event["job"]] > 1:
                self.wrong("doubles", f"job {event['job']} ended a second time: {name}")
        elif name in NEVER:
            self.wrong("never", f"{name} {worker} {event.get('job', '')} {event.get('reason', '')}")
        elif name in JUDGED and (why := self.witness.judge(event, self._scene.knobs.stop_grace_s)):
            self.wrong("false kills", f"{name} {worker} {event.get('job', '')} ({event.get('reason', '')}): {why}")

    def look_at_processes(self) -> None:
        """Look through /proc: nobody of an older generation, no zombies, one leader for each place, no growth."""
        now_s = time.monotonic()
        self._one_generation_each()
        if self._scene.process is None or self._scene.frozen:
            self._zombie_since.clear()
            return
        pid = self._scene.process.pid
        zombies = processes.zombies(pid)
        self._zombie_since = {zombie: self._zombie_since.get(zombie, now_s) for zombie in zombies}
        for zombie, since_s in list(self._zombie_since.items()):
            if now_s - since_s > _ZOMBIE_S:
                self.wrong("zombies", f"pid {zombie} was not reaped for {now_s - since_s:.1f} s")
                self._zombie_since[zombie] = float("inf")
        self._level(pid, now_s - self._scene.started_at_s)

    def _one_generation_each(self) -> None:
        everyone = processes.ours(self._scene.state_dir)
        tags: dict[str, set[str]] = {}
        for seen in everyone:
            tags.setdefault(seen.worker, set()).add(seen.tag)
        doubled = {worker for worker, found in tags.items() if len(found) > 1}
        if not doubled:
            return
        still = {seen.pid for seen in processes.ours(self._scene.state_dir)}  # a look takes a while: one may have ended before the other was born
        together = [seen for seen in everyone if seen.worker in doubled and seen.pid in still]
        for worker in doubled:
            mixed = [seen for seen in together if seen.worker == worker]
            if len({seen.tag for seen in mixed}) > 1 and (pids := tuple(seen.pid for seen in mixed)) not in self._told:
                self._told.add(pids)
                self.wrong("orphans", f"processes of two generations of {worker} live: {', '.join(f'{seen.pid} of #{seen.generation}' for seen in mixed)}")

    def _level(self, pid: int, age_s: float) -> None:
        if self._life != self._scene.lives:
            self.end_of_life()
            self._life = self._scene.lives
        with suppress(OSError):
            self._levels.append((age_s, processes.descriptors(pid), processes.resident_bytes(pid)))

    def end_of_life(self) -> None:
        """Compare what the supervisor held soon after its start with what it holds at last."""
        early = [level for level in self._levels if _SETTLED_S <= level[0] < 3 * _SETTLED_S]
        late = [level for level in self._levels if level[0] >= 3 * _SETTLED_S][-10:]
        self._levels = []
        if not early or not late:
            return
        fds = min(level[1] for level in late) - max(level[1] for level in early)
        size = min(level[2] for level in late) - max(level[2] for level in early)
        self.growth_fds, self.growth_bytes = max(self.growth_fds, fds), max(self.growth_bytes, size)
        if fds > FDS_MORE:
            self.wrong("growth", f"the supervisor has {fds} descriptors more than soon after its start")
        if size > RSS_MORE:
            self.wrong("growth", f"the supervisor has {size / _MIB:.1f} MiB more than soon after its start")

    def look_at_jobs(self) -> None:
        """Ask how the jobs are."""
        for what in self._work.look():
            self.wrong("results lost", what)

    def at_the_end(self, views: list[dict[str, Any]]) -> None:
        """Judge the whole: every job once, with its own result, and none again that was cancelled or done. views: all jobs that the supervisor knows."""
        known = {view["id"]: view for view in views}
        for name, job in self._work.jobs.items():
            if job.end is None:
                self.wrong("jobs not ended", f"acknowledged job {name} ({job.kind}) is {known.get(name, {}).get('status', 'unknown')}")
        for name, view in known.items():
            self._one_job(name, view)

    def _one_job(self, name: str, view: dict[str, Any]) -> None:
        starts, ends = self.witness.starts[name], self.witness.ends[name]
        if view["status"] == "completed":
            result = view["result"]
            if not any((end.attempt, end.pid) == (result["attempt"], result["pid"]) for end in ends):
                self.wrong("results lost", f"job {name} has a result that no process stamped: {result}")
        job = self._work.jobs.get(name)
        cancelled_at_s = job.cancelled_at_s if job else None
        for end in ends:
            outlived_s = self.witness.last_seen[end.pid] - end.at_s
            if view["status"] == "failed" and outlived_s > RESULT_S and cancelled_at_s is None:
                self.wrong("results lost", f"job {name} was finished by {end.worker}#{end.generation}, which lived on, and is failed: {view['message']}")
            for again in starts:
                if again.attempt > end.attempt and self.witness.last_seen[end.pid] > again.at_s + 1.0:
                    self.wrong("doubles", f"job {name} was done by {end.worker}#{end.generation}, which lived on, and was begun again by {again.worker}")
        if cancelled_at_s is not None:
            for start in starts:
                if start.at_s > cancelled_at_s + 2.0:
                    self.wrong("doubles", f"job {name} was begun {start.at_s - cancelled_at_s:.1f} s after its cancel was acknowledged")
