"""The folders of jobs: removed whole, and nothing outside of them, whatever the work left in there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.adapters.job_files import JobFolders
from supervisor.core.model import JobId
from supervisor.errors import StoreError

pytestmark = pytest.mark.asyncio

JOB = JobId("j-1")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the folder of jobs, with one job's folder in it and a file beside them all."""
    folder = tmp_path / "jobs"
    (folder / "j-1" / "deep" / "deeper").mkdir(parents=True)
    (folder / "j-1" / "deep" / "deeper" / "mask.npz").write_text("x")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("keep me")
    return folder


def names(folder: Path) -> list[str]:
    """Return what lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


def deepen(folder: Path, levels: int) -> None:
    """Make so many folders, each in the one before: more than any path may be long."""
    descriptor = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d" * 20, dir_fd=descriptor)
        below = os.open("d" * 20, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)


async def test_a_folder_goes_with_all_that_is_in_it(root: Path) -> None:
    await JobFolders(root).remove(JOB)

    assert names(root) == []


async def test_a_folder_that_is_not_there_is_fine(root: Path) -> None:
    await JobFolders(root).remove(JobId("j-never"))

    assert names(root) == ["j-1"]


async def test_links_inside_go_and_what_they_point_at_stays(root: Path, tmp_path: Path) -> None:
    (root / "j-1" / "folder").symlink_to(tmp_path / "precious")
    (root / "j-1" / "file").symlink_to(tmp_path / "precious" / "file")
    (root / "j-1" / "up").symlink_to("..")
    (root / "j-1" / "broken").symlink_to("nowhere")

    await JobFolders(root).remove(JOB)

    assert not (root / "j-1").exists()
    assert (tmp_path / "precious" / "file").read_text() == "keep me"
    assert names(root) == []


async def test_a_link_in_the_place_of_the_folder_is_left_alone(root: Path, tmp_path: Path) -> None:
    (root / "j-link").symlink_to(tmp_path / "precious")

    with pytest.raises(StoreError, match=r"j-link is a link, a folder was expected: it is left alone; remove it by hand"):
        await JobFolders(root).remove(JobId("j-link"))

    assert (tmp_path / "precious" / "file").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "../precious", "j-1/../../precious", "/etc", "j-1/deep", "a\0b"])
async def test_a_name_that_is_no_folder_below_is_left_alone(root: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match=r"is no name of a folder below .*jobs: it is left alone"):
        await JobFolders(root).remove(JobId(name))

    assert (tmp_path / "precious" / "file").exists()
    assert (root / "j-1" / "deep" / "deeper" / "mask.npz").exists()


async def test_a_file_in_the_place_of_the_folder_is_said(root: Path) -> None:
    (root / "j-file").write_text("x")

    with pytest.raises(StoreError, match=r"j-file cannot be removed: .*Not a directory; mend its permissions, or remove it by hand"):
        await JobFolders(root).remove(JobId("j-file"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may remove anything")
async def test_a_folder_without_permission_is_said_and_can_be_removed_later(root: Path) -> None:
    (root / "j-1" / "deep").chmod(0o500)
    folders = JobFolders(root)

    with pytest.raises(StoreError, match=r"j-1 cannot be removed: .*Permission denied; mend its permissions"):
        await folders.remove(JOB)

    (root / "j-1" / "deep").chmod(0o700)
    await folders.remove(JOB)
    assert not (root / "j-1").exists()


async def test_a_deep_tree_goes(root: Path) -> None:
    deepen(root / "j-1", 300)

    await JobFolders(root).remove(JOB)

    assert names(root) == []


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="rmtree no longer calls itself")
async def test_a_tree_that_is_too_deep_is_a_sentence(root: Path) -> None:
    deepen(root / "j-1", 1200)

    with pytest.raises(StoreError, match=r"j-1 cannot be removed: it is too deep for Python 3.1\d; rm -r can"):
        await JobFolders(root).remove(JOB)

    subprocess.run(["rm", "-r", root / "j-1"], check=True)  # noqa: ASYNC221  # nothing else runs in this loop


async def test_kept_are_the_folders_and_nothing_else(root: Path, tmp_path: Path) -> None:
    (root / "j-0").mkdir()
    (root / "file").write_text("x")
    (root / "link").symlink_to(tmp_path / "precious")

    assert list(await JobFolders(root).kept()) == ["j-0", "j-1"]


async def test_a_missing_folder_of_folders_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nowhere: No such file or directory: the folders of jobs must be readable by Warden's own user"):
        await JobFolders(tmp_path / "nowhere").kept()
