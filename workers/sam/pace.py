"""The pace of a propagation: progress that moves at each frame, and a line in the log at every 50th."""

import time

from workers.report import Report

_SAY_EVERY = 50


class Pace:
    """Counts the frames of one phase: moves the job's progress at each, says every 50th."""

    def __init__(self, phase: str, report: Report, *, done: int, total: int, start: float, share: float) -> None:
        """done: how many of the phase's frames an earlier attempt did.  start, share: where the phase begins in the job, and how much of it it is, 0 to 1."""
        self._phase = phase
        self._report = report
        self._done = self._found = done
        self._total = total
        self._start = start
        self._share = share
        self._began_s = time.monotonic()
        self._tell()

    def step(self) -> None:
        """One more frame is done. May raise what `Report.progress` raises."""
        self._done += 1
        if self._done % _SAY_EVERY == 0 or self._done == self._total:
            print(f"{self._phase}: frame {self._done}/{self._total}, {self._fps():.2f} fps", flush=True)
        self._tell()

    def _tell(self) -> None:
        percent = 100.0 * (self._start + self._share * self._done / self._total)
        self._report.progress(percent, 100.0, phase=self._phase, metrics={"frame": self._done, "frames": self._total, "fps": self._fps()})

    def _fps(self) -> float:
        elapsed_s = time.monotonic() - self._began_s
        return (self._done - self._found) / elapsed_s if elapsed_s > 0 else 0.0
