"""The folders of jobs under state_dir/jobs: what the work writes stays with the job, and goes with it."""

import asyncio
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from supervisor.core.model import JobId
from supervisor.errors import StoreError


class JobFolders:
    """One folder for each job."""

    def __init__(self, root: Path) -> None:
        """Keep them under root."""
        self._root = root

    def folder(self, job: JobId) -> Path:
        """Return the job's own folder; its worker makes it."""
        return self._root / job

    def checkpoint(self, job: JobId) -> Path | None:
        """Return the checkpoint that an earlier attempt saved, if there is one."""
        path = self._root / job / "checkpoint"
        return path if path.is_file() else None

    async def kept(self) -> Sequence[JobId]:
        """Return the jobs that have a folder. Raises StoreError."""
        return await asyncio.to_thread(self._kept)

    async def remove(self, job: JobId) -> None:
        """Take the job's folder away with all that is in it; none is fine. Raises StoreError."""
        await asyncio.to_thread(self._remove, job)

    def _kept(self) -> list[JobId]:
        try:
            return sorted(JobId(path.name) for path in self._root.iterdir() if path.is_dir() and not path.is_symlink())
        except OSError as error:
            raise StoreError(f"{self._root}: {error.strerror}: the folders of jobs must be readable by Warden's own user") from error

    def _remove(self, job: JobId) -> None:
        """Remove the tree. rmtree refuses a link in the folder's own place, and removes links inside instead of following them, also when they come in late."""
        if job in {"", ".", ".."} or "/" in job or "\0" in job:
            raise StoreError(f"{job!r} is no name of a folder below {self._root}: it is left alone")
        folder = self._root / job
        if folder.is_symlink():
            raise StoreError(f"{folder} is a link, a folder was expected: it is left alone; remove it by hand")
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            if folder.exists():  # something in it went meanwhile
                raise StoreError(f"{folder}: something else removes files in it: it will be tried again") from None
        except OSError as error:
            where = error.filename if isinstance(error.filename, str) else folder
            raise StoreError(f"{folder} cannot be removed: {where}: {error.strerror}; mend its permissions, or remove it by hand") from error
        except RecursionError:  # before Python 3.13 rmtree calls itself for each level
            raise StoreError(f"{folder} cannot be removed: it is too deep for Python {sys.version_info.major}.{sys.version_info.minor}; rm -r can") from None
