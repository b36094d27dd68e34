"""The kernel's own word on memory: whom it ended, and its limit on a worker's cgroup, a quarter over worker_limit, where there is one to be set."""

from pathlib import Path

from supervisor.adapters.cgroups import home_of
from supervisor.adapters.kernel_oom import KernelOom, hold_to
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


def kernel(folder: Path, *, kills: dict[str, int]) -> Path:
    """Return a /proc of our own, with cgroups of version 1 that have counted these kills."""
    for group, count in kills.items():
        place = folder / "memory" / group
        place.mkdir(parents=True, exist_ok=True)
        (place / "memory.usage_in_bytes").write_text("1")
        (place / "memory.oom_control").write_text(f"oom_kill_disable 0\nunder_oom 0\noom_kill {count}\n")
    process(folder, "self", group="ours")
    (folder / "self/mountinfo").write_text(f"35 31 0:32 / {folder / 'memory'} rw,relatime - cgroup cgroup rw,memory\n")
    return folder


def process(folder: Path, pid: int | str, *, group: str, flags: int = 0x400040) -> None:
    """Have it stand in a cgroup, with these flags of the kernel's."""
    (folder / str(pid)).mkdir(exist_ok=True)
    (folder / str(pid) / "cgroup").write_text(f"4:memory:/{group}\n0::/\n")
    (folder / str(pid) / "stat").write_text(f"{pid} (a (model)) R 1 {pid} {pid} 0 -1 {flags} 0 0\n")


def test_a_process_that_the_kernel_ends_is_known_also_where_a_look_falls_into_its_exit(tmp_path: Path) -> None:
    oom = KernelOom(kernel(tmp_path, kills={"": 0, "ours": 3}))
    process(tmp_path, 77, group="ours")
    oom.born(77)

    kernel(tmp_path, kills={"ours": 4})
    process(tmp_path, 77, group="", flags=0x40044C)
    oom.look([started(77)])

    assert oom.ended(77)


def test_a_process_that_moved_is_asked_for_where_it_is(tmp_path: Path) -> None:
    oom = KernelOom(kernel(tmp_path, kills={"ours": 0, "theirs": 0}))
    process(tmp_path, 77, group="ours")
    oom.born(77)
    process(tmp_path, 77, group="theirs")
    oom.look([started(77)])

    kernel(tmp_path, kills={"ours": 1})

    assert not oom.ended(77)


def started(pid: int) -> Record:
    """Return a generation whose leader is this one."""
    one = record(None)
    one.pid = pid
    return one
