"""The stream of jobs under chaos: what is asked for, what was acknowledged, and how it ended."""

import random
from contextlib import suppress
from typing import Any, Final

from msgspec import Struct

from supervisor.control import Refused, Unreachable
from tests.chaos.scene import Scene
from tests.chaos.worker import KINDS

ENDED: Final = ("completed", "failed", "cancelled")
_LIVE_MAX: Final = 40
_FAULTS: Final = ("", "crash", "exit", "error", "stall", "hang", "deaf", "fork")
_WEIGHTS: Final = (80, 5, 2, 3, 2, 1, 1, 4)


class Acknowledged(Struct):
    """A job whose submission was answered. end: how it was first seen to have ended, as (status, attempt, result)."""

    kind: str
    fault: str
    at_s: float
    cancelled_at_s: float | None = None
    end: tuple[str, int, Any] | None = None


class Work:
    """Submits, cancels, and remembers what it was told."""

    def __init__(self, scene: Scene, seed: int) -> None:
        """Draw from a source of its own, so that the jobs are the same for a seed whatever the faults do."""
        self._scene = scene
        self._source = random.Random(f"{seed} jobs")  # noqa: S311  # for a schedule, not for secrets
        self.jobs: dict[str, Acknowledged] = {}
        self.refused = 0
        self.lost_answers = 0

    def live(self) -> list[str]:
        """Return the acknowledged jobs that were not seen to have ended."""
        return [name for name, job in self.jobs.items() if job.end is None]

    def draw(self) -> tuple[str, dict[str, Any]]:
        """Return the next job's kind and parameters."""
        source = self._source
        fault = source.choices(_FAULTS, _WEIGHTS)[0]
        steps = source.randint(3, 25)
        params = {
            "steps": steps,
            "step_s": source.choice((0.02, 0.05, 0.1)),
            "fault": fault,
            "at": source.randint(1, steps),
            "attempt": source.choice((0, 1, 1, 1)),
            "checkpoint": source.random() < 1 / 3,
        }
        return source.choice(KINDS), params

    def submit(self, now_s: float) -> None:
        """Submit one job. Drawn in any case, sent only when somebody is there to answer and the queue is not long already."""
        kind, params = self.draw()
        if not self._scene.up or len(self.live()) >= _LIVE_MAX:
            return
        try:
            job = self._scene.ask("jobs.submit", kind=kind, params=params)
        except Refused:
            self.refused += 1
        except Unreachable:
            self.lost_answers += 1
        else:
            self.jobs[job["id"]] = Acknowledged(kind=kind, fault=params["fault"], at_s=now_s)

    def cancel(self, which: float, now_s: float) -> bool:
        """Cancel one live job, the newer half for preference. Returns whether that was acknowledged."""
        live = self.live()
        if not live or not self._scene.up:
            return False
        name = live[int(which * len(live))]
        with suppress(Refused, Unreachable):
            self._scene.ask("jobs.cancel", job=name)
            self.jobs[name].cancelled_at_s = now_s
            return True
        return False

    def look(self) -> list[str]:
        """Ask how the jobs are. Returns what must not be: an ended job that changed, an acknowledged one that is not known."""
        if not self._scene.up:
            return []
        try:
            views = {view["id"]: view for view in self._scene.ask("jobs.list", limit=10_000)}
        except (Refused, Unreachable):
            return []
        wrong = [f"acknowledged job {name} is not known any more" for name in self.jobs if name not in views]
        for name, job in self.jobs.items():
            view = views.get(name)
            if view is None:
                continue
            end = (view["status"], view["attempt"], view["result"])
            if job.end is not None and job.end != end:
                wrong.append(f"job {name} had ended as {job.end} and is now {end}")
            if view["status"] in ENDED:
                job.end = end
        return wrong

    def all(self) -> list[dict[str, Any]]:
        """Return every job that the supervisor knows, those too whose submission nobody heard the answer of."""
        found: list[dict[str, Any]] = self._scene.ask("jobs.list", limit=10_000)
        return found
