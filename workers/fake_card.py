"""What a process holds on a fake card: a claim in the card's folder, which the fake driver counts, and a line in its ledger. Nothing at all without FAKE_NVML.

The ledger is the witness of what was ever held at once: each claim is written into it together with all that counted at that moment, those included who are
dead and whose memory the card has not let go. A card that is asked for more than it has gives it, and the ledger says so.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from msgspec import Struct

FOR_EVER: Final = -1.0

_nodes: list[int] = []
"""The card's node, open from the first claim on until the end of the process, as CUDA has it; who is forked inherits it."""


class Claim(Struct, frozen=True, kw_only=True):
    """What one process holds.

    release_s: how long the card keeps it after the end of the process, FOR_EVER for one that keeps it; listed: as a process, else as nobody's memory;
    shown: with its size; graphics: in that list; owner: who it is to whoever reads the ledger.
    """

    pid: int
    used_bytes: int
    release_s: float = 0.0
    listed: bool = True
    shown: bool = True
    graphics: bool = False
    owner: str = ""

    @property
    def line(self) -> str:
        """Return it as fake_nvml.c reads it, which leaves the owner alone."""
        return f"{self.pid} {self.used_bytes} {self.release_s} {self.listed:d} {self.shown:d} {self.graphics:d} {self.owner}"


def claim(size_mb: int, *, release_s: float = 0.0, listed: bool = True, capped: bool = True) -> None:
    """Have this process hold so much of the card that CUDA_VISIBLE_DEVICES names, and no more; 0 gives all of it back.

    capped: by the share that the supervisor gave it, as torch is; else it takes what it likes. Raises RuntimeError where there is no such card, or the size is
    over the share, as a CUDA program would fail.
    """
    root = os.environ.get("FAKE_NVML")
    if root is None:
        return
    share_bytes = int(os.environ.get("WARDEN_DEVICE_BUDGET") or 0)
    if capped and 0 < share_bytes < size_mb * 2**20:
        raise RuntimeError(f"CUDA out of memory. Tried to allocate {size_mb / 2**10:.2f} GiB. {share_bytes / 2**30:.2f} GiB allowed")
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    card = next((card for card in Path(root).glob("[0-9]*") if (card / "uuid").read_text().strip() == wanted), None)
    if card is not None:
        if size_mb and not _nodes:
            _nodes.append(os.open(f"{root}/nvidia{card.name}", os.O_RDONLY | os.O_CLOEXEC))
        hold(card, Claim(pid=os.getpid(), used_bytes=size_mb * 2**20, release_s=release_s, listed=listed, owner=_own_name()))
    elif size_mb:
        raise RuntimeError(f"CUDA_VISIBLE_DEVICES={wanted!r} names no card of {root}")


def hold(card: Path, held: Claim, *, name: str = "") -> None:
    """Put a claim into the folder of a card, or take it out where it is of nothing. name: under which it lies there; default: its pid."""
    name = name or str(held.pid)
    with (card / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        others = [one for file, one in _claims(card) if file.name != name and _counts(file, one)]
        if held.used_bytes:
            partial = card / f".{name}.partial"
            partial.write_text(held.line)
            partial.replace(card / "claims" / name)
        else:
            (card / "claims" / name).unlink(missing_ok=True)
        together = {"owner": held.owner, "pid": held.pid, "bytes": held.used_bytes, "at_s": time.monotonic()}
        beside = [{"owner": one.owner, "pid": one.pid, "bytes": one.used_bytes} for one in others]
        with (card / "ledger").open("a") as ledger:
            ledger.write(json.dumps({**together, "beside": beside}) + "\n")


def _own_name() -> str:
    """Return what this process goes by: its worker's generation, its lease, else its pid."""
    worker, lease = os.environ.get("WARDEN_WORKER"), os.environ.get("WARDEN_LEASE")
    return f"{worker}#{os.environ.get('WARDEN_GENERATION')}" if worker else lease or f"pid-{os.getpid()}"


def _claims(card: Path) -> Iterator[tuple[Path, Claim]]:
    for file in (card / "claims").iterdir():
        if "." in file.name:
            continue
        with suppress(FileNotFoundError):  # it was taken out meanwhile
            pid, used, release, listed, shown, graphics, *owner = file.read_text().split()
            flags = {"listed": listed == "1", "shown": shown == "1", "graphics": graphics == "1"}
            yield file, Claim(pid=int(pid), used_bytes=int(used), release_s=float(release), owner="".join(owner), **flags)


def _counts(file: Path, held: Claim) -> bool:
    """Return whether a claim still counts, by the rule of fake_nvml.c: a stamp beside it says when it was first seen that its process is dead."""
    if _lives(held.pid) or held.release_s < 0:
        return True
    stamp = file.with_name(f"{file.name}.dead")
    os.close(os.open(stamp, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    return time.time() - stamp.stat().st_mtime < held.release_s


def _lives(pid: int) -> bool:
    """Return whether the process lives. A zombie has given its memory back."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
