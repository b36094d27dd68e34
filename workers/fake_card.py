"""What a fake worker holds on a fake card: a claim in the card's folder, which the fake driver counts. Nothing at all unless FAKE_NVML says where that is."""

import os
from pathlib import Path

_nodes: list[int] = []
"""The card's node, open from the first claim on until the end of the process, as CUDA has it; who is forked inherits it."""


def claim(size_mb: int, *, release_s: float, listed: bool, capped: bool = True) -> None:
    """Hold so much of the card that CUDA_VISIBLE_DEVICES names, until release_s after this process's end (-1: for ever).

    listed: as a process; else the card shows it as nobody's.  capped: by the share that the supervisor gave it, as torch is; else it takes what it likes.
    Raises RuntimeError where there is no such card, or the size is over the share, as a CUDA program would fail.
    """
    root = os.environ.get("FAKE_NVML")
    if root is None:
        return
    share_bytes = int(os.environ.get("WARDEN_DEVICE_BUDGET") or 0)
    if capped and 0 < share_bytes < size_mb * 2**20:
        raise RuntimeError(f"CUDA out of memory. Tried to allocate {size_mb / 2**10:.2f} GiB. {share_bytes / 2**30:.2f} GiB allowed")
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    for card in Path(root).glob("[0-9]*"):
        if (card / "uuid").read_text().strip() == wanted:
            if not size_mb:
                (card / "claims" / str(os.getpid())).unlink(missing_ok=True)
                return
            if not _nodes:
                _nodes.append(os.open(f"{root}/nvidia{card.name}", os.O_RDONLY | os.O_CLOEXEC))
            partial = card / f".{os.getpid()}.partial"
            partial.write_text(f"{os.getpid()} {size_mb * 2**20} {release_s} {listed:d}")
            partial.replace(card / "claims" / str(os.getpid()))
            return
    if size_mb:
        raise RuntimeError(f"CUDA_VISIBLE_DEVICES={wanted!r} names no card of {root}")
