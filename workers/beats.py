"""When the next beat is due: at once for a change after a rest, then at most four a second, and one a second while nothing changes."""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from supervisor.wire import Beat, JobBeat
from workers.report import Report

BEAT_CHANGED_S: Final = 0.25  # at most four beats a second while something changes
BEAT_IDLE_S: Final = 1.0


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who this process is, as the supervisor told it in the environment."""

    endpoint: str
    worker: str
    generation: int
    token: str

    def stamp(self) -> dict[str, str | int]:
        """Return what every message carries."""
        return {"worker": self.worker, "generation": self.generation, "token": self.token}


class Beats:
    """Looks at the reports at most every BEAT_CHANGED_S. Between two looks the reports are asked to wake the thread at their next change, if it may look then.

    So work that moves less than four times a second is told of within a millisecond, and no work can make the thread look more often.
    """

    def __init__(self, identity: Identity, device_bytes: Callable[[], int | None]) -> None:
        """Begin with a beat at the first look."""
        self._identity = identity
        self._device_bytes = device_bytes
        self._last: list[JobBeat] = []
        self._sent_at_s = float("-inf")
        self._rests_until_s = float("-inf")
        self._listening = False
        self._seq = 0

    def due(self, reports: Sequence[Report], now_s: float) -> Beat | None:
        """Return the beat to send now, or None."""
        if now_s < self._rests_until_s:
            return None
        called = self._listening and not all(report.awaited for report in reports)
        for report in reports:
            report.awaited = True  # before it is read: what changes after the reading wakes us
        jobs = [report.beat() for report in reports]
        if jobs != self._last or now_s - self._sent_at_s >= BEAT_IDLE_S:
            self._rest(reports, now_s)
            return self._beat(jobs, now_s)
        if called:  # somebody said what it had said before: no reason to look at each of its words
            self._rest(reports, now_s)
        else:
            self._listening = True
        return None

    def wait_s(self, now_s: float) -> float:
        """Return how long the thread may sleep, unless it is woken."""
        until_s = self._sent_at_s + BEAT_IDLE_S if self._listening else self._rests_until_s
        return max(until_s - now_s, 0.0)

    def _rest(self, reports: Sequence[Report], now_s: float) -> None:
        self._listening = False
        self._rests_until_s = now_s + BEAT_CHANGED_S
        for report in reports:
            report.awaited = False

    def _beat(self, jobs: list[JobBeat], now_s: float) -> Beat:
        self._last, self._sent_at_s = jobs, now_s
        self._seq += 1
        stamp = self._identity
        return Beat(worker=stamp.worker, generation=stamp.generation, token=stamp.token, seq=self._seq, jobs=tuple(jobs), device_bytes=self._device_bytes())
