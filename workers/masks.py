"""Masks on the wire and on disk: COCO's compressed run lengths, one JSON file per frame.

The format: the lengths of the runs of zeros and ones, taken column by column and starting with zeros (so the first may
be 0); from the fourth run on, the difference to the run two before; each number in groups of 5 bits, lowest first, bit 6
saying that more follow, two's complement, as a character from chr(48) on. (pycocotools, common/maskApi.c, rleToString.)
numpy only, so that it can be used without torch.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

_ASCII_ZERO = 48
_GROUP_BITS = 5
_MORE = 0x20
_SIGN = 0x10
_MAX_GROUPS = 13  # 13 groups of 5 bits hold any int64


class Rle(TypedDict):
    """One mask: size is [height, width] in pixels, counts the compressed run lengths in ASCII."""

    size: list[int]
    counts: str


def encode(mask: NDArray[Any]) -> Rle:
    """Return the mask in COCO's compressed form.

    mask: (H, W), bool, or any numbers of which all but 0 belong to the object.
    Raises ValueError when it has not two dimensions.
    """
    if mask.ndim != 2:  # noqa: PLR2004 - an image has two
        raise ValueError(f"a mask of shape {mask.shape} was given to encode, (height, width) was expected")
    height, width = mask.shape
    columns = np.ascontiguousarray(mask.astype(bool, copy=False).T).ravel()
    if columns.size == 0:
        return {"size": [height, width], "counts": ""}
    edges = np.flatnonzero(columns[1:] != columns[:-1]) + 1
    starts = [0, 0] if columns[0] else [0]
    bounds = np.concatenate((np.asarray(starts, dtype=np.int64), edges, np.asarray([columns.size], dtype=np.int64)))
    return {"size": [height, width], "counts": _to_string(np.diff(bounds))}


def decode(rle: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Return the (H, W) bool mask of what `encode` made.

    Raises ValueError when the counts are broken or do not fill the size.
    """
    height, width = (int(side) for side in rle["size"])
    runs = _from_string(str(rle["counts"]))
    if (runs < 0).any() or runs.sum() != height * width:
        message = f"broken run lengths: {runs.size} runs over {runs.sum()} pixels were found, {height} x {width} = {height * width} pixels were expected"
        raise ValueError(message)
    values = np.arange(runs.size) % 2 == 1
    return np.ascontiguousarray(np.repeat(values, runs).reshape(width, height).T)


def save_frame(masks_dir: Path, frame: int, *, size: tuple[int, int], objects: Mapping[int, NDArray[Any]]) -> None:
    """Store the masks of one frame, whole or not at all, where `load_frame` finds them.

    size: (height, width) of the video.  objects: object id -> (H, W) mask.
    """
    value = {"frame": frame, "size": list(size), "objects": {str(key): encode(mask) for key, mask in objects.items()}}
    target = frame_file(masks_dir, frame)
    partial = target.with_suffix(".partial")
    partial.write_text(json.dumps(value, separators=(",", ":")), encoding="ascii")
    partial.replace(target)  # not fsynced: a lost mask is made again, and a file a frame would cost more than the frame


def load_frame(masks_dir: Path, frame: int) -> dict[str, Any]:
    """Return `{"frame", "size": [h, w], "objects": {"<id>": Rle}}` of one frame. Raises FileNotFoundError when it is not made yet."""
    value: dict[str, Any] = json.loads(frame_file(masks_dir, frame).read_bytes())
    return value


def frame_file(masks_dir: Path, frame: int) -> Path:
    """Return where the masks of this frame are, or will be."""
    return masks_dir / f"{frame:06d}.json"


def _to_string(runs: NDArray[np.int64]) -> str:
    numbers = runs.copy()
    numbers[3:] -= runs[1:-2]
    characters = np.zeros((numbers.size, _MAX_GROUPS), dtype=np.uint8)
    used = np.zeros((numbers.size, _MAX_GROUPS), dtype=bool)
    open_ = np.ones(numbers.size, dtype=bool)
    for group in range(_MAX_GROUPS):
        bits = numbers & 0x1F
        numbers = numbers >> _GROUP_BITS
        # Done when all that is left repeats the sign bit of this group.
        more = np.where((bits & _SIGN) != 0, numbers != -1, numbers != 0)
        characters[:, group] = (bits | np.where(more, _MORE, 0)) + _ASCII_ZERO
        used[:, group] = open_
        open_ &= more
        if not open_.any():
            break
    return characters[used].tobytes().decode("ascii")


def _from_string(counts: str) -> NDArray[np.int64]:
    codes = np.frombuffer(counts.encode("ascii", errors="replace"), dtype=np.uint8).astype(np.int64) - _ASCII_ZERO
    if codes.size == 0:
        return np.zeros(0, dtype=np.int64)
    last = (codes & _MORE) == 0
    if (codes < 0).any() or (codes >= 2 * _MORE).any() or not last[-1]:
        raise ValueError(f"broken run lengths: {counts[:40]!r} is not a whole COCO compressed string")
    starts = np.concatenate(([0], np.flatnonzero(last)[:-1] + 1))
    lengths = np.diff(np.concatenate((starts, [codes.size])))
    if lengths.max() >= _MAX_GROUPS:
        raise ValueError(f"broken run lengths: a number of {lengths.max()} characters in {counts[:40]!r}, at most {_MAX_GROUPS - 1} were expected")
    place = (np.arange(codes.size) - np.repeat(starts, lengths)) * _GROUP_BITS
    numbers = np.add.reduceat((codes & 0x1F) << place, starts)
    negative = (codes[last] & _SIGN) != 0
    numbers = np.where(negative, numbers - (np.int64(1) << (lengths * _GROUP_BITS)), numbers)
    # Each number from the fourth on is a difference to the one two before it: two running sums, side by side.
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
