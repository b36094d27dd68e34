"""The cgroups that count a process's memory: its own, and those around it, of whichever version has the memory controller."""

from pathlib import Path
from typing import Final

from msgspec import Struct

_MOUNT_ROOT, _MOUNT_POINT = 3, 4
"""Fields of a line of mountinfo; after its lone dash come the file system, the source, which may be empty, and the options."""
_MOUNT_FIELDS: Final = (6, 3)
_CGROUP_FIELDS: Final = 3


class Names(Struct, frozen=True):
    """How a version of cgroups names what it counts. reclaimable: what is given back when it is needed; kills: where it counts whom the kernel ended."""

    limit: str
    used: str
    reclaimable: tuple[str, ...]
    kills: str


_V1: Final = Names("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"), "memory.oom_control")
V2: Final = Names("memory.max", "memory.current", ("inactive_file", "active_file", "slab_reclaimable"), "memory.events")


class Group(Struct, frozen=True):
    """One cgroup's folder, and what its files are called."""

    folder: Path
    names: Names


def groups_of(pid: int | str, proc: Path = Path("/proc")) -> list[Group]:
    """Return the cgroups that count a process's memory, the innermost first, as far as they can be seen. None where it is gone.

    Of a process that exits, a zombie among them, version 1 says no more than that it is in the root.
    """
    try:
        lines = (proc / str(pid) / "cgroup").read_text().splitlines()
        mounts = (proc / "self/mountinfo").read_text().splitlines()
    except OSError:
        return []
    found: list[Group] = []
    for line in lines:
        fields = line.removesuffix(" (deleted)").split(":", _CGROUP_FIELDS - 1)
        if len(fields) < _CGROUP_FIELDS:
            continue
        number, controllers, path = fields
        names = V2 if number == "0" else _V1 if "memory" in controllers.split(",") else None
        if names is not None and (place := _mounted(mounts, names)) is not None:
            found += [Group(folder, names) for folder in _chain(*place, path) if (folder / names.used).exists()]
    return found


def _mounted(mounts: list[str], names: Names) -> tuple[str, Path] | None:
    """Return what of the hierarchy of this version is mounted, and where. A line that is no mount's is left out."""
    for line in mounts:
        before, after = (part.split(" ") for part in line.partition(" - ")[::2])
        if len(before) < _MOUNT_FIELDS[0] or len(after) < _MOUNT_FIELDS[1]:
            continue
        kind, _, options = after[: _MOUNT_FIELDS[1]]
        if (names is V2 and kind == "cgroup2") or (names is _V1 and kind == "cgroup" and "memory" in options.split(",")):
            return before[_MOUNT_ROOT], Path(before[_MOUNT_POINT])
    return None


def _chain(root: str, point: Path, path: str) -> list[Path]:
    """Return the folders of a cgroup and of all around it. In a container the mount shows the cgroup itself: its path then begins where the mount does."""
    inner = path.removeprefix(root) if root != "/" else path
    parts = [part for part in inner.split("/") if part and part != ".."]
    return [point.joinpath(*parts[:length]) for length in range(len(parts), -1, -1)]


def stat_of(path: Path) -> dict[str, int] | None:
    """Return the numbers of a file of names and values, or None where it cannot be read."""
    try:
        return {name: int(value) for name, value in (line.split() for line in path.read_text().splitlines())}
    except (OSError, ValueError):
        return None
