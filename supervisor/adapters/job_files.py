"""The folders of jobs under state_dir/jobs: what the work writes stays with the job."""

from pathlib import Path

from supervisor.core.model import JobId


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
