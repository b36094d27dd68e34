"""What an earlier supervisor left: its records, who of them lives and is provably ours, and who is not and therefore left alone. For threads."""

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import msgspec

from supervisor.adapters import proc
from supervisor.adapters.cgroups import Leaf, prefix_of
from supervisor.adapters.trees import Record
from supervisor.core.model import WorkerName

Stranger = tuple[WorkerName, str]
"""The worker that something was written down for, and the sentence that says why it is left alone."""


def records(run_dir: Path) -> tuple[list[Record], list[Stranger]]:
    """Return every record in the folder, and those that cannot be read. Ours are renamed into place, so only a crash of the machine tears one."""
    found: list[Record] = []
    unreadable: list[Stranger] = []
    for path in sorted(run_dir.glob("*.json")):
        try:
            found.append(msgspec.json.decode(path.read_bytes(), type=Record))
        except (msgspec.DecodeError, OSError) as error:
            unreadable.append((WorkerName(path.stem), f"{path} cannot be read ({error}): what it may have named is left alone"))
    return found, unreadable


def everybody(run_dir: Path) -> list[Record]:
    """Return the last generation of each worker that supervisors on this folder ever started, whether it is written down as there or as gone."""
    found: list[Record] = []
    for path in sorted(run_dir.glob("*.json")) + sorted(run_dir.glob("*.gone")):
        with suppress(msgspec.DecodeError, OSError):  # said by `records` where it may name somebody alive
            found.append(msgspec.json.decode(path.read_bytes(), type=Record))
    return found


def last_generations(run_dir: Path) -> dict[str, int]:
    """Return the number of the last generation of each worker."""
    last: dict[str, int] = {}
    for record in everybody(run_dir):
        last[record.worker] = max(record.generation, last.get(record.worker, 0))
    return last


def leader(record: Record) -> proc.Seen | None:
    """Return the living leader, if it is provably the recorded one."""
    return proc.leader(record.pid, record.start_ticks, record.tag, record.leaf.pids() if record.leaf else ())


def stranger(record: Record) -> list[Stranger]:
    """Return why the process that now has the recorded pid is left alone, where there is one and it is not provably ours."""
    seen = proc.look(record.pid) if record.pid else None
    if seen is None or seen.state in "ZX" or leader(record) is not None:
        return []
    why = "it is another process by now" if seen.start_ticks != record.start_ticks else "it has neither its session nor its tag nor its cgroup"
    return [(record.worker, f"pid {record.pid} ({seen.name}) is left alone: an earlier supervisor wrote that pid down, but {why}")]


def clear_leaves(leaves_in: Path, run_dir: Path, in_use: Collection[str]) -> list[Stranger]:
    """Remove the empty cgroups that earlier supervisors on this folder left. Returns those with processes that no record names: they are left alone."""
    found: list[Stranger] = []
    prefix = prefix_of(run_dir)
    for path in leaves_in.glob(f"{prefix}*"):
        if str(path) in in_use:
            continue
        leaf = Leaf(path)
        leaf.remove()
        if pids := leaf.pids():
            worker = WorkerName(path.name.removeprefix(prefix).rpartition("-")[0])
            sentence = f"pid {', '.join(map(str, pids))} in {path} is left alone: no record names it; end it by hand if it is not wanted"
            found.append((worker, sentence))
    return found
