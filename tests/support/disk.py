"""A small disk of its own for a test: an ext4 image on a loop device, that can be filled up and frozen. Only root can mount one."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SIZE_BYTES = 32 * 2**20


class Disk:
    """A mounted disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Leave no byte free."""
        with self._ballast.open("wb") as file:
            for block in (2**20, 2**12, 1):
                try:
                    while True:
                        os.write(file.fileno(), b"x" * block)
                except OSError:  # full: the next smaller block
                    continue

    def free(self) -> None:
        """Give the room back."""
        self._ballast.unlink()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Every write waits until the end of the block."""
        subprocess.run(["fsfreeze", "--freeze", self.folder], check=True)
        try:
            yield
        finally:
            subprocess.run(["fsfreeze", "--unfreeze", self.folder], check=True)


@contextmanager
def small_disk(folder: Path) -> Iterator[Disk]:
    """Mount one below the folder; skip the test by name where that is not allowed."""
    image, place = folder / "disk.img", folder / "disk"
    with image.open("wb") as file:
        file.truncate(SIZE_BYTES)
    place.mkdir()
    try:
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", image], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", image, place], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a full or frozen disk needs root, mkfs.ext4 and a loop device: {error}")
    try:
        yield Disk(place)
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)
