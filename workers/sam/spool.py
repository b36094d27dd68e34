"""Keeps the features of a video's frames in one plain file, so that memory stays bounded and no frame is encoded twice.

A plain file and not a mapped one: mapped pages would count as the worker's memory. Each record ends with its check sum,
because after a power cut a file may have the length but not the bytes.
"""

import errno
import hashlib
import json
import shutil
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

_HEADER_BYTES = 4096
_SUM_BYTES = 4
_DISK_MARGIN_BYTES = 512 << 20  # left to everybody else on the disk: masks, logs, checkpoints


class Spool:
    """Records of float16 arrays of fixed shapes, appended and read by number. Use as a context manager: it closes, the file stays."""

    def __init__(self, path: Path, *, identity: str, shapes: Sequence[tuple[int, ...]], check: Callable[[], object]) -> None:
        """Open the file; what an earlier attempt left in it is kept where identity, shapes and check sums are the same.

        check: called per record while they are verified, may raise.
        """
        self._shapes = tuple(tuple(shape) for shape in shapes)
        self._payload_bytes = 2 * sum(int(np.prod(shape)) for shape in self._shapes)
        self.record_bytes = self._payload_bytes + _SUM_BYTES
        self.frames = 0
        self._path = path
        header = json.dumps({"identity": hashlib.sha256(identity.encode()).hexdigest(), "shapes": self._shapes}).encode().ljust(_HEADER_BYTES)
        self._file = path.open("r+b" if path.exists() else "w+b")
        if self._file.read(_HEADER_BYTES) == header:
            self.frames = self._sound_records(check)
        else:
            self._file.seek(0)
            self._file.write(header)
        self._file.truncate(_HEADER_BYTES + self.frames * self.record_bytes)

    def __enter__(self) -> Self:
        """Return the open spool."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the file and keep it."""
        self._file.close()

    def require_room(self, frames: int) -> None:
        """Raise OSError (ENOSPC) when the disk has no room for this many frames in all, and 512 MiB more."""
        needed = max(0, frames - self.frames) * self.record_bytes + _DISK_MARGIN_BYTES
        free = shutil.disk_usage(self._path.parent).free
        if free < needed:
            message = (
                f"the disk of {self._path.parent} has {free / 2**30:.1f} GiB free, and the features of {frames} frames need {needed / 2**30:.1f} GiB. "
                "Free some space, do fewer frames at a time (max_frames), or lower image_size"
            )
            raise OSError(errno.ENOSPC, message)

    def append(self, arrays: Sequence[NDArray[np.float16]]) -> None:
        """Add one frame's features, in the order and of the shapes that the spool was opened with."""
        if tuple(array.shape for array in arrays) != self._shapes:
            raise ValueError(f"features of shapes {[array.shape for array in arrays]} came, {self._shapes} were expected")
        payload = b"".join(np.ascontiguousarray(array, dtype=np.float16).tobytes() for array in arrays)
        self._file.seek(_HEADER_BYTES + self.frames * self.record_bytes)
        self._file.write(payload)
        self._file.write(zlib.crc32(payload).to_bytes(_SUM_BYTES, "little"))
        self.frames += 1

    def read(self, index: int) -> list[NDArray[np.float16]]:
        """Return the features of the index-th frame in the spool. Raises IndexError beyond the last."""
        if not 0 <= index < self.frames:
            raise IndexError(f"record {index} was asked for, the spool has {self.frames}")
        self._file.seek(_HEADER_BYTES + index * self.record_bytes)
        flat = np.empty(self._payload_bytes // 2, dtype=np.float16)
        if self._file.readinto(flat.data.cast("B")) != self._payload_bytes:
            raise OSError(errno.EIO, f"the spool {self._path} was cut off while it was read")
        arrays, start = [], 0
        for shape in self._shapes:
            length = int(np.prod(shape))
            arrays.append(flat[start : start + length].reshape(shape))
            start += length
        return arrays

    def _sound_records(self, check: Callable[[], object]) -> int:
        """Return how many records from the start on are whole."""
        sound = 0
        while True:
            check()
            record = self._file.read(self.record_bytes)
            if len(record) < self.record_bytes or zlib.crc32(record[:-_SUM_BYTES]).to_bytes(_SUM_BYTES, "little") != record[-_SUM_BYTES:]:
                return sound
            sound += 1
