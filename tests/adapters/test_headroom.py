"""What is available is the least by any count: the machine's, and that of each cgroup around us, of either version."""

from pathlib import Path

import psutil
import pytest

from supervisor.adapters.headroom import Headroom

GIB = 2**30
MEMINFO = f"MemTotal: {32 * 2**20} kB\nMemFree: 1 kB\nMemAvailable: {20 * 2**20} kB\n"


def machine(folder: Path, *, cgroup: str, mount: str) -> Headroom:
    """Return a meter on a machine whose kernel files lie in a folder. {} in the mount stands for the folder of the cgroups."""
    (folder / "self").mkdir(parents=True)
    (folder / "meminfo").write_text(MEMINFO)
    (folder / "self/cgroup").write_text(cgroup)
    (folder / "self/mountinfo").write_text("20 1 8:1 / / rw - ext4 /dev/sda rw\n" + mount.format(folder / "cg"))
    return Headroom(folder)


def group(folder: Path, limit: str, used: int, stat: str, *, v1: bool = False) -> None:
    """Write the files of one cgroup."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ("memory.limit_in_bytes" if v1 else "memory.max")).write_text(f"{limit}\n")
    (folder / ("memory.usage_in_bytes" if v1 else "memory.current")).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(stat)


V2_MOUNT = "30 20 0:26 / {} rw - cgroup2 cgroup2 rw\n"
V1_MOUNT = "30 20 0:26 {root} {{}} rw - cgroup cgroup rw,memory\n"


def test_on_this_machine_it_is_no_more_than_the_machine_says() -> None:
    meter = Headroom()

    room = meter.read()
    meter.close()

    said = psutil.virtual_memory()
    assert 0 < room.available_bytes <= said.available + GIB
    assert 0 < room.total_bytes <= said.total


def test_without_cgroups_the_machine_counts(tmp_path: Path) -> None:
    meter = machine(tmp_path / "proc", cgroup="", mount="")

    assert (meter.read().available_bytes, meter.read().total_bytes) == (20 * GIB, 32 * GIB)


def test_the_nearest_limit_above_us_counts_without_what_would_be_given_back(tmp_path: Path) -> None:
    folder = tmp_path / "proc"
    group(folder / "cg/a", str(10 * GIB), 9 * GIB, f"inactive_file {GIB}\nactive_file {GIB}\nslab_reclaimable {GIB}\nanon {6 * GIB}\n")
    group(folder / "cg/a/b", str(8 * GIB), 3 * GIB, "inactive_file 0\n")
    group(folder / "cg/a/b/c", "max", 3 * GIB, "")

    room = machine(folder, cgroup="0::/a/b/c\n", mount=V2_MOUNT).read()

    assert (room.available_bytes, room.total_bytes) == (4 * GIB, 8 * GIB)


ODD = ["21 1 0:30 / /mnt rw - tmpfs  rw\n", "22 1 0:31 / /mnt rw - tmpfs\n", "\n", "23 - cgroup2 cgroup2 rw\n", "24 1 0:32 / /mnt rw\n"]


@pytest.mark.parametrize("line", ODD, ids=["a source without a name", "no options", "an empty line", "no mount point", "no file system"])
def test_a_mount_that_cannot_be_read_is_left_out_and_the_next_counts(tmp_path: Path, line: str) -> None:
    folder = tmp_path / "proc"
    group(folder / "cg/a", str(8 * GIB), 3 * GIB, "inactive_file 0\n")

    assert machine(folder, cgroup="garbage\n0::/a\n", mount=line + V2_MOUNT).read().available_bytes == 5 * GIB


def test_a_hierarchy_that_was_mounted_from_a_source_without_a_name_counts(tmp_path: Path) -> None:
    folder = tmp_path / "proc"
    group(folder / "cg/a", str(8 * GIB), 3 * GIB, "inactive_file 0\n")

    assert machine(folder, cgroup="0::/a\n", mount="30 20 0:26 / {} rw - cgroup2  rw\n").read().available_bytes == 5 * GIB


def test_a_group_of_version_one_counts_in_its_own_words(tmp_path: Path) -> None:
    folder = tmp_path / "proc"
    group(folder / "cg/a", str(6 * GIB), 5 * GIB, f"total_inactive_file {GIB}\ntotal_active_file {GIB}\ninactive_file 7\n", v1=True)
    group(folder / "cg", str(2**63 - 4096), 9 * GIB, "", v1=True)

    room = machine(folder, cgroup="4:memory:/a\n0::/\n", mount=V1_MOUNT.format(root="/")).read()

    assert (room.available_bytes, room.total_bytes) == (3 * GIB, 6 * GIB)


def test_in_a_container_the_mount_shows_our_own_group(tmp_path: Path) -> None:
    folder = tmp_path / "proc"
    group(folder / "cg", str(4 * GIB), GIB, "", v1=True)

    room = machine(folder, cgroup="4:memory:/docker/abc\n", mount=V1_MOUNT.format(root="/docker/abc")).read()

    assert (room.available_bytes, room.total_bytes) == (3 * GIB, 4 * GIB)


@pytest.mark.parametrize("limit", ["max", str(2**63 - 4096), str(64 * GIB), "garbage", ""])
def test_a_limit_that_limits_nothing_is_none(tmp_path: Path, limit: str) -> None:
    folder = tmp_path / "proc"
    group(folder / "cg/a", limit, 5 * GIB, "")

    assert machine(folder, cgroup="0::/a\n", mount=V2_MOUNT).read().available_bytes == 20 * GIB


def test_a_group_that_cannot_be_read_any_more_does_not_count(tmp_path: Path) -> None:
    folder = tmp_path / "proc"
    group(folder / "cg/a", str(4 * GIB), GIB, "")
    meter = machine(folder, cgroup="0::/a\n", mount=V2_MOUNT)
    assert meter.read().available_bytes == 3 * GIB

    (folder / "cg/a/memory.current").unlink()

    assert meter.read().available_bytes == 20 * GIB
