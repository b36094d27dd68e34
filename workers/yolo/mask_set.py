"""Makes a data set of a video and its masks, such as `sam.propagate` leaves: the pictures are frames, the boxes go around the masks."""

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import cv2
import msgspec
import numpy as np
from msgspec import Struct

from workers import masks, video
from workers.base import BadInput
from workers.given import named_path
from workers.yolo.params import Masks

Box = tuple[float, float, float, float]
Beat = Callable[[int, int], None]

_QUALITY: Final = 95  # of the JPEGs: what YOLO's own sets have, and no artefacts that a network could learn
_FEWEST: Final = 2  # frames that show something: one to train on, one to validate with


class _Rle(Struct):
    size: tuple[int, int]
    counts: str


class _Stored(Struct):
    """The masks of one frame on disk."""

    frame: int
    size: tuple[int, int]
    objects: dict[str, _Rle]


class _Seen(Struct, frozen=True):
    """What one frame shows: object id -> box, as parts of the picture's width and height (x, y of the middle, width, height)."""

    frame: int
    boxes: Mapping[int, Box]


def make(wanted: Masks, folder: Path, *, base: Path, beat: Beat) -> Path:
    """Return the data.yaml of the set. It is made in `folder`, unless it lies there whole, from the same video and masks.

    base: what relative paths are relative to.  beat: called with (steps done, steps) at each mask and each frame; it may raise to stop.
    Raises BadInput when no set can be made of this.
    """
    files = _chosen(wanted, base)
    film = video.inspect(str(named_path(wanted.video, what="masks.video", base=base)), check=lambda: beat(0, 1))
    yaml, mark, identity = folder / "data.yaml", folder / "made", _identity(wanted, film, files)
    if yaml.is_file() and mark.is_file() and mark.read_text(encoding="ascii") == identity:
        return yaml
    shutil.rmtree(folder, ignore_errors=True)
    first, last = min(files), max(files)
    steps = len(files) + last - first + 1
    seen = []
    for done, (frame, file) in enumerate(files.items()):
        beat(done, steps)
        seen.append(_seen(frame, file, film))
    names = _names(wanted, seen)
    held_out = _held_out_from(wanted, seen)
    for part in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / part).mkdir(parents=True)
    by_frame = {one.frame: one for one in seen}
    frames = video.read_frames(film, start=first, count=last - first + 1, check=lambda: beat(len(files), steps))
    reached = first
    for reached, picture in enumerate(frames, first + 1):
        beat(len(files) + reached - first, steps)
        if reached - 1 in by_frame:
            _write(folder, "val" if reached > held_out else "train", picture, by_frame[reached - 1], names)
    if reached <= last:
        raise BadInput(f"masks: {files[last]} is of frame {last}, but {film.path} ends after {reached} frames. Are the masks those of another video?")
    classes = list(dict.fromkeys(names.values()))
    yaml.write_bytes(msgspec.yaml.encode({"path": str(folder.absolute()), "train": "images/train", "val": "images/val", "names": dict(enumerate(classes))}))
    mark.write_text(identity, encoding="ascii")
    return yaml


def _chosen(wanted: Masks, base: Path) -> dict[int, Path]:
    """Return frame -> file with its masks, in order, of the frames that are taken."""
    folder = named_path(wanted.masks_dir, what="masks.masks_dir", base=base)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise BadInput(f"masks.masks_dir = {folder} {what}. Expected: the folder `masks` of a sam.propagate job. Mend the path.")
    found = {int(file.stem): file for file in folder.glob("*.json") if file.stem.isascii() and file.stem.isdecimal()}
    if not found:
        raise BadInput(f"masks.masks_dir = {folder} has no masks. Expected: files such as {masks.frame_file(folder, 0).name}. Did its job come that far?")
    first = min(found)
    return {frame: found[frame] for frame in sorted(found) if (frame - first) % wanted.every == 0}


def _identity(wanted: Masks, film: video.Video, files: Mapping[int, Path]) -> str:
    """Return what changes when the set would come out differently."""
    facts = [film.facts, *(f"{file} {(fact := file.stat()).st_size} {fact.st_mtime_ns}" for file in files.values())]
    return hashlib.sha256(msgspec.json.encode((wanted, facts))).hexdigest()


def _seen(frame: int, file: Path, film: video.Video) -> _Seen:
    """Return what the masks of one frame show."""
    try:
        stored = msgspec.json.decode(file.read_bytes(), type=_Stored)
        sizes = {stored.size, *(rle.size for rle in stored.objects.values())}
        if sizes != {film.size}:
            height, width = next(iter(sizes - {film.size}))
            shown = f"{width} x {height} pixels, the frames of {film.path} have {film.size[1]} x {film.size[0]}"
            raise BadInput(f"masks: those in {file} are for {shown}. Are the masks those of another video?")
        boxes = {int(key): box for key, rle in stored.objects.items() if (box := _box(rle)) is not None}
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        raise BadInput(
            f"masks: {file} cannot be read ({' '.join(str(error).split())[:200]}). Expected: what sam.propagate writes. Run that job again."
        ) from error
    return _Seen(frame, boxes)


def _box(rle: _Rle) -> Box | None:
    """Return the box around a mask, None for an empty one."""
    mask = masks.decode({"size": rle.size, "counts": rle.counts})
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    height, width = rle.size
    left, right, top, bottom = float(columns[0]), float(columns[-1] + 1), float(rows[0]), float(rows[-1] + 1)
    return (left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width, (bottom - top) / height


def _names(wanted: Masks, seen: Sequence[_Seen]) -> dict[int, str]:
    """Return object id -> class name, in the order of the ids; several objects may be of one class."""
    objects = sorted({key for one in seen for key in one.boxes})
    if not objects:
        raise BadInput(f"masks: all masks of the {len(seen)} frames in {wanted.masks_dir} are empty. Nothing can be learnt of them: prompt the objects again.")
    unknown = [key for key in wanted.classes if key not in map(str, objects)]
    if unknown:
        there = ", ".join(map(str, objects))
        raise BadInput(f"masks.classes names object {unknown[0]!r}, but the masks show the objects {there}. Name one of those, or leave it out.")
    return {key: wanted.classes.get(str(key), f"object-{key}") for key in objects}


def _held_out_from(wanted: Masks, seen: Sequence[_Seen]) -> int:
    """Return the first frame of the part that is held out.

    The last frames, not some in between: neighbours look alike, and a network that is measured with what it nearly saw looks better than it is.
    """
    showing = [one.frame for one in seen if one.boxes]
    if len(showing) < _FEWEST:
        raise BadInput(
            f"masks: {len(showing)} of {len(seen)} frames shows an object, at least {_FEWEST} were expected, one to train on and one to validate with. "
            f"Take more frames{' (every = 1)' if wanted.every > 1 else ''}."
        )
    held_out = min(max(round(wanted.val_share * len(showing)), 1), len(showing) - 1)
    return showing[-held_out]


def _write(folder: Path, part: str, picture: object, seen: _Seen, names: Mapping[int, str]) -> None:
    """Write one picture and its labels."""
    classes = list(dict.fromkeys(names.values()))
    file = folder / "images" / part / f"{seen.frame:06d}.jpg"
    if not cv2.imwrite(str(file), picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]):
        raise OSError(f"{file} could not be written. Expected: room on the disk of {folder}. Free some.")
    lines = [f"{classes.index(names[key])} {' '.join(f'{part:.6f}' for part in box)}\n" for key, box in sorted(seen.boxes.items())]
    (folder / "labels" / part / f"{seen.frame:06d}.txt").write_text("".join(lines), encoding="ascii")
