"""Makes real input for a first run: a video and a labelled data set, from the two photographs that ship with ultralytics.

`python -m workers.samples OUT_DIR` writes both, and samples.json that says what they are. Nothing is downloaded, and the
same call writes the same pixels each time.
"""

import argparse
import importlib.util
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import cv2
import numpy as np
from msgspec import Struct, json

from workers.outlines import CLASSES, OUTLINES, TORSO

Image: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

# Made for `dataset()` from random weights on two CPU cores. Seen: 57 s on one busy core of two (ultralytics leaves one free), mAP50 0.74, mAP50_95 0.24.
# nbs = batch makes each batch a step: at ultralytics' 64, eleven batches an epoch are one step, and 40 epochs end at 0.65 instead.
TRAIN_RECIPE: Final[Mapping[str, Any]] = {
    "epochs": 26,
    "batch": 8,
    "nbs": 8,
    "image_size": 128,
    "optimizer": "AdamW",
    "lr0": 0.0015,
    "cos_lr": True,
    "warmup_epochs": 1.0,
    "mosaic": 0.0,
    "translate": 0.05,
    "scale": 0.2,
    "seed": 0,
}

FPS: Final = 25
DATASET_SIZE: Final = 160  # pixels a side of each picture of the data set
VISIBLE: Final = 0.3  # an object is labelled when so much of its outline is in the picture, ...
FILLS: Final = 0.2  # ... or when what is seen of it covers so much of the picture
UNSEEN: Final = 0.03  # what shows less than this of itself is not there; between the two, the picture is not used
OVERLAP: Final = 0.6  # a training picture covers at most so much (intersection over union) of what a held-out one shows
RANGES: Final = {"bus": (260, 780), "zidane": (330, 700)}  # window sides, in pixels of the photograph


class Video(Struct, frozen=True):
    """A video that was written. torso: where the middle of the man in black is, (x, y) in pixels, frame by frame; the first is a good prompt."""

    path: Path
    frames: int
    size: tuple[int, int]
    torso: tuple[tuple[float, float], ...]

    @property
    def prompt(self) -> tuple[float, float]:
        """The pixel to click on in frame 0."""
        return self.torso[0]


class Camera(NamedTuple):
    """Where a virtual camera looks: middle and width of the window in pixels of the photograph, turn in degrees."""

    x: float
    y: float
    width: float
    turn: float
    mirrored: bool = False

    def matrix(self, size: tuple[int, int]) -> Floats:
        """Return the (2, 3) affine map from the photograph's pixels to a picture of this (width, height)."""
        scale = size[0] / self.width
        angle = math.radians(self.turn)
        along, across = scale * math.cos(angle), scale * math.sin(angle)
        flip = -1.0 if self.mirrored else 1.0
        turned = np.array([[flip * along, -flip * across], [across, along]])
        shift = np.array(size) / 2 - turned @ np.array([self.x, self.y])
        affine: Floats = np.column_stack([turned, shift])
        return affine


def video(out: Path, frames: int = 150, size: tuple[int, int] = (640, 360)) -> Video:
    """Write `out` (an mp4): the photograph of the bus under a camera that pans, zooms and turns a little. size: (width, height)."""
    photo = photograph("bus")
    out.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(out), cv2.VideoWriter.fourcc(*"mp4v"), FPS, size)
    if not writer.isOpened():
        raise OSError(f"cannot write a video to {out}: expected a folder that can be written and an OpenCV that knows mp4v. Name another file.")
    torso: list[tuple[float, float]] = []
    try:
        for frame in range(frames):
            matrix = _path(frame / max(frames - 1, 1)).matrix(size)
            writer.write(_look(photo, matrix, size))
            x, y = _moved(np.array([TORSO]), matrix)[0]
            torso.append((float(x), float(y)))
    finally:
        writer.release()
    return Video(path=out, frames=frames, size=size, torso=tuple(torso))


def dataset(out: Path, *, train: int = 88, val: int = 24, seed: int = 7) -> Path:
    """Write a YOLO data set of people and buses into `out`, and return its data.yaml.

    Each picture is the view of one camera position on one of the photographs; no held-out position is near a training one (OVERLAP).
    """
    random = np.random.default_rng(seed)
    held_out = _views(random, val, avoid=[])
    views = {"val": held_out, "train": _views(random, train, avoid=held_out)}
    for part, shown in views.items():
        for folder in ("images", "labels"):
            (out / folder / part).mkdir(parents=True, exist_ok=True)
        for index, (name, camera) in enumerate(shown):
            _write_view(out, f"{part}/{name}-{index:03d}", (name, camera), random)
    yaml = out / "data.yaml"
    names = "".join(f"  {index}: {name}\n" for index, name in enumerate(CLASSES))
    yaml.write_text(f"path: {json.encode(str(out.absolute())).decode()}\ntrain: images/train\nval: images/val\nnames:\n{names}", encoding="utf-8")
    return yaml


def photograph(name: str) -> Image:
    """Return `bus` (1080, 810, 3) or `zidane` (720, 1280, 3), uint8 BGR. Raises FileNotFoundError without ultralytics."""
    spec = importlib.util.find_spec("ultralytics")
    file = Path(spec.origin).parent / "assets" / f"{name}.jpg" if spec and spec.origin else Path(f"ultralytics/assets/{name}.jpg")
    photo = cv2.imread(str(file)) if file.is_file() else None
    if photo is None:
        raise FileNotFoundError(f"no photograph at {file}. Expected: the pictures that come with ultralytics. Install the models extra: gpu-warden[models].")
    pixels: Image = photo.astype(np.uint8, copy=False)
    return pixels


def boxes(name: str, camera: Camera, size: tuple[int, int]) -> list[tuple[int, tuple[float, float, float, float]]] | None:
    """Return (class index, xyxy in pixels) of what the camera sees, or None where something shows too little of itself to be judged."""
    found = []
    matrix = camera.matrix(size)
    for label, outline in OUTLINES[name]:
        moved = _moved(np.array(outline, dtype=float), matrix)
        seen = _clipped(moved, size)
        area, share = _area(seen), _area(seen) / _area(moved)
        fills = area / (size[0] * size[1])
        if share >= VISIBLE or fills >= FILLS:
            (x1, y1), (x2, y2) = seen.min(axis=0), seen.max(axis=0)
            found.append((CLASSES.index(label), (float(x1), float(y1), float(x2), float(y2))))
        elif share > UNSEEN:
            return None
    return found


def _path(part: float) -> Camera:
    """Return where the video's camera is after this part (0 to 1) of the video. The man in black stays in view all the time."""
    swing = 2 * math.pi * part
    return Camera(x=385 + 75 * math.sin(swing), y=520 + 45 * math.sin(2 * swing), width=590 - 70 * math.cos(swing), turn=2.5 * math.sin(swing + 1))


def _views(random: np.random.Generator, count: int, *, avoid: list[tuple[str, Camera]]) -> list[tuple[str, Camera]]:
    """Return camera positions whose pictures lie inside the photographs and leave no object in doubt, away from those in `avoid`."""
    views: list[tuple[str, Camera]] = []
    shapes = {name: photograph(name).shape for name in OUTLINES}
    while len(views) < count:
        name = "zidane" if len(views) % 3 == 2 else "bus"  # noqa: PLR2004 - every third picture
        height, width = shapes[name][:2]
        side = float(random.uniform(*RANGES[name]))
        turn = float(random.uniform(-4, 4))
        reach = side / 2 * (1 + math.sin(math.radians(abs(turn))))  # the corners of a turned window stick out
        if 2 * reach > min(height, width):
            continue
        x, y = float(random.uniform(reach, width - reach)), float(random.uniform(reach, height - reach))
        camera = Camera(x, y, side, turn, mirrored=bool(random.integers(2)))
        near = any(other == name and _overlap(camera, taken) > OVERLAP for other, taken in avoid)
        if not near and boxes(name, camera, (DATASET_SIZE, DATASET_SIZE)):
            views.append((name, camera))
    return views


def _write_view(out: Path, stem: str, view: tuple[str, Camera], random: np.random.Generator) -> None:
    """Write picture and label file of one camera position, under a light of its own."""
    name, camera = view
    size = (DATASET_SIZE, DATASET_SIZE)
    picture = _look(photograph(name), camera.matrix(size), size)
    lit = np.clip(picture.astype(float) * random.uniform(0.8, 1.2) + random.uniform(-12, 12), 0, 255).astype(np.uint8)
    if not cv2.imwrite(str(out / "images" / f"{stem}.jpg"), lit, [cv2.IMWRITE_JPEG_QUALITY, 95]):
        raise OSError(f"cannot write {out / 'images' / stem}.jpg: expected a folder that can be written. Name another one.")
    lines = []
    for label, (x1, y1, x2, y2) in boxes(name, camera, size) or ():
        numbers = np.array([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]) / DATASET_SIZE
        lines.append(" ".join([str(label), *(f"{number:.6f}" for number in numbers)]))
    (out / "labels" / f"{stem}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def first_frame(source: Path, out: Path) -> Path:
    """Write the first frame of a video as a picture and return where."""
    reader = cv2.VideoCapture(str(source))
    read, frame = reader.read()
    reader.release()
    if not (read and cv2.imwrite(str(out), frame)):
        raise OSError(f"cannot write the first frame of {source} to {out}: expected a video that OpenCV reads, and a folder that can be written.")
    return out


def _look(photo: Image, matrix: Floats, size: tuple[int, int]) -> Image:
    shrinks = abs(np.linalg.det(matrix[:, :2])) < 1
    # Area sampling is not offered for affine maps; a light blur before shrinking keeps edges from flickering.
    source = cv2.GaussianBlur(photo, (0, 0), 0.4 / math.sqrt(abs(np.linalg.det(matrix[:, :2])))) if shrinks else photo
    seen: Image = cv2.warpAffine(source, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT).astype(np.uint8, copy=False)
    return seen


def _moved(points: Floats, matrix: Floats) -> Floats:
    moved: Floats = points @ matrix[:, :2].T + matrix[:, 2]
    return moved


def _clipped(polygon: Floats, size: tuple[int, int]) -> Floats:
    """Return the part of a polygon that lies in the picture (Sutherland and Hodgman, 1974); (0, 2) when none does."""
    for axis, bound, sign in ((0, 0.0, 1.0), (0, float(size[0]), -1.0), (1, 0.0, 1.0), (1, float(size[1]), -1.0)):
        kept: list[Floats] = []
        for start, end in zip(np.roll(polygon, 1, axis=0), polygon, strict=True):
            inside, was_inside = (sign * (point[axis] - bound) >= 0 for point in (end, start))
            if inside != was_inside:
                kept.append(start + (end - start) * (bound - start[axis]) / (end[axis] - start[axis]))
            if inside:
                kept.append(end)
        polygon = np.array(kept).reshape(-1, 2)
    return polygon


def _area(polygon: Floats) -> float:
    x, y = polygon[:, 0], polygon[:, 1]
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def _overlap(one: Camera, two: Camera) -> float:
    """Return intersection over union of two square windows, their small turns left out."""
    across = min(one.x + one.width / 2, two.x + two.width / 2) - max(one.x - one.width / 2, two.x - two.width / 2)
    down = min(one.y + one.width / 2, two.y + two.width / 2) - max(one.y - one.width / 2, two.y - two.width / 2)
    shared = max(across, 0.0) * max(down, 0.0)
    return shared / (one.width**2 + two.width**2 - shared)


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m workers.samples", description="Write a sample video, a sample data set, and samples.json about both.")
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR")
    out: Path = parser.parse_args().out_dir.absolute()
    made = video(out / "street.mp4")
    still = first_frame(made.path, out / "street.png")
    yaml = dataset(out / "street")
    about = {"video": made, "image": str(still), "prompt": made.prompt, "data": str(yaml), "train_params": {"data": str(yaml), **TRAIN_RECIPE}}
    (out / "samples.json").write_bytes(json.format(json.encode(about, enc_hook=str), indent=1))
    x, y = made.prompt
    sys.stdout.write(
        f"video     {made.path}  {made.frames} frames {made.size[0]}x{made.size[1]}, click on ({x:.0f}, {y:.0f}) in frame 0\n"
        f"data set  {yaml}\nabout     {out / 'samples.json'}\n"
    )


if __name__ == "__main__":
    _main()
