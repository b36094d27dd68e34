"""Was that kill deserved? Each verdict of the supervisor against what the worker itself stamped."""

import bisect
import re
from collections import defaultdict
from itertools import pairwise
from typing import Any, Final

from tests.chaos.stamps import Stamp

DEAF: Final = ("hang", "deaf")
STILL: Final = ("stall", *DEAF)
_HEART_SLACK_S: Final = 1.6
"""A beat an idle worker sends each second, a stamp each 0.4 s: what is silent for 4 s may show a gap of 2.4 s between stamps."""
_STEP_SLACK_S: Final = 1.0
_LATE_S: Final = 2.0
"""A verdict may be written this long after the gap that earned it has ended."""
_CANCEL_S: Final = 10.0


class Witness:
    """All stamps in order, and the questions that a verdict raises."""

    def __init__(self) -> None:
        """Begin with none."""
        self._hearts: dict[tuple[str, int], list[float]] = defaultdict(list)
        self._steps: dict[tuple[str, int], list[float]] = defaultdict(list)
        self._at_work: dict[tuple[str, int], dict[tuple[str, int], str]] = defaultdict(dict)
        self._newest: dict[str, int] = {}
        self.starts: dict[str, list[Stamp]] = defaultdict(list)
        self.ends: dict[str, list[Stamp]] = defaultdict(list)
        self.last_seen: dict[int, float] = {}

    def take(self, stamp: Stamp) -> None:
        """Remember one stamp."""
        place, task = (stamp.worker, stamp.pid), (stamp.job, stamp.attempt)
        self.last_seen[stamp.pid] = stamp.at_s
        self._newest[stamp.worker] = stamp.pid  # a generation's number begins anew after a stop in order
        match stamp.what:
            case "born" | "heart":
                self._hearts[place].append(stamp.at_s)
            case "start":
                self.starts[stamp.job].append(stamp)
                self._at_work[place][task] = stamp.note
                self._steps[task].append(stamp.at_s)
            case "step":
                self._steps[task].append(stamp.at_s)
            case "end" | "left" | "error":
                self._at_work[place].pop(task, None)
                if stamp.what == "end":
                    self.ends[stamp.job].append(stamp)
            case _:  # a double is told at once, and is no evidence for anything here
                pass

    def judge(self, event: dict[str, Any], grace_s: float) -> str:
        """Return why this intervention was not deserved; empty when it was."""
        place = (event.get("worker", ""), self._newest.get(event.get("worker", ""), 0))
        reason, at_s = event.get("reason", ""), event["at_s"]
        match event["event"]:
            case "worker_silent":
                limit_s = _limit(reason, "silent_after")
                gap_s = _gap(self._hearts[place], at_s, limit_s)
                return "" if gap_s >= limit_s - _HEART_SLACK_S else f"its heart never paused longer than {gap_s:.1f} s"
            case "worker_stalled":
                return self._stalled(event, place, _limit(reason, "stall_after"), at_s)
            case "worker_overrun":
                earned = self._faults(place) & set(DEAF) or _gap(self._hearts[place], at_s, _CANCEL_S) >= _CANCEL_S / 2
                return "" if earned else "its work listens to a cancel"
            case "worker_killed":
                earned = self._faults(place) & set(DEAF) or not self._hearts[place] or _gap(self._hearts[place], at_s, grace_s) >= grace_s - _LATE_S
                return "" if earned else "it listens to SIGTERM"
            case "worker_start_timeout":
                return "no worker needs a minute to start"
            case _:
                return ""

    def _faults(self, place: tuple[str, int]) -> set[str]:
        return set(self._at_work[place].values())

    def _stalled(self, event: dict[str, Any], place: tuple[str, int], limit_s: float, at_s: float) -> str:
        attempts = [stamp for stamp in self.starts[event.get("job", "")] if (stamp.worker, stamp.pid) == place]
        if _gap(self._hearts[place], at_s, limit_s) >= limit_s - _HEART_SLACK_S:
            return ""
        if not attempts:
            return "its work was never begun, though its process was well"
        last = attempts[-1]
        gap_s = _gap(self._steps[last.job, last.attempt], at_s, limit_s)
        return (
            ""
            if last.note in STILL and gap_s >= limit_s - _STEP_SLACK_S
            else f"it never stood still longer than {gap_s:.1f} s (its fault: {last.note or 'none'})"
        )


def _limit(reason: str, name: str) -> float:
    found = re.search(rf"{name} is ([\d.]+) s", reason)
    return float(found[1]) if found else 0.0


def _gap(marks: list[float], at_s: float, limit_s: float) -> float:
    """Return the longest pause between marks that ended shortly before at_s, or lasts until then; looked for over one limit."""
    first = bisect.bisect_left(marks, at_s - _LATE_S)
    until = bisect.bisect_right(marks, at_s)
    window = [*marks[max(0, first - 1) : until], at_s]
    if first == 0 and until == 0:
        return limit_s
    return max((later - earlier for earlier, later in pairwise(window)), default=0.0)
