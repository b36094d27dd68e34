"""A cgroup v2 leaf for each generation, where one can be made: what is born in it cannot leave it by a new session, a new title or a double fork."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from supervisor.adapters import proc

_EMPTY_FOLDER_LINKS = 2
"""Its name and its own dot; each folder in it adds one."""
_SUBGROUP = "supervisor"
_WHOLE = "memory.oom.group"
_MOUNTS = Path("/proc/self/mounts")


def find_parent() -> Path | None:
    """Return the folder of our own cgroup, or None where there is no v2 hierarchy or nothing can be made in it."""
    try:
        mount = next(fields[1] for line in _MOUNTS.read_text().splitlines() if (fields := line.split(" "))[2:3] == ["cgroup2"])
    except (OSError, StopIteration):
        return None
    own = proc.cgroup_of(os.getpid())
    if not own.startswith("/") or "/../" in f"{own}/":  # outside of what this mount shows
        return None
    parent = home_of(Path(mount) / own.lstrip("/"))
    probe = parent / f"warden-probe-{os.getpid()}"
    try:
        probe.mkdir(exist_ok=True)
        usable = (probe / "cgroup.kill").exists()  # Linux 5.14
        probe.rmdir()
    except OSError:
        return None
    return parent if usable else None


def home_of(own: Path) -> Path:
    """Return where leaves are made: in our own cgroup; or beside it, where systemd put us into a subgroup of what it delegated (DelegateSubgroup=supervisor).

    Only there may the memory controller be given to them: a cgroup that gives controllers to others may hold no process itself.
    """
    if own.name != _SUBGROUP:
        return own
    with suppress(OSError):
        (own.parent / "cgroup.subtree_control").write_text("+memory")
    return own.parent


def prefix_of(run_dir: Path) -> str:
    """Return how the names of all leaves begin that supervisors on this folder make. A folder has one supervisor at a time."""
    return f"warden-{hashlib.sha256(str(run_dir.absolute()).encode()).hexdigest()[:12]}-"


class Leaf:
    """One generation's cgroup."""

    def __init__(self, path: Path) -> None:
        """Name it; `make` makes it."""
        self.path = path

    def make(self) -> bool:
        """Make the folder. False where that fails: the tree is then known by session and tag alone.

        Where it has the memory controller, the kernel is told to end all in it for lack of memory and not one: a worker without one of its children hangs.
        """
        try:
            self.path.mkdir(exist_ok=True)
        except OSError:
            return False
        whole = self.path / _WHOLE
        with suppress(OSError):
            if whole.exists():
                whole.write_text("1")
        return True

    def holds(self, pid: int) -> bool:
        """Return whether the process, a zombie too, is in it."""
        return self.path.name in proc.cgroup_of(pid).split("/")

    def pids(self) -> list[int]:
        """Return who lives in it and in what its members made below it; nobody where it is gone. Zombies are not listed."""
        return [pid for folder in self._folders() for pid in _listed(folder)]

    def empty(self) -> bool:
        """Return whether nobody lives in it, by the kernel's own word. True where it is gone."""
        try:
            return "populated 0" in (self.path / "cgroup.events").read_text().splitlines()
        except OSError:
            return not self.path.exists()

    def kill(self) -> None:
        """SIGKILL to everybody in it at once, those born meanwhile included."""
        with suppress(OSError):
            (self.path / "cgroup.kill").write_text("1")

    def remove(self) -> None:
        """Take the empty folder away, and those below it; one that is not empty stays, and is found again by its name."""
        for folder in self._folders():
            with suppress(OSError):
                folder.rmdir()

    def _folders(self) -> Iterator[Path]:
        """Yield the folders below it, the deepest first, and itself."""
        yield from _below(self.path)
        yield self.path


def _below(folder: Path) -> Iterator[Path]:
    try:
        if os.stat(folder).st_nlink == _EMPTY_FOLDER_LINKS:  # noqa: PTH116  # each look at the memory asks this of each worker
            return
        with os.scandir(folder) as entries:
            inner = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for one in inner:
        yield from _below(one)
        yield one


def _listed(folder: Path) -> list[int]:
    try:
        return [pid for line in proc.read(f"{folder}/cgroup.procs").split() if (pid := int(line))]  # 0: in a pid namespace that we do not see
    except OSError:
        return []
