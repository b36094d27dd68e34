"""Reads the frames of a video, one at a time."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from workers.base import BadInput
from workers.given import existing_file

_SANE_FRAMES = 10_000_000  # two days at 60 frames a second; more is a broken header


class Video(NamedTuple):
    """An open-able video. size: (height, width) as it is shown, in pixels. frames: as its header says, or counted."""

    path: Path
    size: tuple[int, int]
    frames: int

    @property
    def facts(self) -> str:
        """What changes when the file does."""
        facts = self.path.stat()
        return f"{self.path} {facts.st_size} {facts.st_mtime_ns}"


def inspect(path: str, *, check: Callable[[], object]) -> Video:
    """Return what the video is. check: called now and then during a long count, may raise.

    Raises BadInput when there is no such file, it is no video, or it has no frames.
    """
    file = existing_file(path, what="video")
    capture = _opened(file)
    try:
        done, first = capture.read()
        if not done:
            raise BadInput(f"video: {file} was opened as a video but has no frame that can be decoded. Check it with a player, or encode it again.")
        frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        if not 0 < frames < _SANE_FRAMES:  # streams and broken files have no count in their header
            frames = 1
            while capture.grab():
                frames += 1
                check()
        return Video(path=file, size=(int(first.shape[0]), int(first.shape[1])), frames=frames)
    finally:
        capture.release()


def read_frames(video: Video, *, start: int, count: int, check: Callable[[], object]) -> Iterator[NDArray[np.uint8]]:
    """Yield at most `count` frames from frame `start` on, each (H, W, 3) uint8, BGR; fewer when the file ends before.

    check: called at each frame that is skipped, may raise. Frames are skipped by decoding: seeking is not exact in all files.
    """
    capture = _opened(video.path)
    try:
        for _ in range(start):
            check()
            if not capture.grab():
                return
        for number in range(start, start + count):
            done, frame = capture.read()
            if not done:
                return
            if frame.shape[:2] != video.size:
                height, width = frame.shape[:2]
                raise BadInput(
                    f"video: frame {number} of {video.path} is {width} x {height} pixels, the first was {video.size[1]} x {video.size[0]}. "
                    "Encode the video at one size."
                )
            yield frame
    finally:
        capture.release()


def read_image(path: Path) -> NDArray[np.uint8]:
    """Return the image, (H, W, 3) uint8, BGR, turned as its EXIF says. Raises BadInput."""
    try:
        image: Any = cv2.imread(str(path), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise BadInput(f"image: {path} cannot be decoded ({error.err}). Give a smaller picture, or save it again.") from error
    if image is None:
        raise BadInput(f"image: {path} is no picture that can be decoded. JPEG, PNG, WebP, BMP or TIFF was expected.")
    return np.asarray(image, dtype=np.uint8)


def _opened(file: Path) -> Any:
    capture = cv2.VideoCapture(str(file), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise BadInput(f"video: {file} ({file.stat().st_size} bytes) is no video that can be opened. MP4, MOV, AVI, MKV or WebM was expected.")
    return capture
