"""The kernel's own limit on a worker's cgroup: a quarter over worker_limit, where there is one to be set."""

from pathlib import Path

from supervisor.adapters.cgroups import home_of
from supervisor.adapters.kernel_oom import hold_to
from supervisor.adapters.trees import Record
from supervisor.core.model import WorkerName

GIB = 2**30


def record(leaf: Path | None) -> Record:
    """Return a generation with this cgroup."""
    return Record(worker=WorkerName("sam-0"), generation=1, token="", tag="", log="", boot_id="", cgroup=str(leaf or ""))


def test_the_kernel_keeps_a_leaf_a_quarter_over_the_limit_and_follows_an_edit(tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text("max\n")

    hold_to(record(tmp_path), 8 * GIB)
    first = limit.read_text()
    hold_to(record(tmp_path), 4 * GIB)
    lowered = limit.read_text()
    hold_to(record(tmp_path), 0)

    assert (first, lowered, limit.read_text()) == (str(10 * GIB), str(5 * GIB), "max")


def test_a_leaf_without_the_controller_and_a_worker_without_a_leaf_are_left_alone(tmp_path: Path) -> None:
    hold_to(record(tmp_path), GIB)
    hold_to(record(None), GIB)

    assert list(tmp_path.iterdir()) == []


def test_beside_a_supervisor_in_a_subgroup_leaves_get_the_memory_controller(tmp_path: Path) -> None:
    unit = tmp_path / "warden.service"
    (unit / "supervisor").mkdir(parents=True)

    assert home_of(unit / "supervisor") == unit
    assert (unit / "cgroup.subtree_control").read_text() == "+memory"
    assert home_of(unit) == unit
