"""What the machine and the supervisor itself use."""

import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import psutil

from supervisor.adapters import proc


def own_pss_bytes() -> int:
    """Return the supervisor's own PSS. About a millisecond: may be called on the loop, on request."""
    return proc.pss_bytes(os.getpid())


class DiskMeter:
    """What may still be written on a folder's disk. A disk that does not answer holds up a thread of its own, and nobody else."""

    def __init__(self, folder: Path) -> None:
        """Read it once: the folder was just used."""
        self._folder = folder
        self._thread = ThreadPoolExecutor(1, "warden-disk")
        self._reading: Future[int | None] = self._thread.submit(self._read)

    def free_bytes(self) -> int | None:
        """Return the reading that was begun by the call before this one, and begin the next; None while there is none, or where it cannot be read."""
        if not self._reading.done():
            return None
        read = self._reading.result()
        self._reading = self._thread.submit(self._read)
        return read

    def _read(self) -> int | None:
        try:
            return int(psutil.disk_usage(str(self._folder)).free)
        except OSError:
            return None
