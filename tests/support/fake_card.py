"""Fake cards: the library of fake_nvml.c, built once, and the folder that drives it."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec
import pytest

from tests.support.live import processes_with
from workers.fake_card import FOR_EVER, Claim, hold

SOURCE: Final = Path(__file__).with_name("fake_nvml.c")
GIB: Final = 2**30
T4: Final = 15 * GIB
NEVER: Final = FOR_EVER


class Held(msgspec.Struct, frozen=True):
    """What one owner had."""

    owner: str
    pid: int
    bytes: int


class Entry(Held, frozen=True):
    """A claim in a card's ledger, and everything that counted beside it. at_s: monotonic."""

    at_s: float
    beside: tuple[Held, ...]

    @property
    def together_bytes(self) -> int:
        """Return what was held of the card from this moment on."""
        return self.bytes + sum(other.bytes for other in self.beside)


class FakeCards:
    """One folder of fake cards, and where their driver is."""

    def __init__(self, folder: Path, library: Path | None) -> None:
        """Begin without any card. library: the folder of libnvidia-ml.so.1, None for a machine without a driver."""
        self.folder = folder
        self.library = library
        folder.mkdir(parents=True)

    @property
    def env(self) -> Mapping[str, str]:
        """Return what a process needs in its environment to find them."""
        found = {"FAKE_NVML": str(self.folder), "NVIDIA_NODES": str(self.folder / "nvidia")}
        return {**found, "LD_LIBRARY_PATH": str(self.library)} if self.library else found

    def add(self, name: str = "Fake T4", *, total_bytes: int = T4, reserved_bytes: int = 0) -> str:
        """Add a card, and return its UUID."""
        place = sum(1 for path in self.folder.iterdir() if path.is_dir())
        uuid = f"GPU-00000000-fake-4000-8000-{place:012d}"
        for folder in ("claims", "xids"):
            (self.folder / str(place) / folder).mkdir(parents=True)
        for key, value in (("name", name), ("total", total_bytes), ("reserved", reserved_bytes), ("uuid", uuid)):
            self.put(f"{place}/{key}", value)
        self.node(place).touch()
        return uuid

    def node(self, card: int = 0) -> Path:
        """Return the file that stands for a card's node: a fake worker that uses the card has it open."""
        return self.folder / f"nvidia{card}"

    def put(self, path: str, value: object = "") -> None:
        """Write one of its files, whole or not at all: error-FUNCTION, hang-FUNCTION, init, 0/error ..."""
        partial = self.folder / f".{path.replace('/', '-')}.partial"
        partial.write_text(str(value))
        partial.replace(self.folder / path)

    def take(self, path: str) -> None:
        """Remove one of its files: what hung comes back, what failed works again."""
        (self.folder / path).unlink()

    def claim(
        self,
        pid: int,
        used_bytes: int,
        *,
        name: str = "",
        card: int = 0,
        release_s: float = 0.0,
        listed: bool = True,
        shown: bool = True,
        graphics: bool = False,
    ) -> None:
        """Let a process hold memory, for release_s after its end."""
        claim = Claim(pid=pid, used_bytes=used_bytes, release_s=release_s, listed=listed, shown=shown, graphics=graphics, owner=name or f"pid-{pid}")
        hold(self.folder / str(card), claim, name=name)

    def keep(self, pid: int, *, card: int = 0) -> None:
        """Have the card keep what a process holds after its end, until `take` takes that out: 0/claims/PID."""
        path = f"{card}/claims/{pid}"
        _pid, used, _release, *rest = (self.folder / path).read_text().split()
        self.put(path, " ".join((str(pid), used, str(NEVER), *rest)))

    def ledger(self, card: int = 0) -> list["Entry"]:
        """Return every claim that was ever made of a card, in order, each with all that was held beside it."""
        path = self.folder / str(card) / "ledger"
        return [msgspec.json.decode(line, type=Entry) for line in path.read_bytes().splitlines()] if path.exists() else []

    def most_bytes(self, card: int = 0) -> int:
        """Return the most that was ever held at once: it only grows with a claim."""
        return max((entry.together_bytes for entry in self.ledger(card)), default=0)

    def were_together(self, card: int = 0) -> set[tuple[str, str]]:
        """Return every two owners that ever held at once, in the order in which they came."""
        return {(other.owner, entry.owner) for entry in self.ledger(card) for other in entry.beside if entry.bytes and other.owner != entry.owner}

    def report(self, xid: int, *, card: int = 0) -> None:
        """Let the driver report a fault of a card."""
        self.put(f"{card}/xids/{xid}", xid)

    def was_over(self) -> bool:
        """Return whether more was ever claimed of a card than it has, by its ledger or by what the driver saw."""
        places = [path for path in self.folder.iterdir() if path.is_dir()]
        sizes = {path.name: int((path / "total").read_text()) - int((path / "reserved").read_text()) for path in places}
        return any(self.folder.glob("*/over")) or any(self.most_bytes(int(place)) > size for place, size in sizes.items())


def build(folder: Path, *flags: str) -> Path:
    """Build the library, and return the folder that it is in. Skips the test where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler, cc, to build the fake libnvidia-ml.so.1 with: install gcc (Debian and Ubuntu: apt-get install gcc libc6-dev)")
    folder.mkdir(parents=True)
    built = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", *flags, "-o", folder / "libnvidia-ml.so.1", SOURCE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the fake driver's library."""
    return build(tmp_path_factory.mktemp("nvml") / "lib")


@pytest.fixture
def cards(tmp_path: Path, library: Path) -> Iterator[FakeCards]:
    """A machine with a fake driver and, at first, no card; no process that was born with it is left at the end."""
    made = FakeCards(tmp_path / "cards", library)
    yield made
    left = processes_with(f"FAKE_NVML={made.folder}")
    for pid in left:
        os.kill(pid, 9)
    assert not left, f"processes left: {left}"
