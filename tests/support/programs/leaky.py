"""A worker whose jobs leave something behind, each kind in its own way; leak.nothing leaves nothing. With the option torch it loads that first."""

import ctypes
from typing import Any, ClassVar

from msgspec import Struct

from workers.base import Job, Report, Worker, main

_libc = ctypes.CDLL(None)
_libc.malloc.restype = ctypes.c_void_p
_libc.malloc.argtypes = [ctypes.c_size_t]
_libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

FRAGMENTS_MB = 150
ROWS = 200


class Options(Struct, frozen=True, kw_only=True):
    """What is loaded."""

    torch: bool = False


class Leaky(Worker):
    """Keeps what a careful worker would not."""

    serves: ClassVar[tuple[str, ...]] = ("leak.graphs", "leak.detached", "leak.bytes", "leak.dicts", "leak.native", "leak.fragments", "leak.nothing")
    options_type: ClassVar[type[Struct]] = Options

    def load(self) -> None:
        """Begin with nothing kept."""
        self.losses: list[Any] = []
        self.kept: list[bytes] = []
        self.rows: dict[int, Any] = {}
        if self.options.torch:
            import torch

            self.torch = torch
            self.model = torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.ReLU(), torch.nn.Linear(256, 1))

    def run(self, job: Job, report: Report) -> dict[str, Any]:
        """Leave behind what the kind says."""
        getattr(self, f"_{job.kind.removeprefix('leak.')}")()
        report.progress(1, 1, phase="leak")
        return {}

    def _train(self) -> list[Any]:
        """Return the losses of one epoch, with the graphs that they were computed by: 20 x 256 kB of activations."""
        return [self.model(self.torch.rand(256, 256)).mean() for _ in range(20)]

    def _graphs(self) -> None:
        self.losses += self._train()

    def _detached(self) -> None:
        self.losses += [loss.detach() for loss in self._train()]

    def _bytes(self) -> None:
        self.kept.append(b"x" * 5 * 2**20)

    def _dicts(self) -> None:
        start = len(self.rows)
        self.rows.update({start + i: {"row": str(i % 10) * 20_000, "tags": [i]} for i in range(ROWS)})

    def _native(self) -> None:
        size = 5 * 2**20
        _libc.memset(_libc.malloc(size), 1, size)

    def _fragments(self) -> None:
        """Free many small blocks under one that stays, so that malloc keeps them all."""
        many = [bytes(2000) for _ in range(FRAGMENTS_MB * 500)]
        self.kept.append(bytes(2000))
        many.clear()

    def _nothing(self) -> None:
        """Use memory, and leave nothing."""
        bytearray(b"x" * 20 * 2**20).clear()


if __name__ == "__main__":
    main(Leaky)
