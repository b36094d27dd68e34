"""A cgroup v2 leaf for each generation, where one can be made: what is born in it cannot leave it by a new session, a new title or a double fork."""

from contextlib import suppress
from pathlib import Path

_MOUNTS = Path("/proc/self/mounts")
_OWN = Path("/proc/self/cgroup")


def find_parent() -> Path | None:
    """Return the folder of our own cgroup, or None where there is no v2 hierarchy or nothing can be made in it."""
    try:
        mount = next(fields[1] for line in _MOUNTS.read_text().splitlines() if (fields := line.split())[2] == "cgroup2")
        own = next(line.removeprefix("0::") for line in _OWN.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return None
    parent = Path(mount) / own.strip().lstrip("/")
    probe = parent / "warden-probe"
    try:
        probe.mkdir(exist_ok=True)
        usable = (probe / "cgroup.kill").exists()  # Linux 5.14
        probe.rmdir()
    except OSError:
        return None
    return parent if usable else None


class Leaf:
    """One generation's cgroup."""

    def __init__(self, path: Path) -> None:
        """Name it; `make` makes it."""
        self.path = path

    def make(self) -> bool:
        """Make the folder. False where that fails: the tree is then known by session and tag alone."""
        try:
            self.path.mkdir(exist_ok=True)
        except OSError:
            return False
        return True

    def pids(self) -> list[int]:
        """Return who is in it; nobody where it is gone."""
        try:
            return [int(line) for line in (self.path / "cgroup.procs").read_text().split()]
        except OSError:
            return []

    def kill(self) -> None:
        """SIGKILL to everybody in it at once, those born meanwhile included."""
        with suppress(OSError):
            (self.path / "cgroup.kill").write_text("1")

    def remove(self) -> None:
        """Take the empty folder away; one that is not empty stays, and is found again by its name."""
        with suppress(OSError):
            self.path.rmdir()
