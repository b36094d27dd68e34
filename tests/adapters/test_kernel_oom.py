"""The kernel's own word on memory: whom it ended, and its limit on a worker's cgroup, a quarter over worker_limit, where there is one to be set."""

from pathlib import Path

import pytest

from supervisor.adapters.cgroups import Leaf, home_of
from supervisor.adapters.kernel_oom import KernelOom, hold_to
from supervisor.adapters.trees import Record
from supervisor.core.model import WorkerName

GIB = 2**30
MIB = 2**20


def record(leaf: Path | None) -> Record:
    """Return a generation with this cgroup."""
    return Record(worker=WorkerName("sam-0"), generation=1, token="", tag="", log="", boot_id="", cgroup=str(leaf or ""))


def uses(leaf: Path, used: int, **stat: int) -> Record:
    """Have a leaf of version 2 use so much, of it this of the kernel's count; return a generation in it."""
    if not (leaf / "memory.max").exists():
        (leaf / "memory.max").write_text("max\n")
    (leaf / "memory.current").write_text(f"{used}\n")
    (leaf / "memory.stat").write_text("".join(f"{name} {value}\n" for name, value in stat.items()))
    return record(leaf)


def test_the_kernel_keeps_a_leaf_a_quarter_over_the_limit_and_follows_an_edit(tmp_path: Path) -> None:
    limit, one = tmp_path / "memory.max", uses(tmp_path, GIB)

    hold_to(one, 8 * GIB)
    first = limit.read_text()
    hold_to(one, 4 * GIB)
    lowered = limit.read_text()
    hold_to(one, 0)

    assert (first, lowered, limit.read_text()) == (str(10 * GIB), str(5 * GIB), "max")


def test_a_limit_lowered_under_what_is_in_use_ends_nobody_and_follows_as_the_use_falls(tmp_path: Path) -> None:
    limit, found = tmp_path / "memory.max", []
    hold_to(uses(tmp_path, 7 * GIB), 8 * GIB)

    for used in (7 * GIB, 6 * GIB, 4 * GIB):
        hold_to(uses(tmp_path, used), 5 * GIB)
        found.append(int(limit.read_text()))

    assert found == [7 * GIB * 5 // 4, 6 * GIB * 5 // 4, 5 * GIB * 5 // 4]


@pytest.mark.parametrize(("used", "room"), [(12 * GIB, 3 * GIB), (400 * MIB, 256 * MIB)])
def test_one_that_is_over_the_limit_by_being_there_has_room_left(tmp_path: Path, used: int, room: int) -> None:
    hold_to(uses(tmp_path, used), 300 * MIB)

    assert int((tmp_path / "memory.max").read_text()) == used + room


def test_pages_that_the_kernel_takes_back_at_once_lift_no_limit_and_those_it_has_to_write_first_do(tmp_path: Path) -> None:
    hold_to(uses(tmp_path, 10 * GIB, anon=2 * GIB, inactive_file=5 * GIB, active_file=2 * GIB, slab_reclaimable=GIB), 4 * GIB)
    clean = int((tmp_path / "memory.max").read_text())
    hold_to(uses(tmp_path, 10 * GIB, anon=2 * GIB, inactive_file=5 * GIB, active_file=3 * GIB, file_dirty=5 * GIB, file_writeback=GIB), 4 * GIB)

    assert (clean, int((tmp_path / "memory.max").read_text())) == (5 * GIB, 10 * GIB)


def test_of_whom_nobody_knows_what_he_uses_the_limit_stays(tmp_path: Path) -> None:
    one = uses(tmp_path, GIB)
    (tmp_path / "memory.current").unlink()

    hold_to(one, 4 * GIB)

    assert (tmp_path / "memory.max").read_text() == "max\n"


def test_the_kernel_ends_all_of_a_leaf_or_nobody_of_it(tmp_path: Path) -> None:
    plain, counted = tmp_path / "plain", tmp_path / "counted"
    counted.mkdir()
    (counted / "memory.oom.group").write_text("0\n")

    assert Leaf(plain).make()
    assert Leaf(counted).make()

    assert (counted / "memory.oom.group").read_text() == "1"
    assert list(plain.iterdir()) == [], "without the controller there is no such file"


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
